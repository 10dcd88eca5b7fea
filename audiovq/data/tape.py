"""A speaker's recordings end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from audiovq.data.utterance import SAMPLE_RATE, Utterance

_FADE = np.linspace(0, 1, SAMPLE_RATE // 200, endpoint=False, dtype=np.float32)  # 5 ms


class Tape:
    """All utterances of one speaker end to end, in a ring.

    Many recordings are shorter than a crop. Read from the tape they are followed by the speaker's next one after the
    short pause that their ends bring, rather than by zeros. Joints are faded over 5 ms so that none of them clicks.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self.utterances = utterances
        lengths = np.array([u.n_samples for u in utterances], dtype=np.int64)
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        self.n_samples = int(self.ends[-1])

    def read(self, start: int, n_samples: int) -> np.ndarray:
        """Samples (n_samples,) from ``start`` on, around the ring."""
        out = np.empty(n_samples, np.float32)
        done, position = 0, start % self.n_samples
        while done < n_samples:
            index = int(np.searchsorted(self.ends, position, side="right"))
            inside = position - int(self.starts[index])
            n_piece = min(int(self.ends[index]) - position, n_samples - done)
            piece = self.utterances[index].load(inside, n_piece)
            out[done : done + len(piece)] = piece
            out[done + len(piece) : done + n_piece] = 0  # a file that is shorter than it said
            self._fade(out[done : done + n_piece], inside, int(self.ends[index] - self.starts[index]))
            done += n_piece
            position = (position + n_piece) % self.n_samples
        return out

    @staticmethod
    def _fade(piece: np.ndarray, inside: int, length: int) -> None:
        """Fade a piece that lies at ``inside`` of an utterance of that length, where it holds one of its ends."""
        if length < 2 * len(_FADE):
            return
        head = _FADE[inside : inside + len(piece)]
        piece[: len(head)] *= head
        left = length - inside - len(piece)  # samples of the utterance after this piece
        if left < len(_FADE):
            tail = _FADE[left : left + len(piece)][::-1]
            piece[len(piece) - len(tail) :] *= tail

    def around(self, start: int, n_samples: int) -> tuple[int, int]:
        """The whole utterances that a stretch touches, as (start, length) on the ring."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, (start + n_samples - 1) % self.n_samples, side="right"))
        begin, end = int(self.starts[first]), int(self.ends[last])
        if start + n_samples > self.n_samples:
            end += self.n_samples
        return begin, end - begin
