"""``audiovq train``: fit what a configuration describes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from audiovq.errors import AudioVQError

Overrides = Annotated[
    list[str] | None, Argument(metavar="KEY=VALUE", help="Hydra overrides: experiment=NAME, group=choice, key=value.")
]
ConfigDir = Annotated[Path | None, Option(metavar="DIR", help="Configuration folder; default: the package's.")]
Pack = Annotated[
    Path | None, Option(metavar="DIR", help="Do not train; write everything that training needs to this folder.")
]
Have = Annotated[str, Option(metavar="NAME,...|FILE", help="With --pack: packages installed on the other machine.")]
Audio = Annotated[str, Option(metavar="opus|flac|int16", help="With --pack: format of the recordings.")]
RunFolder = Annotated[Path | None, Option("--run", metavar="DIR", help="With --pack: continue from this run's state.")]
FromPack = Annotated[Path | None, Option(metavar="DIR", help="Train from a pack; needs --minutes and --out.")]
Minutes = Annotated[float | None, Option(metavar="N", help="With --from-pack: time limit of the command.")]
Join = Annotated[Path | None, Option(metavar="DIR", help="Copy the results of --from-pack into the folder of --run.")]


def train(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    show: Annotated[bool, Option("--show", help="Print the configuration and exit.")] = False,
    pack: Pack = None,
    have: Have = "torch",
    python: Annotated[str, Option(metavar="VERSION", help="With --pack: the other machine's Python.")] = "3.12",
    audio: Audio = "opus",
    kbps: Annotated[float, Option(metavar="KBPS", help="With --pack: Opus bit rate.")] = 32.0,
    piece_mib: Annotated[float, Option(metavar="MIB", help="With --pack: maximum file size.")] = 60.0,
    run_folder: RunFolder = None,
    from_pack: FromPack = None,
    minutes: Minutes = None,
    out: Annotated[Path | None, Option(metavar="DIR", help="With --from-pack: folder for the results.")] = None,
    join: Join = None,
) -> None:
    """Train a model. Repeat the command to resume exactly from the run's last checkpoint.

    Needs the extra train: pip install 'audiovq[train]'.

    Example: audiovq train experiment=prior training.batch_size=16 name=mine

    For machines without a network, see docs/offline-training.md: --pack, --from-pack and --join.
    """
    from audiovq.training.run import compose, find_configs

    if join is not None:
        from audiovq.training.offline import join as join_results

        if run_folder is None:
            raise AudioVQError("--join needs the run's folder: --run DIR")
        typer.echo(f"step {join_results(join, run_folder)} is in {run_folder}")
        return
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if from_pack is not None:
        from audiovq.training.offline import train_from_pack

        if minutes is None or out is None:
            raise AudioVQError("training from a pack needs --minutes and --out")
        train_from_pack(from_pack, out, minutes, settings=overrides or ())
        typer.echo(f"done: results in {out}")
        return
    if not overrides:
        choices = sorted(path.stem for path in (find_configs(config_dir) / "experiment").glob("*.yaml"))
        raise AudioVQError(
            f"nothing to train: give experiment=NAME, one of {', '.join(choices)}; or key=value settings"
        )
    config = compose(overrides, config_dir)
    if show:
        from omegaconf import OmegaConf

        typer.echo(OmegaConf.to_yaml(config))
        return
    if pack is None:
        return _fit(config, rank)
    _pack(config, pack, run_folder, have, python, audio, kbps, piece_mib)


def _pack(
    config: Any, folder: Path, run: Path | None, have: str, python: str, audio: str, kbps: float, mib: float
) -> None:
    """Write all that a training needs to a folder."""
    from omegaconf import OmegaConf

    from audiovq.training.packing import PackOptions, read_names, write_pack

    settings = PackOptions(read_names(have), python, audio, kbps, piece_bytes=int(mib * 2**20))
    size = write_pack(OmegaConf.to_container(config), folder, settings, run)  # type: ignore[arg-type]
    typer.echo(f"done: {size / 2**20:.1f} MiB in {folder}; on the other machine: python run.py --minutes N --out OUT")


def _fit(config: Any, rank: int) -> None:
    """Train; an interrupt ends with the exit code of its signal."""
    import signal

    from audiovq.training.batches import Stopped
    from audiovq.training.run import train as run

    try:
        folder = run(config)
    except Stopped as stop:
        if stop.number == signal.SIGINT:
            raise
        raise typer.Exit(128 + stop.number) from None
    if rank == 0:
        weights = [str(folder / name) for name in ("best", "latest") if (folder / name).is_dir()]
        typer.echo(f"done: weights in {weights[0] if weights else folder}, curves in {folder / 'tensorboard'}")
