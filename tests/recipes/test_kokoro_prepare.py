"""Synthetic speech becomes a corpus whose held speakers and groups stay apart, and whose groups stay aligned."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from audiovq.data.corpora import open_corpora, open_corpus
from audiovq.data.utterance import read_manifest, split_of
from audiovq.errors import AudioVQError
from recipes.kokoro_speech.prepare import phone_times, prepare
from tests.data.conftest import voice

HELD = "bm_x"


def make_folder(folder, groups=range(40), speakers=("af_a", "af_a*.5+af_b*.5", HELD)):
    """Write groups of recordings as Opus files: every speaker of a group begins in the middle of its recording."""
    folder.mkdir()
    lines = []
    for number in groups:
        n_samples = 3000 + 37 * number
        for k, speaker in enumerate(speakers):
            samples = voice(n_samples / 16000, pitch=90 + 40 * k, seed=number)
            samples[: n_samples // 2] = 0
            group = f"g{number}"
            path = folder / f"{group}-{k}.opus"
            soundfile.write(path, samples, 16000, format="OGG", subtype="OPUS")
            line = {"id": path.stem, "group": group, "file": path.name, "speaker": speaker, "held": speaker == HELD}
            line |= {"prosody": speakers[0], "language": "en", "text": "Ah.", "n_samples": n_samples}
            lines.append(line | {"phones": [[0.3, "ɑ"], [0.35, "."]] if k == 0 else None})
    write_manifest(folder, lines)
    return folder, lines


def write_manifest(folder, lines):
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("kokoro") / "a")[0]


@pytest.fixture(scope="module")
def corpus(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "kokoro_speech"
    return out, prepare([source], out)


def test_held_speakers_are_unseen_and_no_group_is_in_two_splits(corpus):
    utterances = open_corpus(corpus[0], None)
    assert len(utterances) == 120
    for utterance in utterances:
        held = utterance.speaker == f"kokoro_speech/{HELD}"
        assert utterance.split == ("unseen" if held else split_of(utterance.group))
    assert {u.split for u in utterances} == {"train", "validation", "test", "unseen"}
    assert corpus[1]["splits"]["unseen"]["files"] == 40


def test_items_of_a_group_keep_length_alignment_and_phones(corpus, source):
    by_id = {u.id: u for u in open_corpus(corpus[0], None)}
    for line in read_manifest(source):
        utterance = by_id[line["id"]]
        samples = utterance.load()
        assert utterance.n_samples == len(samples) == line["n_samples"]
        assert utterance.phones == ((0.19, " "), (0.24, "ɑ"), (0.29, "."))
        power = np.convolve(samples**2, np.ones(160) / 160, "same")
        onset = int(np.argmax(power > 0.1 * power.max()))
        assert abs(onset - line["n_samples"] // 2) < 160  # where it was put


def test_phone_times_are_those_of_the_recording():
    assert phone_times([(0.4, " "), (0.5, "ɑ")]) == [(0.34, " "), (0.44, "ɑ")]
    assert phone_times(None) is None


def test_speakers_and_licence_are_named(corpus):
    utterance = open_corpus(corpus[0], None)[1]
    assert utterance.speaker == "kokoro_speech/af_a*.5+af_b*.5"
    assert (utterance.licence, utterance.text) == ("Apache-2.0", "Ah.")
    assert read_manifest(corpus[0])[1]["prosody"] == "kokoro_speech/af_a"


def test_a_mixture_is_one_speaker_in_either_order(tmp_path):
    folder, _ = make_folder(tmp_path / "a", groups=(0,), speakers=("af_a*.5+af_b*.5", "af_b*.5+af_a*.5"))
    prepare([folder], tmp_path / "out")
    assert {u.speaker for u in open_corpus(tmp_path / "out", None)} == {"kokoro_speech/af_a*.5+af_b*.5"}


def test_several_folders_become_one_corpus(source, tmp_path):
    more, _ = make_folder(tmp_path / "b", groups=range(40, 43))
    prepare([source, more], tmp_path / "out")
    assert len(open_corpus(tmp_path / "out", None)) == 129
    with pytest.raises(AudioVQError, match="occurs twice"):
        prepare([source, source], tmp_path / "out")
    assert len(open_corpus(tmp_path / "out", None)) == 129


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 3001}, "differs in length"),
        ({"held": True}, "held in some items"),
        ({"file": "none.opus"}, "no such file"),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_clear_error(tmp_path, change, message):
    folder, lines = make_folder(tmp_path / "a", groups=(0, 1))
    lines[1] |= change
    write_manifest(folder, lines)
    with pytest.raises(AudioVQError, match=message):
        prepare([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lengths_of_files_are_checked(tmp_path):
    folder, lines = make_folder(tmp_path / "a", groups=(0,))
    for line in lines:
        line["n_samples"] += 1
    write_manifest(folder, lines)
    with pytest.raises(AudioVQError, match="3000 samples"):
        prepare([folder], tmp_path / "out")
    del lines[2]["prosody"]
    write_manifest(folder, lines)
    with pytest.raises(AudioVQError, match="g0-2 has no prosody"):
        prepare([folder], tmp_path / "out")


def test_the_corpus_opens_from_the_cache(source, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    with pytest.raises(AudioVQError, match=r"recipes/kokoro_speech/prepare\.py"):
        open_corpus("kokoro_speech")
    prepare([source], tmp_path / "data" / "kokoro_speech")
    assert len(open_corpora(["kokoro_speech"], "unseen")) == 40
