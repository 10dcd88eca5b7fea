"""``audiovq evaluate``: how good is what was decoded, or what a model would decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.evaluation.image import ImageReport
    from audiovq.evaluation.progress import Progress
    from audiovq.evaluation.report import Report
    from audiovq.evaluation.video import VideoReport

BITRATES = (0.5, 1.0, 2.0, 4.0)
LIMIT = 36


@dataclass(frozen=True)
class Options:
    """The command line, split up."""

    model: str | None
    split: list[str]
    data: list[str]
    bitrates: list[float] | None
    decoder: str
    limit: int
    peers: bool
    own: bool
    metrics: list[str] | None
    align: bool
    language: str | None
    codebooks: list[int] | None = None
    pitch: str = "auto"
    timbre: str = "auto"
    pairs: int = 0
    world: bool = False
    prior: str | None = None
    samples: int = 24
    seconds: float = 10.0
    temperature: float | None = None
    top_k: int = 0
    top_p: float | None = None
    seed: int = 0


def evaluate(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="REF_DIR DEG_DIR, with recordings of the same names. Nothing, or the word split: a model on a split. "
            "conversion: a model as a converter of voices. generation: a prior over the codes, and what it draws. "
            "probe: what the codes tell of speaker, language and phones. video: frames ahead, with actions. "
            "image: pictures decoded, and what they cost.",
            show_default=False,
            metavar="[REF_DIR DEG_DIR]",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Bundled model or a folder; default: the bundled one.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation, test or unseen; several with commas.")] = "test",
    data: Annotated[str, typer.Option(help="Corpora or folders, with commas.")] = "debian_speech",
    bitrates: Annotated[
        str | None, typer.Option(help="kb/s, with commas; default: 0.5,1,2,4.", show_default=False)
    ] = None,
    decoder: Annotated[str, typer.Option(help="Decoder of the model.")] = "parallel",
    limit: Annotated[
        int, typer.Option(help="Stretches of some 7 s of each split, drawn evenly; 0: all.", min=0)
    ] = LIMIT,
    peers: Annotated[bool, typer.Option("--peers", help="Opus, Codec 2, Speex ... too, where installed.")] = False,
    peers_only: Annotated[bool, typer.Option("--peers-only", help="Only those, no model.")] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="pesq,stoi,mel,dnsmos,speaker,wer,dwer; probe: voices,phones; default: all.", show_default=False
        ),
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Folders: take out a delay common to all recordings.")] = False,
    language: Annotated[
        str | None, typer.Option(help="Folders: language of all recordings, for word errors.", show_default=False)
    ] = None,
    codebooks: Annotated[
        str | None,
        typer.Option(help="Conversion: how many carry what is said, with commas.", show_default=False),
    ] = None,
    pitch: Annotated[str, typer.Option(help="Conversion: auto, keep or semitones.")] = "auto",
    timbre: Annotated[str, typer.Option(help="Conversion: auto or keep.")] = "auto",
    pairs: Annotated[int, typer.Option(help="Conversion: so many pairs, drawn evenly; 0: all.", min=0)] = 0,
    world: Annotated[bool, typer.Option("--world", help="Conversion: the WORLD baseline too.")] = False,
    prior: Annotated[
        str | None, typer.Option(help="Generation: folder of the prior; default: the model's own.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(help="Generation: how many.", min=1)] = 24,
    seconds: Annotated[float, typer.Option(help="Generation: length of each.")] = 10.0,
    temperature: Annotated[
        float | None, typer.Option(help="Generation: as of audiovq generate.", min=0, show_default=False)
    ] = None,
    top_k: Annotated[int, typer.Option(help="Generation: as of audiovq generate.", min=0)] = 0,
    top_p: Annotated[
        float | None, typer.Option(help="Generation: as of audiovq generate.", min=0, max=1, show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Generation: as of audiovq generate.", min=0)] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write all figures here.", show_default=False)] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Draw bit rate against quality here.", show_default=False)
    ] = None,
) -> None:
    """Measure quality: PESQ-WB, STOI, mel distance, DNSMOS, speaker cosine and word errors, with 95 % intervals.

    audiovq evaluate REF_DIR DEG_DIR compares recordings of the same names; audiovq evaluate --split test codes that
    split's speech with the model (and --peers) and compares. A folder called like a protocol is written ./split.
    """
    options = Options(
        model=model,
        split=_names(split),
        data=_names(data),
        bitrates=None if bitrates is None else _numbers(bitrates, "--bitrates"),
        decoder=decoder,
        limit=limit,
        peers=peers or peers_only,
        own=not peers_only,
        metrics=None if metrics is None else _names(metrics),
        align=align,
        language=language,
        codebooks=None if codebooks is None else [round(n) for n in _numbers(codebooks, "--codebooks")],
        pitch=pitch,
        timbre=timbre,
        pairs=pairs,
        world=world,
        prior=prior,
        samples=samples,
        seconds=seconds,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    for path in (json, picture):
        if path is not None and path.is_dir():
            raise AudioVQError(f"{path} is a folder; name a file")
    report = _run(what or ["split"], options)
    _show(report, json, picture)


def _run(what: list[str], options: Options) -> Report | VideoReport | ImageReport:
    """The protocol that the first word names; two folders are a protocol of their own."""
    protocol = PROTOCOLS.get(what[0])
    if protocol is not None and len(what) == 1:
        return protocol(options)
    if len(what) != 2:
        raise AudioVQError(f"give two folders, or one of: {', '.join(PROTOCOLS)} (got: {' '.join(what)})")
    return _evaluate_folders(what[0], what[1], options)


def _evaluate_folders(reference_dir: str, degraded_dir: str, options: Options) -> Report:
    from audiovq.evaluation.metrics import make_metrics
    from audiovq.evaluation.pairs import evaluate_pairs, match_files

    if options.model is not None or options.bitrates is not None or options.peers:
        raise AudioVQError("--model, --bitrates and --peers code a split; two folders are compared as they are")
    match_files(reference_dir, degraded_dir)  # what is wrong with them shows before the metrics are loaded
    metrics = make_metrics(options.metrics)
    with _progress() as progress:
        return evaluate_pairs(reference_dir, degraded_dir, metrics, options.align, options.language, progress)


def _evaluate_split(options: Options) -> Report:
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.metrics import make_metrics
    from audiovq.evaluation.split import evaluate_split
    from audiovq.evaluation.system import System

    if options.align or options.language:
        raise AudioVQError("--align and --language are for two folders; a split says its languages itself")
    systems: list[System] = []
    about: dict[str, object] = {"data": options.data, "splits": options.split}
    splits = {split: open_corpora(options.data, split) for split in options.split}
    if options.own:
        from audiovq.evaluation.own import OwnCodec
        from audiovq.speech.codec import SpeechCodec

        codec = SpeechCodec.from_pretrained(options.model)
        rates = options.bitrates or [rate for rate in BITRATES if rate in codec.bitrates] or codec.bitrates
        systems += [OwnCodec(codec, rate, options.decoder) for rate in rates]
        about |= {"model": codec.name, "model_hash": codec.model_hash.hex()}
    if options.peers:
        from audiovq.evaluation.peers import make_peers

        systems += make_peers()
    if not systems:
        raise AudioVQError("nothing to evaluate: no peer's tools are installed")
    metrics = make_metrics(options.metrics)
    with _progress() as progress:
        return evaluate_split(splits, systems, metrics, options.limit, about, progress)


def _evaluate_conversion(options: Options) -> Report:
    from audiovq.cli.convert import parse_pitch, parse_timbre
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.conversion import converters as ways
    from audiovq.evaluation.conversion.measures import chosen
    from audiovq.evaluation.conversion.pairs import read_pairs
    from audiovq.evaluation.conversion.protocol import evaluate_conversion
    from audiovq.speech.checkpoint import conversion_model
    from audiovq.speech.codec import SpeechCodec

    if options.bitrates is not None or options.peers or options.align or options.language:
        raise AudioVQError("conversion takes --codebooks, --pitch, --timbre, --decoder, --pairs, --world and --metrics")
    groups = chosen(options.metrics)
    register, timbre = parse_pitch(options.pitch), parse_timbre(options.timbre)
    pairs = read_pairs(open_corpora(options.data, None)).limited(options.pairs)
    codec = SpeechCodec.from_pretrained(options.model or conversion_model())
    rows: list[ways.Converter] = [ways.RealSpeech(), ways.Unconverted()]
    for n_codebooks in options.codebooks or [codec.conversion_codebooks]:
        rows.append(ways.Reconstruction(codec, n_codebooks, options.decoder))
        rows.append(ways.ModelConverter(codec, n_codebooks, register, options.decoder, timbre))
    if options.world:
        from audiovq.evaluation.conversion.world import WorldConverter

        rows.append(WorldConverter())
    about = {"data": options.data, "model": codec.name, "model_hash": codec.model_hash.hex()}
    with _progress() as progress:
        return evaluate_conversion(pairs, rows, groups, about, progress=progress)


def _evaluate_generation(options: Options) -> Report:
    from audiovq.data.codes import cached_codes
    from audiovq.evaluation.generation.protocol import Settings, evaluate_generation
    from audiovq.prior.speech import SpeechPrior

    if options.bitrates is not None or options.peers or options.align or options.language or options.pairs:
        raise AudioVQError("generation takes --prior, --split, --samples, --seconds, --seed and how codes are drawn")
    if len(options.split) > 1 or len(options.codebooks or []) > 1:
        raise AudioVQError("generation takes one --split and one number of --codebooks")
    source = SpeechPrior.from_pretrained(options.model, options.prior)
    own = source.prior.drawing
    settings = Settings(
        n_samples=options.samples,
        seconds=options.seconds,
        seed=options.seed,
        temperature=own.temperature if options.temperature is None else options.temperature,
        top_k=options.top_k,
        top_p=own.top_p if options.top_p is None else options.top_p,
        n_codebooks=options.codebooks[0] if options.codebooks else source.prior.drawn_codebooks,
        dnsmos=options.metrics is None or "dnsmos" in options.metrics,
    )
    about = {"data": options.data, "model": source.codec.name, "model_hash": source.codec.model_hash.hex()}
    about["prior"] = source.prior.name
    with _progress() as progress:
        cache = cached_codes(source.codec, options.data, progress=lambda done, total: progress("coding", done, total))
        return evaluate_generation(source, cache, options.split[0], settings, about, progress)


def _evaluate_probe(options: Options) -> Report:
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.probe.protocol import KINDS, PARTS, evaluate_probe
    from audiovq.speech.codec import SpeechCodec

    if options.bitrates is not None or options.peers or options.align or options.language:
        raise AudioVQError("probe takes --model, --data, --metrics and --limit, the stretches of each voice")
    kinds = options.metrics or list(KINDS)
    if set(kinds) - set(KINDS):
        raise AudioVQError(f"--metrics of probe are {' and '.join(KINDS)}, not {', '.join(kinds)}")
    codec = SpeechCodec.from_pretrained(options.model)
    splits = {part: open_corpora(options.data, part) for part in PARTS}
    about = {"data": options.data, "model": codec.name, "model_hash": codec.model_hash.hex()}
    with _progress() as progress:
        return evaluate_probe(codec, splits, options.limit, about, progress, kinds)


def _evaluate_video(options: Options) -> VideoReport:
    from audiovq.data.episodes import open_episodes
    from audiovq.evaluation.video import N_WINDOWS, evaluate_video
    from audiovq.video import VideoModel

    if options.bitrates is not None or options.peers or options.align or options.language or len(options.split) > 1:
        raise AudioVQError("video takes --model, --data, one --split and --limit, the windows of frames")
    recording = "vizdoom" if options.data == ["debian_speech"] else options.data[0]
    n_windows = N_WINDOWS if options.limit == LIMIT else options.limit
    model, blind = (VideoModel.from_pretrained(options.model, dynamics) for dynamics in ("dynamics", "blind"))
    episodes = open_episodes(recording, options.split[0])
    about = {"data": recording, "model": model.frames.name, "model_hash": model.frames.model_hash.hex()}
    with _progress() as progress:
        return evaluate_video(model, blind, episodes, options.split[0], n_windows, about, progress)


def _evaluate_image(options: Options) -> ImageReport:
    from audiovq.data.image_crops import FixedCrops
    from audiovq.data.pictures import open_pictures
    from audiovq.evaluation.image import N_CROPS, SIZE, evaluate_image
    from audiovq.image import ImageCodec
    from audiovq.prior.image import load_priors

    if options.bitrates is not None or options.peers or options.align or options.language or len(options.split) > 1:
        raise AudioVQError("image takes --model, --data, one --split and --limit, the crops")
    codec = ImageCodec.from_pretrained(options.model)
    source = "photographs" if options.data == ["debian_speech"] else options.data[0]
    shrunk = {"name": source, "side": 400}
    pictures = open_pictures(shrunk if source == "photographs" else source, options.split[0])
    shortest = min(min(picture.load().shape[:2]) for picture in pictures[:100])
    size = min(SIZE, shortest // codec.stride * codec.stride)
    crops = FixedCrops(pictures, size, N_CROPS if options.limit == LIMIT else options.limit or 1 << 30)
    about = {"data": source, "model": codec.name, "model_hash": codec.model_hash.hex()}
    return evaluate_image(codec, crops.images(), options.split[0], about, load_priors(codec))


PROTOCOLS: dict[str, Callable[[Options], Report | VideoReport | ImageReport]] = {
    "split": _evaluate_split,
    "conversion": _evaluate_conversion,
    "generation": _evaluate_generation,
    "probe": _evaluate_probe,
    "video": _evaluate_video,
    "image": _evaluate_image,
}
"""What the first word may name instead of a folder."""


def _show(report: Report | VideoReport | ImageReport, json: Path | None, picture: Path | None) -> None:
    import sys

    from rich.console import Console

    # Into a file or a pipe there is no width to keep to; rows are wanted whole there.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if json is not None:
        report.write_json(json)
    for table in report.tables():
        console.print(table)
    if json is not None:
        typer.echo(f"figures: {json}")
    if picture is not None:
        report.draw(picture)
        typer.echo(f"picture: {picture}")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise AudioVQError(f"{text!r} names nothing")
    return list(dict.fromkeys(names))


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(name) for name in _names(text)]
    except ValueError:
        raise AudioVQError(f"{option} takes numbers with commas between them, got {text!r}") from None


@contextmanager
def _progress() -> Iterator[Progress]:
    """One line that moves, on a terminal's stderr; nothing elsewhere."""
    import logging

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
