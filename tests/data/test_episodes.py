"""Recordings of play: what is written comes back, splits go by episode, and the recorder repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.data.episodes import Episode, open_episodes, split_of_episode, write_episodes
from audiovq.errors import AudioVQError


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


def test_missing_and_cut_recordings_are_told(tmp_path):
    with pytest.raises(AudioVQError, match=r"record\.py"):
        open_episodes(tmp_path / "none")
    write_episodes(tmp_path / "r", some_episodes(2))
    whole = (tmp_path / "r" / "frames.u8").read_bytes()
    (tmp_path / "r" / "frames.u8").write_bytes(whole[: -4 * 5 * 3])
    with pytest.raises(AudioVQError, match="record it again"):
        open_episodes(tmp_path / "r")


def test_recording_repeats_itself_and_turns_shift_the_picture():
    pytest.importorskip("vizdoom")
    from audiovq.data.vizdoom import Recording, record

    settings = Recording(episodes=2, n_frames=60)
    first, second = list(record(settings)), list(record(settings))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert first[0].frames.shape == (60, 84, 84, 3)
    assert not np.array_equal(first[0].frames, first[1].frames)


def test_an_unknown_scenario_is_told():
    pytest.importorskip("vizdoom")
    from audiovq.data.vizdoom import Recording, record

    with pytest.raises(AudioVQError, match="no scenario 'nowhere'"):
        next(record(Recording(("nowhere",))))
