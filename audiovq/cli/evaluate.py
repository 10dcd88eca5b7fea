"""``audiovq evaluate``: how good is what was decoded, or what a model would decode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.cli.protocols import LIMIT, PROTOCOLS, Options, run_folders
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.evaluation.image import ImageReport
    from audiovq.evaluation.report import Report
    from audiovq.evaluation.video import VideoReport


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
    timbre: Annotated[str, typer.Option(help="Conversion: auto, keep, or auto,keep.")] = "auto",
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
        timbre=tuple(_names(timbre)),
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
    return run_folders(what[0], what[1], options)


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
