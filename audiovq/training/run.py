"""From a configuration to a run: compose, build, resume, fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write, cache_dir
from audiovq.training.loop import Run


def find_configs(folder: str | Path | None = None) -> Path:
    """The hydra tree: ``folder``, or the one of the package: ``audiovq/configs`` installed, ``configs`` in a clone.

    Raises:
        AudioVQError: when there is none.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = [Path(folder)] if folder else [package / "configs", package.parent / "configs"]
    for candidate in candidates:
        if (candidate / "train.yaml").is_file():
            return candidate.resolve()
    raise AudioVQError(f"no train.yaml in {candidates[0]}: give the folder of configurations with --config-dir")


def compose(overrides: Sequence[str], folder: str | Path | None = None) -> Any:
    """The configuration with overrides in hydra's grammar.

    Raises:
        AudioVQError: when an override names nothing that exists.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_dir(str(find_configs(folder)), version_base="1.3"):
        try:
            config = compose("train", list(overrides))
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise AudioVQError(" ".join(str(error).split())) from error
    if missing := sorted(OmegaConf.missing_keys(config), key=len):
        raise AudioVQError(f"{missing[0]} is not set: give {missing[0]}=DIR")
    return config


def train(config: Any) -> Path:
    """Fit, or go on fitting, what a configuration describes. Returns the run's folder.

    Under ``torchrun`` every process calls it with the same configuration; process 0 writes.

    Raises:
        AudioVQError: when the data is not there, or the checkpoint is another task's.
        Stopped: after a signal that asked to stop; the state is saved.
    """
    import torch
    from omegaconf import OmegaConf

    from audiovq.training.batches import pick_device, process_group, rank
    from audiovq.training.offline import join

    torch.set_num_threads(config.training.threads)
    with process_group(pick_device(config.training.device)):
        folder = Path(config.run_dir) if config.run_dir else cache_dir() / "runs" / config.name
        task, run = make_task(config), make_run(config, folder)
        results, source = config.training.get("resume_from"), config.training.get("init_from")
        if results and rank() == 0 and not (folder / "state.safetensors").is_file():
            join(Path(results), folder)
        if not (config.training.resume and run.resume(task)) and source:
            task.begin_from(OmegaConf.to_container(source) if OmegaConf.is_config(source) else source)
        if rank() == 0:
            with atomic_write(folder / "config.yaml") as path:
                OmegaConf.save(config, path)
        run.fit(task)
    return folder


def make_task(config: Any) -> Any:
    """The task that a configuration describes, its weights decided by the seed.

    Raises:
        AudioVQError: when the configuration does not fit it.
    """
    import torch
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    torch.manual_seed(config.seed)
    try:
        return instantiate(OmegaConf.create(OmegaConf.to_container(config.task)), _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, AudioVQError):
            raise cause from None
        if isinstance(cause, TypeError):  # a setting that the task does not have
            raise AudioVQError(f"task: {cause}") from error
        raise


def make_run(config: Any, folder: Path) -> Run:
    """The run that the ``training`` settings describe.

    Raises:
        AudioVQError: when they say neither how many steps nor how many minutes, or both.
    """
    settings = config.training
    return Run(
        folder,
        config.seed,
        settings.max_steps,
        settings.minutes,
        settings.decay,
        settings.warmup_steps,
        settings.validate_every,
        settings.checkpoint_every,
        settings.log_every,
    )
