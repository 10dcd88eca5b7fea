"""Several latents in a place, one codebook."""

from __future__ import annotations

import pytest
import torch

from audiovq.quantize import ProductQuantizer, QuantizerError


def test_every_group_is_quantized_by_the_same_codebook():
    torch.manual_seed(0)
    quantizer = ProductQuantizer(6, 3, codebook_size=16)
    latents = torch.randn(4, 6, 5, 7)
    quantized = quantizer.train()(latents)
    quantizer.eval()
    assert quantized.codes.shape == (4, 3, 5, 7)
    assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
    assert torch.equal(quantizer.encode(latents), quantized.codes)
    swapped = latents.unflatten(1, (3, 2)).flip(1).flatten(1, 2)
    assert torch.equal(quantizer.encode(swapped), quantized.codes.flip(1))


def test_what_does_not_fit_is_an_error():
    with pytest.raises(QuantizerError, match="groups"):
        ProductQuantizer(7, 2)
    quantizer = ProductQuantizer(6, 3, codebook_size=16)
    with pytest.raises(QuantizerError, match="all of its 3"):
        quantizer.encode(torch.zeros(1, 6, 2), n_codebooks=2)
    with pytest.raises(QuantizerError, match="all of its 3"):
        quantizer.decode(torch.zeros(1, 2, 2, dtype=torch.int64))
