"""Pieces: whole corpora come back, sample for sample in place; what is missing or damaged is named."""

from __future__ import annotations

import itertools
import json
import zipfile

import numpy as np
import pytest

from audiovq.data import pieces
from audiovq.data.packed import FRAME, PackedCorpus
from audiovq.data.pieces import (
    PieceReader,
    PieceWriter,
    add_corpus,
    check_alignment,
    decode_samples,
    encode_samples,
    stretches,
    unpack_corpus,
)
from audiovq.errors import AudioVQError


def speech_like(n_frames, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(n_frames * FRAME) / 16000
    phase = np.cumsum(140 + 40 * np.sin(5 * time)) / 16000
    tone = sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 20)) * (0.3 + 0.2 * np.sin(17 * time))
    return np.rint(4000 * tone + 40 * rng.standard_normal(len(time))).astype(np.int16)


@pytest.fixture
def packed(tmp_path):
    """A packed corpus of six utterances of two speakers, with pitch labels."""
    folder = tmp_path / "packed"
    folder.mkdir()
    lines, start, parts = [], 0, []
    for i in range(6):
        samples = speech_like(40 + 7 * i, i)
        parts.append(samples)
        line = {"id": f"u{i}", "speaker": f"s{i // 3}", "language": "en", "group": None}
        lines.append(line | {"start": start, "n_samples": len(samples) - 11})
        start += len(samples)
    np.concatenate(parts).tofile(folder / "samples.i16")
    np.arange(start // FRAME, dtype=np.int16).tofile(folder / "pitch.bin")
    (folder / "index.json").write_text(json.dumps(lines))
    return folder


def pack(packed, folder, audio, piece_bytes=60 << 20):
    writer = PieceWriter(folder, piece_bytes)
    add_corpus(writer, packed, "train", audio, 32.0, ("pitch", "teacher"))
    return writer.finish(name="test")


@pytest.mark.parametrize("audio", ["int16", "flac"])
def test_lossless_audio_comes_back_exactly(packed, tmp_path, monkeypatch, audio):
    monkeypatch.setattr(pieces, "STREAM_SECONDS", 1)
    monkeypatch.setattr(pieces, "_PART", 20_000)
    manifest = pack(packed, tmp_path / "pack", audio, 60_000)
    assert len(manifest["pieces"]) > 1
    unpack_corpus(PieceReader(tmp_path / "pack"), "train", tmp_path / "back")
    for name in ("samples.i16", "pitch.bin", "index.json"):
        assert (tmp_path / "back" / name).read_bytes() == (packed / name).read_bytes()
    assert PackedCorpus.open(tmp_path / "back").ids == PackedCorpus.open(packed).ids


def test_opus_keeps_every_frame_in_its_place(packed, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(pieces, "STREAM_SECONDS", 1)
    pack(packed, tmp_path / "pack", "opus")
    unpack_corpus(PieceReader(tmp_path / "pack"), "train", tmp_path / "back", threads=2)
    original, decoded = (np.fromfile(f / "samples.i16", "<i2").astype(float) for f in (packed, tmp_path / "back"))
    assert len(original) == len(decoded)
    errors = [np.square(original - np.roll(decoded, lag)).mean() for lag in (-320, -16, -1, 0, 1, 16, 320)]
    assert np.argmin(errors) == 3
    assert errors[3] < 0.05 * np.square(original).mean()


def test_opus_of_one_frame_and_of_silence():
    pytest.importorskip("av")
    for samples in (speech_like(1), np.zeros(5 * FRAME, np.int16)):
        assert len(decode_samples(encode_samples(samples, "opus", 32.0), "opus", len(samples))) == len(samples)


def test_encoded_streams_are_cached(packed, tmp_path, monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    first = pack(packed, tmp_path / "a", "opus")
    monkeypatch.setattr(pieces, "encode_samples", lambda *_: pytest.fail("encoded again"))
    assert pack(packed, tmp_path / "b", "opus") == first


def test_a_shift_is_noticed():
    samples = speech_like(50)
    check_alignment(samples, samples)
    for lag in (-3, 1, 8):
        with pytest.raises(AudioVQError, match="shifts audio by"):
            check_alignment(samples, np.roll(samples, lag))
    with pytest.raises(AudioVQError, match="FLAC"):
        check_alignment(samples, samples[:-1])


def test_pieces_obey_their_limit_and_compare_equal(tmp_path):
    rng = np.random.default_rng(0)
    entries = {f"entry-{i:03d}": rng.bytes(int(rng.integers(1, 9000))) for i in range(60)}
    manifests = []
    for name in ("a", "b"):
        writer = PieceWriter(tmp_path / name, 30_000)
        for entry, data in entries.items():
            writer.add(entry, data)
        manifests.append(writer.finish())
    assert manifests[0] == manifests[1]
    sizes = [(tmp_path / "a" / piece["name"]).stat().st_size for piece in manifests[0]["pieces"]]
    assert max(sizes) <= 30_000
    assert len(sizes) > 3
    reader = PieceReader(tmp_path / "a")
    assert {name: reader.read(name) for name in reader.names()} == entries


def test_surplus_pieces_of_an_earlier_pack_are_removed(tmp_path):
    for n in (9, 1):
        writer = PieceWriter(tmp_path, 10_000)
        for i in range(n):
            writer.add(f"entry-{i}", np.random.default_rng(i).bytes(2000))
        count = len(writer.finish()["pieces"])
        assert (count > 1) == (n > 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "piece-01.zip"]


def test_missing_and_damaged_pieces_are_named(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "STREAM_SECONDS", 1)
    folder = tmp_path / "pack"
    manifest = pack(packed, folder, "flac", 60_000)
    last = folder / manifest["pieces"][-1]["name"]
    data = last.read_bytes()
    last.unlink()
    with pytest.raises(AudioVQError, match="missing pieces: " + last.name):
        PieceReader(folder)
    last.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(AudioVQError, match=f"{last.name} is damaged"):
        PieceReader(folder)
    with pytest.raises(AudioVQError, match="no pack in"):
        PieceReader(tmp_path)


def test_a_stream_of_another_length_is_refused(packed, tmp_path):
    writer = PieceWriter(tmp_path / "pack", 60 << 20)
    writer.add("audio/train/000000000000.i16", np.zeros(FRAME, "<i2").tobytes())
    writer.add("packed/train/index.json", (packed / "index.json").read_bytes())
    writer.finish()
    with pytest.raises(AudioVQError, match="pack it again"):
        unpack_corpus(PieceReader(tmp_path / "pack"), "train", tmp_path / "back")
    assert not (tmp_path / "back" / "unpacked.json").exists()


def test_stretches_cover_everything_and_begin_at_utterances():
    starts = list(range(0, 40 * 16000 * 60, 16000 * 47))
    total = starts[-1] + 9 * FRAME
    cut = stretches(starts, total)
    assert cut[0][0] == 0
    assert cut[-1][1] == total
    assert all(a[1] == b[0] for a, b in itertools.pairwise(cut))
    assert {first for first, _ in cut} <= set(starts)


def test_long_entries_are_cut_and_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_PART", 1000)
    data = np.random.default_rng(1).bytes(6500)
    writer = PieceWriter(tmp_path, 6000)
    writer.add("long", data)
    manifest = writer.finish()
    entries = [n for p in manifest["pieces"] for n in zipfile.ZipFile(tmp_path / p["name"]).namelist()]
    assert entries == [f"long@{i:03d}" for i in range(7)]
    assert len(manifest["pieces"]) > 1
    assert PieceReader(tmp_path).read("long") == data
