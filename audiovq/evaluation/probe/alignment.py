"""Which phone is spoken when: English recordings aligned with their text by pocketsphinx and its own acoustic model."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.evaluation.progress import Progress, silent
from audiovq.files import atomic_write, cache_dir
from audiovq.optional import need

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance

SILENCE = "SIL"
PHONES = (
    *("IY", "IH", "EY", "EH", "AE", "AA", "AO", "AH", "OW", "UH", "UW", "ER", "AY", "AW", "OY"),
    *("Y", "W", "R", "L", "M", "N", "NG"),
    *("V", "DH", "Z", "ZH", "F", "TH", "S", "SH", "HH", "CH", "JH"),
    *("B", "D", "G", "P", "T", "K"),
)
"""The 39 phones of the CMU dictionary: vowels, sonorants, fricatives and affricates, stops."""
CLASSES = (*PHONES, SILENCE)
UNKNOWN = -1
"""Label of frames outside the alignment."""
FRAME_SECONDS = 0.01
WINDOW_SECONDS = 0.025625
"""The aligner's frames, and how much sound each of them sees."""

Segment = tuple[str, int, int]
"""A class, its first frame of 10 ms, and the frame after its last."""


@dataclass
class Aligned:
    """Segments by the utterance's id, and how many utterances were left out for which reason."""

    segments: dict[str, list[Segment]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)


def words_of(text: str) -> list[str]:
    """The words as the dictionary writes them; digits stay, and are found in no dictionary."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


def segments_of(phones: Iterable[tuple[str, int, int]]) -> list[Segment]:
    """(name, start, duration) in frames -> segments; fillers, such as noise and breath, count as silence."""
    return [
        (name if name in PHONES else SILENCE, start, start + duration)
        for name, start, duration in phones
        if duration > 0
    ]


def labels_at(segments: Sequence[Segment], n_frames: int, hop_length: int, sample_rate: int = 16000) -> np.ndarray:
    """The class spoken in the middle of each frame of ``hop_length`` samples: (n_frames,) indices of `CLASSES`.

    Frames outside all segments are `UNKNOWN`.
    """
    end = max((segment[2] for segment in segments), default=0)
    fine = np.full(end + 1, UNKNOWN, dtype=np.int64)
    for name, start, stop in segments:
        fine[start:stop] = CLASSES.index(name)
    middles = (np.arange(n_frames) + 0.5) * hop_length / sample_rate
    places = np.rint((middles - WINDOW_SECONDS / 2) / FRAME_SECONDS).astype(np.int64)
    return fine[np.clip(places, 0, end)]


class Aligner:
    """Forced alignment with pocketsphinx's bundled en-us model.

    Raises:
        AudioVQError: when pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        sphinx = need("pocketsphinx", "phone labels")
        self.decoder: Any = sphinx.Decoder(lm=None, loglevel="FATAL")

    def align(self, samples: np.ndarray, text: str) -> list[Segment] | str:
        """Segments of samples (T,) at 16 kHz; or, in words, why there are none."""
        words = words_of(text)
        if not words or any(self.decoder.lookup_word(word) is None for word in words):
            return "words outside the dictionary"
        sound = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        try:
            self.decoder.set_align_text(" ".join(words))
            self._hear(sound)
            # The first pass finds the words (and pauses between them), the second the phones in them.
            self.decoder.set_alignment()
            self._hear(sound)
            alignment = self.decoder.get_alignment()
        except RuntimeError:
            return "no alignment"
        found = segments_of((phone.name, phone.start, phone.duration) for word in alignment or () for phone in word)
        return found or "no alignment"

    def _hear(self, sound: bytes) -> None:
        self.decoder.start_utt()
        self.decoder.process_raw(sound, full_utt=True)
        self.decoder.end_utt()


def align(utterances: Sequence[Utterance], progress: Progress = silent) -> Aligned:
    """Segments of all utterances that align, from the cache or made now."""
    if not utterances:
        return Aligned()
    need("pocketsphinx", "phone labels")
    from importlib.metadata import version

    key = hashlib.sha256(f"2 {version('pocketsphinx')}".encode())
    for utterance in utterances:
        key.update(f"\n{utterance.source} {utterance.id} {utterance.n_samples} {utterance.text}".encode())
    path = cache_dir() / "phones" / f"{key.hexdigest()[:16]}.json"
    if path.is_file():
        stored = json.loads(path.read_text())
        segments = {
            id: [(name, start, stop) for name, start, stop in found] for id, found in stored["segments"].items()
        }
        return Aligned(segments, stored["skipped"])
    aligner, aligned, skipped = Aligner(), Aligned(), Counter[str]()
    for done, utterance in enumerate(utterances):
        progress("aligning", done, len(utterances))
        found = aligner.align(utterance.load(), utterance.text or "")
        if isinstance(found, str):
            skipped[found] += 1
        else:
            aligned.segments[utterance.id] = found
    aligned.skipped = dict(skipped)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"segments": aligned.segments, "skipped": aligned.skipped}))
    return aligned
