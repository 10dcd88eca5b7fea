"""Results of the page's actions as HTML: everything that is heard and seen is inside it, as data URIs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from audiovq.web.actions import MP3_KBPS, Inspection, Recording, Version
from audiovq.web.spectrogram import RANGE_DB, colour_bar, data_uri, draw_codes, draw_spectrogram, spectrogram, top_of

if TYPE_CHECKING:
    from audiovq.interfaces import Codec


def show_error(message: str) -> str:
    """An error in the place of a result."""
    return f'<div class="avq-error" role="alert">{escape(message)}</div>'


def show_note(message: str) -> str:
    """A plain remark."""
    return f'<div class="avq-note">{escape(message)}</div>'


def show_compressed(recording: Recording, versions: Sequence[Version]) -> str:
    """Original and versions below each other, and a table of sizes."""
    rows = show_versions(recording, versions)
    return _remarks(recording.remarks) + size_table(recording, versions) + rows


def show_converted(recording: Recording, version: Version, f0: np.ndarray) -> str:
    """Original, with its fundamental frequency (F,) in Hz, and converted speech below each other."""
    remarks = dict.fromkeys([*recording.remarks, *version.remarks])
    return _remarks(list(remarks)) + show_versions(recording, [version], f0)


def show_versions(recording: Recording | None, versions: Sequence[Version], f0: np.ndarray | None = None) -> str:
    """Players with spectrograms on one colour scale.

    Args:
        recording: the original, whose loudest point is the top of the scale; without one it is that of all versions.
        versions: at least one.
        f0: of the original, to be drawn over it.
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
        seconds = len(version.samples) / rate
        size = len(version.avq)
        details = [version.detail, f"{size:,} bytes", f"{8e-3 * size / seconds:.2f} kb/s in the file"]
        details += _median(version.f0) if f0 is not None else []
        plot = draw_spectrogram(version.samples, rate, top, version.f0)
        rows.append(_row(version.label, details, version.wav, plot, version.avq, name))
    zero = "the loudest point of all" if recording is None else "the loudest point of the original"
    return f'<div class="avq-rows">{"".join(rows)}</div>{_legend(zero)}'


def size_table(recording: Recording, versions: Sequence[Version]) -> str:
    """Rate, bytes and ratios of a recording and its files."""
    seconds, pcm, mp3 = recording.seconds, recording.pcm_bytes, recording.mp3_bytes
    sizes: list[tuple[str, float | None, int]]
    sizes = [(f"16-bit PCM, {recording.sample_rate / 1000:g} kHz", None, pcm), (f"MP3, {MP3_KBPS:g} kb/s", None, mp3)]
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
    facts = info_rows(result, codec)
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    table = f'<table class="avq-facts"><tbody>{body}</tbody></table>'
    if info.damage:
        return show_error(f"{result.name}: {info.damage}") + table
    if result.version is None or result.encoded is None:
        return show_note("Its codes can be shown by the model that wrote it: start the page with that --model.") + table
    version, encoded = result.version, result.encoded
    codes = encoded.codes[0].numpy()
    rate = codec.sample_rate
    seconds = codes.shape[1] * codec.hop_length / rate
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
    assert encoded is not None
    assert version is not None
    return json.dumps(
        {
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
    )


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
    line = ' <span class="avq-f0-key"></span> F0 as coded, on the logarithmic axis on the right.'
    return (
        f'<p class="avq-small">−{RANGE_DB:g} <span class="avq-bar" style="background: {colour_bar()}"></span> 0 dB: '
        f"{zero}. Windows of 25 ms, pre-emphasis of 6 dB per octave.{line}<br>Click into a spectrogram to play from "
        "there. While one plays, the button of another goes on at the same place.</p>"
    )


def _median(f0: np.ndarray | None) -> list[str]:
    """A line about the median fundamental frequency, where there is one."""
    voiced = None if f0 is None else f0[f0 > 0]
    return [] if voiced is None or not len(voiced) else [f"median F0 {np.median(voiced):.0f} Hz"]


def _remarks(lines: Sequence[str]) -> str:
    return "".join(show_note(line.removeprefix("warning: ")) for line in lines)


def _ratio(whole: int, size: int) -> str:
    """Compression ratio."""
    ratio = whole / size
    return f"{ratio:,.0f} : 1" if ratio > 9.95 else f"{ratio:.3g} : 1"
