"""Small priors whose weights are far from their start."""

from __future__ import annotations

import pytest
import torch

from audiovq.prior.model import CodePrior
from audiovq.prior.speech import rounded

BACKBONES = {
    "transformer": {"kind": "transformer", "n_layers": 2, "n_heads": 3, "n_groups": 1, "window": 7, "hidden": 40},
    "wavenet": {
        "kind": "wavenet",
        "channels": 16,
        "skip_channels": 20,
        "n_layers": 4,
        "dilation_cycle": 3,
        "kernel_size": 2,
    },
}


def make_prior(kind: str = "transformer", **changes) -> CodePrior:
    torch.manual_seed(0)
    arguments = {
        "n_codebooks": 3,
        "codebook_size": 50,
        "width": 24,
        "backbone": BACKBONES[kind],
        "depth": {"depth_width": 20, "hidden": 30, "n_layers": 2},
        "embedding_dim": 6,
        "speaker_dim": 5,
        "languages": ["cs", "en"],
        **changes,
    }
    prior = CodePrior(**arguments)
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            noise = torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 0.1)
            parameter.add_(noise) if "norm" in name else parameter.copy_(noise)
    return prior.eval()


@pytest.fixture(params=sorted(BACKBONES))
def prior(request):
    """Of either kind, in float32."""
    return make_prior(request.param)


@pytest.fixture
def rounded_prior():
    """A transformer whose matrices are what 8 bits can hold."""
    prior = make_prior()
    prior.load_state_dict(rounded(prior))
    return prior


@pytest.fixture
def codes():
    """(2, 3, 20) of 50."""
    return torch.randint(0, 50, (2, 3, 20), generator=torch.Generator().manual_seed(3))
