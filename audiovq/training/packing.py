"""Packs for training on a machine without a network: code, wheels, corpora, weights and configuration in pieces."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

from audiovq.data.pieces import AUDIO, PieceWriter, add_corpus
from audiovq.data.whisper import ENCODER_FILE, encoder_bytes, whisper_folder
from audiovq.errors import AudioVQError
from audiovq.hub import model_folder, weights_folder
from audiovq.io import atomic_write, cache_dir
from audiovq.training.offline import START, check_end
from audiovq.training.states import CONFIG, Limits, encode_state, read_set, read_state, write_set

log = logging.getLogger("audiovq")
STATE_BYTES = 50 << 20
"""Largest size of the state that a pack starts from."""
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + [
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
]


@dataclass(frozen=True)
class PackOptions:
    """What goes into a pack, and in which form.

    Attributes:
        have: packages that the target machine has; their dependencies are taken to be there, too.
        python: version of the target's Python, such as "3.12".
        audio: "opus", at ``kbps``, "flac" or "int16".
        piece_bytes: largest piece.
    """

    have: Sequence[str] = ()
    python: str = "3.12"
    audio: str = "opus"
    kbps: float = 32.0
    piece_bytes: int = 60 << 20


def write_pack(given: Mapping[str, Any], folder: Path, options: PackOptions, run: Path | None = None) -> int:
    """Write everything that `audiovq.training.offline` needs, and ``run.py``, which starts it.

    What rarely changes comes first: when only code or weights change, most pieces stay as they are.

    Args:
        given: configuration, resolved, of a task on packed corpora or on codes.
        folder: of the pieces.
        run: folder of a run, or of results, whose state the training goes on from.

    Returns:
        Bytes in all.

    Raises:
        AudioVQError: when something is not there, or a package has no wheel for the target.
    """
    if options.audio not in AUDIO:
        raise AudioVQError(f"audio is stored as {', '.join(AUDIO)}, not {options.audio!r}")
    if not {"corpus", "codes"} & set(given["task"]):
        raise AudioVQError(
            "only tasks on packed corpora or codes, those with task.corpus or task.codes, can be trained from a pack"
        )
    check_end(given["training"])
    config: dict[str, Any] = json.loads(json.dumps(given))
    corpus = config["task"].get("corpus")
    writer = PieceWriter(folder, options.piece_bytes)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = download_wheels(options.have, options.python, Path(temporary))
        log.info("wheels: %s", ", ".join(path.name for path in wheels) or "none")
        if "codes" in config["task"]:
            _add_codes(writer, config["task"])
        for split in ("train", "validation") if "corpus" in config["task"] else ():
            base = Path(corpus) if corpus else cache_dir() / "packed"
            add_corpus(writer, base / split, split, options.audio, options.kbps, ("pitch",), _progress(split))
        if config["task"].get("listener_items"):
            _add_listener(writer, config["task"].get("listener_layers"))
        for path in wheels:
            writer.add(f"wheels/{path.name}", path.read_bytes(), compress=False)
    _add_code(writer)
    if corpus:
        config["task"]["corpus"] = None
    if "codec" in config["task"]:
        _add_codec(writer, config["task"])
    _add_start(writer, config, run)
    writer.add(CONFIG, json.dumps(config, indent=1).encode())
    with atomic_write(folder / "run.py") as path:
        path.write_bytes((Path(__file__).parent / "bootstrap.py").read_bytes())
    manifest = writer.finish(name=config["name"], audio=options.audio, kbps=options.kbps, python=options.python)
    return sum(piece["bytes"] for piece in manifest["pieces"])


def _progress(split: str) -> Any:
    done, shown = 0, 0

    def tell(seconds: int) -> None:
        nonlocal done, shown
        done += seconds
        if done - shown >= 3600:
            shown = done
            log.info("%s: %.1f hours", split, done / 3600)

    return tell


def _add_codes(writer: PieceWriter, task: dict[str, Any]) -> None:
    """The codes of a task, made now where they are missing; on the other machine it needs no codec and no corpora."""
    from audiovq.training.codes import open_codes

    folder = open_codes(task["codes"], task["codec"], task["corpora"]).folder
    for path in sorted(folder.iterdir()):
        writer.add(f"cache/codes/{folder.name}/{path.name}", path.read_bytes())
    task |= {"codes": f"codes/{folder.name}", "codec": None, "corpora": []}


def _add_code(writer: PieceWriter) -> None:
    """The package without bundled models."""
    package = Path(__file__).resolve().parents[1]
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package)
        if path.is_file() and inside.parts[0] != "pretrained" and "__pycache__" not in inside.parts:
            writer.add(f"site/{package.name}/{inside.as_posix()}", path.read_bytes())


def _add_listener(writer: PieceWriter, n_layers: int | None) -> None:
    data = encoder_bytes(whisper_folder("the listener's loss"), n_layers)
    writer.add(f"cache/models/whisper-base/{ENCODER_FILE}", data, compress=False)


def _add_codec(writer: PieceWriter, task: dict[str, Any]) -> None:
    """The frozen model that a task reads codes of."""
    folder = model_folder(task["codec"])
    for name in ("config.json", "model.safetensors"):
        writer.add(f"cache/init/codec/{name}", (folder / name).read_bytes(), compress=False)
    task["codec"] = "init/codec"


def _add_start(writer: PieceWriter, config: dict[str, Any], run: Path | None) -> None:
    """The state to go on from; without one, the models that ``init_from`` names."""
    plan = config["training"]
    if run is not None:
        tensors, facts = (read_state if (run / "state.safetensors").is_file() else read_set)(run)
        with tempfile.TemporaryDirectory() as temporary:
            limits = Limits(STATE_BYTES, STATE_BYTES, 1)
            for path in write_set(Path(temporary) / "start", encode_state(tensors, limits), facts, limits):
                writer.add(START + path.name, path.read_bytes(), compress=False)
    source = plan.get("init_from")
    plan["init_from"] = plan["resume_from"] = None
    if run is None and source:
        parts = source if isinstance(source, Mapping) else {"": source}
        for i, name in enumerate(parts.values()):
            path = weights_folder(name) / "model.safetensors"
            writer.add(f"cache/init/{i}/model.safetensors", path.read_bytes(), compress=False)
        names = {part: f"init/{i}" for i, part in enumerate(parts)}
        plan["init_from"] = names if isinstance(source, Mapping) else names[""]


# -- wheels -----------------------------------------------------------------------------------------------------------


def plain_name(name: str) -> str:
    """A package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_names(text: str) -> list[str]:
    """Package names from a list with commas, or from a file with one a line, as ``pip freeze`` writes it."""
    lines = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    names = [re.split(r"[=<>~!\[; @]", line.strip())[0] for line in lines]
    return [name for name in names if name and not name.startswith("#")]


def download_wheels(have: Sequence[str], python: str, folder: Path) -> list[Path]:
    """Wheels for Linux on x86-64 of all that the package depends on and the target machine lacks.

    Raises:
        AudioVQError: when pip finds no such wheel.
    """
    from packaging.requirements import Requirement

    there = {plain_name(name) for name in have} | {"audiovq"}
    environment = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": "x86_64"}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    environment |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    waiting = [Requirement(text) for text in importlib.metadata.requires("audiovq") or ()]
    while waiting:
        requirement = waiting.pop(0)
        name = plain_name(requirement.name)
        if name in there or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        there.add(name)
        wheel = _download(requirement.name, str(requirement.specifier), python, folder / name)
        with zipfile.ZipFile(wheel) as file:
            entry = next(entry for entry in file.namelist() if entry.endswith(".dist-info/METADATA"))
            metadata = Parser().parsestr(file.read(entry).decode())
        waiting += [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    return sorted(folder.glob("*/*.whl"))


def _download(name: str, versions: str, python: str, folder: Path) -> Path:
    """The wheel of the version that is installed here, or else of the newest that fits."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    requirements = [f"{name}{versions}"]
    with suppress(importlib.metadata.PackageNotFoundError):
        requirements.insert(0, f"{name}=={importlib.metadata.version(name)}")
    for requirement in requirements:
        result = subprocess.run([*command, requirement], capture_output=True, text=True)
        wheels = list(folder.glob("*.whl")) if folder.is_dir() else []
        if result.returncode == 0 and wheels:
            return wheels[0]
    lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
    raise AudioVQError(f"no wheel of {name} for Python {python}: {lines[-1]}; name it in --have if it is there")
