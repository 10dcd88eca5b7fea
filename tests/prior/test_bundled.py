"""The priors that come with the package: small, made for the codec they lie beside, and able to speak."""

from __future__ import annotations

import math

import pytest
import torch

from audiovq.hub import BUNDLED
from audiovq.prior import SpeechPrior

PRIORS = sorted(path.parent.parent.name for path in BUNDLED.glob("*/prior/config.json"))


@pytest.mark.parametrize("name", PRIORS)
def test_each_fits_its_codec_and_knows_its_own_samples(name):
    assert (BUNDLED / name / "prior" / "model.safetensors").stat().st_size < 15_000_000
    source = SpeechPrior.from_pretrained(name)
    encoded = source.generate(1.0, 2, seed=1)
    assert torch.equal(encoded.codes[:1], source.generate(1.0, 1, seed=1).codes)
    with torch.no_grad():
        nats = source.prior.nll(encoded.codes)
    noise = torch.randint(
        0, source.prior.codebook_size, encoded.codes.shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        assert nats[:, 0].mean() < math.log(source.prior.codebook_size) - 0.5 < source.prior.nll(noise)[:, 0].mean()
