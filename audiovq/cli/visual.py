"""Pictures and clips for the verbs `encode`, `decode` and `info`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.errors import AudioVQError
from audiovq.io import describe, shown
from audiovq.media.containers import CONTAINER_SUFFIXES, contents_of

if TYPE_CHECKING:
    from audiovq.bitstream.visual_file import VisualInfo, VisualReport
    from audiovq.cli.jobs import Job
    from audiovq.interfaces import VisualCodec

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
CLIPS = (".gif", *CONTAINER_SUFFIXES)


def takes_visual(inputs: Sequence[str], sounds: Sequence[str]) -> bool:
    """Whether what is to be encoded are pictures and clips, by their names; a folder goes by its files.

    A video without images is sound.

    Raises:
        AudioVQError: for both pictures and sound.
    """

    def visual(name: str) -> bool:
        return _suffix(name) in PICTURES + CLIPS and not sound(name)

    def sound(name: str) -> bool:
        return _suffix(name) in sounds or (_suffix(name) in CONTAINER_SUFFIXES and _contents(name) == {"sound"})

    return _all_or_none(inputs, visual, sound)


def _contents(name: str) -> set[str]:
    """`contents_of`, where a missing package is left to whoever reads the file."""
    with suppress(AudioVQError):
        return contents_of(name)
    return set()


def holds_visual(inputs: Sequence[str]) -> bool:
    """Whether what is to be decoded or told about are pictures and clips, by what the .avq files say.

    Raises:
        AudioVQError: for both pictures and sound.
    """
    from audiovq.bitstream.container import media_of
    from audiovq.bitstream.visual_layout import MEDIA_NAMES

    def visual(name: str) -> bool:
        return media_of(name) in MEDIA_NAMES

    return _all_or_none(inputs, visual, lambda name: _suffix(name) == ".avq" and not visual(name))


def _all_or_none(inputs: Sequence[str], visual: Callable[[str], bool], sound: Callable[[str], bool]) -> bool:
    kinds = set()
    for name in inputs:
        files = [str(path) for path in Path(name).rglob("*") if path.is_file()] if os.path.isdir(name) else [name]
        kinds |= {True for file in files if visual(file)} | {False for file in files if sound(file)}
        if not os.path.isdir(name) and not visual(name):
            kinds.add(False)
    if len(kinds) > 1:
        raise AudioVQError("there are both sound and pictures among the inputs; do them apart")
    return True in kinds


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def encode_visual(inputs: Sequence[str], output: str | None, model: str | None, force: bool, threads: int) -> None:
    """Code pictures and clips; an animated WebP counts as a picture, its first."""
    from audiovq.bitstream.visual_file import encode_image, encode_video
    from audiovq.cli.jobs import plan

    jobs = plan(inputs, output, PICTURES + CLIPS, ".avq")
    codec: list[VisualCodec] = []

    def work(job: Job) -> VisualReport:
        if not codec:
            codec.append(_load(model, threads))
        if _suffix(job.source) not in CLIPS:
            return encode_image(job.source, job.target, codec[0])
        report = encode_video(job.source, job.target, codec[0])
        if _suffix(job.source) in CONTAINER_SUFFIXES and "sound" in _contents(job.source):
            report.remarks.append("warning: its sound is not coded; --sound codes it")
        return report

    _run(jobs, force, work)


def decode_visual(inputs: Sequence[str], output: str | None, model: str | None, force: bool, threads: int) -> None:
    """Decode pictures (.png beside each input) and clips (.gif)."""
    from audiovq.bitstream.container import media_of
    from audiovq.bitstream.visual_file import decode_visual as decode_file
    from audiovq.bitstream.visual_layout import MEDIA_VIDEO
    from audiovq.cli.jobs import plan
    from audiovq.hub import bundled_hashes, folder_by_hash

    jobs = [
        replace(job, target=str(Path(job.target).with_suffix(".gif")))
        if job.target not in (output, "-") and media_of(job.source) == MEDIA_VIDEO
        else job
        for job in plan(inputs, output, [".avq"], ".png")
    ]
    loaded: dict[bytes, VisualCodec] = {}

    def codec(model_hash: bytes) -> VisualCodec:
        if model_hash not in loaded:
            folder = folder_by_hash(model_hash, bundled_hashes("image", "video")) if model is None else model
            loaded[model_hash] = _load(str(folder), threads)
        return loaded[model_hash]

    _run(jobs, force, lambda job: decode_file(job.source, job.target, codec))


def print_info(file: str, as_json: bool) -> None:
    """What an .avq file with a picture or clip holds.

    Raises:
        AudioVQError: for a damaged file, after what is known of it is told.
    """
    import json

    from audiovq.bitstream.visual_file import inspect_visual
    from audiovq.cli.jobs import print_fields
    from audiovq.hub import bundled_hashes

    found = inspect_visual(file)
    model = bundled_hashes("image", "video").get(bytes.fromhex(found.model_hash))
    if as_json:
        print(json.dumps({"file": shown(file), "model": model.name if model else None, **found.to_dict()}, indent=2))
    else:
        print_fields(_rows(file, found, model))
    if found.damage:
        raise AudioVQError(f"{describe(file)}: {found.damage}")


def _rows(file: str, found: VisualInfo, model: Path | None) -> dict[str, str]:
    levels = [
        f"{k} x {bits} bits at {rows}x{columns}" + f" for {frames} frames" * (frames > 1)
        for k, bits, frames, rows, columns in found.levels
    ]
    length = "" if found.frames is None else f", {found.frames} frames"
    if found.frames_per_second:
        length += f", {found.frames_per_second:g} a second"
    rate = "" if found.bits_per_pixel is None else f", {found.bits_per_pixel:.3f} bits a pixel"
    return {
        "file": describe(file),
        "format": f".avq version {found.version}, {found.media}",
        "model": f"{found.model_hash} ({model.name if model else 'not a bundled one'})",
        "source": f"{found.width}x{found.height} pixels{length if found.media == 'video' else ''}",
        "size": f"{found.bytes} bytes{rate}",
        "codes": "; ".join(levels),
        "packets": str(found.packets),
        "state": "damaged" if found.damage else "whole: all checksums are right",
    }


def _load(model: str | None, threads: int) -> VisualCodec:
    import torch

    from audiovq.image import ImageCodec
    from audiovq.video.clip_codec import ClipCodec, is_clip_codec

    torch.set_num_threads(threads)
    if model is not None and is_clip_codec(model):
        return ClipCodec.from_pretrained(model)
    return ImageCodec.from_pretrained(model)


def _run(jobs: list[Job], force: bool, work: Callable[[Job], VisualReport]) -> None:
    """Do all jobs, go on after failures, and say of each what came of it."""
    from audiovq.cli.jobs import Display, check

    failures = 0
    with Display(len(jobs)) as display:
        for job in jobs:
            try:
                check(job, force)
                with display.file(job.source):
                    report = work(job)
            except AudioVQError as error:
                if len(jobs) == 1:
                    raise
                display.line(f"audiovq: {error}")
                failures += 1
                continue
            for remark in report.remarks:
                display.line(f"audiovq: {describe(job.source)}: {remark}")
            height, width = report.size
            bits = 8 * report.n_bytes / (height * width * report.n_frames)
            frames = f", {report.n_frames} frames" * (report.n_frames > 1)
            size = f"{width}x{height}{frames}, {report.n_bytes:,} bytes, {bits:.3f} bits a pixel"
            print(f"{job.target_name}: {size}", file=sys.stderr)
    if failures:
        raise AudioVQError(f"{failures} of {len(jobs)} files failed")
