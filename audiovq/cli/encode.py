"""``audiovq encode``: sound, images and videos to .avq."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.cli.checks import bitrate_help
from audiovq.cli.options import Channels, Engine, Force, Packet, Rate, Raw, Threads

if TYPE_CHECKING:
    from audiovq.bitstream.speech_file import CodingReport, Progress
    from audiovq.cli.jobs import Job


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN...",
        help="Audio files, images (PNG, JPEG, WebP), videos (GIF, MP4), folders, or - for standard input.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option("-o", "--output", metavar="OUT", help="A file, a folder, or -. Without it: beside each input."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="A bundled model (audiovq models), a folder with a model, or runs/NAME. Without it: the default one.",
    ),
]
EntropyCoding = Annotated[
    bool,
    typer.Option("--entropy-coding/--no-entropy-coding", help="Smaller files with the same codes, if the model can."),
]


def encode(
    context: typer.Context,
    inputs: Inputs,
    output: Output = None,
    bitrate: Annotated[float | None, typer.Option(metavar="KBPS", help=bitrate_help(), show_default=False)] = None,
    model: Model = None,
    force: Force = False,
    mono: Annotated[bool, typer.Option("--mono", help="Mix all channels down to one.")] = False,
    sound: Annotated[bool, typer.Option("--sound", help="Code the sound of videos rather than their images.")] = False,
    raw: Raw = None,
    rate: Rate = None,
    channels: Channels = None,
    packet: Packet = None,
    entropy_coding: EntropyCoding = True,
    threads: Threads = 1,
    engine: Engine = "torch",
) -> None:
    """Encode speech, images or videos to .avq files.

    Every channel is coded on its own; one that repeats the one before costs next to nothing. A folder is searched for
    audio and mirrored under OUT. Standard input is coded while it arrives (WAV and raw audio; other formats are read to
    their end first).
    """
    from audiovq.cli import checks
    from audiovq.cli.jobs import plan, run
    from audiovq.cli.loading import Models, n_codebooks_for, packet_frames_for, report_rate
    from audiovq.cli.options import raw_source, refuse
    from audiovq.cli.visual import encode_visual, takes_visual
    from audiovq.media.containers import CONTAINER_SUFFIXES
    from audiovq.media.waveform import RAW_SUFFIXES, READABLE

    if not sound and raw is None and takes_visual(inputs, READABLE):
        speech_only = ("bitrate", "mono", "entropy_coding", "rate", "channels", "packet", "engine")
        refuse(context, speech_only, "for sound; the inputs are images or videos")
        return encode_visual(inputs, output, model, force, threads)
    source_format = raw_source(raw, rate, channels)
    jobs = plan(inputs, output, (*READABLE, *CONTAINER_SUFFIXES) if raw is None else RAW_SUFFIXES, ".avq")
    facts = checks.facts(model)
    n_codebooks = n_codebooks_for(facts, bitrate)
    report_rate(facts, bitrate, n_codebooks)
    packet_frames = packet_frames_for(facts, packet)
    models = Models(threads, entropy_coding=entropy_coding, engine=engine)

    def prepare() -> None:
        models.load(model)

    def work(job: Job, progress: Progress) -> CodingReport:
        from audiovq.bitstream import encode_file

        codec = models.load(model)
        settings = (None, entropy_coding, source_format, packet_frames)
        return encode_file(job.source, job.target, codec, n_codebooks, mono, progress, *settings)

    run(jobs, force, models, prepare, work)
