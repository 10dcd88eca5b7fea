"""The recorder of ViZDoom repeats itself, and its player turns away from walls."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.data.episodes import BUTTONS
from audiovq.errors import AudioVQError
from recipes.video.recorder import Player, Recording, record


def test_the_player_turns_in_front_of_a_wall_and_repeats_itself():
    first, second = Player(3), Player(3)
    depths = np.random.default_rng(0).integers(0, 40, 300)
    moves = [first.act(float(depth)) for depth in depths]
    assert moves == [second.act(float(depth)) for depth in depths]
    assert {len(move) for move in moves} == {len(BUTTONS)}
    assert all(not any(move[2:]) for move, depth in zip(moves, depths, strict=True) if depth < 8)
    assert any(move[2] for move in moves)


def test_recording_repeats_itself_and_turns_shift_the_image():
    pytest.importorskip("vizdoom")
    settings = Recording(episodes=2, n_frames=60)
    first, second = list(record(settings)), list(record(settings))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.actions, b.actions)
    assert first[0].frames.shape == (60, 84, 84, 3)
    assert not np.array_equal(first[0].frames, first[1].frames)


def test_an_unknown_scenario_is_refused():
    pytest.importorskip("vizdoom")
    with pytest.raises(AudioVQError, match="no scenario 'nowhere'"):
        next(record(Recording(("nowhere",))))
