"""Kokoro-82M: from text and a style vector to speech with the time of each phone.

A style vector's first half is the timbre, its second half the prosody. Durations and F0 follow from text and prosody
alone, so that one prosody with several timbres gives recordings that are aligned with each other.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError

SAMPLE_RATE = 24000
UNIT = 600
"""Samples in one unit of duration (25 ms)."""

TIMBRE = 128
"""Numbers of a style vector that are timbre; the rest is prosody."""

_ACCENT = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "i": "it", "p": "pt-br"}
# espeak-ng writes English diphthongs and affricates with two letters where the model has one.
_ENGLISH = {
    "eɪ": "A", "aɪ": "I", "oʊ": "O", "əʊ": "Q", "aʊ": "W", "ɔɪ": "Y", "dʒ": "ʤ", "tʃ": "ʧ",
    "ɚ": "əɹ", "ɜː": "ɜɹ", "r": "ɹ", "ɐ": "ə",
}  # fmt: skip


def check_tools() -> None:
    """Raise an AudioVQError that names the first missing program or package."""
    for command, package in (("espeak-ng", "espeak-ng"), ("opusenc", "opus-tools")):
        if shutil.which(command) is None:
            raise AudioVQError(f"speech synthesis needs the {command} command: install the package {package}")
    if find_spec("onnxruntime") is None:
        raise AudioVQError("speech synthesis needs the package onnxruntime: pip install onnxruntime")


def phonemize(text: str, accent: str) -> str:
    """Phones of a text by espeak-ng in the letters of the model, with the text's punctuation.

    Args:
        accent: first letter of a voice's name: a (American) and b (British English), e, f, i, p.
    """
    phrases = []
    for words, stop in re.findall(r"([^,.!?;:]+)([,.!?;:]*)", text):
        command = ["espeak-ng", "-q", "--ipa", "-v", _ACCENT[accent], words.strip()]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise AudioVQError(f"espeak-ng failed: {result.stderr.strip()}")
        without_language = re.sub(r"\([a-z-]+\)", "", " ".join(result.stdout.split()))
        phrases.append(without_language + stop)
    phones = " ".join(phrases)
    if accent in "ab":
        for letters, one in _ENGLISH.items():
            phones = phones.replace(letters, one)
    return phones.replace("ː", "") if accent == "a" else phones


class Kokoro:
    """The model with its voices, on one thread.

    Args:
        home: the folder that fetch.py made.

    Raises:
        AudioVQError: when something is missing there.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("kokoro.onnx", "vocab.json", "voices", "texts.json"):
            if not (home / name).exists():
                raise AudioVQError(f"no {name} in {home}: run `python recipes/kokoro_speech/fetch.py --home {home}`")
        self.vocabulary: dict[str, int] = json.loads((home / "vocab.json").read_text(encoding="utf-8"))["vocab"]

    @cached_property
    def session(self) -> Any:
        """The ONNX session, opened when it is first used."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(str(self.home / "kokoro.onnx"), options, providers=["CPUExecutionProvider"])

    def symbols(self, text: str, accent: str) -> list[str]:
        """The symbols of a text that the model knows."""
        return [symbol for symbol in phonemize(text, accent) if symbol in self.vocabulary]

    def style(self, speaker: str, n_symbols: int) -> np.ndarray:
        """Style vector (256,) of a voice, or of a mixture like ``af_heart*.5+bm_lewis*.5``, for a text's length."""
        total = np.zeros(256, np.float32)
        for part in speaker.split("+"):
            name, _, weight = part.partition("*")
            table = np.fromfile(self.home / "voices" / f"{name}.bin", np.float32).reshape(-1, 256)
            total += np.float32(weight or 1) * table[n_symbols]
        return total

    def synthesize(
        self, symbols: list[str], timbre: str, prosody: str, speed: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Speak symbols with one speaker's timbre and another's prosody.

        Returns:
            samples (T,) float32 at 24 kHz, and end times (len(symbols) + 2,) in seconds, of the silence before, of each
            symbol, and of the silence behind.
        """
        vector = self.style(timbre, len(symbols))
        vector[TIMBRE:] = self.style(prosody, len(symbols))[TIMBRE:]
        tokens = [0, *(self.vocabulary[symbol] for symbol in symbols), 0]
        feeds = {"tokens": np.array([tokens]), "style": vector[None], "speed": np.full(1, speed, np.float32)}
        samples, units = self.session.run(None, feeds)
        return samples.ravel(), np.cumsum(units.ravel()) * UNIT / SAMPLE_RATE
