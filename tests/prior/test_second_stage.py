"""The second stage: latents of whole fields of codes."""

from __future__ import annotations

import math

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.prior.image import SecondStage
from audiovq.prior.networks import SamplingConfig


def fields(n: int) -> torch.Tensor:
    """Codes (n, 1, 9, 9): one of four stripes, in one of two directions."""
    generator = torch.Generator().manual_seed(0)
    phase, turned = torch.randint(4, (n,), generator=generator), torch.randint(2, (n,), generator=generator)
    stripes = (torch.arange(9)[None] + phase[:, None]) % 4
    field = stripes[:, None].expand(n, 9, 9)
    return torch.where(turned[:, None, None] > 0, field.transpose(1, 2), field)[:, None].contiguous()


def make(kind: str) -> SecondStage:
    torch.manual_seed(0)
    settings = {"n_latents": 2, "n_entries": 8, "latent_dim": 4, "channels": 16}
    return SecondStage(kind, 4, (9, 9), **settings, decoder={"channels": 16, "n_layers": 2})


@pytest.mark.parametrize("kind", ["vq", "vae"])
def test_it_learns(kind, tmp_path):
    model, codes = make(kind), fields(32)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        bound = model.bound(codes)
        loss = (bound.codes + bound.latents).mean() / 81 + 0.1 * bound.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    model.eval()
    model.save(tmp_path, torch.float32)
    loaded = SecondStage.from_pretrained(tmp_path)
    assert torch.equal(loaded.latents(codes), model.latents(codes))
    drawn = model.sample(model.latents(codes[:2]), SamplingConfig(temperature=0))
    assert drawn.shape == (2, 1, 9, 9)
    full = model.decoder.logits(drawn, vectors=model.latents(codes[:2])).argmax(2)
    assert torch.equal(full, drawn)


def test_discrete_latents_cost_their_logarithm():
    model, codes = make("vq"), fields(4)
    bound = model.bound(codes)
    assert bound.latents.tolist() == pytest.approx([2 * math.log(8)] * 4)
    assert model.bits == 6
    model.eval()
    assert model.encode(codes).shape == (4, 2)
    with pytest.raises(AudioVQError, match="not discrete"):
        make("vae").encode(codes)
    with pytest.raises(AudioVQError, match="unknown second stage"):
        make("gan")
