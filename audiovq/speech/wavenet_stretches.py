"""Decoding by the WaveNet in stretches that are drawn side by side and faded together: faster for long recordings.

As `audiovq.speech.stretches`, but while packets arrive and in constant memory. Stretches lie on a fixed grid, each has
its own condition, noise of its place, and the same bits alone and beside others: the samples depend on codes and seed,
not on how many are drawn at a time, nor on how the packets come.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from audiovq.speech.stretches import join
from audiovq.speech.wavenet_stream import WaveNetStream

SECONDS = 4
"""Of a stretch, without its warm-up."""
FADE = 80
"""Steps of a cross-fade."""


class StretchedStream(WaveNetStream):
    """The WaveNet decoder, drawing ``n_streams`` stretches at a time: it waits until it has their codes.

    Args:
        arguments: as of `WaveNetStream`.
        n_streams: above 4 it is hardly faster, and comes later.
        n_frames: latents of a stretch; four seconds when None.
    """

    def __init__(self, *arguments, n_streams: int = 4, n_frames: int | None = None) -> None:
        super().__init__(*arguments)
        steps = self._wavenet.steps_per_frame
        # Enough to forget the silence it began with, and room behind that for a seam where both agree.
        self._warm_up = -(-(self._sampler.receptive_field + 20 * FADE) // steps)
        self._stretch = max(n_frames or round(SECONDS * self.codec.frame_rate), self._warm_up)
        self._settled = min(self._sampler.receptive_field, self._warm_up * steps // 2)
        self._streams = n_streams
        self._tail: np.ndarray | None = None  # values drawn and not given out, which the next stretch fades into

    def _decode(self, until: int, ended: bool = False) -> np.ndarray:
        until = self._end if ended else self._ready(until)
        full = (until - self._drawn) // self._stretch
        if full < self._streams and not ended:
            return np.zeros(0, np.float32)
        starts = list(range(self._drawn, until if ended else self._drawn + full * self._stretch, self._stretch))
        pieces = [np.zeros(0, np.float32)]
        while starts:
            group, starts = starts[: self._streams], starts[self._streams :]
            pieces += [self._give(values, ended) for values in self._draw_all(group)]
        return np.concatenate(pieces)

    def _draw_all(self, starts: list[int]) -> list[np.ndarray]:
        """Values (n_values, T) of stretches that begin at these frames, with their warm-ups."""
        drawn: list[np.ndarray] = []
        spans = [(max(s - self._warm_up, 0), min(s + self._stretch, self._end)) for s in starts]
        for _, group in groupby(spans, key=lambda span: span[1] - span[0]):
            parts = [self._read(*span) for span in group]
            condition, noise, extra = (_joined([part[i] for part in parts]) for i in range(3))
            assert condition is not None
            assert noise is not None
            temperature = self._wavenet.temperature
            values = self._sampler.sample(condition, noise, temperature=temperature, extra=extra)
            drawn += [
                (own if part[3] is None else own + part[3][0]).numpy() for own, part in zip(values, parts, strict=True)
            ]
        return drawn

    def _give(self, values: np.ndarray, ended: bool) -> np.ndarray:
        """Samples that are final once this stretch is known."""
        values = values if self._tail is None else join(self._tail, values, 0, self._settled, FADE)
        self._drawn = min(self._drawn + self._stretch, self._end)
        last = ended and self._drawn == self._end
        kept = 0 if last else self._warm_up * self._wavenet.steps_per_frame
        ready, self._tail = values[:, : values.shape[1] - kept], values[:, values.shape[1] - kept :]
        bands = self._wavenet.to_bands(torch.from_numpy(np.ascontiguousarray(ready)).unsqueeze(0))
        self._bands = torch.cat([self._bands, bands], dim=2)
        self._forget(max(self._drawn - self._warm_up, 0))
        self._drop_draft(max(self._drawn - self._warm_up, 0))
        return self._samples(last)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """One after the other in a batch; None where there is nothing."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
