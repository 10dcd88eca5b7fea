"""First stage: record frames and actions from ViZDoom into ``<cache>/data/vizdoom``.

    python recipes/video/record.py [--episodes N] [--frames N] [--scenarios NAME,NAME] [--out DIR]

A minute and 0.9 GB for the 150 episodes of ``my_way_home`` that the other stages use. The same seed
gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from audiovq.data.episodes import open_episodes, write_episodes
from audiovq.errors import AudioVQError
from audiovq.io import cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # recipes share modules

from recipes.video.recorder import Recording, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", default="my_way_home", help="with commas; default: my_way_home")
    parser.add_argument("--episodes", type=int, default=Recording.episodes, help="of each scenario")
    parser.add_argument("--frames", type=int, default=Recording.n_frames, help="of the longest episode")
    parser.add_argument("--tics", type=int, default=Recording.tics, help="of the game between two frames")
    parser.add_argument("--seed", type=int, default=Recording.seed)
    parser.add_argument("--out", type=Path, default=cache_dir() / "data" / "vizdoom")
    options = parser.parse_args()
    names = tuple(options.scenarios.split(","))
    settings = Recording(names, options.episodes, options.frames, options.tics, options.seed)
    start = time.perf_counter()
    try:
        n_frames = write_episodes(options.out, record(settings))
    except AudioVQError as error:
        raise SystemExit(f"record.py: {error}") from error
    episodes = open_episodes(options.out)
    parts = {s: sum(len(e) for e in episodes if e.split == s) for s in ("train", "validation", "test")}
    told = ", ".join(f"{count} {split}" for split, count in parts.items())
    print(f"{options.out}: {len(episodes)} episodes, {n_frames} frames ({told}), {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
