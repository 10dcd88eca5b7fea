"""Steps that the recipes share which put a trained part of a model among the bundled ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError


@contextmanager
def replaced(target: Path, most_bytes: int) -> Iterator[Path]:
    """A temporary folder that takes the place of ``target`` when the block succeeds; else ``target`` stays as it was.

    Args:
        target: folder of the bundled part; it need not exist.
        most_bytes: limit for the weights.

    Raises:
        AudioVQError: when the weights written into the folder are larger.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        if (size := weights_bytes(new)) > most_bytes:
            raise AudioVQError(f"the weights have {size / 1e6:.1f} MB, more than {most_bytes / 1e6:.0f}")
        if target.exists():
            target.rename(old)
        new.rename(target)


def copy_files(source: Path, target: Path, *names: str) -> None:
    """Copy files of these names from folder to folder."""
    for name in names:
        shutil.copyfile(source / name, target / name)


def weights_bytes(folder: Path) -> int:
    """Size of a model's weights."""
    return (folder / "model.safetensors").stat().st_size


def report(folder: Path, parameters: int, *more: str) -> None:
    """Print what was bundled: folder, number of weights, size."""
    facts = [f"{parameters / 1e6:.1f} M weights", f"{weights_bytes(folder) / 1e6:.1f} MB", *more]
    print(f"{folder}: {', '.join(facts)}")


def count_parameters(model: Any) -> int:
    """The number of a module's weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def run_script(main: Callable[[], None]) -> None:
    """Call a script's ``main``; errors of the package or of files end it with one line."""
    try:
        main()
    except (AudioVQError, OSError) as error:
        raise SystemExit(f"bundle.py: {error}") from error
