"""Files that a verb works through: which goes where, one after the other, with progress, tables and interrupts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from audiovq.errors import AudioVQError
from audiovq.io import check_input, is_special

if TYPE_CHECKING:
    from rich.console import Console

    from audiovq.bitstream import CodingReport
    from audiovq.bitstream.speech_file import Progress
    from audiovq.cli.loading import Models


class Display:
    """A bar for the current file and, of several, one for all; nothing without a `stderr_console`."""

    def __init__(self, n_files: int) -> None:
        self._n_files = n_files
        self._bars: Any = None

    def __enter__(self) -> Display:
        if (console := stderr_console()) is not None:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=console, transient=True)
            self._bars.start()
            self._all = self._bars.add_task("all files", total=self._n_files) if self._n_files > 1 else None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def file(self, name: str) -> Iterator[Progress]:
        """The bar of one file: a function to call with what is done and how much there is, in any unit."""
        if self._bars is None:
            yield lambda done, total: check_interrupt()
            return
        from rich.markup import escape

        task = self._bars.add_task(escape(os.path.basename(name)), total=None)

        def tell(done: float, total: float | None) -> None:
            check_interrupt()
            self._bars.update(task, completed=done, total=total)

        try:
            yield tell
        finally:
            self._bars.remove_task(task)
            if self._all is not None:
                self._bars.advance(self._all)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Print an error as a line, so that the other files are done; of one file it is raised."""
        try:
            yield
        except AudioVQError as error:
            if self._n_files == 1:
                raise
            self.line(f"audiovq: {error}")

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bars is None:
            print(text, file=sys.stderr)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


WIDTH = 1000
"""Of files and pipes: whole rows are better there than folded ones."""


def stdout_console() -> Console:
    """A console for standard output: as wide as the terminal, or without folding elsewhere."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, highlight=False, emoji=False)


def stderr_console() -> Console | None:
    """A console for bars on standard error; None where it is no terminal, or one that cannot move its cursor."""
    if not sys.stderr.isatty():  # asked for here as well: variables such as FORCE_COLOR make rich take files for one
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return None if console.is_dumb_terminal else console


def print_rows(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Rows in columns, of which ``right`` are aligned to the right."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for i in range(len(rows[0])):
        table.add_column(justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = stdout_console()
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_fields(fields: Mapping[str, str]) -> None:
    """Names and values."""
    print_rows(list(fields.items()))


SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

_received: int | None = None


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Make signals that ask to end raise `KeyboardInterrupt`, and remember the first for the functions below.

    An interrupt that falls into a callback from compiled code (numba reads its cache so) is printed and forgotten by
    the interpreter; here it is neither.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        global _received
        _received = _received or number
        raise KeyboardInterrupt

    def forget(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            hook(unraisable)

    _received = None
    hook, sys.unraisablehook = sys.unraisablehook, forget
    # What a shell's background job ignores stays ignored.
    numbers = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook, _received = hook, None


def check_interrupt() -> None:
    """Raise `KeyboardInterrupt` when one was asked for and did not get through; called now and then."""
    if _received is not None:
        raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Whether a signal has asked to end."""
    return _received is not None


def exit_code() -> int:
    """The exit code of an interrupted program, as a shell gives it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received or signal.SIGINT)


Report = TypeVar("Report")
MOST_WARNINGS = 5
"""Lost stretches of one file that are named one by one."""


@dataclass(frozen=True)
class Job:
    """One file to do: where from and where to, ``-`` for the standard streams."""

    source: str
    target: str
    fault: str | None = None
    """Why it cannot be done, where that shows from the names alone."""

    @property
    def target_name(self) -> str:
        """For messages."""
        return "standard output" if self.target == "-" else self.target


def plan(
    inputs: Sequence[str], output: str | None, suffixes: Sequence[str], new_suffix: str | Callable[[str], str]
) -> list[Job]:
    """Find the files and say where each goes.

    Args:
        inputs: files, folders (every file in them with one of ``suffixes``; mirrored under ``output``), or ``-`` alone.
        output: a file (for one input file), a folder, ``-``, or None: beside the input.
        suffixes: of files that a folder is searched for.
        new_suffix: of what is written into folders, or what gives it for an input's name.

    Raises:
        AudioVQError: where inputs and output do not go together. Inputs that would become the same file are told by
            `check`, so that the others are done.
    """
    if "-" in inputs:
        if len(inputs) > 1:
            raise AudioVQError("standard input (-) cannot be combined with other inputs")
        target = output or "-"
        if target != "-" and _is_folder(target):
            raise AudioVQError(f"{target} is a folder; name a file for what comes from standard input")
        return [Job("-", target)]

    def renamed(path: Path, source: str) -> Path:
        return path.with_suffix(new_suffix if isinstance(new_suffix, str) else new_suffix(source))

    folders = [name for name in inputs if os.path.isdir(name)]
    many = len(inputs) > 1 or bool(folders)
    if output == "-" and many:
        raise AudioVQError("standard output (-) takes one input file")
    if output is not None and output != "-" and not _is_folder(output):
        from audiovq.cli.options import check_file_name  # which imports NumPy

        check_file_name(output, many, new_suffix == ".avq")
    jobs = []
    for name in inputs:
        if name in folders:
            found = _search(Path(name), suffixes)
            if not found:
                raise AudioVQError(f"{name}: no suitable files in this folder ({', '.join(suffixes)})")
            jobs += [Job(str(p), str(Path(output or name) / renamed(p.relative_to(name), str(p)))) for p in found]
        elif output is None:
            jobs.append(Job(name, str(renamed(Path(name), name))))
        elif output != "-" and (many or _is_folder(output)):
            jobs.append(Job(name, str(Path(output) / renamed(Path(name), name).name)))
        else:
            jobs.append(Job(name, output))
    return _mark_clashes(list(dict.fromkeys(jobs)))


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep)) or os.path.isdir(name)


def _search(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    # Names with a dot in front are hidden: among them are files that are just being written.
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def _mark_clashes(jobs: list[Job]) -> list[Job]:
    """The jobs, with a fault for those that would write the same file: none of them is the right one."""
    by_target: dict[str, list[str]] = {}
    for job in jobs:
        by_target.setdefault(os.path.realpath(job.target), []).append(job.source)
    marked = []
    for job in jobs:
        others = [source for source in by_target[os.path.realpath(job.target)] if source != job.source]
        fault = f"{job.source}: would become {job.target}, as would {', '.join(others)}; process them separately"
        marked.append(replace(job, fault=fault) if others and job.target != "-" else job)
    return marked


def check(job: Job, force: bool) -> None:
    """Raise `AudioVQError` unless the input is there and the output may be written."""
    if job.fault is not None:
        raise AudioVQError(job.fault)
    if job.source != "-":
        check_input(job.source)
    if job.target == "-":
        if sys.stdout.isatty():
            raise AudioVQError("standard output is a terminal; name a file with -o, or pipe the output")
        return
    if os.path.isdir(job.target):
        raise AudioVQError(f"{job.target}: is a folder; name a file")
    if is_special(job.target) or not os.path.exists(job.target):
        return
    if job.source != "-" and os.path.samefile(job.source, job.target):
        raise AudioVQError(f"{job.source}: input and output are the same file")
    if not force:
        raise AudioVQError(f"{job.target} exists; -f overwrites it")


def run(
    jobs: list[Job],
    force: bool,
    models: Models,
    prepare: Callable[[], object],
    work: Callable[[Job, Progress], CodingReport],
) -> None:
    """Do all jobs on sound, as `work_through` does, and print a summary; loading ``models`` is no coding time."""
    reports: list[CodingReport] = []
    elapsed = 0.0

    def timed(job: Job, progress: Progress) -> CodingReport:
        nonlocal elapsed
        start = time.perf_counter() - models.seconds
        report = work(job, progress)
        elapsed += time.perf_counter() - models.seconds - start
        return report

    def done(job: Job, report: CodingReport, display: Display) -> None:
        reports.append(report)
        for remark in _remarks(job, report):
            display.line(f"audiovq: {remark}")

    def finish() -> None:
        if reports:
            print(_summary(jobs, reports, elapsed), file=sys.stderr)

    work_through(jobs, force, timed, done, prepare, finish)


def work_through(
    jobs: list[Job],
    force: bool,
    work: Callable[[Job, Progress], Report],
    done: Callable[[Job, Report, Display], None],
    prepare: Callable[[], object] = lambda: None,
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Do all jobs, and go on after failures.

    Args:
        force: overwrite.
        work: does one job.
        done: called with each job and what ``work`` returned.
        prepare: called before the first job that can be done; when it fails, all fail.
        finish: called after the last job.

    Raises:
        AudioVQError: for the one job there is; for several, when some failed, after the others are done.
    """
    with Display(len(jobs)) as display:
        # All of them first: what is wrong with names shows at once, and nothing is loaded when nothing can be done.
        good, n_done = [], 0
        for job in jobs:
            with display.errors():
                check(job, force)
                good.append(job)
        if good:
            prepare()
        for job in good:
            with display.errors():
                with display.file(job.source) as progress:
                    report = work(job, progress)
                done(job, report, display)
                n_done += 1
    finish()
    if n_done < len(jobs):
        raise AudioVQError(f"{len(jobs) - n_done} of {len(jobs)} files failed")


def _remarks(job: Job, report: CodingReport) -> Iterator[str]:
    name = "standard input" if job.source == "-" else job.source
    for line in report.damage[:MOST_WARNINGS]:
        yield f"{name}: warning: {line}" + "; it was concealed" * line.endswith(" lost")
    if len(report.damage) > MOST_WARNINGS:
        yield f"{name}: warning: {len(report.damage) - MOST_WARNINGS} more places like these; audiovq info lists them"
    if report.n_clipped:
        yield f"{name}: {report.n_clipped} samples beyond full scale were clipped"
    for line in report.remarks:
        yield f"{name}: {line}"


def _summary(jobs: list[Job], reports: list[CodingReport], elapsed: float) -> str:
    seconds = sum(report.seconds for report in reports)
    n_bytes = sum(report.n_bytes for report in reports)
    parts = [f"{seconds:.2f} s of audio"]
    rate = 8 * n_bytes / max(seconds, 1e-9) / 1000
    if n_bytes and all(report.decoded for report in reports):
        parts = [f"{parts[0]} from {n_bytes:,} bytes ({rate:.2f} kb/s)"]
    elif all(report.n_bytes and not report.decoded for report in reports):  # audio that became audio has no coded size
        parts += [f"{n_bytes:,} bytes", f"{rate:.2f} kb/s"]
    parts.append(f"{seconds / max(elapsed, 1e-9):.1f} times real time")
    if len(jobs) == 1:
        channels = reports[0].n_channels
        where = jobs[0].target_name + (f" ({channels} channels)" if channels > 1 else "")
    else:
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(job.target)) for job in jobs])
        shown = min(folder, os.path.relpath(folder), key=len)
        where = f"{len(reports)} file{'s' * (len(reports) > 1)} in {shown}"
    return f"{where}: {', '.join(parts)}"
