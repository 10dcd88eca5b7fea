"""``audiovq encode``, ``decode`` and ``info``: audio, images and videos to .avq and back."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.cli.loading import bitrate_help
from audiovq.cli.options import Channels, Decoder, Engine, Force, Packet, Rate, Raw, Threads, WaveNetSeed
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.bitstream import FileInfo
    from audiovq.bitstream.speech_file import CodingReport, Progress
    from audiovq.cli.jobs import Job


EncodeInputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN", help="Audio files, images (PNG, JPEG, WebP), videos (GIF, MP4), folders, or - for standard input."
    ),
]
EncodeOutput = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A file, a folder, or - for standard output; default: .avq next to each input.",
    ),
]
EncodeModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="A bundled model (audiovq models), a folder with a model, or a training run (runs/NAME); default: the "
        "bundled one.",
        show_default=False,
    ),
]
EntropyCoding = Annotated[
    bool,
    typer.Option(
        "--entropy-coding/--no-entropy-coding",
        help="Reduce the file size without loss, if the model has an entropy model.",
    ),
]


def encode(
    context: typer.Context,
    inputs: EncodeInputs,
    output: EncodeOutput = None,
    bitrate: Annotated[float | None, typer.Option(metavar="KBPS", help=bitrate_help(), show_default=False)] = None,
    codebooks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of codebooks, instead of --bitrate.", show_default=False),
    ] = None,
    model: EncodeModel = None,
    force: Force = False,
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels down to mono.")] = False,
    sound: Annotated[
        bool, typer.Option("--sound", help="Encode the sound track of videos instead of their images.")
    ] = False,
    raw: Raw = None,
    rate: Rate = None,
    channels: Channels = None,
    packet: Packet = None,
    entropy_coding: EntropyCoding = True,
    threads: Threads = 1,
    engine: Engine = "auto",
) -> None:
    """Encode speech, images or videos to .avq files.

    Each channel is coded separately; a channel that repeats the previous one takes almost no bytes. A folder is
    searched for audio and mirrored under OUT. Standard input is encoded as it arrives (WAV and raw audio; other formats
    are read completely first). Images and videos need PyTorch: pip install 'audiovq[torch]'.
    """
    from audiovq.cli import loading
    from audiovq.cli.jobs import plan, run
    from audiovq.cli.loading import Models, codebooks_of, packet_frames_for, report_rate
    from audiovq.cli.options import raw_source, refuse, takes_visual
    from audiovq.cli.visual import encode_visual
    from audiovq.media.containers import CONTAINER_SUFFIXES
    from audiovq.media.waveform import RAW_SUFFIXES, READABLE

    if not sound and raw is None and takes_visual(inputs, READABLE):
        speech_only = ("bitrate", "codebooks", "mono", "entropy_coding", "rate", "channels", "packet", "engine")
        refuse(context, speech_only, "for audio; the inputs are images or videos")
        return encode_visual(inputs, output, model, force, threads)
    source_format = raw_source(raw, rate, channels)
    jobs = plan(inputs, output, (*READABLE, *CONTAINER_SUFFIXES) if raw is None else RAW_SUFFIXES, ".avq")
    facts = loading.facts(model)
    n_codebooks = codebooks_of(facts, bitrate, codebooks)
    report_rate(facts, bitrate, n_codebooks)
    packet_frames = packet_frames_for(facts, packet)
    models = Models(threads, entropy_coding=entropy_coding, engine=engine)

    def prepare() -> None:
        models.load(model)

    def work(job: Job, progress: Progress) -> CodingReport:
        from audiovq.bitstream.speech_file import encode_file

        codec = models.load(model)
        settings = (None, entropy_coding, source_format, packet_frames)
        return encode_file(job.source, job.target, codec, n_codebooks, mono, progress, *settings)

    run(jobs, force, models, prepare, work)


DecodeOutput = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A file (.wav, .flac, .ogg, .opus, .mp3, .aiff), a folder, or - for standard output (WAV); default: .wav "
        "next to each input.",
        show_default=False,
    ),
]
Conceal = Annotated[
    bool,
    typer.Option(
        "--conceal",
        help="Decode a damaged file and warn about lost parts; gaps are interpolated and fade to silence after "
        "0.16 s. By default a damaged file is an error.",
    ),
]
DecodeModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR", help="Model; default: the bundled model that the file was encoded with.", show_default=False
    ),
]


def decode(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help=".avq files, folders, or - for standard input.")],
    output: DecodeOutput = None,
    decoder: Decoder = "parallel",
    seed: WaveNetSeed = 0,
    conceal: Conceal = False,
    raw: Raw = None,
    rate: Rate = None,
    channels: Channels = None,
    model: DecodeModel = None,
    force: Force = False,
    threads: Threads = 1,
    engine: Engine = "auto",
) -> None:
    """Decode .avq files to speech with the source's sample rate, channels and exact length, 16 bits per sample.

    Images become .png (.jpg, .webp), videos .gif (.mp4); both need PyTorch. A folder is searched for .avq files and
    mirrored under OUT. Standard input is decoded as it arrives. Raw audio (--raw; .raw next to each input) has the
    source's sample rate and channels; a file for which --rate or --channels differ is rejected.
    """
    from audiovq.cli.jobs import plan, run
    from audiovq.cli.loading import Models, check_decoder, engine_for
    from audiovq.cli.options import holds_visual, raw_target, refuse
    from audiovq.cli.visual import decode_visual
    from audiovq.hub import bundled_models
    from audiovq.media.waveform import RAW_SUFFIXES, check_writable

    if holds_visual(inputs):
        speech_only = ("decoder", "seed", "conceal", "raw", "rate", "channels", "engine")
        refuse(context, speech_only, "for audio; the inputs hold images or videos")
        return decode_visual(inputs, output, model, force, threads)
    check_decoder(decoder, list(bundled_models()) if model is None else [model])
    target_format = raw_target(raw, rate, channels)
    jobs = plan(inputs, output, [".avq"], ".wav" if target_format is None else RAW_SUFFIXES[0])
    for job in jobs:
        check_writable(job.target, target_format)
    models = Models(threads, seed, True, engine_for(engine, decoder), live="-" in inputs)

    def prepare() -> None:
        if model is not None:
            models.load(model)

    def work(job: Job, progress: Progress) -> CodingReport:
        from audiovq.bitstream.speech_file import decode_file

        codec = models.by_hash if model is None else models.load(model)
        return decode_file(job.source, job.target, codec, decoder, conceal, progress, raw=target_format)

    run([_refused(job) for job in jobs], force, models, prepare, work)


def _refused(job: Job) -> Job:
    """The job of `decode`, with a fault for a recording, which would become itself."""
    from audiovq.bitstream.container import media_of

    if job.source == "-" or job.source != job.target or not os.path.isfile(job.source) or media_of(job.source):
        return job
    return replace(job, fault=f"{job.source}: this is not an .avq file; audiovq encode writes them")


def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An .avq file, or - for standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what an .avq file contains and verify its checksums; report the lost time ranges of a damaged file.

    The exit code is 1 for a damaged file.
    """
    from audiovq.bitstream.speech_reader import inspect_file
    from audiovq.cli.jobs import print_fields
    from audiovq.cli.loading import bundled_clock, bundled_coder
    from audiovq.cli.options import holds_visual
    from audiovq.cli.visual import print_info
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
        seconds = f"unknown, the end is missing{there}" if found.seconds is None else f"{found.seconds:.3f} s"
        rate = "" if found.kbps is None else f", {found.kbps:.2f} kb/s"
        speakers = found.speakers or []
        width = (max((max(s) for s in speakers), default=0).bit_length() + 3) // 4 or 1
        each = "" if found.coded_bits_per_code is None else f", {found.coded_bits_per_code:.2f} bits per code"
        rows = {
            "file": describe(file),
            "format": f".avq version {found.version}, {found.media}",
            "model": f"{found.model_hash} ({name or 'not bundled'})",
            "source": f"{found.sample_rate} Hz, {found.channels} channel{'s' * (found.channels > 1)}",
            "length": seconds + ("" if found.samples is None else f", {found.samples} samples"),
            "size": f"{found.bytes} bytes{rate}",
            "codes": f"{found.codebooks} codebooks of {found.bits_per_code} bits, {found.frames} frames",
            "packets": f"{found.packets}{' intact' * bool(found.damage)} of up to {found.packet_frames} frames",
            "coding": ("entropy-coded" if found.coding == "entropy" else "packed") + each,
            "speakers": " ".join("".join(f"{v:0{width}x}" for v in s) for s in speakers) or "need the model",
            **_pitch(found),
            "state": "damaged" if found.damage else "intact: all checksums match",
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
