"""``audiovq encode``, ``decode`` and ``info``: audio, images and videos to .avq and back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Option

from audiovq import hub
from audiovq.bitstream import speech_file, visual_file
from audiovq.bitstream.container import media_of
from audiovq.bitstream.visual_layout import MEDIA_VIDEO
from audiovq.cli import loading, options
from audiovq.cli.jobs import Display, Job, plan, print_fields, run, work_through
from audiovq.cli.loading import Models
from audiovq.cli.options import CLIPS, PICTURES, refuse, suffix_of
from audiovq.errors import AudioVQError
from audiovq.io import check_input, describe, shown
from audiovq.media.containers import CONTAINER_SUFFIXES, contents_of
from audiovq.media.waveform import RAW_SUFFIXES, READABLE, check_writable

if TYPE_CHECKING:
    from audiovq.bitstream import FileInfo
    from audiovq.bitstream.speech_file import CodingReport, Progress
    from audiovq.bitstream.visual_file import VisualInfo, VisualReport
    from audiovq.interfaces import VisualCodec

EncodeInputs = Annotated[
    list[str],
    Argument(
        metavar="IN", help="Audio files, images (PNG, JPEG, WebP), videos (GIF, MP4), folders, or - for standard input."
    ),
]
EncodeOutput = Annotated[
    str | None,
    Option(
        *("-o", "--output"),
        metavar="OUT",
        help="A file, a folder, or - for standard output; default: .avq next to each input.",
    ),
]
EncodeModel = Annotated[
    str | None,
    Option(
        metavar="NAME|DIR",
        help="A bundled model (audiovq models), a folder with a model, or a training run (runs/NAME); default: the "
        "bundled one.",
    ),
]
Sound = Annotated[bool, Option("--sound", help="Encode the sound track of videos instead of their images.")]
EntropyCoding = Annotated[
    bool,
    Option(
        "--entropy-coding/--no-entropy-coding",
        help="Reduce the file size without loss, if the model has an entropy model.",
    ),
]


def encode(
    context: Context,
    inputs: EncodeInputs,
    output: EncodeOutput = None,
    bitrate: Annotated[float | None, Option(metavar="KBPS", help=loading.bitrate_help())] = None,
    codebooks: Annotated[
        int | None, Option(min=1, metavar="N", help="Number of codebooks, instead of --bitrate.")
    ] = None,
    model: EncodeModel = None,
    force: options.Force = False,
    mono: Annotated[bool, Option("--mono", help="Mix all channels down to mono.")] = False,
    sound: Sound = False,
    raw: options.Raw = None,
    rate: options.Rate = None,
    channels: options.Channels = None,
    packet: options.Packet = None,
    entropy_coding: EntropyCoding = True,
    threads: options.Threads = 1,
    engine: options.Engine = "auto",
) -> None:
    """Encode speech, images or videos to .avq files.

    Each channel is coded separately; a channel that repeats the previous one takes almost no bytes. A folder is
    searched for audio and mirrored under OUT. Standard input is encoded as it arrives (WAV and raw audio; other formats
    are read completely first). Images and videos need PyTorch: pip install 'audiovq[torch]'.
    """
    if not sound and raw is None and options.takes_visual(inputs, READABLE):
        speech_only = ("bitrate", "codebooks", "mono", "entropy_coding", "rate", "channels", "packet", "engine")
        refuse(context, speech_only, "for audio; the inputs are images or videos")
        return _encode_visual(inputs, output, model, force, threads)
    source_format = options.raw_source(raw, rate, channels)
    jobs = plan(inputs, output, (*READABLE, *CONTAINER_SUFFIXES) if raw is None else RAW_SUFFIXES, ".avq")
    facts = loading.facts(model)
    n_codebooks = loading.codebooks_of(facts, bitrate, codebooks)
    loading.report_rate(facts, bitrate, n_codebooks)
    packet_frames = loading.packet_frames_for(facts, packet)
    models = Models(threads, entropy_coding=entropy_coding, engine=engine)

    def work(job: Job, progress: Progress) -> CodingReport:
        settings = (None, entropy_coding, source_format, packet_frames)
        return speech_file.encode_file(
            job.source, job.target, models.load(model), n_codebooks, mono, progress, *settings
        )

    run(jobs, force, models, lambda: models.load(model), work)


DecodeOutput = Annotated[
    str | None,
    Option(
        *("-o", "--output"),
        metavar="OUT",
        help="A file (.wav, .flac, .ogg, .opus, .mp3, .aiff), a folder, or - for standard output (WAV); default: .wav "
        "next to each input.",
    ),
]
Conceal = Annotated[
    bool,
    Option(
        "--conceal",
        help="Decode a damaged file and warn about lost parts; gaps are interpolated and fade to silence after "
        "0.16 s. By default a damaged file is an error.",
    ),
]
DecodeModel = Annotated[
    str | None, Option(metavar="NAME|DIR", help="Model; default: the bundled model that the file was encoded with.")
]


def decode(
    context: Context,
    inputs: Annotated[list[str], Argument(metavar="IN", help=".avq files, folders, or - for standard input.")],
    output: DecodeOutput = None,
    decoder: options.Decoder = "parallel",
    seed: options.WaveNetSeed = 0,
    conceal: Conceal = False,
    raw: options.Raw = None,
    rate: options.Rate = None,
    channels: options.Channels = None,
    model: DecodeModel = None,
    force: options.Force = False,
    threads: options.Threads = 1,
    engine: options.Engine = "auto",
) -> None:
    """Decode .avq files to speech with the source's sample rate, channels and exact length, 16 bits per sample.

    Images become .png (.jpg, .webp), videos .gif (.mp4); both need PyTorch. A folder is searched for .avq files and
    mirrored under OUT. Standard input is decoded as it arrives. Raw audio (--raw; .raw next to each input) has the
    source's sample rate and channels; a file for which --rate or --channels differ is rejected.
    """
    if options.holds_visual(inputs):
        speech_only = ("decoder", "seed", "conceal", "raw", "rate", "channels", "engine")
        refuse(context, speech_only, "for audio; the inputs hold images or videos")
        return _decode_visual(inputs, output, model, force, threads)
    loading.check_decoder(decoder, list(hub.bundled_models()) if model is None else [model])
    target_format = options.raw_target(raw, rate, channels)
    jobs = plan(inputs, output, [".avq"], ".wav" if target_format is None else RAW_SUFFIXES[0])
    for job in jobs:
        check_writable(job.target, target_format)
    models = Models(threads, seed, True, loading.engine_for(engine, decoder), live="-" in inputs)

    def work(job: Job, progress: Progress) -> CodingReport:
        codec = models.by_hash if model is None else models.load(model)
        return speech_file.decode_file(job.source, job.target, codec, decoder, conceal, progress, raw=target_format)

    run([_refused(job) for job in jobs], force, models, lambda: model is None or models.load(model), work)


def _refused(job: Job) -> Job:
    """The job of `decode`, with a fault for a recording, which would become itself."""
    if job.source == "-" or job.source != job.target or not os.path.isfile(job.source) or media_of(job.source):
        return job
    return replace(job, fault=f"{job.source}: this is not an .avq file; audiovq encode writes them")


def info(
    files: Annotated[
        list[str], Argument(metavar="FILE...", help=".avq files, folders of them, or - (standard input).")
    ],
    as_json: Annotated[bool, Option("--json", help="Print JSON; of several files, a list.")] = False,
) -> None:
    """Show what .avq files contain and verify their checksums; report the lost time ranges of damaged ones.

    The exit code is 1 for a damaged file.
    """
    names = [job.source for job in plan(files, None, [".avq"], ".avq")]
    found: list[dict[str, Any]] = []
    faults: list[str] = []
    for name in names:
        try:
            if name != "-":
                check_input(name)
            one, model = _inspect(name)
        except AudioVQError as error:
            faults.append(str(error))
            continue
        if one.damage:
            faults.append(f"{describe(name)}: {one.damage}")
        if not as_json:
            print("\n" * bool(found), end="")
            _print_info(name, model, one)
        found.append({"file": shown(name), "model": model, **one.to_dict()})
    if as_json and found:
        print(json.dumps(found if len(names) > 1 else found[0], indent=2))
    if len(names) > 1 and faults:
        print(*(f"audiovq: {fault}" for fault in faults), sep="\n", file=sys.stderr)
        faults = [f"{len(faults)} of {len(names)} files failed"]
    if faults:
        raise AudioVQError(faults[0])


def _inspect(name: str) -> tuple[FileInfo | VisualInfo, str | None]:
    """What a file says, and the name of the bundled model that made it."""
    from audiovq.bitstream.speech_reader import inspect_file

    found: FileInfo | VisualInfo
    media: tuple[hub.Media, ...] = ("speech",)
    if options.holds_visual([name]):
        found, media = visual_file.inspect_visual(name), ("image", "video")
    else:
        found = inspect_file(name, loading.bundled_coder, loading.bundled_clock)
    folder = hub.bundled_hashes(*media).get(bytes.fromhex(found.model_hash))
    return found, None if folder is None else folder.name


def _print_info(name: str, model: str | None, found: FileInfo | VisualInfo) -> None:
    head = {
        "file": describe(name),
        "format": f".avq version {found.version}, {found.media}",
        "model": f"{found.model_hash} ({model or 'not bundled'})",
    }
    rows = _visual_rows(found) if isinstance(found, visual_file.VisualInfo) else _speech_rows(found)
    print_fields({**head, **rows, "state": "damaged" if found.damage else "intact: all checksums match"})


def _speech_rows(found: FileInfo) -> dict[str, str]:
    there = "" if found.seconds_there is None else f"; packets reach to {found.seconds_there:.2f} s"
    seconds = f"unknown, the end is missing{there}" if found.seconds is None else f"{found.seconds:.3f} s"
    rate = "" if found.kbps is None else f", {found.kbps:.2f} kb/s"
    speakers = found.speakers or []
    width = (max((max(s) for s in speakers), default=0).bit_length() + 3) // 4 or 1
    each = "" if found.coded_bits_per_code is None else f", {found.coded_bits_per_code:.2f} bits per code"
    rows = {
        "source": f"{found.sample_rate} Hz, {found.channels} channel{'s' * (found.channels > 1)}",
        "length": seconds + ("" if found.samples is None else f", {found.samples} samples"),
        "size": f"{found.bytes} bytes{rate}",
        "codes": f"{found.codebooks} codebooks of {found.bits_per_code} bits, {found.frames} frames",
        "packets": f"{found.packets}{' intact' * bool(found.damage)} of up to {found.packet_frames} frames",
        "coding": ("entropy-coded" if found.coding == "entropy" else "packed") + each,
        "speakers": " ".join("".join(f"{v:0{width}x}" for v in s) for s in speakers) or "need the model",
    }
    rate = "" if found.pitch_and_level_bps is None else f"; {found.pitch_and_level_bps:.0f} b/s with level"
    if found.pitch_hz is None:
        return {**rows, "pitch": f"no voiced frames{rate}"}
    low, median, high = found.pitch_hz
    return {**rows, "pitch": f"median {median:.0f} Hz, {low:.0f} to {high:.0f} Hz, {found.voiced:.0%} voiced{rate}"}


def _visual_rows(found: VisualInfo) -> dict[str, str]:
    levels = [
        f"{k} x {bits} bits at {rows}x{columns}" + f" for {frames} frames" * (frames > 1)
        for k, bits, frames, rows, columns in found.levels
    ]
    length = "" if found.frames is None else f", {found.frames} frame{'s' * (found.frames != 1)}"
    if found.frames_per_second:
        length += f", {found.frames_per_second:g} a second"
    rate = "" if found.bits_per_pixel is None else f", {found.bits_per_pixel:.3f} bits a pixel"
    return {
        "source": f"{found.width}x{found.height} pixels{length if found.media == 'video' else ''}",
        "size": f"{found.bytes} bytes{rate}",
        "codes": "; ".join(levels),
        "packets": str(found.packets),
    }


def _encode_visual(inputs: Sequence[str], output: str | None, model: str | None, force: bool, threads: int) -> None:
    """Encode images and videos; an animated WebP counts as an image, its first."""
    codec = cache(lambda: _load_visual(model, threads))

    def work(job: Job) -> VisualReport:
        if suffix_of(job.source) not in CLIPS:
            return visual_file.encode_image(job.source, job.target, codec())
        report = visual_file.encode_video(job.source, job.target, codec())
        if suffix_of(job.source) in CONTAINER_SUFFIXES and "sound" in contents_of(job.source):
            report.remarks.append("warning: its sound track is not encoded; --sound encodes it")
        return report

    _run_visual(plan(inputs, output, PICTURES + CLIPS, ".avq"), force, work)


def _decode_visual(inputs: Sequence[str], output: str | None, model: str | None, force: bool, threads: int) -> None:
    """Decode images (.png beside each input) and videos (.gif)."""

    @cache
    def codec(model_hash: bytes) -> VisualCodec:
        if model is not None:
            return _load_visual(model, threads)
        return _load_visual(str(hub.folder_by_hash(model_hash, hub.bundled_hashes("image", "video"))), threads)

    jobs = plan(inputs, output, [".avq"], lambda name: ".gif" if media_of(name) == MEDIA_VIDEO else ".png")
    _run_visual(jobs, force, lambda job: visual_file.decode_visual(job.source, job.target, codec))


def _load_visual(model: str | None, threads: int) -> VisualCodec:
    import torch

    from audiovq.image import ImageCodec
    from audiovq.video.clip_codec import ClipCodec, is_clip_codec

    torch.set_num_threads(threads)
    if model is not None and is_clip_codec(model):
        return ClipCodec.from_pretrained(model)
    return ImageCodec.from_pretrained(model)


def _run_visual(jobs: list[Job], force: bool, work: Callable[[Job], VisualReport]) -> None:
    """Do all jobs, go on after failures, and print a line about each."""

    def done(job: Job, report: VisualReport, display: Display) -> None:
        for remark in report.remarks:
            display.line(f"audiovq: {describe(job.source)}: {remark}")
        height, width = report.size
        bits = 8 * report.n_bytes / (height * width * report.n_frames)
        frames = f", {report.n_frames} frames" * (report.n_frames > 1)
        size = f"{width}x{height}{frames}, {report.n_bytes:,} bytes, {bits:.3f} bits a pixel"
        print(f"{job.target_name}: {size}", file=sys.stderr)

    work_through(jobs, force, lambda job, progress: work(job), done)
