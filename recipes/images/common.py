"""What the stages of this recipe share: training by name, fixed crops, one file of results."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiovq.data.images import FixedCrops, open_images
from audiovq.files import atomic_write, cache_dir
from audiovq.prior.image import prior_folder
from audiovq.training.run import compose, train

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"


def run_folder(name: str) -> Path:
    """The best weights of a run."""
    return cache_dir() / "runs" / name / "best"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The command line of any stage: ``--steps``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="of each training, when time is short; results.json tells")
    return parser


def parse(description: str | None, *flags: str, **folders: str) -> argparse.Namespace:
    """The command line of a stage: its own flags, options that name a folder (with their help), and ``--steps``."""
    parser = parser_of(description)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    for name, told in folders.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=told)
    return parser.parse_args()


def fit(*experiments: str, steps: int | None = None, overrides: Sequence[str] = ()) -> None:
    """Train, or go on training, one after another; what is done already takes no time.

    ``overrides`` are settings as on the command line of `audiovq train`, the same for all.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO)
    less = []
    if steps:
        less = [f"training.{key}={n}" for key, n in (("max_steps", steps), ("decay_steps", max(steps // 3, 1)))]
        less.append(f"training.validate_every={steps}")
    for name in experiments:
        logging.getLogger("audiovq").info("== %s", name)
        train(compose([f"experiment={name}", *less, *overrides]))
    torch.manual_seed(0)


def fit_priors(model: str, *priors: str, steps: int | None = None) -> Path:
    """Train the priors of a run's levels, coarse to fine, and put them into its folder of weights."""
    fit(*priors, steps=steps)
    folder = run_folder(model)
    for level, name in enumerate(priors):
        shutil.copytree(run_folder(name), prior_folder(folder, level), dirs_exist_ok=True)
    return folder


def fixed_crops(experiment: str, n: int, split: str = "test", overrides: Sequence[str] = ()) -> Tensor:
    """Fixed crops (n, C, size, size) of an experiment's own source."""
    data = compose([f"experiment={experiment}", *overrides]).data
    pictures = open_images(dict(data.pictures), split)
    return FixedCrops(pictures, data.size, n).images()


def write_results(stage: str, found: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Put a stage's figures into results.json and leave the others'."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[stage] = {"steps": arguments.steps or "all", **found}
    with atomic_write(RESULTS) as path:
        path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    print(f"{RESULTS}: {stage}")


def show(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    Console(width=120).print(table)
