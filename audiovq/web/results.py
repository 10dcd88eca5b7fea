"""Results of the page's actions as HTML: everything that is heard and seen is inside it, as data URIs and SVG."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.web.actions import MP3_KBPS, Inspection, Recording, Version

if TYPE_CHECKING:
    from audiovq.interfaces import Codec


def show_error(message: str) -> str:
    return f'<div class="avq-error" role="alert">{escape(message)}</div>'


def show_note(message: str) -> str:
    return f'<div class="avq-note">{escape(message)}</div>'


def show_compressed(recording: Recording, versions: Sequence[Version]) -> str:
    """Original and versions below each other, and a table of sizes."""
    return _remarks(recording.remarks) + size_table(recording, versions) + show_versions(recording, versions)


def show_converted(recording: Recording, version: Version, f0: np.ndarray) -> str:
    """Original, with its fundamental frequency (F,) in Hz, and converted speech below each other."""
    return _remarks([*dict.fromkeys([*recording.remarks, *version.remarks])]) + show_versions(recording, [version], f0)


def show_versions(recording: Recording | None, versions: Sequence[Version], f0: np.ndarray | None = None) -> str:
    """Players with spectrograms on one colour scale; its top is the original's loudest point, without one that of all.

    ``f0`` of the original is drawn over it.
    """
    rate = versions[0].sample_rate if recording is None else recording.sample_rate
    loudest = [v.samples for v in versions] if recording is None else [recording.samples]
    top = max(top_of(spectrogram(samples, rate)) for samples in loudest)
    stem = "sample" if recording is None else PurePath(recording.name).stem
    rows = []
    if recording is not None:
        details = [f"{recording.seconds:.2f} s, {rate / 1000:g} kHz, mono", *_median(f0)]
        wav = recording.wav("PCM_16").getvalue()
        rows.append(_row("Original", details, wav, draw_spectrogram(recording.samples, rate, top, f0)))
    for version in versions:
        name = f"{stem}-{version.label}".replace(" ", "-").replace("/", "p").lower()
        seconds, size = len(version.samples) / rate, len(version.avq)
        details = [version.detail, f"{size:,} bytes", f"{8e-3 * size / seconds:.2f} kb/s in the file"]
        details += _median(version.f0) if f0 is not None else []
        plot = draw_spectrogram(version.samples, rate, top, version.f0)
        rows.append(_row(version.label, details, version.wav, plot, version.avq, name))
    zero = "the loudest point of all" if recording is None else "the loudest point of the original"
    return f'<div class="avq-rows">{"".join(rows)}</div>{_legend(zero)}'


def size_table(recording: Recording, versions: Sequence[Version]) -> str:
    """Rate, bytes and ratios of a recording and its files."""
    seconds, pcm, mp3 = recording.seconds, recording.pcm_bytes, recording.mp3_bytes
    pcm_name = f"16-bit PCM, {recording.sample_rate / 1000:g} kHz"
    sizes: list[tuple[str, float | None, int]] = [(pcm_name, None, pcm), (f"MP3, {MP3_KBPS:g} kb/s", None, mp3)]
    sizes += [(f".avq, {v.detail}", v.kbps, len(v.avq)) for v in versions]
    rows = []
    for name, nominal, size in sizes:
        rates = ["" if nominal is None else f"{nominal:.3g}", f"{8e-3 * size / seconds:.2f}"]
        rows.append([name, *rates, f"{size:,}", _ratio(pcm, size), _ratio(mp3, size)])
    table = _table(["", "nominal kb/s", "kb/s in the file", "bytes", "PCM : file", "MP3 : file"], rows)
    return f'{table}<p class="avq-small">The MP3 is computed from its rate, without its header.</p>'


def show_inspection(result: Inspection, codec: Codec) -> str:
    """Header, codes, statistics and tokens of a file."""
    info = result.info
    facts = info_rows(result, codec).items()
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts)
    table = f'<table class="avq-facts"><tbody>{body}</tbody></table>'
    if info.damage:
        return show_error(f"{result.name}: {info.damage}") + table
    if result.version is None or result.encoded is None:
        return show_note("Its codes can be shown by the model that wrote it: start the page with that --model.") + table
    version, codes = result.version, result.encoded.codes[0].numpy()
    seconds = codes.shape[1] * codec.hop_length / codec.sample_rate
    # Files keep their source's sample rate.
    plot = draw_spectrogram(version.samples, version.sample_rate, None, version.f0)
    stem = PurePath(result.name).stem
    row = _row(version.label, [version.detail, f"{info.bytes:,} bytes"], version.wav, plot, version.avq, stem)
    picture = (
        '<div class="avq-row"><div class="avq-label"><div><b>Codes</b><span>a row for each codebook; a colour for each '
        'code</span></div></div><div class="avq-figure">'
        f"{draw_codes(codes, codec.codebook_size, seconds)}</div></div>"
    )
    return (
        table
        + f'<div class="avq-rows">{row}{picture}</div>{_legend("its loudest point")}'
        + _tokens(result, codes, codec, stem)
        + statistics_table(codes, codec.codebook_size)
    )


def info_rows(result: Inspection, codec: Codec) -> dict[str, str]:
    """Facts of a file's header by their names."""
    info = result.info
    own = codec.name if info.model_hash == codec.model_hash.hex() else "another model"
    rows = {
        "file": result.name,
        "model": f"{info.model_hash} ({own})",
        "source": f"{info.sample_rate} Hz, {info.channels} channel{'s' * (info.channels > 1)}",
        "duration": "unknown" if info.seconds is None else f"{info.seconds:.3f} s",
        "size": f"{info.bytes:,} bytes" + ("" if info.kbps is None else f", {info.kbps:.2f} kb/s"),
        "codes": f"{info.codebooks} codebooks of {info.bits_per_code} bits, {info.frames} frames",
        "coding": "entropy-coded" if info.coding == "entropy" else "packed",
    }
    if info.coded_bits_per_code is not None:
        rows["coding"] += f", {info.coded_bits_per_code:.2f} bits per code"
    if info.pitch_hz is not None:
        low, median, high = info.pitch_hz
        rows["F0"] = f"median {median:.0f} Hz, {low:.0f} to {high:.0f} Hz (5th to 95th percentile)"
    if info.voiced is not None:
        rows["voiced"] = f"{info.voiced:.0%} of the frames"
    if info.pitch_and_level_bps is not None:
        rows["pitch and level"] = f"{info.pitch_and_level_bps:.0f} b/s"
    if info.speakers:
        rows["speaker vector"] = " ".join(map(str, info.speakers[0]))
    return rows


def statistics_table(codes: np.ndarray, codebook_size: int) -> str:
    """Use of each codebook in codes (K, F)."""
    rows = []
    for k, row in enumerate(codes, 1):
        counts = np.bincount(row, minlength=codebook_size)
        shares = counts[counts > 0] / len(row)
        entropy = float((shares * np.log2(1 / shares)).sum())
        repeats = float(np.mean(row[1:] == row[:-1])) if len(row) > 1 else 0.0
        first = [code for code in np.argsort(-counts, kind="stable")[:3] if counts[code]]
        figures = [f"{2**entropy:.1f}", f"{entropy:.2f}", f"{repeats:.0%}"]
        common = ", ".join(f"{code} ({counts[code]})" for code in first)
        rows.append([str(k), f"{len(shares)} of {codebook_size}", *figures, common])
    heads = ["codebook", "codes in use", "perplexity", "entropy, bits", "repeated from the frame before"]
    return _table([*heads, "most frequent"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose rows begin with their names."""
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    body = ""
    for name, *cells in rows:
        body += f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f'<table class="avq-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def codes_json(result: Inspection, codec: Codec) -> str:
    """Everything that a file holds, as JSON."""
    encoded, version = result.encoded, result.version
    assert encoded is not None and version is not None  # noqa: PT018
    content = {
        "model": codec.name,
        "model_hash": codec.model_hash.hex(),
        "frame_rate": codec.frame_rate,
        "codebook_size": codec.codebook_size,
        "codes": encoded.codes[0].tolist(),
        "f0_hz": [round(float(hz), 2) for hz in version.f0],
        "level_codes": encoded.level[0].tolist(),
        "speaker": encoded.speaker[0].tolist(),
        "samples": int(encoded.n_samples[0]),
    }
    return json.dumps(content)


def _tokens(result: Inspection, codes: np.ndarray, codec: Codec, stem: str) -> str:
    text = " ".join(map(str, codes[0].tolist()))
    file = data_uri("application/json", codes_json(result, codec).encode())
    return (
        f'<div class="avq-tokens"><label for="avq-tokens">Tokens: codebook 1, {codec.frame_rate:g} a second</label>'
        f'<textarea id="avq-tokens" readonly rows="4" spellcheck="false">{text}</textarea>'
        f'<span class="avq-links"><a href="#" data-copy="avq-tokens">Copy</a> '
        f'<a download="{escape(stem)}.json" href="{file}">All codes as JSON</a></span></div>'
    )


def _row(
    label: str, details: Sequence[str], wav: bytes, plot: str, avq: bytes | None = None, name: str | None = None
) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in details)
    links = ""
    if name is not None and avq is not None:
        file = data_uri("application/octet-stream", avq)
        links = (
            f'<span class="avq-links"><a download="{escape(name)}.avq" href="{file}">.avq</a> '
            f'<a download="{escape(name)}.wav" href="#" data-wav>.wav</a></span>'
        )
    return (
        f'<div class="avq-row"><div class="avq-label">'
        f'<button type="button" class="avq-play" aria-label="Play: {escape(label)}"></button>'
        f"<div><b>{escape(label)}</b>{lines}{links}</div></div>"
        f'<div class="avq-figure">{plot}</div><audio preload="auto" src="{data_uri("audio/wav", wav)}"></audio></div>'
    )


def _legend(zero: str) -> str:
    """Colour scale, with what 0 dB is."""
    return (
        f'<p class="avq-small">−{RANGE_DB:g} <span class="avq-bar" style="background: {colour_bar()}"></span> 0 dB: '
        f'{zero}. Windows of 25 ms, pre-emphasis of 6 dB per octave. <span class="avq-f0-key"></span> F0 as coded, on '
        "the logarithmic axis on the right.<br>Click into a spectrogram to play from there. While one plays, the "
        "button of another goes on at the same place.</p>"
    )


def _median(f0: np.ndarray | None) -> list[str]:
    voiced = None if f0 is None else f0[f0 > 0]
    return [] if voiced is None or not len(voiced) else [f"median F0 {np.median(voiced):.0f} Hz"]


def _remarks(lines: Sequence[str]) -> str:
    return "".join(show_note(line.removeprefix("warning: ")) for line in lines)


def _ratio(whole: int, size: int) -> str:
    ratio = whole / size
    return f"{ratio:,.0f} : 1" if ratio > 9.95 else f"{ratio:.3g} : 1"


# -- drawings ---------------------------------------------------------------------------------------------------------

RANGE_DB = 70.0  # of the colour scale below its top
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1000, 44, 56, 8, 22  # units of the drawing across, and its margins
PLOT = WIDTH - LEFT - RIGHT
_F0_LOW, _F0_HIGH, _F0_TICKS = 50.0, 600.0, (100, 200, 400)
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.005
# Anchors of a scale from dark to bright whose lightness rises evenly.
_COLOURS = np.frombuffer(
    bytes.fromhex("080814 1d1440 42186e 70207d a02d75 cf425c f06a42 fca148 fcd676 fcfabe"), np.uint8
).reshape(-1, 3)


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


def png(image: Any) -> str:
    """A PIL image as a data URI."""
    file = BytesIO()
    image.save(file, "PNG")
    return data_uri("image/png", file.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def draw_spectrogram(
    samples: np.ndarray, sample_rate: int, top: float | None = None, f0: np.ndarray | None = None, height: int = 140
) -> str:
    """Spectrogram of a waveform (T,) as SVG; ``top`` is the dB of the brightest colour, None: of the loudest point.

    The fundamental frequency (F,) in Hz at equal steps, 0 where unvoiced, is drawn over it on an axis of its own.
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

    row, n_codebooks = 18, len(codes)
    # Steps of the golden ratio spread neighbouring indices over the hues.
    hue = np.round(codes * 0.61803399 % 1 * 255)
    saturation = np.full_like(hue, 150)
    value = 110 + np.round(codes / max(codebook_size - 1, 1) * 130)
    pixels = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)
    image = Image.frombytes("HSV", pixels.shape[1::-1], pixels.tobytes()).convert("RGB")
    height = row * n_codebooks
    parts = [_image(png(image), height, smooth=False)]
    rows = [(k + 1, TOP + row * (k + 0.5) + 4) for k in range(n_codebooks)]
    parts += [f'<text x="{LEFT - 6}" y="{y:.1f}" text-anchor="end">{number}</text>' for number, y in rows]
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
