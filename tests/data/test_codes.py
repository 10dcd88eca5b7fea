"""Codes of packed corpora: those that the codec gives, with pitch and levels, made once, gone on with after a break."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.data.codes import CodesCache, cached_codes
from audiovq.data.corpora import open_corpus
from audiovq.data.packed import PackedCorpus
from audiovq.data.tokens import CodeStretches, make_tapes
from audiovq.errors import AudioVQError
from tests.codec.tiny import make_codec
from tests.training.tiny_codec import write_packed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def codec():
    return make_codec()


@pytest.fixture(scope="module")
def cache(corpus, codec, tmp_path_factory):
    return cached_codes(codec, [{"name": "packed", "root": str(corpus)}], tmp_path_factory.mktemp("codes"))


def test_utterances_of_a_packed_corpus_are_its_samples(corpus):
    packed = PackedCorpus.open(corpus / "train")
    for index, utterance in enumerate(open_corpus("packed", "train", corpus)):
        samples = packed.crops(packed.start[[index]], int(packed.frames[index]))[0].numpy()
        whole = utterance.load()
        assert np.array_equal(whole, samples[: utterance.n_samples])
        assert np.array_equal(utterance.load(100, 50), whole[100:150])
        assert (utterance.id, utterance.split) == (packed.ids[index], "train")
    # 12 s in 8 utterances of the training split: every third of them.
    assert len(open_corpus("packed", None, corpus, minutes=0.07)) == 3 + 2
    with pytest.raises(AudioVQError, match="no packed corpus"):
        open_corpus("packed", "train", corpus / "nowhere")


def test_codes_are_those_of_the_codec(cache, corpus, codec):
    utterances = open_corpus("packed", None, corpus)
    assert [u.id for u in cache.utterances] == [u.id for u in utterances]
    for coded, utterance in zip(cache.utterances, utterances, strict=True):
        encoded = codec.encode(utterance.load(), n_codebooks=4)
        assert np.array_equal(coded.codes, encoded.codes[0].numpy())
        assert np.array_equal(coded.pitch, encoded.pitch[0].numpy())
        assert coded.levels.tolist() == encoded.level[0].tolist()
        assert coded.voice.tolist() == encoded.speaker[0].tolist()
        assert (coded.speaker, coded.split) == (utterance.speaker, utterance.split)
    assert cache.tables.shape == (4, 32, 8)
    assert cache.facts.frame_rate == 50


def test_an_interrupted_call_goes_on(cache, corpus, codec, tmp_path, monkeypatch):
    """Cut in the middle of a write: what is not listed is not there."""
    corpora, calls = [{"name": "packed", "root": str(corpus)}], []
    whole = type(codec).encoder_stream

    def breaks(self, n_codebooks=None):
        calls.append(n_codebooks)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, n_codebooks)

    monkeypatch.setattr(type(codec), "encoder_stream", breaks)
    with pytest.raises(KeyboardInterrupt):
        cached_codes(codec, corpora, tmp_path)
    (partial,) = tmp_path.glob(".*.partial")
    with (partial / "codes.u16").open("ab") as file:
        file.write(b"half a frame")
    with (partial / "utterances.jsonl").open("a") as file:
        file.write('{"id": "cut o')
    found = cached_codes(codec, corpora, tmp_path)
    assert len(calls) == 4 + len(cache.utterances) - 3
    for name in ("codes.u16", "voices.u16", "pitch.u8", "levels.u8"):
        assert (found.folder / name).read_bytes() == (cache.folder / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [cache.folder.name]


def test_other_encoders_have_other_codes(cache, corpus, codec, tmp_path):
    other = make_codec()
    other.encoder.content.layers[0].weight.data.mul_(1.5)
    assert cached_codes(other, [{"name": "packed", "root": str(corpus)}], tmp_path).folder.name != cache.folder.name
    (cache.folder / "pitch.u8").write_bytes(b"\0" * 3)
    with pytest.raises(AudioVQError, match="delete"):
        CodesCache(cache.folder)


def test_stretches_have_pitch_first_and_keep_it_when_codebooks_are_left_out(corpus, codec, tmp_path):
    made = cached_codes(codec, [{"name": "packed", "root": str(corpus)}], tmp_path)
    tapes = make_tapes(made.split("train"))
    items = CodeStretches(tapes, ["en"], 30, 177, 3, 0.5, 1.0)
    for index in range(20):
        codes = items[index]["codes"]
        assert codes.shape == (5, 30)
        assert codes[0].max() < 177
        assert (codes[-1] == 177).all()
        assert (codes[1] < 32).all()
    assert np.array_equal(tapes[0].pitch, tapes[0].streams[0])
    assert np.array_equal(tapes[0].codes, tapes[0].streams[1:])
