"""Recorder of episodes of ViZDoom (Wydmuch et al. 2018), whose free scenarios come with the package ``vizdoom``.

The player is scripted and random: it holds a move for a while, walks more than it stands, and turns away from walls.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.data.episodes import BUTTONS, Episode, split_of_episode
from audiovq.errors import AudioVQError

SCENARIOS = ("my_way_home", "health_gathering", "deadly_corridor", "take_cover")
SIZE = 84
"""Height and width of the frames in pixels, as in van den Oord et al. 2017, section 4.3."""

# Buttons held together, and their relative probabilities; the order of bits is that of BUTTONS.
_MOVES = (
    ((1, 0, 0, 0, 0), 4),
    ((0, 1, 0, 0, 0), 4),
    ((0, 0, 1, 0, 0), 6),
    ((1, 0, 1, 0, 0), 2),
    ((0, 1, 1, 0, 0), 2),
    ((0, 0, 0, 1, 0), 2),
    ((0, 0, 0, 0, 1), 2),
    ((0, 0, 0, 0, 0), 1),
)
_NEAR = 8  # in steps of the game's depth buffer, about 8 map units each
_AHEAD = (slice(100, 140), slice(140, 180))  # rows and columns of the screen in which the player measures the depth
_SHORTEST = 24  # frames; a shorter episode has no context of 6 frames and 10 to predict


@dataclass(frozen=True)
class Recording:
    """Settings of a recording.

    Attributes:
        scenarios: names of the game's scenarios.
        episodes: number per scenario.
        n_frames: the longest episode; one ends earlier when the player arrives or dies.
        tics: game tics (35 a second) between two frames; at 2 a turn shifts the image by about 7 of 84 pixels.
        seed: of the game and the player.
    """

    scenarios: tuple[str, ...] = ("my_way_home",)
    episodes: int = 150
    n_frames: int = 300
    tics: int = 2
    seed: int = 1


class Player:
    """Random choice of buttons and how long to hold them; turns away from walls."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._left = 0
        self._move = _MOVES[0][0]

    def act(self, depth: float) -> tuple[int, ...]:
        """The buttons to hold now, given the depth straight ahead in steps of the depth buffer."""
        near = depth < _NEAR
        if self._left <= 0 or (near and any(self._move[2:])):
            weights = np.array([weight for _, weight in _MOVES], float)
            if near:
                weights[2:] = 0
            elif not any(self._move[2:]):
                weights[:2] = 0  # after a turn it walks
            self._move = _MOVES[self._random.choice(len(_MOVES), p=weights / weights.sum())][0]
            self._left = int(self._random.integers(4, 17))
        self._left -= 1
        return self._move


def record(settings: Recording) -> Iterator[Episode]:
    """Play, and yield episode after episode. The same settings give the same bytes with the same release of vizdoom.

    Raises:
        AudioVQError: when vizdoom is missing or has no such scenario.
    """
    for scenario in settings.scenarios:
        with open_game(scenario) as game:
            kept = index = 0
            while kept < settings.episodes:
                seed = zlib.crc32(f"{settings.seed}/{scenario}/{index}".encode()) >> 1
                frames, actions = _play(game, seed, settings)
                index += 1
                if index > 20 * settings.episodes + 20:
                    raise AudioVQError(f"episodes of {scenario} end before {_SHORTEST} frames; record another scenario")
                if len(frames) >= _SHORTEST:
                    yield Episode(f"{scenario}-{kept:04d}", scenario, split_of_episode(kept), frames, actions)
                    kept += 1


def _play(game: Any, seed: int, settings: Recording) -> tuple[np.ndarray, np.ndarray]:
    game.set_seed(seed)
    game.new_episode()
    player = Player(seed)
    frames: list[np.ndarray] = []
    actions: list[tuple[int, ...]] = []
    while len(frames) < settings.n_frames and not game.is_episode_finished():
        state = game.get_state()
        frames.append(shrink(state.screen_buffer))
        actions.append(player.act(float(np.median(state.depth_buffer[_AHEAD]))))
        game.make_action([float(held) for held in actions[-1]], settings.tics)
    return np.stack(frames), np.array(actions, np.uint8)


def shrink(screen: np.ndarray) -> np.ndarray:
    """The central square of a screen (H, W, 3), averaged down to `SIZE` x `SIZE`."""
    from PIL import Image

    height, width = screen.shape[:2]
    left = (width - height) // 2
    box = (left, 0, left + height, height)
    return np.asarray(Image.fromarray(screen).resize((SIZE, SIZE), Image.Resampling.BOX, box))


@contextmanager
def open_game(scenario: str) -> Iterator[Any]:
    """A game without window, weapon and status bar, in a temporary working folder, where it writes its settings.

    Raises:
        AudioVQError: when vizdoom is missing or has no such scenario.
    """
    try:
        import vizdoom
    except ModuleNotFoundError:
        raise AudioVQError("recording needs vizdoom: pip install 'audiovq[vizdoom]'") from None
    config = Path(vizdoom.scenarios_path) / f"{scenario}.cfg"
    if not config.is_file():
        raise AudioVQError(f"vizdoom has no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    game = vizdoom.DoomGame()
    game.load_config(str(config))
    game.set_window_visible(False)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_available_buttons([getattr(vizdoom.Button, name.upper()) for name in BUTTONS])
    game.set_depth_buffer_enabled(True)
    game.set_render_weapon(False)
    game.set_render_crosshair(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_doom_skill(1)
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            game.init()
            yield game
        finally:
            game.close()
            os.chdir(here)
