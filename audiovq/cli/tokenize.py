"""``audiovq tokenize``: a corpus as shards of codes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from typer import Argument, Context, Option

from audiovq.cli.jobs import Display
from audiovq.cli.loading import bitrate_help, codebooks_of
from audiovq.cli.options import Force, refuse
from audiovq.data.places import is_url
from audiovq.data.token_coding import Cluster, Coding, Tell
from audiovq.data.token_files import SUFFIXES, CodesModel, require_pyarrow
from audiovq.data.token_sources import list_sources
from audiovq.data.token_writing import Tokenized, write_tokens
from audiovq.errors import AudioVQError
from audiovq.hub import model_facts
from audiovq.interfaces import Progress

HOURS_EVERY = 10.0
"""Seconds between two lines on how much is done on a cluster."""


Corpus = Annotated[
    str,
    Argument(
        metavar="FOLDER",
        help="Recordings (speaker/utterance.wav, optionally with a transcript .txt), local or by URL "
        "(s3://bucket/folder), or the folder or name of a prepared corpus (debian_speech, vctk ...).",
    ),
]
Output = Annotated[str, Option("-o", "--output", metavar="SHARDS", help="Folder or URL for the shards.")]
Format = Annotated[str, Option(metavar="tar|parquet", help="tar: WebDataset; parquet needs pyarrow.")]
Codebooks = Annotated[int | None, Option(min=1, metavar="N", help="Keep the first N codebooks; default: the model's.")]
Model = Annotated[
    str | None,
    Option(metavar="NAME|DIR", help="A bundled model, a folder with a model, or a training run (runs/NAME)."),
]
Mono = Annotated[bool, Option("--mono", help="Mix all channels down to mono; otherwise each is an item.")]
Workers = Annotated[
    int | None,
    Option(
        min=1,
        metavar="N",
        help="Parallel processes; the files are the same for any number. Default: 1; with --engine ray one per "
        "CPU, or GPU, of the cluster.",
    ),
]
Engine = Annotated[str, Option(metavar="local|ray", help="Local processes, or a Ray cluster (extra ray).")]
Address = Annotated[
    str | None, Option(metavar="HOST:PORT|auto", help="Address of the Ray cluster; default: start a local one.")
]
Device = Annotated[str, Option(metavar="cpu|cuda", help="Device; cuda encodes in batches.")]


def tokenize(
    context: Context,
    corpus: Corpus,
    output: Output,
    format: Format = "tar",
    codebooks: Codebooks = None,
    bitrate: Annotated[float | None, Option(metavar="KBPS", help="Instead of --codebooks: " + bitrate_help())] = None,
    model: Model = None,
    mono: Mono = False,
    language: Annotated[str, Option(metavar="CODE", help="ISO 639 code of a folder's recordings.")] = "und",
    workers: Workers = None,
    engine: Engine = "local",
    address: Address = None,
    device: Device = "cpu",
    threads: Annotated[int, Option(min=1, metavar="N", help="CPU threads per process.")] = 1,
    shard_files: Annotated[int, Option(min=1, metavar="N", help="Recordings per shard.")] = 1000,
    force: Force = False,
) -> None:
    """Write the codes of a corpus as shards for training speech language models.

    Needs PyTorch: pip install 'audiovq[torch]'. Writes shard-00000.tar (or .parquet), ... and manifest.json to
    SHARDS. Repeat the command to resume; new recordings become new shards. With --engine ray each machine of the
    cluster needs audiovq, the model, and access to FOLDER and SHARDS. Unreadable recordings are reported on one line
    each and skipped; the exit code is then 1.
    """
    import torch  # noqa: F401 - first, so that nothing is written where it is missing

    whose = model_of(model, codebooks, bitrate)
    if format not in SUFFIXES:
        raise AudioVQError(f"--format is {' or '.join(SUFFIXES)}, not {format!r}")
    if format == "parquet":
        require_pyarrow()
    if device != "cpu" and device.split(":")[0] != "cuda":
        raise AudioVQError(f"--device is cpu or cuda, not {device!r}")
    cluster = cluster_of(context, engine, address, workers)
    if not is_url(output) and Path(output).exists() and not Path(output).is_dir():
        raise AudioVQError(f"{output}: is a file; name a folder for the shards")
    sources = list_sources(corpus, language)
    if not isinstance(sources[0].place, str):
        refuse(context, ("language",), "for plain folders; a prepared corpus defines its languages")
    start = time.perf_counter()
    with Display(1) as display, display.file(output) as bar:
        lines = _Lines(display, bar, start, cluster is not None)
        coding = Coding(model, whose.n_codebooks, mono, threads, device)
        settings = (coding, format, workers or 1, shard_files, force, lines, cluster)
        result = write_tokens(sources, output, whose, *settings)
    _report(output, result, time.perf_counter() - start)


def _report(output: str, result: Tokenized, elapsed: float) -> None:
    """Print what was written; raise `AudioVQError` when recordings could not be coded."""
    found = result.manifest
    shards, items = len(found["shards"]), found["items"]
    size = f"{amount(3600 * found['hours'])} of audio, {sum(shard['bytes'] for shard in found['shards']):,} bytes"
    counts = f"{shards} shard{'s' * (shards != 1)}, {items:,} item{'s' * (items != 1)}"
    print(f"{output}: {counts}, {size}", file=sys.stderr)
    done = "nothing left to encode"
    if result.n_coded:
        speed = f"{result.seconds / elapsed:.1f} times real time"
        done = f"{amount(result.seconds)} of audio encoded in {elapsed:.1f} s, {speed}"
    print(done, file=sys.stderr)
    if n := len(found["faults"]):
        raise AudioVQError(f"{n} recording{'s' * (n > 1)} could not be encoded; see {output}/manifest.json")


def amount(seconds: float) -> str:
    """A length of audio in seconds below 100 s, minutes below 100 min, then hours."""
    for unit, length in (("s", 1), ("min", 60)):
        if seconds < 100 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


class _Lines(Tell):
    """News on the terminal; with ``hours`` a line now and then says how much audio is done."""

    def __init__(self, display: Display, bar: Progress, start: float, hours: bool) -> None:
        self._line, self._bar, self._hours = display.line, bar, hours
        self._start, self._shown, self._seconds = start, start, 0.0

    def fault(self, id: str, reason: str) -> None:
        self._line(f"audiovq: {id}: {reason}")

    def remark(self, id: str, text: str) -> None:
        self._line(f"audiovq: {id}: {text}")

    def progress(self, done: int, total: int) -> None:
        self._bar(done, total)

    def shard(self, name: str, n_items: int, seconds: float) -> None:
        now = time.perf_counter()
        self._seconds += seconds
        if self._hours and now - self._shown >= HOURS_EVERY:
            self._shown = now
            rate = self._seconds / (now - self._start)
            self._line(f"{amount(self._seconds)} of audio encoded, {rate:.1f} times real time")


def cluster_of(context: Context, engine: str, address: str | None, workers: int | None) -> Cluster | None:
    """The Ray cluster that is asked for; None for processes of this machine."""
    if engine == "ray":
        return Cluster(address, workers)
    if engine != "local":
        raise AudioVQError(f"--engine is local or ray, not {engine!r}")
    refuse(context, ("address",), "that of a Ray cluster; add --engine ray")
    return None


def model_of(name_or_dir: str | None, codebooks: int | None, bitrate: float | None) -> CodesModel:
    """The model whose codes are written, from its files, without loading it."""
    facts = model_facts(name_or_dir)
    return CodesModel.of(facts, codebooks_of(facts, bitrate, codebooks))
