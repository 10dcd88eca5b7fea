"""Recordings of episodes: files, splits, and cached codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiovq.data.episodes import (
    Episode,
    coded_episodes,
    encode_frames,
    open_episodes,
    split_of_episode,
    write_episodes,
)
from audiovq.errors import AudioVQError
from audiovq.image import ImageCodec


def some_episodes(n: int = 10) -> list[Episode]:
    random = np.random.default_rng(0)
    return [
        Episode(
            f"e{i}",
            "maze",
            split_of_episode(i),
            random.integers(0, 256, (3 + i, 4, 5, 3), dtype=np.uint8),
            random.integers(0, 2, (3 + i, 2), dtype=np.uint8),
        )
        for i in range(n)
    ]


def test_what_is_written_comes_back(tmp_path):
    written = some_episodes()
    assert write_episodes(tmp_path / "r", written) == sum(len(e) for e in written)
    for before, after in zip(written, open_episodes(tmp_path / "r"), strict=True):
        assert (before.id, before.split) == (after.id, after.split)
        np.testing.assert_array_equal(before.frames, after.frames)
        np.testing.assert_array_equal(before.actions, after.actions)
    assert [e.id for e in open_episodes(tmp_path / "r", "test")] == ["e9"]


def test_a_failed_recording_leaves_the_old_one(tmp_path):
    write_episodes(tmp_path / "r", some_episodes(2))
    with pytest.raises(AudioVQError, match="nothing was recorded"):
        write_episodes(tmp_path / "r", [])
    assert len(open_episodes(tmp_path / "r")) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_missing_and_truncated_recordings_are_refused(tmp_path):
    with pytest.raises(AudioVQError, match=r"record\.py"):
        open_episodes(tmp_path / "none")
    write_episodes(tmp_path / "r", some_episodes(2))
    whole = (tmp_path / "r" / "frames.u8").read_bytes()
    (tmp_path / "r" / "frames.u8").write_bytes(whole[: -4 * 5 * 3])
    with pytest.raises(AudioVQError, match="record it again"):
        open_episodes(tmp_path / "r")


def small_codec() -> ImageCodec:
    torch.manual_seed(0)
    level = {"stride": 4, "latent_dim": 4, "quantizer": {"codebook_size": 16}}
    codec = ImageCodec([level], channels=16, residual=8, n_residual=1)
    codec(torch.rand(8, 3, 16, 16))  # starts the codebook
    return codec.eval()


def test_codes_are_cached_by_the_content_of_every_frame(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    actions = random.integers(0, 2, (5, 2), dtype=np.uint8)
    changed = frames.copy()
    changed[4] = 255 - changed[4]  # not the first frame
    codec, coded = small_codec(), []
    first = [Episode("e0", "maze", "train", frames, actions)]
    other = [Episode("e0", "maze", "train", changed, actions)]
    result = coded_episodes(codec, first, lambda done, total: coded.append((done, total)))[0].codes
    np.testing.assert_array_equal(result, encode_frames(codec, frames))
    again = coded_episodes(codec, first, lambda done, total: coded.append((done, total)))[0].codes
    np.testing.assert_array_equal(again, result)
    assert coded == [(1, 1)], "the second time from the cache"
    np.testing.assert_array_equal(coded_episodes(codec, other)[0].codes, encode_frames(codec, changed))
    assert not np.array_equal(encode_frames(codec, changed), result)
    assert len(list((tmp_path / "codes").glob("frames-*.npz"))) == 2


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_damaged_cache_is_computed_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path))
    codec, episodes = small_codec(), [Episode("e", "m", "train", np.zeros((3, 8, 8, 3), np.uint8), np.zeros((3, 2)))]
    expected = coded_episodes(codec, episodes)[0].codes
    (path,) = (tmp_path / "codes").glob("frames-*.npz")
    path.write_bytes(damage)
    np.testing.assert_array_equal(coded_episodes(codec, episodes)[0].codes, expected)
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["codes"], expected)
