"""``audiovq train``: fit what a configuration describes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides: experiment=NAME, group=choice, key=value.")
    ] = None,
    config_dir: Annotated[Path | None, typer.Option(help="Folder of configurations; default: configs here.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
) -> None:
    """Train a model. Called again, it resumes from the run's last checkpoint, exactly.

    Example: audiovq train experiment=speech_debian training.batch_size=16 name=mine
    """
    import logging
    import os
    import signal

    from audiovq.errors import AudioVQError
    from audiovq.training.run import compose, find_configs
    from audiovq.training.run import train as run
    from audiovq.training.stopping import Stopped

    if not overrides:
        choices = sorted(path.stem for path in (find_configs(config_dir) / "experiment").glob("*.yaml"))
        raise AudioVQError(f"say what to train: experiment=NAME, one of {', '.join(choices)}; or key=value settings")
    config = compose(overrides, config_dir)
    if show:
        from omegaconf import OmegaConf

        typer.echo(OmegaConf.to_yaml(config))
        return
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("audiovq").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    try:
        folder = run(config)
    except Stopped as stop:
        if stop.number == signal.SIGINT:
            raise
        raise typer.Exit(128 + stop.number) from None
    if rank == 0:
        weights = [str(folder / name) for name in ("best", "latest") if (folder / name).is_dir()]
        typer.echo(f"done: weights in {weights[0] if weights else folder}, curves in {folder / 'tensorboard'}")
