"""Truth and prediction side by side, standing still or moving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.files import atomic_write
from audiovq.optional import need

_GAP = 3
_MILLISECONDS = 120


def draw_filmstrip(pairs: Sequence[tuple[Tensor, Tensor]], path: str | Path) -> None:
    """Two rows for each pair of clips (3, T, H, W) in [0, 1]: the truth above, the prediction below it."""
    rows = []
    for truth, found in pairs:
        strips = [
            torch.cat([F.pad(frame, (0, _GAP), value=1.0) for frame in clip.unbind(1)], 2) for clip in (truth, found)
        ]
        rows += [strips[0], F.pad(strips[1], (0, 0, 0, 2 * _GAP), value=1.0)]
    with atomic_write(path) as temporary:
        _picture(torch.cat(rows, 1)).save(temporary)


def draw_animation(pairs: Sequence[tuple[Tensor, Tensor]], path: str | Path) -> None:
    """A GIF: a column for each pair of clips, the truth above the prediction, twice the size."""
    columns = [
        torch.cat([F.pad(truth, (0, _GAP, 0, _GAP), value=1.0), F.pad(found, (0, _GAP, 0, _GAP), value=1.0)], 2)
        for truth, found in pairs
    ]
    frames = [_picture(frame, 2) for frame in torch.cat(columns, 3).unbind(1)]
    with atomic_write(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)


def _picture(pixels: Tensor, scale: int = 1):  # type: ignore[no-untyped-def]
    image = need("PIL.Image", "drawing").fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    return image.resize((image.width * scale, image.height * scale), 0) if scale > 1 else image
