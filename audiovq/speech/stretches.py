"""One long recording drawn as many streams: stretches that begin early, find into step, and are faded together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from audiovq.wavenet.sampler import Noise, WaveNetSampler


def sample_in_stretches(
    sampler: WaveNetSampler,
    condition: Tensor,
    noise: Noise,
    length: int = 200,
    warm_up: int | None = None,
    fade: int = 80,
    batch_size: int = 16,
    temperature: float | Sequence[float] = 1.0,
    extra: Tensor | None = None,
) -> Tensor:
    """Draw a recording in stretches that advance together, which reads the weights once for all of them.

    ::

        stretch i     ...=======================|            ends where its grid ends
        stretch i + 1         |--warm-up--------|=========   begins silent and early
                                     ^seam                   late in the warm-up

    All stretches get the noise of their place in the recording: a stretch that hears the same noise under the same
    condition as its predecessor tends to draw the same values after a while, although it began with silence. The seam
    is laid where the two differ least over ``fade`` steps, when the new one has forgotten how it began (or, when its
    warm-up is short, in the later half), and one is faded into the other there.

    Stretches lie on a fixed grid and each has the same bits alone and in a batch: the result does not depend on
    ``batch_size``.

    Args:
        condition: (1, condition_channels, F).
        noise: of the recording.
        length: positions of the condition in a stretch.
        warm_up: positions that a stretch begins early, less than ``length``; by default enough for the network's
            receptive field and 20 fades behind it.
        fade: steps of the cross-fade, at most half of the warm-up.
        batch_size: streams at a time.
        temperature, extra: see `WaveNetSampler.sample`.

    Returns:
        Values (1, n_values, F * hold).

    Raises:
        ValueError: when warm-up and fade do not fit.
    """
    hold, n_frames = sampler.hold, condition.shape[-1]
    if warm_up is None:
        warm_up = -(-(sampler.receptive_field + 20 * fade) // hold)
    if not 0 < warm_up < length or not 0 < fade <= warm_up * hold // 2:
        raise ValueError(f"a warm-up of {warm_up} and a fade of {fade} steps do not fit stretches of {length}")
    starts = list(range(0, max(n_frames, 1), length))
    stretches: list[np.ndarray] = []
    for group in _groups(starts, length + warm_up, batch_size, warm_up, n_frames):
        parts, noises, extras = [], [], []
        for start in group:
            first, last = max(start - warm_up, 0), min(start + length, n_frames)
            parts.append(condition[..., first:last])
            noises.append(noise.at(first * hold, (last - first) * hold))
            extras += [] if extra is None else [extra[..., first * hold : last * hold]]
        more = torch.cat(extras) if extras else None
        drawn = sampler.sample(torch.cat(parts), torch.cat(noises), temperature=temperature, extra=more)
        stretches += list(drawn.numpy())
    joined = stretches[0]
    for start, stretch in zip(starts[1:], stretches[1:], strict=True):
        settled = min(sampler.receptive_field, warm_up * hold // 2)
        joined = join(joined, stretch, (start - warm_up) * hold, settled, fade)
    return torch.from_numpy(np.ascontiguousarray(joined)).unsqueeze(0)


def _groups(starts: list[int], full: int, batch_size: int, warm_up: int, n_frames: int) -> list[list[int]]:
    """Stretches of the same length that are drawn together."""
    groups: list[list[int]] = []
    previous = 0
    for start in starts:
        size = min(start + full - warm_up, n_frames) - max(start - warm_up, 0)
        if groups and size == previous and len(groups[-1]) < batch_size:
            groups[-1].append(start)
        else:
            groups.append([start])
        previous = size
    return groups


def join(joined: np.ndarray, stretch: np.ndarray, begin: int, settled: int, fade: int) -> np.ndarray:
    """Fade from ``joined`` (n_values, T) into ``stretch``, which begins at ``begin``, after its step ``settled``."""
    both = slice(settled, joined.shape[1] - begin)
    apart = np.square(joined[:, begin + both.start : begin + both.stop] - stretch[:, both]).sum(axis=0)
    total = np.concatenate([[0.0], np.cumsum(apart, dtype=np.float64)])
    seam = both.start + int(np.argmin(total[fade:] - total[:-fade]))
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade, dtype=np.float32) + 0.5) / fade)
    old = joined[:, begin + seam : begin + seam + fade]
    mixed = old + rise * (stretch[:, seam : seam + fade] - old)
    return np.concatenate([joined[:, : begin + seam], mixed, stretch[:, seam + fade :]], axis=1)
