"""``audiovq decode``: .avq files to sound, images and videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.cli.options import Channels, Decoder, Engine, Force, Rate, Raw, Threads, WaveNetSeed

if TYPE_CHECKING:
    from audiovq.bitstream.speech_file import CodingReport, Progress
    from audiovq.cli.jobs import Job


Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A file (.wav, .flac, .ogg, .opus, .mp3, .aiff), a folder, or -. Without it: .wav beside each input.",
    ),
]
Conceal = Annotated[
    bool,
    typer.Option(
        "--conceal",
        help="Decode a damaged file and warn about lost parts: gaps are bridged, beyond 0.16 s they fade to "
        "silence. Without it a damaged file is an error.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR", help="Without it: the bundled model that wrote the file."),
]


def decode(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help=".avq files, folders, or - for standard input.")],
    output: Output = None,
    decoder: Decoder = "parallel",
    seed: WaveNetSeed = 0,
    conceal: Conceal = False,
    raw: Raw = None,
    rate: Rate = None,
    channels: Channels = None,
    model: Model = None,
    force: Force = False,
    threads: Threads = 1,
    engine: Engine = "torch",
) -> None:
    """Turn .avq files back into speech, with the source's sample rate, channels and exact length, 16 bits a sample.

    Images become .png (.jpg, .webp), videos .gif (.mp4). A folder is searched for .avq files and mirrored under OUT.
    Standard input is decoded while it arrives. Raw audio (.raw beside each input) has the source's sample rate and
    channels; where --rate or --channels say otherwise, the file is refused.
    """
    from audiovq.cli.checks import check_decoder
    from audiovq.cli.jobs import plan, run
    from audiovq.cli.loading import Models
    from audiovq.cli.options import raw_target, refuse
    from audiovq.cli.visual import decode_visual, holds_visual
    from audiovq.hub import bundled_models
    from audiovq.media.waveform import RAW_SUFFIXES, check_writable

    if holds_visual(inputs):
        speech_only = ("decoder", "seed", "conceal", "raw", "rate", "channels", "engine")
        refuse(context, speech_only, "for sound; the inputs hold images or videos")
        return decode_visual(inputs, output, model, force, threads)
    check_decoder(decoder, list(bundled_models()) if model is None else [model])
    target_format = raw_target(raw, rate, channels)
    jobs = plan(inputs, output, [".avq"], ".wav" if target_format is None else RAW_SUFFIXES[0])
    for job in jobs:
        check_writable(job.target, target_format)
    models = Models(threads, seed, entropy_coding=True, engine=engine, decodes=True)

    def prepare() -> None:
        if model is not None:
            models.load(model)

    def work(job: Job, progress: Progress) -> CodingReport:
        from audiovq.bitstream import decode_file

        codec = models.by_hash if model is None else models.load(model)
        return decode_file(job.source, job.target, codec, decoder, conceal, progress, raw=target_format)

    run(jobs, force, models, prepare, work)
