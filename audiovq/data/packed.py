"""A corpus as one flat array of samples, from which whole batches of crops are gathered at once, on any device."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.signal import HighPass
from audiovq.data.utterance import SAMPLE_RATE, Shard, ShardReader, Utterance
from audiovq.devices import to_device
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir

FRAME = 320
"""Samples that utterances are padded to multiples of: the frame of codes, pitch labels and teacher features."""
SYNTHETIC = ("kokoro_speech",)
"""Corpora of synthetic speech."""
_ABOUT = ("id", "speaker", "language", "group")


def pack(utterances: Iterable[Utterance], folder: Path, progress: Callable[[int], None] | None = None) -> None:
    """Write utterances of one split, sorted by speaker, high-passed and padded to whole frames.

    ``folder`` gets ``samples.i16`` (flat little-endian) and ``index.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    start = 0
    with atomic_write(folder / "samples.i16") as path, path.open("wb") as file:
        for utterance in sorted(utterances, key=lambda u: (u.speaker, u.id)):
            samples = HighPass(SAMPLE_RATE)(utterance.load())
            samples = np.pad(samples, (0, -len(samples) % FRAME))
            file.write(np.clip(np.rint(samples * 32767), -32768, 32767).astype("<i2").tobytes())
            about = {name: getattr(utterance, name) for name in _ABOUT}
            lines.append({**about, "start": start, "n_samples": utterance.n_samples})
            start += len(samples)
            if progress is not None:
                progress(utterance.n_samples // SAMPLE_RATE)
    with atomic_write(folder / "index.json") as path:
        path.write_text(json.dumps(lines, ensure_ascii=False))


@dataclass
class PackedCorpus:
    """Samples of many utterances, end to end, and where each begins.

    Attributes:
        samples: (N,) int16, on any device.
        ids, speakers, languages: of each utterance.
        start, frames: (U,) first frame and number of frames of each utterance.
        speaker: (U,) index into ``speaker_names``.
        group: (U,) number of the group of aligned recordings, -1 for none.
        pitch: (N / FRAME,) int16 pitch labels, -1 where unknown; None without labels.
        teacher: (N / FRAME, D) float16 features of a recogniser; None without them.
    """

    samples: Tensor
    ids: list[str]
    languages: list[str]
    speaker_names: list[str]
    start: np.ndarray
    frames: np.ndarray
    speaker: np.ndarray
    group: np.ndarray
    pitch: Tensor | None = None
    teacher: Tensor | None = None
    spans: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        #: (S, 2) first frame and end of each speaker's utterances.
        ends = self.start + self.frames
        first = np.searchsorted(self.speaker, np.arange(len(self.speaker_names)))
        last = np.searchsorted(self.speaker, np.arange(len(self.speaker_names)), side="right") - 1
        self.spans = np.stack([self.start[first], ends[last]], axis=1)

    @classmethod
    def open(cls, folder: Path) -> PackedCorpus:
        """Read what `pack` wrote; the samples stay on disk until they are used.

        Raises:
            AudioVQError: when there is no packed corpus, or it is damaged.
        """
        try:
            lines = json.loads((folder / "index.json").read_text())
            samples = np.memmap(folder / "samples.i16", "<i2", "r")
            start = np.array([line["start"] for line in lines]) // FRAME
            frames = -(-np.array([line["n_samples"] for line in lines]) // FRAME)
            if (start[-1] + frames[-1]) * FRAME != len(samples):
                raise ValueError("samples and index do not match")
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise AudioVQError(f"{folder}: no packed corpus, or a damaged one: {error} (docs/training.md)") from error
        names = sorted({line["speaker"] for line in lines})
        groups = {name: i for i, name in enumerate(sorted({line["group"] for line in lines if line["group"]}))}
        corpus = cls(
            samples=_read_only(samples),
            ids=[line["id"] for line in lines],
            languages=[line["language"] for line in lines],
            speaker_names=names,
            start=start,
            frames=frames,
            speaker=np.array([names.index(line["speaker"]) for line in lines]),
            group=np.array([groups.get(line["group"], -1) for line in lines]),
        )
        if (folder / "pitch.bin").is_file():
            corpus.pitch = _read_only(np.memmap(folder / "pitch.bin", np.int16, "r"))
        if (folder / "teacher.bin").is_file():
            rows = _read_only(np.memmap(folder / "teacher.bin", np.float16, "r"))
            corpus.teacher = rows.view(len(samples) // FRAME, -1)
        return corpus

    def to(self, device: str | torch.device) -> PackedCorpus:
        """Move samples, labels and features to a device."""
        for name in ("samples", "pitch", "teacher"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value.to(device))
        return self

    def synthetic(self) -> np.ndarray:
        """(S,) whether a speaker is synthetic."""
        return np.array([name.split("/")[0] in SYNTHETIC for name in self.speaker_names])

    def crops(self, first_frame: np.ndarray, n_frames: int) -> Tensor:
        """Waveforms (B, n_frames * FRAME) float32 from ``first_frame`` (B,) on."""
        device = self.samples.device
        start = to_device(np.asarray(first_frame, np.int64) * FRAME, device)
        index = start[:, None] + torch.arange(n_frames * FRAME, device=device)
        return self.samples[index].float() / 32768

    def rows(self, name: str, first_frame: np.ndarray, n_frames: int) -> Tensor:
        """Rows (B, n_frames, ...) of ``pitch`` or ``teacher``."""
        values: Tensor | None = getattr(self, name)
        if values is None:
            raise AudioVQError(f"the packed corpus has no {name} labels: prepare them first")
        start = to_device(np.array(first_frame, np.int64), values.device)
        return values[start[:, None] + torch.arange(n_frames, device=values.device)]


def open_packed(folder: str | Path | None = None) -> tuple[PackedCorpus, PackedCorpus]:
    """The packed corpora ``train`` and ``validation`` in a folder; None: ``packed`` in the cache."""
    base = cache_dir() / "packed" if folder is None else Path(folder)
    return PackedCorpus.open(base / "train"), PackedCorpus.open(base / "validation")


def open_utterances(folder: Path, split: str | None = None, minutes: float | None = None) -> list[Utterance]:
    """The utterances of the packed corpora ``train`` and ``validation`` in a folder, without transcripts.

    Args:
        folder: of both.
        split: one of them; None: both.
        minutes: at most so much of each, utterances at even distances; None: all.

    Raises:
        AudioVQError: when there is no packed corpus, or it is damaged.
    """
    utterances = []
    for name in ("train", "validation"):
        if split not in (None, name):
            continue
        try:
            lines = json.loads((folder / name / "index.json").read_text())
            seconds = sum(line["n_samples"] for line in lines) / SAMPLE_RATE
            step = 1 if minutes is None else max(-(-seconds // (60 * minutes)), 1)
            shard = Shard(folder / name / "samples.i16")
            for line in lines[:: int(step)]:
                reader = ShardReader(shard, line["start"], line["n_samples"])
                about: dict[str, Any] = {name: line[name] for name in _ABOUT}
                about |= {"seconds": line["n_samples"] / SAMPLE_RATE, "split": name, "reader": reader}
                utterances.append(Utterance(text=None, source="packed", licence="", **about))
        except (OSError, ValueError, KeyError) as error:
            where = folder / name
            raise AudioVQError(f"{where}: no packed corpus, or a damaged one: {error} (docs/training.md)") from error
    return utterances


def _read_only(array: np.ndarray) -> Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the array must not be written to: nobody does
        return torch.from_numpy(np.asarray(array))


def write_rows(folder: Path, name: str, ids: Sequence[str], rows: Sequence[np.ndarray]) -> None:
    """Put labels or features of each frame beside a packed corpus: ``rows`` by utterance, as ``ids`` names them."""
    corpus = PackedCorpus.open(folder)
    by_id = dict(zip(ids, rows, strict=True))
    missing = [utterance for utterance in corpus.ids if utterance not in by_id]
    if missing:
        raise AudioVQError(f"no {name} rows for {len(missing)} utterances, the first is {missing[0]}")
    with atomic_write(folder / f"{name}.bin") as path, path.open("wb") as file:
        for utterance, frames in zip(corpus.ids, corpus.frames.tolist(), strict=True):
            values = by_id[utterance][:frames]
            pad = [(0, frames - len(values))] + [(0, 0)] * (values.ndim - 1)
            file.write(np.ascontiguousarray(np.pad(values, pad)).tobytes())
