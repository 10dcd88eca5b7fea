"""A packed corpus of tones and the configuration of a codec that trains on it in moments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from audiovq.data.packed import pack
from audiovq.data.utterance import Utterance


class Tone:
    """Reader of a tone with a moving pitch."""

    def __init__(self, seed: int, n_samples: int) -> None:
        self.seed, self.n_samples = seed, n_samples

    def read(self, start: int, n_samples: int | None) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        time = np.arange(self.n_samples) / 16000
        phase = np.cumsum(100 + 20 * (self.seed % 5) + 10 * np.sin(20 * time)) / 16000
        tone = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 12)) * (np.sin(12 * time) > -0.5)
        whole = (0.1 * tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32)
        return whole[start : None if n_samples is None else start + n_samples]


def utterances(corpus: str, n: int, grouped: bool) -> list[Utterance]:
    """``n`` utterances of 1.5 s by two speakers, in groups of two with the same length."""
    made = []
    for i in range(n):
        seed = i // 2 if grouped else i
        n_samples = 24000 + 100 * seed
        made.append(
            Utterance(
                id=f"{corpus}-{i}",
                speaker=f"{corpus}/{i % 2}",
                language="en",
                text=None,
                source=corpus,
                licence="none",
                split="train",
                seconds=n_samples / 16000,
                reader=Tone(seed, n_samples),
                group=f"g{seed}" if grouped else None,
            )
        )
    return made


def write_packed(folder: Path) -> Path:
    """Packed corpora ``train`` and ``validation``; returns ``folder``."""
    real, synthetic = utterances("tones", 4, False), utterances("kokoro_speech", 4, True)
    pack(real + synthetic, folder / "train")
    pack(real[:2], folder / "validation")
    return folder


def task_config(corpus: Path, **changes: object) -> dict:
    """Configuration of a `CodecTask` with everything that the large one has, without Whisper's encoder."""
    trunk = {
        "latent_dim": 8,
        "filterbank": {"n_filters": 8, "kernel_size": 320, "stride": 80},
        "channels": [8, 12],
        "strides": [2, 2],
        "kernel_sizes": [4, 4],
        "dilations": [[1], [1]],
    }
    model = {
        "encoder": {"content": trunk, "detail": trunk},
        "quantizer": {
            "n_codebooks": 4,
            "codebook_size": 32,
            "content": {"init_after": 1, "init_batches": 1},
            "detail": {"init_after": 2, "init_batches": 1},
            "book_weights": [1, 1, 1, 2],
        },
        "speaker_encoder": {"dim": 4, "levels": 16, "channels": 8, "dilations": [1], "normalised": True},
        "decoder": {"channels": [12, 8], "upsample": [4], "dilations": [[1], [1]]},
        "pitch": {"channels": 8, "dilations": [1]},
    }
    weights = {"mel": 1.0, "magnitude": 4.0, "complex": 1.0, "waveform": 1.0, "envelope": 2.0, "level": 0.2}
    return {
        "_target_": "audiovq.training.codec.CodecTask",
        "_recursive_": False,
        "model": model,
        "weights": {**weights, "quantizer": 0.03, "adversarial": 0.1, "feature": 0.2},
        "corpus": str(corpus),
        "batch_size": 4,
        "learning_rate": 5e-4,
        "crop_frames": 16,
        "other_frames": 20,
        "phase_from": 3,
        "listener_items": 0,
        "adversarial_samples": 1600,
        "discriminator": {"n_ffts": [256], "hop_lengths": [80], "channels": 4},
        "seed": 3,
        "device": "cpu",
        "precision": "float32",
        **changes,
    }
