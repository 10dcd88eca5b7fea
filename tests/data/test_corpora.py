"""Every corpus, in a tiny tree of its own layout, gives the same dataclass."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from audiovq.data.corpora import open_corpora, open_corpus
from audiovq.data.utterance import SPLITS, read_native, split_of, write_shards
from audiovq.errors import AudioVQError
from tests.data.conftest import make_utterance, voice, write


def ids(root, **options):
    return {split: {u.id for u in open_corpus(root=root, split=split, **options)} for split in SPLITS}


@pytest.fixture
def folder(tmp_path):
    for index, (speaker, suffix) in enumerate((s, x) for s in ("anna", "ben") for x in ("wav", "flac", "ogg", "mp3")):
        rate = (16000, 44100, 48000, 22050)[index % 4]
        for number in range(6):
            write(tmp_path / "f" / speaker / "deep" / f"{suffix}{number}.{suffix}", voice(0.3, rate, 100 + index), rate)
    (tmp_path / "f" / "anna" / "deep" / "wav0.txt").write_text("one two\n")
    return tmp_path / "f"


def test_folder_splits_are_by_name_disjoint_and_complete(folder):
    every = open_corpus("folder", None, root=folder)
    assert len(every) == 48
    parts = ids(folder, corpus="folder")
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 48
    for utterance in every:
        assert utterance.split == split_of(utterance.id.split("/")[-1])
        assert utterance.speaker in ("f/anna", "f/ben")
        assert utterance.id in parts[utterance.split]
    assert next(u for u in every if u.id == "anna/deep/wav0.wav").text == "one two"


def test_folder_files_are_read_at_16_khz_whole_and_in_parts(folder, rng):
    for utterance in open_corpus(folder, None):
        whole = utterance.load()
        assert whole.dtype == np.float32
        assert abs(len(whole) - 0.3 * 16000) < (1500 if ".mp3" in utterance.id else 3)  # mp3 pads to whole frames
        start, length = int(rng.integers(4000)), int(rng.integers(1, 3000))
        np.testing.assert_allclose(utterance.load(start, length), whole[start : start + length], atol=2e-4)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_channels_of_opposite_phase_are_not_averaged_to_silence(tmp_path, suffix):
    one = voice(0.5, 16000, 120)
    write(tmp_path / "f" / "anna" / f"a.{suffix}", np.stack([one, -one], axis=1), 16000)
    (utterance,) = open_corpus(tmp_path / "f", None)
    found = utterance.load()
    assert np.square(found).mean() > 0.5 * np.square(one).mean()
    assert np.square(utterance.load(2000, 3000)).mean() > 0.5 * np.square(one[2000:5000]).mean()


def test_two_channels_are_averaged(tmp_path):
    one, other = voice(0.5, 16000, 120), voice(0.5, 16000, 170)
    write(tmp_path / "f" / "anna" / "a.wav", np.stack([one, other], axis=1), 16000)
    (utterance,) = open_corpus(tmp_path / "f", None)
    np.testing.assert_allclose(utterance.load(), (one + other) / 2, atol=2e-4)


@pytest.mark.external  # Debian's ffmpeg
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ffmpeg_reads_channels_of_opposite_phase(tmp_path):
    one = voice(0.5, 16000, 120)
    write(tmp_path / "a.wav", np.stack([one, -one], axis=1), 16000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "wmav2", tmp_path / "a.wma"], check=True)
    samples, rate = read_native(tmp_path / "a.wma")
    assert rate == 16000
    assert np.square(samples).mean() > 0.3 * np.square(one).mean()


def test_unseen_speakers_are_kept_apart(folder):
    parts = ids(folder, corpus="folder", unseen=["ben"])
    assert len(parts["unseen"]) == 24
    assert all(name.startswith("ben/") for name in parts["unseen"])
    assert not any(name.startswith("ben/") for split in SPLITS[:3] for name in parts[split])
    with pytest.raises(AudioVQError, match="no speaker 'carl'"):
        open_corpus("folder", root=folder, unseen=["carl"])


def test_a_tenth_goes_to_test_and_validation():
    counts = {split: sum(split_of(f"u{i}.wav") == split for i in range(4000)) for split in SPLITS}
    assert abs(counts["test"] - 200) < 45
    assert abs(counts["validation"] - 200) < 45
    assert counts["unseen"] == 0
    names = ("u1.wav", "u6.wav", "u11.wav", "u19.wav", "u23.wav")  # remainders of coreutils' sha1sum: 1 and 0 but u1
    assert [split_of(name) for name in names] == ["train", "validation", "test", "validation", "test"]


@pytest.fixture
def vctk(tmp_path):
    for speaker in ("p225", "p226"):
        for number in range(1, 11):
            name = f"{speaker}_{number:03d}"
            root = tmp_path / "VCTK-Corpus-0.92"
            write(root / "wav48_silence_trimmed" / speaker / f"{name}_mic2.flac", voice(0.2, 48000), 48000)
            (root / "txt" / speaker).mkdir(parents=True, exist_ok=True)
            (root / "txt" / speaker / f"{name}.txt").write_text(f"Sentence {number}.\n")
    (root / "wav48_silence_trimmed" / "p226" / "p226_010_mic2.flac").unlink()  # the real one has such gaps
    return tmp_path


@pytest.fixture
def librispeech(tmp_path):
    for subset, speaker in (("train-clean-100", 19), ("dev-clean", 84), ("test-other", 367)):
        chapter = tmp_path / "LibriSpeech" / subset / str(speaker) / "198"
        for number in range(3):
            write(chapter / f"{speaker}-198-{number:04d}.flac", voice(0.25))
        lines = (f"{speaker}-198-{number:04d} WORD {number}" for number in range(3))
        (chapter / f"{speaker}-198.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def ljspeech(tmp_path):
    names = [f"LJ001-{number:04d}" for number in range(1, 21)]
    for name in names:
        write(tmp_path / "LJSpeech-1.1" / "wavs" / f"{name}.wav", voice(0.2, 22050), 22050)
    (tmp_path / "LJSpeech-1.1" / "metadata.csv").write_text("".join(f"{n}|in 1476|in {n}\n" for n in names))
    return tmp_path


def test_vctk(vctk):
    every = open_corpus("vctk", None, root=vctk)
    assert len(every) == 19
    parts = ids(vctk, corpus="vctk", unseen=["p226"])
    assert len(parts["unseen"]) == 9
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 19
    first = every[0]
    assert (first.id, first.speaker, first.text) == ("vctk/p225_001_mic2", "vctk/p225", "Sentence 1.")
    assert len(first.load()) == first.n_samples == 3200


def test_librispeech(librispeech):
    parts = {split: open_corpus("librispeech", split, root=librispeech) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 3, "validation": 3, "test": 3, "unseen": 0}
    assert {u.speaker for u in parts["test"]} == {"librispeech/367"}
    assert parts["train"][1].text == "WORD 1"
    assert len(parts["train"][1].load(100, 50)) == 50
    chosen = {"train": ["dev-clean"]}
    assert {u.speaker for u in open_corpus("librispeech", None, librispeech, subsets=chosen)} == {"librispeech/84"}
    with pytest.raises(AudioVQError, match="LibriSpeech"):
        open_corpus("librispeech", None, librispeech, subsets={"train": ["train-clean-360"]})


def test_ljspeech(ljspeech):
    every = open_corpus("ljspeech", None, root=ljspeech)
    assert len(every) == 20
    assert {u.speaker for u in every} == {"ljspeech/lj"}
    assert every[0].text == "in LJ001-0001"
    parts = ids(ljspeech, corpus="ljspeech")
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 20


@pytest.mark.parametrize("name", ["vctk", "librispeech", "ljspeech"])
def test_a_corpus_that_is_not_there_is_one_clear_error(tmp_path, name):
    with pytest.raises(AudioVQError) as error:
        open_corpus(name, "train", root=tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_several_corpora_are_joined(tmp_path, folder, rng):
    utterances = [make_utterance(rng.uniform(-1, 1, 500), id=f"u{i}") for i in range(4)]
    write_shards(utterances, tmp_path / "shards")
    joined = open_corpora([{"name": "folder", "root": str(folder)}, tmp_path / "shards"], "train")
    assert joined[-4:] == utterances
    assert len(joined) == 4 + len(open_corpus(folder, "train"))


def test_debian_speech_opens_from_the_cache(tmp_path, monkeypatch, rng):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    with pytest.raises(AudioVQError, match=r"prepare\.py"):
        open_corpus("debian_speech")
    write_shards([make_utterance(rng.uniform(-1, 1, 500))], tmp_path / "data" / "debian_speech")
    assert len(open_corpora([{"name": "debian_speech"}], "train")) == 1


def test_a_corpus_may_be_taken_in_some_languages_only(tmp_path, rng):
    spoken = ("en", "cs", "en", "nl")
    utterances = [make_utterance(rng.uniform(-1, 1, 500), id=f"u{i}", language=x) for i, x in enumerate(spoken)]
    write_shards(utterances, tmp_path)
    taken = open_corpora([{"name": str(tmp_path), "languages": ["en", "nl"]}])
    assert taken == [u for u in utterances if u.language != "cs"]
    with pytest.raises(AudioVQError, match="its languages are cs, en, nl"):
        open_corpus(tmp_path, languages=["fr"])


@pytest.mark.parametrize("corpus", ["nothing", {"root": "/"}, {"name": "folder", "root": "/nowhere"}])
def test_what_does_not_exist_is_one_clear_error(corpus):
    with pytest.raises(AudioVQError):
        open_corpus(corpus, "train")


def test_unknown_splits_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(AudioVQError, match="unknown split 'dev'"):
        open_corpus(tmp_path, "dev")
    with pytest.raises(AudioVQError, match="no recordings"):
        open_corpus(tmp_path, "train")


def test_folders_skip_hidden_files_and_name_a_transcript_that_is_no_text(tmp_path):
    write(tmp_path / "f" / "anna" / "a.wav", voice(0.3, 16000, 120), 16000)
    (tmp_path / "f" / "anna" / "._a.wav").write_bytes(b"of another system")
    assert [u.id for u in open_corpus(tmp_path / "f", None)] == ["anna/a.wav"]
    (tmp_path / "f" / "anna" / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(AudioVQError, match=r"a\.txt: cannot be read as UTF-8 text"):
        open_corpus(tmp_path / "f", None)
