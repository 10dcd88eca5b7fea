"""``audiovq info``: the header and the state of an .avq file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audiovq.bitstream import FileInfo


def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An .avq file, or - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show information about an .avq file and check all its checksums; report what is lost (exit code 1)."""
    from audiovq.bitstream import inspect_file
    from audiovq.cli.loading import bundled_clock, bundled_coder
    from audiovq.cli.terminal import print_fields
    from audiovq.cli.visual import holds_visual, print_info
    from audiovq.errors import AudioVQError
    from audiovq.hub import bundled_hashes
    from audiovq.io import describe, shown

    if holds_visual([file]):
        return print_info(file, as_json)
    found = inspect_file(file, bundled_coder, bundled_clock)
    folder = bundled_hashes("speech").get(bytes.fromhex(found.model_hash))
    name = None if folder is None else folder.name
    if as_json:
        print(json.dumps({"file": shown(file), "model": name, **found.to_dict()}, indent=2))
    else:
        there = "" if found.seconds_there is None else f"; packets reach to {found.seconds_there:.2f} s"
        seconds = f"not known, the end is missing{there}" if found.seconds is None else f"{found.seconds:.3f} s"
        rate = "" if found.kbps is None else f", {found.kbps:.2f} kb/s"
        speakers = found.speakers or []
        width = (max((max(s) for s in speakers), default=0).bit_length() + 3) // 4 or 1
        each = "" if found.coded_bits_per_code is None else f", {found.coded_bits_per_code:.2f} bits a code"
        rows = {
            "file": describe(file),
            "format": f".avq version {found.version}, {found.media}",
            "model": f"{found.model_hash} ({name or 'not a bundled one'})",
            "source": f"{found.sample_rate} Hz, {found.channels} channel{'s' * (found.channels > 1)}",
            "length": seconds + ("" if found.samples is None else f", {found.samples} samples"),
            "size": f"{found.bytes} bytes{rate}",
            "codes": f"{found.codebooks} codebooks of {found.bits_per_code} bits, {found.frames} frames",
            "packets": f"{found.packets}{' whole ones' * bool(found.damage)} of up to {found.packet_frames} frames",
            "coding": ("entropy-coded" if found.coding == "entropy" else "packed") + each,
            "speakers": " ".join("".join(f"{v:0{width}x}" for v in s) for s in speakers) or "known to its model only",
            **_pitch(found),
            "state": "damaged" if found.damage else "whole: all checksums are right",
        }
        print_fields(rows)
    if found.damage:
        raise AudioVQError(f"{describe(file)}: {found.damage}")


def _pitch(found: FileInfo) -> dict[str, str]:
    """The line about coded pitch."""
    rate = "" if found.pitch_and_level_bps is None else f"; {found.pitch_and_level_bps:.0f} b/s with level"
    if found.pitch_hz is None:
        return {"pitch": f"no voiced frames{rate}"}
    low, median, high = found.pitch_hz
    return {"pitch": f"median {median:.0f} Hz, {low:.0f} to {high:.0f} Hz, {found.voiced:.0%} voiced{rate}"}
