"""From a configuration to a run: compose, build, resume, fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from audiovq.errors import AudioVQError
from audiovq.files import cache_dir

log = logging.getLogger("audiovq")


def find_configs(folder: str | Path | None = None) -> Path:
    """The hydra tree: the folder given, ``configs`` here, or ``configs`` beside the package.

    Raises:
        AudioVQError: when there is none.
    """
    candidates = [Path(folder)] if folder else [Path("configs"), Path(__file__).resolve().parents[2] / "configs"]
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

    Raises:
        AudioVQError: when the data is not there, or the checkpoint is another model's.
    """
    import lightning as L
    import torch
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from lightning.pytorch.loggers import TensorBoardLogger
    from omegaconf import OmegaConf

    from audiovq.training.callbacks import KeepLast
    from audiovq.training.loop import Task
    from audiovq.training.precision import precision_for

    # Lightning talks about its own settings at every start, and its worry about resuming does not hold here: the place
    # in the data is the step alone.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings(
        "ignore",
        ".*(does not have many workers|smaller than the logging interval|dataloader is not resumable|LeafSpec).*",
    )
    settings = config.training
    torch.set_num_threads(settings.threads)
    folder = Path(config.run_dir) if config.run_dir else cache_dir() / "runs" / config.name
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    torch.manual_seed(config.seed)
    try:
        task = instantiate(OmegaConf.create(OmegaConf.to_container(config.task)), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, AudioVQError):
            raise error.__cause__ from None
        raise
    if isinstance(task, Task):
        return _run(task, config, folder)
    data, callbacks = parts_of(task, config, folder)
    last = folder / "last.ckpt"
    resume = last if settings.resume and last.is_file() else None
    epochs = 0
    if resume:
        kept = torch.load(resume, weights_only=True, mmap=True, map_location="cpu")
        data.first_step = int(kept["state_dict"]["step"])
        # A run is one epoch to Lightning; one that was done, and is to go on to more steps, begins another.
        epochs = kept["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        log.info("resuming %s at step %d", folder, data.first_step)
        if data.first_step >= settings.max_steps:
            log.info("all %d steps are done", settings.max_steps)
            return folder
    elif settings.get("init_from"):
        if not hasattr(task, "warm_start"):
            raise AudioVQError("training.init_from is for codecs and priors of codes: this task begins from nothing")
        source = settings.init_from
        task.warm_start(OmegaConf.to_container(source) if OmegaConf.is_config(source) else source)
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy=strategy_for(settings),
        precision=cast(Any, precision_for(settings.precision, settings.accelerator)),
        max_epochs=epochs + 1,
        val_check_interval=settings.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        callbacks=[*callbacks, KeepLast(folder, settings.checkpoint_every)],
    )
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=False)
    if settings.max_steps % settings.validate_every:
        trainer.validate(task, datamodule=data, verbose=False)  # so that the last weights are exported, too
    return folder


def _run(task: Any, config: Any, folder: Path) -> Path:
    """Fit a task of `audiovq.training.loop`."""
    from omegaconf import OmegaConf

    from audiovq.training.loop import Run

    settings = config.training
    run = Run(
        folder,
        settings.max_steps,
        settings.minutes,
        settings.decay,
        settings.warmup_steps,
        settings.validate_every,
        settings.checkpoint_every,
        settings.log_every,
        config.seed,
        task.audio_seconds,
    )
    source = settings.get("init_from")
    if source and not (folder / "state.json").is_file():
        task.begin_from(OmegaConf.to_container(source) if OmegaConf.is_config(source) else source)
    run.fit(task)
    return folder


def parts_of(task: Any, config: Any, folder: Path) -> tuple[Any, list[Any]]:
    """The batches and callbacks of a task: its own ``data_module`` and ``callbacks``, or crops of speech."""
    from omegaconf import OmegaConf

    from audiovq.training.callbacks import ExportBest, Listen, Progress
    from audiovq.training.data import SpeechCrops

    if hasattr(task, "data_module"):
        return task.data_module(config), task.callbacks(config, folder)
    settings = config.training
    data = SpeechCrops(
        cast(list, OmegaConf.to_container(config.data.corpora)),
        task.codec.sample_rate,
        task.codec.hop_length,
        settings.batch_size,
        settings.crop_seconds,
        settings.other_seconds,
        settings.validation_items,
        settings.max_steps,
        config.seed,
        cast(Any, OmegaConf.to_container(config.perturbation)) if config.get("perturbation") else None,
        settings.conversion_share,
        cast(Any, OmegaConf.to_container(settings.virtual_voices)) if settings.get("virtual_voices") else None,
        cast(Any, OmegaConf.to_container(settings.partners)) if settings.get("partners") else None,
        taught=getattr(task, "teacher", None) is not None,
        language_weights=cast(Any, config.data.get("language_weights")),
    )
    progress = Progress(settings.log_every, data.crop_seconds * settings.batch_size, settings.max_steps)
    return data, [progress, ExportBest(folder), Listen()]


def strategy_for(settings: Any) -> str:
    """Lightning's strategy. Several processes need one in which each of our two losses may leave weights out."""
    import os

    several = settings.devices not in (1, "1", "auto") or int(os.environ.get("WORLD_SIZE", 1)) > 1
    if settings.strategy == "auto" and several:
        return "ddp_find_unused_parameters_true"
    return settings.strategy
