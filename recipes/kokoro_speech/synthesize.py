"""Synthesize speech: groups of one sentence with one prosody by three or four speakers, aligned to the sample.

    python recipes/kokoro_speech/fetch.py                                  # the model, once
    python recipes/kokoro_speech/synthesize.py DIR --hours 8 [--jobs N]
    python recipes/kokoro_speech/prepare.py DIR...

An interrupted run goes on with the same command. Recordings depend on --seed, --skip and --mixtures
alone, not on --jobs. Give corpora that are to be joined different seeds, and --skip the folders whose sentences are not
to be spoken again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from audiovq.data.utterance import MANIFEST, SAMPLE_RATE, read_manifest, resample
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # recipes share modules

from recipes.kokoro_speech import synthesizer
from recipes.kokoro_speech.plan import Group, Speakers, plan
from recipes.kokoro_speech.synthesizer import Kokoro, check_tools

SYMBOLS = range(12, 301)
"""How many symbols a sentence may have."""

KBITS = 40


@dataclass(frozen=True)
class Worker:
    """Speaks groups into a folder."""

    kokoro: Kokoro
    held: frozenset[str]
    out: Path

    def speak(self, group: Group) -> list[dict[str, Any]]:
        """Write a group's Opus files; their manifest lines, none for a sentence that is too short or too long."""
        symbols = self.kokoro.symbols(group.text, group.prosody[0])
        if len(symbols) not in SYMBOLS:
            return []
        lines: list[dict[str, Any]] = []
        first_ends = np.zeros(0)
        for number, speaker in enumerate(group.speakers):
            samples, ends = self.kokoro.synthesize(symbols, speaker, group.prosody, group.speed)
            if number and not np.array_equal(ends, first_ends):
                continue  # not aligned with the rest
            first_ends = ends
            samples = resample(samples, synthesizer.SAMPLE_RATE)
            path = self.out / f"{group.name}-{number}.opus"
            write_opus(path, samples)
            lines.append(
                {
                    "id": path.stem,
                    "group": group.name,
                    "file": path.name,
                    "speaker": speaker,
                    "prosody": group.prosody,
                    "language": group.language,
                    "text": group.text,
                    "speed": group.speed,
                    "n_samples": len(samples),
                    "held": speaker in self.held,
                    "phones": None if number else phone_times(symbols, ends),
                }
            )
        return lines


def phone_times(symbols: Sequence[str], ends: np.ndarray) -> list[tuple[float, str]]:
    """End time in seconds and symbol of each phone, after a space for the silence at the beginning."""
    return [(round(float(end), 3), symbol) for end, symbol in zip(ends[:-1], [" ", *symbols], strict=True)]


def write_opus(path: Path, samples: np.ndarray) -> None:
    """Encode float samples (T,) at 16 kHz; the file decodes to T samples."""
    command = ["opusenc", "--quiet", "--raw", "--raw-rate", str(SAMPLE_RATE), "--raw-chan", "1"]
    command += ["--bitrate", str(KBITS), "--comp", "10", "-", str(path)]
    raw = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    result = subprocess.run(command, input=raw, capture_output=True)
    if result.returncode:
        raise AudioVQError(f"opusenc cannot write {path}: {result.stderr.decode(errors='replace').strip()}")


_worker: Worker | None = None


def _start(worker: Worker) -> None:
    """Prepare a process of the pool, which ends with its parent however that ends."""
    global _worker
    _worker = worker
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()  # type: ignore[union-attr]


def _speak(group: Group) -> list[dict[str, Any]]:
    assert _worker is not None
    return _worker.speak(group)


def spoken(worker: Worker, groups: Iterable[Group], jobs: int) -> Iterator[list[dict[str, Any]]]:
    """The manifest lines of each group, in order, from ``jobs`` processes."""
    if jobs == 1:
        yield from map(worker.speak, groups)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(worker,)) as pool:
        pending: deque[Future[list[dict[str, Any]]]] = deque()
        try:
            for group in groups:
                pending.append(pool.submit(_speak, group))
                if len(pending) > 2 * jobs:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise AudioVQError("a process of the pool was killed: run the command again to go on") from None
        finally:
            pool.shutdown(cancel_futures=True)


def whole_groups(out: Path) -> list[dict[str, Any]]:
    """The manifest's lines, without a last group that an interrupted run may have cut short.

    Groups are written at once and in order, so that only the last one can be incomplete.
    """
    path = out / MANIFEST
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n")[:-1]:  # what follows the last newline is cut short
        try:
            lines.append(json.loads(text))
        except ValueError:
            raise AudioVQError(f"{path} is damaged: delete {out} and start again") from None
    last = lines[-1]["group"] if lines else None
    kept = [line for line in lines if line["group"] != last]
    with atomic_write(path) as temporary:
        temporary.write_text("".join(map(encode, kept)), encoding="utf-8")
    return kept


def encode(line: Mapping[str, Any]) -> str:
    """A manifest line."""
    return json.dumps(line, ensure_ascii=False) + "\n"


def normal(text: str) -> str:
    """A sentence by its letters alone, to compare it with others."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def read_texts(home: Path, skip: Sequence[Path]) -> dict[str, list[str]]:
    """Sentences by language, without those that the manifests of the folders ``skip`` have."""
    texts: dict[str, list[str]] = json.loads((home / "texts.json").read_text(encoding="utf-8"))
    used = {normal(line["text"]) for folder in skip for line in read_manifest(folder)}
    return {language: [text for text in sentences if normal(text) not in used] for language, sentences in texts.items()}


def remaining(groups: Iterator[Group], done: Iterable[Mapping[str, Any]]) -> Iterator[Group]:
    """The groups of the plan behind the last one that is done.

    Raises:
        AudioVQError: when what is done is not of this plan.
    """
    expected = {line["group"]: line for line in done}
    names = deque(expected)
    while names:
        group = next(groups, None)
        if group is None or group.name > names[0]:
            raise AudioVQError("the folder was begun with another --seed, --skip or --mixtures: choose another one")
        if group.name == names[0] and group.text != expected[names.popleft()]["text"]:
            raise AudioVQError("the folder was begun with other sentences: choose another one")
    return groups


def synthesize(
    worker: Worker, groups: Iterator[Group], hours: float, jobs: int, progress: Progress | None = None
) -> float:
    """Append groups to the manifest in the worker's folder until it holds ``hours`` of speech; the hours it holds."""
    worker.out.mkdir(parents=True, exist_ok=True)
    done = whole_groups(worker.out)
    seconds = sum(line["n_samples"] for line in done) / SAMPLE_RATE
    task = progress.add_task("speaking", total=hours, completed=seconds / 3600) if progress else None
    groups = remaining(groups, done)
    # Processes speak ahead: groups behind the last one that is needed do not get into the manifest.
    results = spoken(worker, groups, jobs)
    with (worker.out / MANIFEST).open("a", encoding="utf-8") as manifest:
        while seconds < hours * 3600:
            lines = next(results, None)
            if lines is None:
                raise AudioVQError(f"the sentences are used up after {seconds / 3600:.1f} hours: choose another --seed")
            manifest.write("".join(map(encode, lines)))
            manifest.flush()
            seconds += sum(line["n_samples"] for line in lines) / SAMPLE_RATE
            if progress is not None and task is not None:
                progress.update(task, completed=seconds / 3600)
    results.close()
    return seconds / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="DIR", help="where Opus files and manifest.jsonl go")
    parser.add_argument("--hours", type=float, default=1.0, help="how much the folder holds at the end")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--seed", type=int, default=1, help="of sentences, prosodies and speakers; names the groups")
    parser.add_argument("--skip", type=Path, action="append", default=[], metavar="FOLDER", help="its sentences")
    parser.add_argument("--home", type=Path, default=cache_dir() / "kokoro", help="the folder that fetch.py made")
    parser.add_argument("--mixtures", type=int, default=0, help="further speakers, each a mixture of two voices")
    arguments = parser.parse_args()
    if arguments.jobs < 1 or arguments.mixtures < 0:
        raise AudioVQError("--jobs must be 1 or more, and --mixtures 0 or more")
    check_tools()
    kokoro = Kokoro(arguments.home)
    speakers = Speakers.of([path.stem for path in (arguments.home / "voices").glob("*.bin")], arguments.mixtures)
    groups = plan(read_texts(arguments.home, arguments.skip), speakers, arguments.seed)
    columns = (TextColumn("{task.completed:.2f} of {task.total:g} hours"), BarColumn(), TimeRemainingColumn())
    console = Console()
    with Progress(*columns, console=console) as progress:
        hours = synthesize(
            Worker(kokoro, speakers.held, arguments.out), groups, arguments.hours, arguments.jobs, progress
        )
    console.print(f"{arguments.out}: {hours:.2f} hours")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: run the command again to go on")
