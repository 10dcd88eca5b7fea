"""What `audiovq evaluate` runs: a protocol for each word it knows, from the command line's options to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    timbre: tuple[str, ...] = ("auto",)
    pairs: int = 0
    world: bool = False
    prior: str | None = None
    samples: int = 24
    seconds: float = 10.0
    temperature: float | None = None
    top_k: int = 0
    top_p: float | None = None
    seed: int = 0


@contextmanager
def progress_bar() -> Iterator[Progress]:
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


def run_folders(reference_dir: str, degraded_dir: str, options: Options) -> Report:
    """Recordings of the same names in two folders."""
    from audiovq.evaluation.metrics import make_metrics
    from audiovq.evaluation.pairs import evaluate_pairs, match_files

    if options.model is not None or options.bitrates is not None or options.peers:
        raise AudioVQError("--model, --bitrates and --peers code a split; two folders are compared as they are")
    match_files(reference_dir, degraded_dir)  # what is wrong with them shows before the metrics are loaded
    metrics = make_metrics(options.metrics)
    with progress_bar() as progress:
        return evaluate_pairs(reference_dir, degraded_dir, metrics, options.align, options.language, progress)


def run_split(options: Options) -> Report:
    """A codec, and others, on a split."""
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
    with progress_bar() as progress:
        return evaluate_split(splits, systems, metrics, options.limit, about, progress)


def run_conversion(options: Options) -> Report:
    """A model as a converter of voices."""
    from audiovq.cli.convert import parse_pitch
    from audiovq.data.corpora import open_corpora
    from audiovq.evaluation.conversion import converters as ways
    from audiovq.evaluation.conversion.measures import chosen
    from audiovq.evaluation.conversion.pairs import read_pairs
    from audiovq.evaluation.conversion.protocol import evaluate_conversion
    from audiovq.speech.checkpoint import conversion_model
    from audiovq.speech.codec import SpeechCodec
    from audiovq.speech.timbre import check_timbre

    if options.bitrates is not None or options.peers or options.align or options.language:
        raise AudioVQError("conversion takes --codebooks, --pitch, --timbre, --decoder, --pairs, --world and --metrics")
    groups = chosen(options.metrics)
    register, timbres = parse_pitch(options.pitch), [check_timbre(timbre) for timbre in options.timbre]
    pairs = read_pairs(open_corpora(options.data, None)).limited(options.pairs)
    codec = SpeechCodec.from_pretrained(options.model or conversion_model())
    rows: list[ways.Converter] = [ways.RealSpeech(), ways.Unconverted()]
    for n_codebooks in options.codebooks or [codec.conversion_codebooks]:
        rows.append(ways.Reconstruction(codec, n_codebooks, options.decoder))
        rows += [ways.ModelConverter(codec, n_codebooks, register, options.decoder, timbre) for timbre in timbres]
    if options.world:
        from audiovq.evaluation.conversion.world import WorldConverter

        rows.append(WorldConverter())
    about = {"data": options.data, "model": codec.name, "model_hash": codec.model_hash.hex()}
    with progress_bar() as progress:
        return evaluate_conversion(pairs, rows, groups, about, progress=progress)


def run_generation(options: Options) -> Report:
    """A prior, and what it draws."""
    from audiovq.data.codes import cached_codes
    from audiovq.evaluation.generation.protocol import Settings, evaluate_generation
    from audiovq.prior.speech import SpeechPrior

    if options.bitrates is not None or options.peers or options.align or options.language or options.pairs:
        raise AudioVQError("generation takes --prior, --split, --samples, --seconds, --seed and how codes are drawn")
    if len(options.split) > 1 or len(options.codebooks or []) > 1:
        raise AudioVQError("generation takes one --split and one number of --codebooks")
    source = SpeechPrior.from_pretrained(options.model, options.prior)
    drawing = source.prior.sampling.override(options.temperature, options.top_k, options.top_p)
    settings = Settings(
        n_samples=options.samples,
        seconds=options.seconds,
        seed=options.seed,
        temperature=drawing.temperature,
        top_k=drawing.top_k,
        top_p=drawing.top_p,
        n_codebooks=options.codebooks[0] if options.codebooks else source.prior.drawn_codebooks,
        dnsmos=options.metrics is None or "dnsmos" in options.metrics,
    )
    about = {"data": options.data, "model": source.codec.name, "model_hash": source.codec.model_hash.hex()}
    about["prior"] = source.prior.name
    with progress_bar() as progress:
        cache = cached_codes(source.codec, options.data, progress=lambda done, total: progress("coding", done, total))
        return evaluate_generation(source, cache, options.split[0], settings, about, progress)


def run_probe(options: Options) -> Report:
    """What codes tell."""
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
    with progress_bar() as progress:
        return evaluate_probe(codec, splits, options.limit, about, progress, kinds)


def run_video(options: Options) -> VideoReport:
    """Frames ahead."""
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
    with progress_bar() as progress:
        return evaluate_video(model, blind, episodes, options.split[0], n_windows, about, progress)


def run_image(options: Options) -> ImageReport:
    """Pictures decoded, and what they cost."""
    from audiovq.data.images import FixedCrops, open_images
    from audiovq.evaluation.image import N_CROPS, SIZE, evaluate_image
    from audiovq.image import ImageCodec
    from audiovq.prior.image import load_priors

    if options.bitrates is not None or options.peers or options.align or options.language or len(options.split) > 1:
        raise AudioVQError("image takes --model, --data, one --split and --limit, the crops")
    codec = ImageCodec.from_pretrained(options.model)
    source = "photographs" if options.data == ["debian_speech"] else options.data[0]
    shrunk = {"name": source, "side": 400}
    pictures = open_images(shrunk if source == "photographs" else source, options.split[0])
    shortest = min(min(picture.load().shape[:2]) for picture in pictures[:100])
    size = min(SIZE, shortest // codec.stride * codec.stride)
    crops = FixedCrops(pictures, size, N_CROPS if options.limit == LIMIT else options.limit or 1 << 30)
    about = {"data": source, "model": codec.name, "model_hash": codec.model_hash.hex()}
    return evaluate_image(codec, crops.images(), options.split[0], about, load_priors(codec))


PROTOCOLS: dict[str, Callable[[Options], Report | VideoReport | ImageReport]] = {
    "split": run_split,
    "conversion": run_conversion,
    "generation": run_generation,
    "probe": run_probe,
    "video": run_video,
    "image": run_image,
}
"""What the first word may name instead of a folder."""
