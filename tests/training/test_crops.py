"""Batches for training the speech codec: stretches that are played at another speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from audiovq.data.packed import FRAME, PackedCorpus, pack
from audiovq.data.utterance import Utterance
from audiovq.training.crops import SPEEDS, CropSampler, change_speed
from tests.data.conftest import ArrayReader

RATE, TONE_HZ = 16000, 500.0


def tone(n_samples: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * TONE_HZ * np.arange(n_samples) / RATE)).astype(np.float32)


def frequency(samples: torch.Tensor) -> float:
    """Hz of the strongest component."""
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples)), n=16 * len(samples)).abs()
    return float(spectrum.argmax()) * RATE / (16 * len(samples))


def corpus(folder: Path) -> PackedCorpus:
    """A tone of one speaker, whose frames the teacher has something to say of."""
    samples = tone(4 * RATE)
    facts = {"language": "en", "text": None, "source": "tones", "licence": "none", "split": "train", "seconds": 4.0}
    pack([Utterance(id="a", speaker="a", reader=ArrayReader(samples), **facts)], folder)
    packed = PackedCorpus.open(folder)
    packed.teacher = torch.ones(len(packed.samples) // FRAME, 4, dtype=torch.float16)
    return packed


def test_faster_speech_is_higher_and_shorter():
    faster = change_speed(torch.from_numpy(tone(24000))[None], 20000)[0]
    assert faster.shape == (20000,)
    assert abs(frequency(faster[2000:-2000]) - 1.2 * TONE_HZ) < 2
    assert torch.allclose(faster[2000:-2000].std(), torch.tensor(0.3 / 2**0.5), rtol=0.01)


def test_all_stretches_of_a_speaker_are_played_at_one_speed(tmp_path):
    sampler = CropSampler(corpus(tmp_path), 40, 50, formant_share=0.0, degraded_share=0.0, speed_share=1.0)
    batch = sampler.draw(6, np.random.default_rng(0))
    found = [frequency(target) / TONE_HZ for target in batch.target]
    assert len({round(speed, 2) for speed in found}) > 3
    assert all(SPEEDS[0] - 0.01 < speed < SPEEDS[1] + 0.01 for speed in found)
    for speed, other in zip(found, batch.target_other, strict=True):
        assert abs(frequency(other) / TONE_HZ - speed) < 0.005
    assert torch.equal(batch.source, batch.target)
    assert torch.equal(batch.source_other, batch.target_other)
    assert batch.teacher is not None
    assert not batch.teacher.any()
    assert batch.speaker is not None
    assert (batch.speaker == -1).all()
    assert not batch.converted.any()


def test_recordings_stay_as_they_are_where_nothing_is_augmented(tmp_path):
    sampler = CropSampler(corpus(tmp_path), 40, 50, speed_share=1.0)
    batch = sampler.draw(3, np.random.default_rng(0), augmented=False)
    assert all(abs(frequency(target) - TONE_HZ) < 2 for target in batch.target)
    assert batch.teacher is not None
    assert batch.teacher.all()
