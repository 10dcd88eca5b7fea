"""Shards of codes: the same from one process and two, gone on with after a stop, read back as they were."""

from __future__ import annotations

import json
import os
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from audiovq.codec.codec import SpeechCodec
from audiovq.data import TokenDataset, TokenShards, write_shards
from audiovq.data.codes import cached_codes
from audiovq.data.token_coding import Coding, Tell
from audiovq.data.token_files import LAYOUTS, CodesModel, from_layout, lay_out, vocabulary
from audiovq.data.token_sources import list_sources
from audiovq.data.token_writing import write_tokens
from audiovq.errors import AudioVQError
from audiovq.hub import model_facts, save_weights
from audiovq.interfaces import EncodedSpeech
from tests.data.conftest import make_utterance, voice, write

pytest.importorskip("pyarrow")

CONTAINERS = ("tar", "parquet")


@pytest.fixture
def model(codec, tmp_path):
    save_weights(codec, tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def recordings(tmp_path):
    """Two speakers: lengths around a packet's, another rate, two channels, and one repeated; two that are no audio."""
    root = tmp_path / "in"
    write(root / "anna" / "one.wav", voice(1.3, seed=1))
    write(root / "anna" / "two.flac", voice(0.01, 44100, seed=2), 44100)
    (root / "anna" / "one.txt").write_text("Žádná věta.\n", encoding="utf-8")
    stereo = np.stack([voice(1.0, seed=3), voice(1.0, seed=4)], axis=1)
    write(root / "bert" / "deep" / "stereo.wav", stereo)
    write(root / "bert" / "twice.wav", stereo[:, :1].repeat(2, axis=1))
    write(root / "c.wav", voice(2.0, seed=5))
    (root / "bert" / "noise.wav").write_bytes(b"no audio at all " * 20)
    (root / "d.flac").write_bytes(b"")
    write(root / ".hidden.wav", voice(0.2))
    return root


def tokenize(recordings, folder, model, container="tar", workers=1, n_codebooks=3, shard_items=3, **options):
    facts = model_facts(model)
    codec = SpeechCodec.from_pretrained(model)
    whose = CodesModel(
        facts.name,
        codec.model_hash.hex(),
        n_codebooks,
        facts.codebook_size,
        facts.sample_rate,
        facts.hop_length,
    )
    coding = Coding(model, n_codebooks, options.pop("mono", False))
    return write_tokens(
        list_sources(str(recordings), "cs"), folder, whose, coding, container, workers, shard_items, **options
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_round_trip(recordings, model, tmp_path, container):
    result = tokenize(recordings, tmp_path / "out", model, container)
    shards = TokenShards(tmp_path / "out", SpeechCodec.from_pretrained(model))
    items = list(shards)
    assert [(item.id, item.channel) for item in items] == [
        ("anna/one.wav", 0),
        ("anna/two.flac", 0),
        ("bert/deep/stereo.wav", 0),
        ("bert/deep/stereo.wav", 1),
        ("bert/twice.wav", 0),
        ("c.wav", 0),
    ]
    assert len(shards) == len(items)
    for item in items:
        samples, rate = soundfile.read(recordings / item.id, dtype="float32", always_2d=True)
        own = torch.from_numpy(samples[:, item.channel].copy())
        encoded = SpeechCodec.from_pretrained(model).encode([own], rate, 3)
        assert item.codes.dtype == np.uint16
        assert np.array_equal(item.codes, encoded.codes[0].numpy())
        assert np.array_equal(item.voice, encoded.speaker[0].numpy())
        assert np.array_equal(item.pitch, encoded.pitch[0].numpy())
        assert np.array_equal(item.levels, encoded.level[0].numpy())
        assert item.n_samples == int(encoded.n_samples[0])
        assert (item.seconds, item.source_rate, item.language) == (len(samples) / rate, rate, "cs")
    assert [item.speaker for item in items] == ["in/anna"] * 2 + ["in/bert"] * 3 + ["in/in"]
    assert [item.text for item in items] == ["Žádná věta.", None, None, None, None, None]
    faults = {fault["id"]: fault["reason"] for fault in result.manifest["faults"]}
    assert set(faults) == {"bert/noise.wav", "d.flac"}
    assert faults["d.flac"] == "is empty"
    assert sum(shard["items"] for shard in result.manifest["shards"]) == 6
    assert result.manifest["hours"] == pytest.approx(sum(item.seconds for item in items) / 3600, abs=1e-6)
    shards.verify()


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_files_do_not_depend_on_the_number_of_processes(recordings, model, tmp_path, container):
    one = tokenize(recordings, tmp_path / "one", model, container)
    two = tokenize(recordings, tmp_path / "two", model, container, workers=2)
    assert one == two
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 3  # with the manifest; nothing in the third shard can be coded


class Stop(Tell):
    """Pulls the plug after so many recordings."""

    def __init__(self, after):
        self.left, self.bytes = after, []

    def progress(self, done, total):
        self.left -= 1
        self.bytes.append((done, total))
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_call_is_gone_on_with(recordings, model, tmp_path, monkeypatch, workers):
    tokenize(recordings, tmp_path / "whole", model)
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        tokenize(recordings, parts, model, workers=workers, tell=Stop(5))
    assert set(content(parts)) == {"shard-00000.tar"}
    with pytest.raises(AudioVQError, match="are incomplete"):
        TokenShards(parts)
    (parts / ".shard-00001-killed.tar").write_bytes(b"of a call that was killed")
    before = (parts / "shard-00000.tar").stat().st_mtime_ns
    counting = Stop(-1)
    again = tokenize(recordings, parts, model, workers=workers, tell=counting)
    assert len(counting.bytes) == 4  # of seven recordings
    assert counting.bytes[-1][0] == counting.bytes[-1][1]
    assert (parts / "shard-00000.tar").stat().st_mtime_ns == before
    assert content(parts) == content(tmp_path / "whole")
    assert again.n_coded == 2
    monkeypatch.setattr("audiovq.data.token_coding.code_source", None)  # coding again would fail
    done = tokenize(recordings, parts, model)
    assert (done.seconds, done.n_coded, done.manifest) == (0, 0, again.manifest)


def test_new_recordings_get_shards_of_their_own_and_lost_shards_are_made_again(recordings, model, tmp_path):
    out = tmp_path / "out"
    tokenize(recordings, out, model)
    before = content(out)
    write(recordings / "anna" / "aaa.wav", voice(0.3, seed=9))
    (out / "shard-00001.tar").unlink()
    with pytest.raises(AudioVQError, match=r"shard-00001.tar is missing"):
        TokenShards(out)
    result = tokenize(recordings, out, model)
    after = content(out)
    assert result.n_coded == 3  # two of the lost shard, and the new one
    assert all(after[name] == before[name] for name in before if name != "manifest.json")
    assert [item.id for item in TokenShards(out)][-1] == "anna/aaa.wav"


def test_recordings_that_went_are_faults(recordings, model, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        tokenize(recordings, out, model, tell=Stop(1))
    (recordings / "c.wav").unlink()
    faults = {f["id"]: f["reason"] for f in tokenize(recordings, out, model).manifest["faults"]}
    assert faults["c.wav"] == "no such file any more"


def test_recordings_that_were_mended_are_coded_into_a_new_shard(recordings, model, tmp_path):
    out = tmp_path / "out"
    tokenize(recordings, out, model)
    before = content(out)
    assert tokenize(recordings, out, model).n_coded == 0
    mended = write(recordings / "bert" / "noise.wav", voice(0.7, seed=8))
    later = (out / ".progress" / "00000.json").stat().st_mtime + 60  # clocks of file systems can be coarse
    os.utime(mended, (later, later))
    result = tokenize(recordings, out, model)
    assert result.n_coded == 1
    assert [fault["id"] for fault in result.manifest["faults"]] == ["d.flac"]
    assert [item.id for item in TokenShards(out)][-1] == "bert/noise.wav"
    assert all(content(out)[name] == before[name] for name in before if name != "manifest.json")
    again = tokenize(recordings, out, model)
    assert (again.n_coded, again.manifest) == (0, result.manifest)


def test_folders_keep_their_settings(recordings, model, codec, tmp_path):
    out = tmp_path / "out"
    tokenize(recordings, out, model)
    before = content(out)
    with torch.no_grad():
        codec.quantizer.content.codebook.vectors.mul_(2)
    save_weights(codec, tmp_path / "other")
    for options, word in (
        ({"n_codebooks": 2}, "started with codebooks 3, not 2"),
        ({"container": "parquet"}, "format tar, not parquet"),
        ({"mono": True}, "channels each on its own, not mixed"),
        ({"model": str(tmp_path / "other")}, "codes hash"),
    ):
        with pytest.raises(AudioVQError, match=word):
            tokenize(recordings, out, **{"model": model, **options})
    assert content(out) == before
    tokenize(recordings, out, model, "parquet", anew=True)
    assert {item.id for item in TokenShards(out)} == {item.id for item in TokenShards(out, model=codec_hash(model))}
    assert not list(out.glob("*.tar"))
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "shard-00000.i16").write_bytes(b"")
    with pytest.raises(AudioVQError, match="other shards"):
        tokenize(recordings, tmp_path / "strange", model)


def codec_hash(model):
    return SpeechCodec.from_pretrained(model).model_hash


def test_codes_of_another_model_are_refused(recordings, model, tmp_path):
    out = tmp_path / "out"
    tokenize(recordings, out, model)
    for wrong in (b"abcd", "61626364"):
        with pytest.raises(AudioVQError, match="not of 61626364"):
            TokenDataset(out, wrong)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["model"]["codes_hash"] = "61626364"
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AudioVQError, match="two models were mixed"):
        list(TokenShards(out))


def test_damage_is_found(recordings, model, tmp_path):
    tokenize(recordings, tmp_path / "out", model)
    path = tmp_path / "out" / "shard-00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(AudioVQError, match=r"shard-00001.tar is damaged"):
        TokenShards(tmp_path / "out").verify()
    for place in range(512, 4096, 61):  # in names, headers, codes and JSON alike
        path.write_bytes(bytes(data[:place]) + bytes([data[place] ^ 0x15]) + bytes(data[place + 1 :]))
        with suppress(AudioVQError):
            assert len(list(TokenShards(tmp_path / "out"))) > 0
    path.write_bytes(data[:-1])
    with pytest.raises(AudioVQError, match="size given in the manifest"):
        TokenShards(tmp_path / "out")
    with pytest.raises(AudioVQError, match="no shards"):
        TokenShards(tmp_path)


def test_mixed_down(recordings, model, tmp_path):
    tokenize(recordings, tmp_path / "out", model, mono=True)
    items = {item.id: item for item in TokenShards(tmp_path / "out")}
    samples, rate = soundfile.read(recordings / "bert/deep/stereo.wav", dtype="float32")
    mixed = SpeechCodec.from_pretrained(model).encode([torch.from_numpy(samples.mean(1, dtype=np.float32))], rate, 3)
    assert np.array_equal(items["bert/deep/stereo.wav"].codes, mixed.codes[0].numpy())
    assert len(items) == 5


def test_a_prepared_corpus_keeps_what_is_known_of_it(model, tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    utterances = [make_utterance(voice(0.5 + 0.4 * i, seed=i), f"u{i}", f"s{i % 2}") for i in range(4)]
    write_shards(utterances, tmp_path / "corpus")
    tokenize(tmp_path / "corpus", tmp_path / "out", model, n_codebooks=4)
    items = list(TokenShards(tmp_path / "out"))
    names = ("id", "speaker", "language", "text", "split", "n_samples")
    assert [[getattr(item, n) for n in names] for item in items] == [[getattr(u, n) for n in names] for u in utterances]
    # A prior reads the same codes from shards as it would have made itself.
    codec = SpeechCodec.from_pretrained(model)
    made = cached_codes(codec, [str(tmp_path / "corpus")])
    read = cached_codes(codec, [{"name": "tokens", "root": str(tmp_path / "out")}])
    assert read.folder != made.folder
    for a, b in zip(made.utterances, read.utterances, strict=True):
        for name in ("codes", "pitch", "levels"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert (a.id, a.speaker, a.split, a.n_samples, a.voice.tolist()) == (
            *(b.id, b.speaker, b.split, b.n_samples),
            b.voice.tolist(),
        )
    codec.model_hash = b"abcd"
    with pytest.raises(AudioVQError, match="not of tiny"):
        cached_codes(codec, [{"name": "tokens", "root": str(tmp_path / "out")}])
    with pytest.raises(AudioVQError, match="cannot be combined"):
        cached_codes(codec, [{"name": "tokens", "root": "x"}, "debian_speech"])


def test_webdataset_reads_the_tar_files(recordings, model, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    tokenize(recordings, tmp_path / "out", model)
    urls = [str(path) for path in TokenShards(tmp_path / "out").files]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    for sample, item in zip(found, TokenShards(tmp_path / "out"), strict=True):
        assert np.array_equal(sample["codes.npy"], item.codes)
        assert sample["json"]["id"] == item.id
    with tarfile.open(urls[0]) as tar:
        assert {(member.mtime, member.uid) for member in tar} == {(0, 0)}


# -- the stream -----------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(model, tmp_path):
    """Forty items in five shards."""
    utterances = [make_utterance(voice(0.05 + 0.01 * i, seed=i), f"u{i:02}") for i in range(40)]
    write_shards(utterances, tmp_path / "corpus")
    tokenize(tmp_path / "corpus", tmp_path / "out", model, shard_items=8)
    return tmp_path / "out"


def ids(dataset, workers=0):
    return [item["id"] for item in DataLoader(dataset, batch_size=None, num_workers=workers)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 6])
@pytest.mark.parametrize("shuffle", [0, 5])
def test_every_item_once_whoever_reads(shards, workers, shuffle):
    """Six workers are more than there are shards."""
    found = ids(TokenDataset(shards, shuffle=shuffle), workers)
    assert sorted(found) == [f"u{i:02}" for i in range(40)]
    assert (found == sorted(found)) == (workers == 0 and not shuffle)


def test_ranks_share_the_items(shards):
    for size in (2, 7):
        parts = [ids(TokenDataset(shards, shuffle=3, rank=rank, world_size=size)) for rank in range(size)]
        assert sorted(id for part in parts for id in part) == [f"u{i:02}" for i in range(40)]
        assert all(parts)


def test_orders_depend_on_seed_and_epoch(shards):
    dataset, other = TokenDataset(shards, shuffle=20, seed=1), TokenDataset(shards, shuffle=20, seed=2)
    first = ids(dataset)
    assert ids(dataset) == first != ids(other)
    dataset.set_epoch(1)
    assert ids(dataset) != first


def test_items_in_a_layout(shards):
    plain = list(TokenDataset(shards, n_codebooks=2))
    laid = TokenDataset(shards, n_codebooks=2, layout="interleaved")
    assert laid.vocabulary == 64
    for item, tokens in zip(plain, laid, strict=True):
        assert torch.equal(tokens["codes"].reshape(-1, 2).T, item["codes"] + torch.tensor([[0], [32]]))
    assert [item["id"] for item in TokenDataset(shards, split="test")] == []
    with pytest.raises(AudioVQError, match="has 3 codebooks, not"):
        TokenDataset(shards, n_codebooks=4)
    with pytest.raises(AudioVQError, match="unknown layout"):
        TokenDataset(shards, layout="sideways")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (3, 17)])
def test_layouts_go_there_and_back(layout, shape):
    codes = np.random.default_rng(0).integers(0, 50, shape).astype(np.uint16)
    tokens = lay_out(codes, layout, 50)
    assert tokens.max() < vocabulary(layout, shape[0], 50)
    assert np.array_equal(from_layout(tokens, layout, 50, shape[0]), codes)
    if shape[0] > 1 and layout != "codes":
        with pytest.raises(AudioVQError, match="invalid tokens"):
            from_layout(np.roll(tokens, 1), layout, 50, shape[0]) if shape[1] > 1 else from_layout(
                tokens + 50, layout, 50, shape[0]
            )


def test_items_decode_as_they_are(shards, model):
    codec = SpeechCodec.from_pretrained(model)
    item, entry = next(iter(TokenShards(shards))), next(iter(TokenDataset(shards)))
    arrays = (item.codes, item.voice, item.n_samples, item.pitch, item.levels)
    whole = codec.decode(EncodedSpeech(*(np.asarray(array)[None] for array in arrays)))
    assert whole.shape == (1, 1, item.n_samples)
    parts = [entry[name][None] for name in ("codes", "voice", "pitch", "level")]
    assert torch.equal(whole, codec.decode(EncodedSpeech(*parts[:2], entry["n_samples"], *parts[2:])))
    with pytest.raises(AudioVQError, match="unknown split 'trian'"):
        TokenDataset(shards, split="trian")
