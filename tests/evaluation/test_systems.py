"""The package's models as systems to evaluate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.evaluation import probe
from audiovq.evaluation.codec import AudioVQSystem, latents_of
from audiovq.evaluation.pairs import ConversionPair, ModelConverter, Reconstruction, Target, as_excerpt
from audiovq.evaluation.phones import untrained_encoder
from tests.codec.tiny import make_codec, speech_like
from tests.evaluation.conftest import FakeUtterance
from tests.evaluation.test_probe import splits


@pytest.fixture(scope="module")
def codec():
    return make_codec()


def excerpt(speaker, seconds, seed):
    return as_excerpt(speaker, [FakeUtterance(speaker, speaker, "en", None, speech_like(seconds, seed))])


def test_pitch_and_level_count_as_coded_speech(codec):
    samples = speech_like(2.0)
    for n in (1, 3):
        coded = AudioVQSystem(codec, n).code(samples)
        codes = -(-100 * n * 5 // 8)
        assert codes < coded.payload_bytes < coded.file_bytes
        assert coded.payload_bytes - codes >= 2 * 4  # four packets, each with a level and a pitch track
        assert len(coded.waveform) == len(samples)


def test_latents_give_the_codes_of_files(codec):
    samples = speech_like(1.8, seed=3)
    latents = latents_of(codec, samples)
    assert latents.shape[1] == 90
    codes = codec.quantizer.encode(latents[None])[0]
    coded = codec.encode(torch.from_numpy(samples)[None, None], n_codebooks=codec.n_codebooks).codes[0]
    assert (codes == coded).float().mean() > 0.9  # packets' edges may differ


def test_another_encoder_gives_other_latents(codec):
    samples = speech_like(1.0)
    other = make_codec(seed=1).encoder
    assert not torch.allclose(latents_of(codec, samples), latents_of(codec, samples, other))


def test_a_model_codec_converts(codec):
    pair = ConversionPair(
        "a to b", excerpt("a", 1.5, 0), Target("b", "seen", excerpt("b", 4.0, 1)), excerpt("b", 1.5, 2)
    )
    converted = ModelConverter(codec, 2, "keep", "parallel").convert(pair)
    assert converted.shape == (24000,)
    assert np.isfinite(converted).all()
    rows = {of: Reconstruction(codec, 2, "parallel", of) for of in ("source", "truth")}
    assert {of: row.name for of, row in rows.items()} == {
        "source": "source, coded (2)",
        "truth": "true result, coded (2)",
    }
    assert not np.array_equal(*(row.convert(pair) for row in rows.values()))


def test_a_model_codec_is_probed(codec, monkeypatch):
    monkeypatch.setattr(probe, "MAIN_MINUTES", 0.1)
    figures = probe.evaluate_probe(codec, splits(), kinds=["speakers"]).figures
    assert figures["classes"] == {"speaker": 2, "language": 1}
    assert [one["codebook"] for one in figures["codebooks"]] == [1, 2, 3, 4]
    assert untrained_encoder(codec).latent_dim == codec.encoder.latent_dim
