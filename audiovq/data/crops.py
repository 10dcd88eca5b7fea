"""Training crops: a stretch of a voice, and another stretch of the same voice for the speaker encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from audiovq.data.tape import Tape
from audiovq.data.teacher import DIM, HOP, TeacherFeatures
from audiovq.data.utterance import Utterance
from audiovq.errors import AudioVQError


class CropDataset(Dataset[dict[str, Any]]):
    """Item i is decided by ``(seed, i)`` alone: a run that resumes at step s goes on at index s * batch size.

    A speaker is drawn with probability proportional to ``duration ** 0.7``, then a place of their `Tape` evenly.

    Items are dicts: ``waveform (1, crop_samples)`` and ``other (1, other_samples)`` float32, ``speaker`` int, an index
    into ``speakers``. ``other`` is of the same speaker and never overlaps the crop; it comes from other utterances when
    they are long enough, else from elsewhere in the same one, repeated when that is too short to fill it. With a
    teacher there is also ``taught (crop_samples // 320, 64)``, zeros beyond a short tape's end.

    Args:
        utterances: of one split.
        crop_samples, other_samples: lengths at 16 kHz.
        seed: of all draws.
        gain_db: range from which a gain is drawn for each item (one for crop and other alike), held back so that
            nothing clips; None leaves the level alone.
        temper: the exponent of the speakers' durations.
        length: the nominal number of items; any index of 0 or more has an item.
        teacher: features of what is said, see `audiovq.data.teacher`, or None.
        language_weights: by language, how many times as likely its speakers are drawn as others. With them, a speaker
            of several languages counts as one for each.

    Raises:
        AudioVQError: without utterances; for weights of languages that nobody speaks.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        crop_samples: int,
        other_samples: int,
        seed: int = 0,
        gain_db: tuple[float, float] | None = None,
        temper: float = 0.7,
        length: int = 1 << 40,
        teacher: TeacherFeatures | None = None,
        language_weights: Mapping[str, float] | None = None,
    ) -> None:
        if crop_samples < 1 or other_samples < 1:
            raise ValueError("crops need at least one sample")
        if language_weights and (unknown := set(language_weights) - {utterance.language for utterance in utterances}):
            raise AudioVQError(f"data.language_weights names {min(unknown)}, and nobody here speaks it")
        if not utterances:
            raise AudioVQError("there are no utterances to cut crops from: name another corpus or split")
        by_speaker: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            if utterance.n_samples:
                name = f"{utterance.speaker} ({utterance.language})" if language_weights else utterance.speaker
                by_speaker.setdefault(name, []).append(utterance)
        self.speakers = sorted(by_speaker)
        self.tapes = [Tape(by_speaker[speaker]) for speaker in self.speakers]
        self.crop_samples, self.other_samples = crop_samples, other_samples
        self.seed, self.gain_db, self.length = seed, gain_db, length
        self._taught = None if teacher is None else [teacher.reader(tape) for tape in self.tapes]
        weights = np.array([tape.n_samples for tape in self.tapes], dtype=np.float64) ** temper
        if language_weights:
            weights *= [language_weights.get(by_speaker[s][0].language, 1.0) for s in self.speakers]
        self._cumulative = np.cumsum(weights / weights.sum())

    def __len__(self) -> int:
        return self.length

    def places(self, index: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """What item ``index`` is cut from: speaker, and (start, length) on the tape of the crop and of the other."""
        return self._places(np.random.default_rng((self.seed, index)))

    def draw_speaker(self, rng: np.random.Generator) -> int:
        """An index into ``speakers``."""
        return min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.tapes) - 1)

    def _places(self, rng: np.random.Generator) -> tuple[int, tuple[int, int], tuple[int, int]]:
        speaker = self.draw_speaker(rng)
        tape = self.tapes[speaker]
        n_crop = max(min(self.crop_samples, tape.n_samples // 2), 1)
        start = int(rng.integers(tape.n_samples))
        begin, taken = tape.around(start, n_crop)
        if tape.n_samples - taken < self.other_samples:
            begin, taken = start, n_crop
        n_free = tape.n_samples - taken
        n_other = min(self.other_samples, n_free)
        other = begin + taken + int(rng.integers(n_free - n_other + 1))
        return speaker, (start, n_crop), (other % tape.n_samples, n_other)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < 0:
            raise IndexError("items are counted from 0")
        rng = np.random.default_rng((self.seed, index))
        speaker, crop, other = self._places(rng)
        waveform = np.zeros((1, self.crop_samples), np.float32)
        samples = self.tapes[speaker].read(*crop)
        waveform[0, : len(samples)] = samples
        reference = np.zeros((1, self.other_samples), np.float32)
        if other[1]:
            reference[0] = np.resize(self.tapes[speaker].read(*other), self.other_samples)
        if self.gain_db is not None:
            gain = 10 ** (rng.uniform(*self.gain_db) / 20)
            peak = max(float(np.abs(waveform).max()), float(np.abs(reference).max()), 1e-9)
            gain = min(gain, max(0.99 / peak, 1.0))
            waveform, reference = waveform * np.float32(gain), reference * np.float32(gain)
        item = {
            "waveform": torch.from_numpy(waveform),
            "other": torch.from_numpy(reference),
            "speaker": speaker,
        }
        if self._taught is not None:
            taught = np.zeros((self.crop_samples // HOP, DIM), np.float32)
            known = self._taught[speaker].read(*crop)
            taught[: len(known)] = known
            item["taught"] = torch.from_numpy(taught)
        return item
