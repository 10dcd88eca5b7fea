"""Synthetic speech: aligned groups, runs that go on where they stopped, errors in one line."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from audiovq.data.utterance import open_shards, read_manifest
from audiovq.errors import AudioVQError
from recipes.kokoro_speech import synthesizer
from recipes.kokoro_speech.plan import Speakers, plan
from recipes.kokoro_speech.prepare import prepare
from recipes.kokoro_speech.synthesize import Worker, read_texts, synthesize
from recipes.kokoro_speech.synthesizer import Kokoro, check_tools, phonemize
from tests.recipes.kokoro import TEXTS, VOICES, Tones, make_home, make_tools

SPEAKERS = Speakers.of(VOICES)
HOURS = 25 / 3600
"""Some four groups of the stand-in."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home") / "kokoro")


@pytest.fixture(autouse=True)
def _opusenc(tmp_path_factory, monkeypatch):
    tools = make_tools(tmp_path_factory.mktemp("tools"))
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)


def run(home, out, hours=HOURS, jobs=1, seed=1, skip=()):
    worker = Worker(Tones(home), SPEAKERS.held, out)
    return synthesize(worker, plan(read_texts(home, skip), SPEAKERS, seed), hours, jobs)


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """What an uninterrupted run writes."""
    out = tmp_path_factory.mktemp("whole") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(make_tools(tmp_path_factory.mktemp("tools"))), prepend=os.pathsep)
        assert run(home, out) >= HOURS
    return out


def test_groups_are_aligned_and_have_phone_times(whole, tmp_path):
    lines = read_manifest(whole)
    assert len({line["group"] for line in lines}) >= 3
    for line in lines:
        assert line["held"] == (line["speaker"] in SPEAKERS.held)
        assert (line["phones"] is not None) == line["id"].endswith("-0")
        if line["phones"]:
            ends, symbols = zip(*line["phones"], strict=True)
            assert "".join(symbols[1:]) == line["text"][1:]  # there are no capitals
            assert list(ends) == sorted(ends)
            assert ends[-1] <= line["n_samples"] / 16000
    prepare([whole], tmp_path / "out")  # checks lengths of files and groups
    assert len(open_shards(tmp_path / "out")) == len(lines)


@pytest.mark.parametrize("cut", [1, 700, 2000])
def test_an_interrupted_run_goes_on_to_the_same_corpus(home, whole, tmp_path, cut):
    out = tmp_path / "a"
    shutil.copytree(whole, out)
    manifest = (whole / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").write_bytes(manifest[:-cut])
    (out / read_manifest(whole)[-1]["file"]).unlink()
    run(home, out)
    assert (out / "manifest.jsonl").read_bytes() == manifest
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_run_can_be_made_longer(home, whole, tmp_path):
    run(home, tmp_path / "a", hours=HOURS / 2)
    before = read_manifest(tmp_path / "a")
    assert before == read_manifest(whole)[: len(before)]
    assert len(before) < len(read_manifest(whole))
    run(home, tmp_path / "a")
    assert read_manifest(tmp_path / "a") == read_manifest(whole)


def test_two_processes_write_the_same(home, whole, tmp_path):
    run(home, tmp_path / "a", jobs=2)
    assert read_manifest(tmp_path / "a") == read_manifest(whole)
    for line in read_manifest(whole):
        assert (tmp_path / "a" / line["file"]).is_file()


def test_a_folder_keeps_its_seed(home, whole, tmp_path):
    out = tmp_path / "a"
    shutil.copytree(whole, out)
    with pytest.raises(AudioVQError, match="another --seed"):
        run(home, out, seed=2)
    with pytest.raises(AudioVQError, match="begun with"):
        run(home, out, skip=[whole])


def test_sentences_run_out_in_one_clear_error(home, tmp_path):
    with pytest.raises(AudioVQError, match="used up"):
        run(home, tmp_path / "a", hours=1)
    lines = read_manifest(tmp_path / "a")
    assert {line["text"] for line in lines} == {text for texts in TEXTS.values() for text in texts} - {"Ah."}


def test_sentences_of_other_folders_are_skipped(home, whole):
    spoken = {line["text"] for line in read_manifest(whole)}
    left = {text for texts in read_texts(home, [whole]).values() for text in texts}
    assert left == {text for texts in TEXTS.values() for text in texts} - spoken


def test_timbre_and_prosody_are_halves_of_the_style(home, monkeypatch):
    kokoro, feeds = Tones(home), {}
    spoken = kokoro.run
    monkeypatch.setattr(
        kokoro, "run", lambda names, inputs: feeds.update(inputs) or spoken(names, inputs), raising=False
    )
    first, second = VOICES.index("af_heart"), VOICES.index("bm_lewis")
    samples, ends = kokoro.synthesize(["a", "b"], "af_heart*.5+bm_lewis*.5", "am_adam", 1.1)
    assert (feeds["style"][0, :128] == (first + second) / 2).all()
    assert (feeds["style"][0, 128:] == VOICES.index("am_adam") + 0.5).all()
    assert feeds["tokens"].tolist() == [[0, 1, 2, 0]]
    assert len(ends) == 4
    assert len(samples) == round(float(ends[-1]) * 24000)


def test_phones_are_in_the_letters_of_the_model(tmp_path, monkeypatch):
    answers = {"Joy": "dʒˈɔɪ", "oh dear": " ˈəʊ (de)dˈiəɹ\n", "uh": "ˈɜː"}
    script = tmp_path / "espeak-ng"
    cases = "\n".join(f"  '{words}') printf '%s' '{answer.strip()}';;" for words, answer in answers.items())
    script.write_text(f'#!/bin/sh\nfor last; do :; done\ncase "$last" in\n{cases}\n  *) exit 3;;\nesac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert phonemize("Joy, oh dear!", "b") == "ʤˈY, ˈQ dˈiəɹ!"
    assert phonemize("uh", "a") == "ˈɜɹ"
    with pytest.raises(AudioVQError, match="espeak-ng failed"):
        phonemize("unknown", "a")


@pytest.mark.parametrize("missing", ["kokoro.onnx", "voices", "texts.json"])
def test_a_missing_model_is_one_clear_error(home, tmp_path, missing):
    shutil.copytree(home, tmp_path / "h")
    (tmp_path / "h" / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(AudioVQError, match=r"recipes/kokoro_speech/fetch\.py"):
        Kokoro(tmp_path / "h")


@pytest.mark.parametrize("missing", ["espeak-ng", "opusenc", "onnxruntime"])
def test_missing_tools_are_named(monkeypatch, missing):
    monkeypatch.setattr(synthesizer.shutil, "which", lambda name: None if name == missing else name)
    monkeypatch.setattr(synthesizer, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(AudioVQError, match=missing):
        check_tools()


def test_a_failing_encoder_stops_the_run(home, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "opusenc").write_text("#!/bin/sh\necho disk full >&2\nexit 1\n")
    (tmp_path / "bin" / "opusenc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    with pytest.raises(AudioVQError, match="disk full"):
        run(home, tmp_path / "a")
    assert read_manifest(tmp_path / "a") == []


def test_items_that_are_not_aligned_are_left_out(home, tmp_path, monkeypatch):
    spoken = Tones.synthesize

    def third_is_longer(self, symbols, timbre, prosody, speed):
        samples, ends = spoken(self, symbols, timbre, prosody, speed)
        return (samples, ends) if timbre == prosody else (samples, np.append(ends[:-1], ends[-1] + 1))

    monkeypatch.setattr(Tones, "synthesize", third_is_longer)
    run(home, tmp_path / "a", hours=5 / 3600)
    assert all(line["id"].endswith("-0") for line in read_manifest(tmp_path / "a"))
    assert json.loads((tmp_path / "a" / "manifest.jsonl").read_text().splitlines()[0])["speaker"] in VOICES
