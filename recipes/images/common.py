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
from audiovq.io import atomic_write, cache_dir
from audiovq.prior.image import prior_folder
from audiovq.training.run import compose, train

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"

_PHOTOGRAPHS32 = ("data.pictures.side=256", "data.size=32", "training.validation_items=256")
_FRAMES = ("data=frames", "training.batch_size=16", "training.validation_items=128")
_FASHION = ("data=fashion_mnist", "training.batch_size=64", "training.validation_items=512")
_BITS = (
    "experiment=image",
    "image=fields32",
    *_PHOTOGRAPHS32,
    "training.max_steps=8000",
    "training.batch_size=32",
    "training.decay=0.31",
)
_PAPER = (
    *("task.learning_rate=2e-4", "training.max_steps=250000", "training.decay=0.2", "training.precision=float32"),
    "training.validate_every=2500",
)
RUNS: dict[str, tuple[str, ...]] = {
    # bits per dimension
    "image_vq32": _BITS,
    "image_vae32": (*_BITS, "+image.kind=vae"),
    "image_gumbel32": (*_BITS, "+image.kind=gumbel"),
    "image_vq32_512": (
        *_BITS,
        *("image.levels.0.latent_dim=40", "image.levels.0.quantizer.n_codebooks=10"),
        "image.levels.0.quantizer.codebook_size=512",
    ),
    "image_vq32_prior": (
        *("experiment=image_prior", *_PHOTOGRAPHS32, "task.codec=image_vq32", "training.batch_size=64"),
    ),
    "image_vq32_512_prior": (
        *("experiment=image_prior", *_PHOTOGRAPHS32, "task.codec=image_vq32_512", "training.batch_size=64"),
        "training.max_steps=1500",
    ),
    # one level and two
    "image_flat128": ("experiment=image",),
    "image_hierarchy128": ("experiment=image", "image=hierarchy128"),
    "image_top_prior": (
        *("experiment=image_prior", "task.codec=image_hierarchy128", "training.max_steps=2500"),
        *("prior.n_layers=9", "prior.attention_every=3"),
    ),
    "image_bottom_prior": (
        *("experiment=image_prior", "task.codec=image_hierarchy128", "task.level=1", "training.batch_size=4"),
    ),
    "image_flat_frames": ("experiment=image", *_FRAMES, "data.size=80"),
    "image_hierarchy_frames": ("experiment=image", "image=hierarchy128", *_FRAMES, "data.size=80"),
    # the second stage, below it 84x84 -> 21x21x1, K = 512 (van den Oord et al. 2017, section 4.1)
    "image_frames84": ("experiment=image", *_FRAMES, "image.levels.0.latent_dim=32"),
    "image_second_vq": ("experiment=image_second_stage", "task.codec=image_frames84"),
    "image_second_vae": ("experiment=image_second_stage", "task.codec=image_frames84", "task.model.kind=vae"),
    # 28x28 grey -> 7x7x1, and a prior with classes
    "image_fashion": (
        *("experiment=image", *_FASHION, "image.channels=64", "image.residual=32", "+image.image_channels=1"),
        *("image.levels.0.latent_dim=32", "image.levels.0.quantizer.codebook_size=128", "training.decay=0.33"),
    ),
    "image_fashion_prior": (
        *("experiment=image_prior", *_FASHION, "prior.n_classes=10", "task.codec=image_fashion"),
        *("training.max_steps=4000", "training.decay=0.375"),
    ),
    # the paper's own models, on its data: data.root=DIR
    "image_cifar10": (
        *("experiment=image", "image=paper32", "data=images", "data.pictures.name=cifar10", "data.size=32", *_PAPER),
        *("training.batch_size=128", "training.validation_items=5000"),
    ),
    "image_imagenet128": (
        *("experiment=image", "data=images", "data.pictures.name=imagenet", "data.size=128", *_PAPER),
        *("image.channels=256", "image.residual=256", "training.batch_size=32", "training.validation_items=1000"),
    ),
}
"""Settings of every run of this recipe, by its name, as on the command line of `audiovq train`."""


def settings_of(name: str, overrides: Sequence[str] = ()) -> Any:
    """The configuration of a run."""
    group = "prior" if "prior" in name else "image"
    named = [f"name={name}"] if "second" in name else [f"name={name}", f"{group}.name={name}"]
    return compose([*RUNS[name], *named, *overrides])


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


def fit(*runs: str, steps: int | None = None, overrides: Sequence[str] = ()) -> None:
    """Train the runs, or go on training, one after another; what is done already takes no time.

    ``overrides`` are settings as on the command line of `audiovq train`, the same for all.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO)
    less = []
    if steps:
        less = [f"training.max_steps={steps}", f"training.validate_every={steps}"]
    for name in runs:
        logging.getLogger("audiovq").info("== %s", name)
        train(settings_of(name, [*less, *overrides]))
    torch.manual_seed(0)


def fit_priors(model: str, *priors: str, steps: int | None = None) -> Path:
    """Train the priors of a run's levels, coarse to fine, and put them into its folder of weights."""
    fit(*priors, steps=steps)
    folder = run_folder(model)
    for level, name in enumerate(priors):
        shutil.copytree(run_folder(name), prior_folder(folder, level), dirs_exist_ok=True)
    return folder


def fixed_crops(run: str, n: int, split: str = "test", overrides: Sequence[str] = ()) -> Tensor:
    """Fixed crops (n, C, size, size) of a run's own source."""
    data = settings_of(run, overrides).data
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
