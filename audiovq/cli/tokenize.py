"""``audiovq tokenize``: a corpus as shards of codes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiovq.cli.checks import bitrate_help
from audiovq.cli.options import refuse
from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.data.token_files import CodesModel


def tokenize(
    context: typer.Context,
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="Recordings (speaker/utterance.wav, a transcript .txt beside it), or a prepared corpus by its folder "
            "or name (debian_speech, vctk ...).",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SHARDS", help="Folder for the shards.")],
    format: Annotated[
        str, typer.Option(metavar="tar|parquet", help="tar: as WebDataset reads them; parquet needs pyarrow.")
    ] = "tar",
    codebooks: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Keep the first N codebooks; without it the model's default."),
    ] = None,
    bitrate: Annotated[float | None, typer.Option(help="The same in " + bitrate_help(), show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="A bundled model, a folder with a model, or runs/NAME.")
    ] = None,
    mono: Annotated[
        bool, typer.Option("--mono", help="Mix all channels down to one; without it each is an item.")
    ] = False,
    language: Annotated[str, typer.Option(help="ISO 639 code of a folder's recordings.")] = "und",
    workers: Annotated[int, typer.Option(min=1, help="Processes that code side by side; the files are the same.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    shard_files: Annotated[int, typer.Option(min=1, metavar="N", help="Recordings in a shard.")] = 1000,
    force: Annotated[bool, typer.Option("-f", "--force", help="Begin anew over shards that are there.")] = False,
) -> None:
    """Write the codes of a corpus as shards for training language models of speech.

    SHARDS gets shard-00000.tar (or .parquet) and so on, and a manifest.json. Called again it goes on where it was
    stopped; recordings that are new get shards of their own. Recordings that cannot be coded are told in a line each
    and left out, and the exit code is 1 then.
    """
    from audiovq.cli.progress import Display
    from audiovq.data.token_pool import Coding
    from audiovq.data.token_sources import list_sources
    from audiovq.data.token_writing import Tell, write_tokens

    whose = model_of(model, codebooks, bitrate)
    check_format(format)
    if output.exists() and not output.is_dir():
        raise AudioVQError(f"{output}: is a file; name a folder for the shards")
    sources = list_sources(corpus, language)
    if not isinstance(sources[0].place, str):
        refuse(context, ("language",), "for plain folders; a prepared corpus has its languages")
    start = time.perf_counter()
    with Display(1) as display, display.file(str(output)) as bar:

        class Lines(Tell):
            def fault(self, id: str, reason: str) -> None:
                display.line(f"audiovq: {id}: {reason}")

            def remark(self, id: str, text: str) -> None:
                display.line(f"audiovq: {id}: {text}")

            def progress(self, done: int, total: int) -> None:
                bar(done, total)

        coding = Coding(model, whose.n_codebooks, mono, threads)
        result = write_tokens(sources, output, whose, coding, format, workers, shard_files, force, Lines())
    elapsed = time.perf_counter() - start
    found = result.manifest
    print(
        f"{output}: {len(found['shards'])} shards, {found['items']:,} items, {found['hours']:.2f} h of audio, "
        f"{sum(shard['bytes'] for shard in found['shards']):,} bytes",
        file=sys.stderr,
    )
    if result.n_coded:
        speed = result.seconds / elapsed
        print(f"{result.seconds / 3600:.2f} h coded in {elapsed:.1f} s: {speed:.0f} hours an hour", file=sys.stderr)
    else:
        print("nothing was left to code", file=sys.stderr)
    if found["faults"]:
        total = len(found["faults"])
        raise AudioVQError(
            f"{total} recording{'s' * (total > 1)} could not be coded; {output}/manifest.json lists them"
        )


def check_format(format: str) -> None:
    """See that the container is known, and its library there.

    Raises:
        AudioVQError: when not.
    """
    from audiovq.data.token_files import SUFFIXES, require_pyarrow

    if format not in SUFFIXES:
        raise AudioVQError(f"--format is {' or '.join(SUFFIXES)}, not {format!r}")
    if format == "parquet":
        require_pyarrow()


def model_of(name_or_dir: str | None, codebooks: int | None, bitrate: float | None) -> CodesModel:
    """Whose codes are written, from the model's files, without loading it.

    Raises:
        AudioVQError: when there is no such model, or it has no such bitrate or number of codebooks.
    """
    from audiovq.cli.loading import codebooks_of
    from audiovq.data.token_files import CodesModel
    from audiovq.hub import model_facts

    facts = model_facts(name_or_dir)
    n_codebooks = codebooks_of(facts, bitrate, codebooks)
    return CodesModel(
        name=facts.name,
        codes_hash=facts.model_hash.hex(),
        n_codebooks=n_codebooks or facts.default_n_codebooks,
        codebook_size=facts.codebook_size,
        sample_rate=facts.sample_rate,
        hop_length=facts.hop_length,
    )
