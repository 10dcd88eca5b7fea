"""``audiovq evaluate``: one sub-command for each protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer import Argument, Option

from audiovq.cli import options
from audiovq.cli.jobs import stdout_console
from audiovq.cli.loading import n_codebooks_for
from audiovq.cli.options import integers, names, numbers
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec
    from audiovq.evaluation.protocol import Progress
    from audiovq.evaluation.report import Report

Metrics = Annotated[
    str | None,
    Option(
        metavar="NAME,...",
        help="pesq, stoi, speaker, mel, level, dnsmos, distillmos, wer, dwer, phones, f0, voicing; default: all but "
        "dwer, f0 and voicing.",
    ),
]

Codebooks = Annotated[str | None, Option(metavar="N,...", help="Numbers of codebooks; default: see above.")]
ConversionMetrics = Annotated[
    str | None,
    Option(
        metavar="NAME,...",
        help="speaker, wer, dwer, phones, f0_correlation, median_f0, dnsmos, distillmos; with --groups those of "
        "audiovq evaluate files; default: all that apply.",
    ),
]
Groups = Annotated[
    str | None,
    Option(
        metavar="NAME|DIR",
        help="Corpus of aligned recordings of each sentence by several speakers; scores are against the true target.",
    ),
]
PitchOption = Annotated[
    str | None,
    Option(
        metavar="auto|keep|SEMITONES",
        help="Shift to the target's median F0, no shift, or a shift in semitones; default: auto, with --groups keep.",
    ),
]

ComparedDecoder = Annotated[
    str, Option(metavar="parallel|wavenet", help="wavenet: rows for it as well, and differences to the parallel one.")
]

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def evaluate() -> None:
    """Measure quality (pip install 'audiovq[eval]'); `audiovq evaluate PROTOCOL --help` lists the options of each."""


@app.command(short_help="Compare the recordings of two folders.")
def files(
    reference: Annotated[str, Argument(metavar="REF_DIR", help="Folder of recordings.")],
    degraded: Annotated[str, Argument(metavar="DEG_DIR", help="Folder of recordings with the same names.")],
    metrics: Metrics = None,
    align: Annotated[bool, Option("--align", help="Remove a delay common to all recordings.")] = False,
    language: Annotated[
        str | None, Option(metavar="CODE", help="ISO 639 code of all recordings, for word errors.")
    ] = None,
    json: options.Json = None,
) -> None:
    """Compare the recordings of two folders: PESQ, STOI, mel distance, DNSMOS, speaker cosine, word errors ..."""
    from audiovq.evaluation.codec import evaluate_files, match_files
    from audiovq.evaluation.metrics import make_metrics

    match_files(reference, degraded)  # so that what is wrong with them shows before the metrics are loaded
    with progress_bar() as progress:
        made = make_metrics(names(metrics) if metrics else None)
        show(evaluate_files(reference, degraded, made, align, language, progress), json)


@app.command(short_help="Encode and decode a corpus at several bitrates and score it.")
def codec(
    model: options.Model = None,
    data: options.Data = "debian_speech",
    split: options.Splits = "test",
    codebooks: Codebooks = None,
    bitrates: Annotated[
        str | None,
        Option(
            metavar="KBPS,...", help="Nominal bit rates, instead of --codebooks; each uses the most codebooks that fit."
        ),
    ] = None,
    decoder: ComparedDecoder = "parallel",
    limit: Annotated[int, options.at_most("Excerpts of about 7 s per split, evenly spaced")] = 36,
    baselines: Annotated[
        bool, Option("--baselines", help="Also evaluate Opus, Codec 2, Speex and AMR-WB, if installed.")
    ] = False,
    baselines_only: Annotated[bool, Option("--baselines-only", help="Evaluate only the baselines.")] = False,
    metrics: Metrics = None,
    json: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Encode and decode a speech corpus with different numbers of codebooks and score it.

    Recordings and synthesised speech are reported separately, as is each split. WER, DNSMOS and DistillMOS are shown as
    differences from those of the original recordings. By default 1, 2, 4 ... and all codebooks are used.
    """
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.codec import evaluate_codec
    from audiovq.evaluation.metrics import make_metrics

    corpora, splits = names(data), names(split)
    about: dict[str, Any] = {"data": corpora, "splits": splits}
    if baselines_only and (model or codebooks or bitrates or decoder != "parallel"):
        raise AudioVQError("--baselines-only takes no --model, --codebooks, --bitrates and --decoder")
    if codebooks and bitrates:
        raise AudioVQError("--bitrates and --codebooks exclude each other")
    counts = integers(codebooks, "--codebooks") if codebooks else []
    rates = numbers(bitrates, "--bitrates") if bitrates else []
    opened = {name: open_corpora(corpora, name) for name in splits}
    systems: list[Any] = []
    compared: dict[str, str] = {}
    if not baselines_only:
        loaded = load_codec(model, decoder)
        systems, compared = audiovq_systems(loaded, counts, rates, decoder)
        about |= about_model(loaded)
    if baselines or baselines_only:
        from audiovq.evaluation.baselines import make_baselines

        systems += make_baselines()
    if not systems:
        raise AudioVQError("nothing to evaluate: no baseline's tools are installed")
    with progress_bar() as progress:
        made = make_metrics(names(metrics) if metrics else None)
        show(evaluate_codec(opened, systems, made, limit, about, progress, compared), json, plot)


@app.command(short_help="Convert recordings to other speakers and score the results.")
def conversion(
    model: options.Model = None,
    data: Annotated[str | None, Option(metavar="NAME|DIR", help="Corpus; default: debian_speech.")] = None,
    groups: Groups = None,
    codebooks: Codebooks = None,
    pitch: PitchOption = None,
    decoder: options.Decoder = "parallel",
    limit: Annotated[int, options.at_most("Pairs, evenly spaced")] = 0,
    world: Annotated[bool, Option("--world", help="Also evaluate the WORLD baseline (needs the extra world).")] = False,
    metrics: ConversionMetrics = None,
    json: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Convert recordings to other speakers and score the results, separately for seen and unseen targets.

    Fixed pairs of the corpus are scored against other recordings of the target, groups against the target's recording
    of the same sentence. By default the model's number of codebooks for conversion is used.
    """
    from audiovq.cli.convert import parse_pitch
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation import conversion as protocol
    from audiovq.evaluation import pairs as pair
    from audiovq.evaluation.metrics import make_metrics

    if groups is not None and (data is not None or plot is not None):
        raise AudioVQError("--groups takes no --data and no --plot")
    wanted = names(metrics) if metrics else None
    choices = protocol.chosen_metrics(wanted) if groups is None else []
    if plot is not None and "speaker" not in choices:
        raise AudioVQError("--plot shows speaker similarity: --metrics must include speaker")
    moved = parse_pitch(pitch or ("auto" if groups is None else "keep"))
    counts = integers(codebooks, "--codebooks") if codebooks else []
    corpora = names(groups or data or "debian_speech")
    pairs = (pair.read_pairs if groups is None else pair.group_pairs)(open_corpora(corpora, None)).limited(limit)
    codec = load_codec(model, decoder)
    about = {"data": corpora, **about_model(codec)}
    # Bounds, then the model with each number of codebooks.
    rows: list[Any] = [pair.Unconverted()] if groups else [pair.RealSpeech(), pair.Unconverted()]
    for n in counts or [codec.conversion_codebooks]:
        rows.append(pair.Reconstruction(codec, n, decoder, of="truth" if groups else "source"))
        rows.append(pair.ModelConverter(codec, n, moved, decoder))
    rows += [pair.WorldConverter()] if world else []
    with progress_bar() as progress:
        if groups is None:
            show(protocol.evaluate_conversion(pairs, rows, choices, about, progress=progress), json, plot)
        else:
            made = make_metrics(wanted, protocol.GROUP_METRICS)
            show(protocol.evaluate_groups(pairs, rows, made, about, progress), json)


@app.command(short_help="Measure a prior: likelihood of held-out speech, and samples.")
def generation(
    model: options.Model = None,
    prior: options.Prior = None,
    data: options.Data = "debian_speech",
    split: options.Split = "test",
    codebooks: options.FirstCodebooks = None,
    samples: options.Samples = 24,
    seconds: Annotated[float, Option(metavar="S", help="Duration of each sample in seconds.")] = 10.0,
    temperature: options.Temperature = None,
    top_k: options.TopK = 0,
    top_p: options.TopP = None,
    seed: options.Seed = 0,
    dnsmos: Annotated[bool, Option(help="Score samples and real speech with DNSMOS.")] = True,
    words: Annotated[int, options.at_most("English samples transcribed with Whisper", "none")] = 40,
    prompts: Annotated[int, options.at_most("Held-out excerpts of 3 s used as prompts", "none")] = 16,
    json: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Measure a prior: likelihood of held-out speech, and samples compared with real speech."""
    from audiovq.data.codes import cached_codes
    from audiovq.evaluation.generation import Settings, check_judges, evaluate_generation
    from audiovq.prior.speech import SpeechPrior

    options.check_seconds(seconds)
    corpora = names(data)
    source = SpeechPrior.from_pretrained(model, prior)
    sampling = source.prior.sampling.override(temperature, top_k, top_p)
    lengths: dict[str, Any] = {"n_samples": samples, "seconds": seconds, "n_prompts": prompts}
    settings = Settings(
        **lengths,
        **vars(sampling),
        seed=seed,
        n_codebooks=codebooks or source.prior.drawn_codebooks,
        dnsmos=dnsmos,
        n_words=words if "en" in source.prior.languages else 0,
    )
    about = {"data": corpora, **about_model(source.codec)}
    check_judges(settings, corpora)
    with progress_bar() as progress:
        cache = cached_codes(source.codec, corpora, progress=lambda done, total: progress("coding", done, total))
        report = evaluate_generation(source, cache, split, settings, about, progress)
    show(report, json, plot)


@app.command(short_help="Predict speaker, language and phones from codes.")
def probe(
    model: options.Model = None,
    data: options.Data = "debian_speech",
    metrics: Annotated[
        str, Option(metavar="NAME,...", help="speakers (also languages and codebook usage), phones.")
    ] = "speakers,phones",
    limit: Annotated[int, options.at_most("Excerpts of 3 s per speaker and split")] = 36,
    json: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Predict speaker, language and phones from the codes of held-out recordings."""
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.probe import KINDS, PARTS, evaluate_probe

    kinds, corpora = names(metrics), names(data)
    if set(kinds) - set(KINDS):
        raise AudioVQError(f"unknown --metrics {', '.join(kinds)}; choose from {', '.join(KINDS)}")
    codec = load_codec(model)
    splits = {part: open_corpora(corpora, part) for part in PARTS}
    with progress_bar() as progress:
        report = evaluate_probe(codec, splits, limit, {"data": corpora, **about_model(codec)}, progress, kinds)
    show(report, json, plot)


@app.command(short_help="Encode and decode crops of images: PSNR, SSIM, bits per pixel.")
def image(
    model: options.Model = None,
    data: Annotated[
        str, Option(metavar="NAME|DIR", help="photographs, another image data set, or a folder.")
    ] = "photographs",
    split: options.Split = "test",
    limit: Annotated[int, options.at_most("Crops, evenly spaced")] = 96,
    json: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Encode and decode crops of images: PSNR, SSIM, bits per pixel and per dimension."""
    from audiovq.data.images import FixedCrops, open_images
    from audiovq.evaluation.visual import SIZE, evaluate_image
    from audiovq.image import ImageCodec
    from audiovq.prior.image import load_priors

    codec = ImageCodec.from_pretrained(model)
    images = open_images({"name": data, "side": 400} if data == "photographs" else data, split)
    shortest = min(min(one.load().shape[:2]) for one in images[:100])
    size = min(SIZE, shortest // codec.stride * codec.stride)
    crops = FixedCrops(images, size, limit or 1 << 30).images()
    with progress_bar() as progress:
        report = evaluate_image(codec, crops, split, {"data": data, **about_model(codec)}, load_priors(codec), progress)
    show(report, json, plot)


@app.command(short_help="Predict frames from frames and actions: PSNR and SSIM.")
def video(
    model: options.Model = None,
    data: Annotated[str, Option(metavar="NAME|DIR", help="Recorded episodes.")] = "vizdoom",
    split: options.Split = "test",
    limit: Annotated[int, options.at_most("Windows of frames, evenly spaced")] = 120,
    json: options.Json = None,
    plot: options.Plot = None,
) -> None:
    """Predict frames from frames and actions: PSNR and SSIM, and the direction in which turns shift the image."""
    from audiovq.data.episodes import open_episodes
    from audiovq.evaluation.visual import evaluate_video
    from audiovq.video import VideoModel

    loaded, blind = (VideoModel.from_pretrained(model, dynamics) for dynamics in ("dynamics", "blind"))
    episodes = open_episodes(data, split)
    with progress_bar() as progress:
        about = {"data": data, **about_model(loaded.frames)}
        report = evaluate_video(loaded, blind, episodes, split, limit, about, progress)
    show(report, json, plot)


def audiovq_systems(
    codec: SpeechCodec, counts: list[int], bitrates: list[float], decoder: str
) -> tuple[list[Any], dict[str, str]]:
    """The codec with each number of codebooks; 1, 2, 4 ... and all where neither numbers nor bit rates are given.

    Another decoder than the parallel one is added to it. With the names of the systems that are compared, each with
    that of the parallel decoder's.

    Raises:
        AudioVQError: for numbers or bit rates that the model does not have.
    """
    from audiovq.evaluation.codec import AudioVQSystem

    default = sorted({n for n in (1, 2, 4, 8, 16, codec.n_codebooks) if n <= codec.n_codebooks})
    chosen = counts or [cast(int, n_codebooks_for(codec, rate)) for rate in bitrates] or default
    numbers = [codec.check_n_codebooks(n) for n in dict.fromkeys(chosen)]
    systems = [AudioVQSystem(codec, n, name) for n in numbers for name in dict.fromkeys(("parallel", decoder))]
    parallel = {system.n_codebooks: system.name for system in systems if system.decoder == "parallel"}
    return systems, {s.name: parallel[s.n_codebooks] for s in systems if s.decoder != "parallel"}


def load_codec(model: str | None, decoder: str = "parallel") -> SpeechCodec:
    """A speech codec by name or folder, which must have the decoder.

    Raises:
        AudioVQError: when there is no such model or decoder, or the decoder was trained on another model.
    """
    import numpy as np

    from audiovq.codec.codec import SpeechCodec

    codec = SpeechCodec.from_pretrained(model)
    codec.decoder_stream(np.zeros(codec.speaker_encoder.dim, np.int64), decoder)  # loads it: errors come before work
    return codec


def about_model(codec: Any) -> dict[str, str]:
    """Name and hash, for a report."""
    return {"model": codec.name, "model_hash": codec.model_hash.hex()}


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A line that moves on a terminal's stderr; nothing elsewhere. Warnings are shown as plain lines."""
    import logging

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from audiovq.cli.jobs import stderr_console

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = stderr_console()
    with Bar(*columns, console=console, transient=True, disable=console is None) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def show(report: Report, json: Path | None, plot: Path | None = None) -> None:
    """Write the files, then the tables to standard output."""
    if json is not None:
        report.write_json(json)
    console = stdout_console()
    for table in report.tables():
        console.print(table)
    if json is not None:
        typer.echo(f"figures: {json}")
    if plot is not None:
        report.draw(plot)
        typer.echo(f"plot: {plot}")
