"""A stand-in for Kokoro: its files, and a network that makes one tone for each symbol."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from recipes.kokoro_speech.synthesizer import UNIT, Kokoro

VOICES = [
    "af_alloy",
    "af_aoede",
    "af_bella",
    "af_heart",
    "af_jessica",
    "af_kore",
    "af_nicole",
    "af_nova",
    "af_river",
    "af_sarah",
    "af_sky",
    "am_adam",
    "am_echo",
    "am_eric",
    "am_fenrir",
    "am_liam",
    "am_michael",
    "am_onyx",
    "am_puck",
    "am_santa",
    "bf_alice",
    "bf_emma",
    "bf_isabella",
    "bf_lily",
    "bm_daniel",
    "bm_fable",
    "bm_george",
    "bm_lewis",
    "ef_dora",
    "em_alex",
    "em_santa",
    "ff_siwis",
    "hf_alpha",
    "hf_beta",
    "hm_omega",
    "hm_psi",
    "if_sara",
    "im_nicola",
    "jf_alpha",
    "jf_gongitsune",
    "jf_nezumi",
    "jf_tebukuro",
    "jm_kumo",
    "pf_dora",
    "pm_alex",
    "pm_santa",
    "zf_xiaobei",
    "zf_xiaoni",
    "zf_xiaoxiao",
    "zf_xiaoyi",
    "zm_yunjian",
    "zm_yunxi",
    "zm_yunxia",
    "zm_yunyang",
]

TEXTS = {
    "en": [f"This is the sentence with the number {word}." for word in ("one", "two", "three", "four", "five", "six")],
    "es": ["Ah.", "Esta frase tiene cinco palabras."],
}

# An opusenc of our own, because not every machine has it: raw samples from standard input, the file at the end.
OPUSENC = """#!{python}
import sys, numpy, soundfile
samples = numpy.frombuffer(sys.stdin.buffer.read(), "<i2")
soundfile.write(sys.argv[-1], samples, 16000, format="OGG", subtype="OPUS")
"""


class Tones(Kokoro):
    """Speaks letters for phones: the prosody sets the length of each, the timbre the pitch."""

    def symbols(self, text: str, accent: str) -> list[str]:
        return [letter for letter in text if letter in self.vocabulary]

    @property
    def session(self) -> Any:  # type: ignore[override]
        return self

    def run(self, _names: None, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        timbre, prosody = feeds["style"][0, 0], feeds["style"][0, -1]
        units = 1 + (feeds["tokens"] + int(prosody)) % 2
        time = np.arange(int(units.sum()) * UNIT) / 24000
        return np.sin(2 * np.pi * (200 + 20 * timbre) * time, dtype=np.float32)[None], units.astype(np.float32)


def make_home(home: Path) -> Path:
    """The folder that fetch.py makes; the style of voice k is k everywhere, its prosody k + 0.5."""
    (home / "voices").mkdir(parents=True)
    for number, name in enumerate(VOICES):
        table = np.full((510, 256), number, np.float32)
        table[:, 128:] += 0.5
        table.tofile(home / "voices" / f"{name}.bin")
    (home / "kokoro.onnx").touch()
    letters = "abcdefghijklmnopqrstuvwxyz ."
    (home / "vocab.json").write_text(json.dumps({"vocab": {letter: 1 + i for i, letter in enumerate(letters)}}))
    (home / "texts.json").write_text(json.dumps(TEXTS))
    return home


def make_tools(folder: Path) -> Path:
    """A folder for PATH with an ``opusenc``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "opusenc").write_text(OPUSENC.format(python=sys.executable))
    (folder / "opusenc").chmod(0o755)
    return folder
