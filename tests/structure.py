"""Sizes of the package and of the path through it; ``python -m tests.structure`` prints them beside their targets.

The files of a command are those whose functions run, with a tiny model, after their module is imported.
"""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import audiovq

PACKAGE = Path(audiovq.__file__).resolve().parent


@dataclass(frozen=True)
class Measure:
    """A number of the package, what it should be at most, and the place where it is reached."""

    name: str
    value: int
    target: int
    place: str = ""


def modules() -> list[Path]:
    """All modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and name of every function of a module, decorators and docstring included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield (node.end_lineno or first) - first + 1, f"{path.relative_to(PACKAGE)}:{node.name}"


def sizes() -> list[Measure]:
    """Modules, lines, longest file and longest function."""
    files = [(len(path.read_text().splitlines()), str(path.relative_to(PACKAGE))) for path in modules()]
    longest = max(one for path in modules() for one in functions(path))
    return [
        Measure("modules", len(files), 130),
        Measure("lines", sum(n for n, _ in files), 20_000),
        Measure("longest file", max(files)[0], 400, max(files)[1]),
        Measure("longest function", longest[0], 60, longest[1]),
    ]


def executed(*arguments: str) -> list[str]:
    """The files of the package whose functions a command runs, in a process of its own.

    Raises:
        RuntimeError: when the command fails.
    """
    command = [sys.executable, "-m", "tests.structure", "--trace", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def trace(arguments: Sequence[str]) -> set[str]:
    """Run a command here; the files of the package whose functions ran after their module was imported."""
    found: set[str] = set()
    package = f"{PACKAGE}/"

    def is_imported(frame: FrameType) -> bool:
        below = frame.f_back
        while below is not None and below.f_code.co_name != "<module>":
            below = below.f_back
        return below is not None and below.f_globals.get("__name__") != "__main__"

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_flags & inspect.CO_OPTIMIZED or not code.co_filename.startswith(package):
            return
        name = code.co_filename[len(package) :]
        if name not in found and not is_imported(frame):
            found.add(name)

    from audiovq.cli import main

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        code = main(list(arguments))
    finally:
        sys.setprofile(None)
    if code:
        sys.exit(code)
    return found


def paths() -> list[Measure]:
    """Files run by ``audiovq encode`` and ``audiovq decode`` of the bundled model, on ONNX Runtime and on PyTorch."""
    import soundfile

    from tests.codec.tiny import RATE, speech_like

    measures = []
    with tempfile.TemporaryDirectory() as name:
        speech, coded, decoded = (str(Path(name) / file) for file in ("x.wav", "x.avq", "y.wav"))
        soundfile.write(speech, speech_like(2.0), RATE)
        for engine, targets in (("onnx", (22, 24)), ("torch", (22, 24))):
            for step, target in zip((("encode", speech), ("decode", coded, "-o", decoded)), targets, strict=True):
                files = executed(*step, "-f", "--engine", engine)
                measures.append(Measure(f"{step[0]} on {engine}", len(files), target, ", ".join(files)))
    return measures


def main() -> None:
    if sys.argv[1:2] == ["--trace"]:
        print(json.dumps(sorted(trace(sys.argv[2:]))))
        return
    for one in sizes() + paths():
        print(f"{one.name:20} {one.value:6} of {one.target:6}  {'' if one.value <= one.target else '!'}  {one.place}")


if __name__ == "__main__":
    main()
