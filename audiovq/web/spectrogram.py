"""Spectrograms and code maps as images, with axes as SVG."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO

import numpy as np

RANGE_DB = 70.0
"""Range of the colour scale below its top."""
WIDTH, LEFT, RIGHT = 1000, 44, 56
"""Units of the drawing across, and its margins."""
TOP, BOTTOM = 8, 22
PLOT = WIDTH - LEFT - RIGHT
_F0_LOW, _F0_HIGH = 50.0, 600.0
_F0_TICKS = (100, 200, 400)
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.005
# Anchors of a scale from dark to bright whose lightness rises evenly.
_COLOURS = np.array(
    [
        (8, 8, 20),
        (29, 20, 64),
        (66, 24, 110),
        (112, 32, 125),
        (160, 45, 117),
        (207, 66, 92),
        (240, 106, 66),
        (252, 161, 72),
        (252, 214, 118),
        (252, 250, 190),
    ]
)


def spectrogram(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Power spectra in dB of a waveform (T,), pre-emphasised by 6 dB an octave -> (frequencies, columns).

    Windows last 25 ms; there are at most as many columns as the drawing is wide, which average the power of several
    windows in long recordings.
    """
    x = np.append(samples[:1], samples[1:] - 0.97 * samples[:-1]).astype(np.float32)
    size, hop = round(_WINDOW_SECONDS * sample_rate), round(_HOP_SECONDS * sample_rate)
    n_fft = 1 << (size - 1).bit_length()
    x = np.pad(x, (size // 2, size - size // 2))
    frames = np.lib.stride_tricks.sliding_window_view(x, size)[::hop]
    together = -(-len(frames) // PLOT)
    columns = []
    for start in range(0, len(frames), 512 * together):
        part = frames[start : start + 512 * together]
        power = np.square(np.abs(np.fft.rfft(part * np.hanning(size).astype(np.float32), n_fft)))
        columns.append(np.add.reduceat(power, np.arange(0, len(power), together), axis=0) / together)
    return (10 * np.log10(np.concatenate(columns).T + 1e-10)).astype(np.float32)


def top_of(spectra: np.ndarray) -> float:
    """Top of the colour scale for spectra in dB: their loudest point."""
    return float(spectra.max(initial=-60.0))


def colour_bar() -> str:
    """CSS gradient of the colour scale."""
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in _COLOURS.tolist())
    return f"linear-gradient(to right, {stops})"


def coloured(spectra: np.ndarray, top: float) -> str:
    """Spectra in dB (frequencies, columns), low ones first -> a PNG as a data URI."""
    from PIL import Image

    share = np.clip((spectra[::-1] - top) / RANGE_DB + 1, 0, 1)
    ramp = np.linspace(0, 1, 256)
    place = np.linspace(0, 1, len(_COLOURS))
    palette = np.stack([np.interp(ramp, place, channel) for channel in _COLOURS.T], axis=1)
    image = Image.fromarray(np.round(share * 255).astype(np.uint8))
    image.putpalette(np.round(palette).astype(np.uint8).tobytes())
    return png(image)


def png(image: object) -> str:
    """A PIL image as a data URI."""
    file = BytesIO()
    image.save(file, "PNG", optimize=False)  # type: ignore[attr-defined]
    return data_uri("image/png", file.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """Bytes inside a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def draw_spectrogram(
    samples: np.ndarray, sample_rate: int, top: float | None = None, f0: np.ndarray | None = None, height: int = 140
) -> str:
    """Spectrogram of a waveform (T,) as SVG, with the fundamental frequency over it on an axis of its own.

    Args:
        top: dB of the brightest colour; None: the loudest point.
        f0: (F,) in Hz at equal steps from beginning to end, 0 where unvoiced.
    """
    spectra = spectrogram(samples, sample_rate)
    uri = coloured(spectra, top_of(spectra) if top is None else top)
    seconds = len(samples) / sample_rate
    khz = sample_rate / 2000
    parts = [_image(uri, height, smooth=True)]
    for tick in range(0, int(khz) + 1, 2):
        y = TOP + height * (1 - tick / khz)
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    parts.append(_label(12, height, "kHz"))
    if f0 is not None:
        parts += _f0_axis(f0, height)
    return _svg(parts, seconds, height, "spectrogram" if f0 is None else "spectrogram with fundamental frequency")


def draw_codes(codes: np.ndarray, codebook_size: int, seconds: float) -> str:
    """Codes (K, F) as SVG, one row for each codebook: equal codes of a codebook have equal colours."""
    from PIL import Image

    row = 18
    n_codebooks = len(codes)
    # Steps of the golden ratio spread neighbouring indices over the hues.
    hue = np.round(codes * 0.61803399 % 1 * 255)
    saturation = np.full_like(hue, 150)
    value = 110 + np.round(codes / max(codebook_size - 1, 1) * 130)
    pixels = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)
    image = Image.frombytes("HSV", pixels.shape[1::-1], pixels.tobytes()).convert("RGB")
    height = row * n_codebooks
    parts = [_image(png(image), height, smooth=False)]
    for k in range(n_codebooks):
        parts.append(f'<text x="{LEFT - 6}" y="{TOP + row * (k + 0.5) + 4:.1f}" text-anchor="end">{k + 1}</text>')
    parts.append(_label(12, height, "codebook" if n_codebooks > 3 else ""))
    return _svg(parts, seconds, height, "codes")


def f0_lines(f0: np.ndarray, height: float) -> list[str]:
    """Voiced stretches of a fundamental frequency (F,) in Hz as points of SVG polylines; unvoiced frames end a line."""
    voiced = np.flatnonzero(f0 > 0)
    lines = []
    for run in np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1):
        if len(run):
            # A single voiced frame is drawn as long as it lasts.
            at = np.r_[run[0], run + 0.5, run[-1] + 1]
            x = LEFT + PLOT * at / len(f0)
            y = f0_height(np.r_[f0[run[0]], f0[run], f0[run[-1]]], height)
            lines.append(" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)))
    return lines


def f0_height(hz: np.ndarray, height: float) -> np.ndarray:
    """Place of fundamental frequencies on their axis, which is logarithmic."""
    share = np.log(np.clip(hz, _F0_LOW, _F0_HIGH) / _F0_LOW) / np.log(_F0_HIGH / _F0_LOW)
    return TOP + height * (1 - share)


def _f0_axis(f0: np.ndarray, height: int) -> list[str]:
    lines = f0_lines(f0, height)
    parts = [f'<polyline class="f0-edge" points="{points}"/>' for points in lines]
    parts += [f'<polyline class="f0" points="{points}"/>' for points in lines]
    for tick in _F0_TICKS:
        y = float(f0_height(np.array([tick]), height)[0])
        parts.append(f'<text class="f0-text" x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}">{tick}</text>')
    parts.append(_label(WIDTH - 8, height, "F0, Hz", "f0-text"))
    return parts


def _image(uri: str, height: int, smooth: bool) -> str:
    style = "" if smooth else ' style="image-rendering: pixelated"'
    return (
        f'<image href="{uri}" x="{LEFT}" y="{TOP}" width="{PLOT}" height="{height}" preserveAspectRatio="none"{style}/>'
    )


def _label(x: float, height: int, text: str, kind: str = "") -> str:
    y = TOP + height / 2
    return f'<text class="{kind}" text-anchor="middle" transform="translate({x},{y:.1f}) rotate(-90)">{text}</text>'


def _svg(parts: Iterable[str], seconds: float, height: int, what: str) -> str:
    """A plot with its time axis; the script moves the line ``playhead`` over it."""
    full = TOP + height + BOTTOM
    axis = []
    for tick in time_ticks(seconds):
        x, y = LEFT + PLOT * tick / seconds, TOP + height
        axis.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}"/>')
        unit = " s" if tick == 0 else ""
        axis.append(f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{tick:g}{unit}</text>')
    playhead = f'<line class="playhead" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{TOP + height}"/>'
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {full}" role="img" aria-label="{escape(what)}" '
        f'data-left="{LEFT}" data-width="{PLOT}" data-full="{WIDTH}">{"".join([*parts, *axis])}{playhead}</svg>'
    )


def time_ticks(seconds: float) -> list[float]:
    """Round times from 0 on, at most 12."""
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60) if seconds / s <= 11), seconds / 10)
    return [round(i * step, 3) for i in range(int(seconds / step) + 1)]
