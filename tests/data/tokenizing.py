"""What the tests of `audiovq.data.token_*` code with, in a module that workers can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from audiovq.codec.codec import SpeechCodec
from audiovq.data.token_coding import Coding
from audiovq.data.token_files import CodesModel
from audiovq.data.token_sources import list_sources
from audiovq.data.token_writing import write_tokens
from audiovq.hub import model_facts, save_weights
from tests.codec.tiny import make_codec, speech_like
from tests.data.conftest import write

DIED = "died"


def make_corpus(root: Path) -> Path:
    """Seven recordings of two speakers, one with a transcript, and a file that is no audio."""
    for i in range(7):
        write(root / ("anna" if i % 2 else "bert") / f"{i}.wav", speech_like(0.3 + 0.25 * i, i))
    (root / "anna" / "1.txt").write_text("Žádná věta.\n", encoding="utf-8")
    (root / "bert" / "noise.wav").write_bytes(b"no audio at all " * 20)
    return root


def save_model(folder: Path) -> str:
    """A tiny codec with pitch on disk."""
    save_weights(make_codec(), folder)
    return str(folder)


def load_and_die_once(model: str) -> object:
    """The codec; the first process that codes a second recording with it is killed."""
    codec = SpeechCodec.from_pretrained(model)
    made, calls = codec.encoder_stream, []

    def encoder_stream(n_codebooks: int | None = None) -> object:
        calls.append(n_codebooks)
        if len(calls) == 2:
            try:
                (Path(model) / DIED).touch(exist_ok=False)
            except FileExistsError:
                return made(n_codebooks)
            os.kill(os.getpid(), signal.SIGKILL)
        return made(n_codebooks)

    codec.encoder_stream = encoder_stream
    return codec


def tokenize(corpus: str | Path, folder: str | Path, model: str, n_codebooks: int = 3, **options: object) -> object:
    """`write_tokens` with the settings of tests."""
    facts = model_facts(model)
    whose = CodesModel.of(facts, n_codebooks)
    names = ("load", "device", "mono")
    coding = Coding(model, n_codebooks, **{name: options.pop(name) for name in names if name in options})
    return write_tokens(list_sources(str(corpus), "cs"), folder, whose, coding, shard_items=2, **options)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder that readers see."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
