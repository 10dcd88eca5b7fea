"""The training task of a prior over a codec's codes."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from audiovq.data.code_stretches import CodeRuns, CodeStretches, make_tapes
from audiovq.data.codes import CodesCache, cached_codes
from audiovq.errors import AudioVQError
from audiovq.files import atomic_write
from audiovq.prior.checkpoint import save_prior
from audiovq.prior.condition import Condition, condition_of
from audiovq.prior.density import VoiceDensity
from audiovq.prior.model import CodePrior
from audiovq.speech.codec import SpeechCodec
from audiovq.training.prior_data import PriorData
from audiovq.training.schedule import trapezoid

log = logging.getLogger("audiovq")


class CodePriorTask(L.LightningModule):
    """Maximum likelihood of the codes. Every step draws its random numbers from ``(seed, step, rank)``.

    Args:
        prior: constructor arguments of `CodePrior`, without those that the codec and the data decide.
        codec: model whose codes are modelled; None for the bundled one.
        corpora: see `audiovq.data.corpora`; their codes are made once and kept.
        learning_rate, warmup_steps, max_steps, decay_steps, weight_decay: AdamW with a trapezoidal schedule.
        average_decay: of the moving average of the weights, which is validated and exported.
        condition_dropout, book_dropout: see `CodeStretches`.
        clip: largest norm of the gradient.
    """

    def __init__(
        self,
        prior: dict[str, Any],
        codec: str | None,
        corpora: list[Any],
        learning_rate: float,
        warmup_steps: int,
        max_steps: int,
        decay_steps: int,
        weight_decay: float,
        average_decay: float,
        condition_dropout: float,
        book_dropout: float,
        seed: int,
        clip: float = 1.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._codec = [SpeechCodec.from_pretrained(codec)]  # in a list: its weights are no part of this task's state
        self.cache = code_corpora(self._codec[0], corpora)
        self.languages = sorted({u.language for u in self.cache.utterances if u.split == "train"} - {"und"})
        self.prior = CodePrior(
            n_codebooks=self.cache.n_codebooks,
            codebook_size=self.cache.codebook_size,
            speaker_dim=self._codec[0].speaker_encoder.dim,
            languages=self.languages,
            codec=self.cache.codec,
            **prior,
        )
        self.average = copy.deepcopy(self.prior).requires_grad_(False)
        self.learning_rate, self.weight_decay, self.clip = learning_rate, weight_decay, clip
        self.schedule = (warmup_steps, max_steps, decay_steps)
        self.average_decay, self.seed = average_decay, seed
        self.condition_dropout, self.book_dropout = condition_dropout, book_dropout
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    step: Tensor

    # -- what a run asks for ----------------------------------------------------------------------------------------

    def data_module(self, config: Any) -> PriorData:
        """The batches that the configuration's ``training`` describes."""
        settings = config.training
        n_frames = round(settings.crop_seconds * self._codec[0].frame_rate)
        train = CodeStretches(
            make_tapes(self.cache.split("train")),
            self.languages,
            n_frames,
            self.prior.absent,
            config.seed,
            self.condition_dropout,
            self.book_dropout,
        )
        validation = CodeRuns(make_tapes(self.cache.split("validation")), self.languages, n_frames, self.prior.absent)
        return PriorData(train, validation, settings.batch_size, settings.validation_items, settings.max_steps)

    def callbacks(self, config: Any, folder: Path) -> list[L.Callback]:
        """Exports and the log."""
        settings = config.training
        codes = round(settings.crop_seconds * self._codec[0].frame_rate) * settings.batch_size * self.prior.n_codebooks
        return [ExportBestPrior(folder), PriorProgress(settings.log_every, codes, settings.max_steps)]

    # -- steps ------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.prior.parameters() if p.dim() > 1]
        others = [p for p in self.prior.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.learning_rate, (0.9, 0.98), foreach=True)

    def condition(self, batch: dict[str, Tensor]) -> Condition:
        return condition_of(self._codec[0], batch)

    def book_nats(self, prior: CodePrior, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum of nats and number of codes of each book, (K,) each."""
        keep = {name: batch[name] for name in ("keep_speaker", "keep_language") if name in batch}
        nats = prior.nll(batch["codes"], self.condition(batch), batch["before"], **keep)
        return nats.sum((0, 2)), (batch["codes"] != prior.absent).sum((0, 2))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        step = int(self.step)
        torch.manual_seed((self.seed * 1_000_003 + step) * 4099 + self.global_rank)
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * trapezoid(step, *self.schedule)
        nats, counts = self.book_nats(self.prior, batch)
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(nats.sum() / counts.sum())
        norm = torch.nn.utils.clip_grad_norm_(self.prior.parameters(), self.clip)
        optimizer.step()
        self.update_average(step)
        self.step += 1
        mean = nats.detach() / counts.clamp_min(1)
        self.log_dict({f"train/nats_book_{k + 1}": v for k, v in enumerate(mean)})
        self.log_dict({"train/nats": nats.detach().sum() / counts.sum(), "train/gradient_norm": norm})
        self.log("step", float(step))

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the current ones; the decay grows, so that the start is forgotten soon."""
        decay = min(self.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.prior.parameters()), 1 - decay)

    def on_validation_start(self) -> None:
        self.average.eval()
        self._sums: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._sums.append(self.book_nats(self.average, batch))

    def on_validation_epoch_end(self) -> None:
        nats, counts = (torch.stack(parts).sum(0).double() for parts in zip(*self._sums, strict=True))
        mean = nats / counts
        bits = float(mean.sum()) * self._codec[0].frame_rate / math.log(2)
        self.log_dict({f"validation/nats_book_{k + 1}": v.float() for k, v in enumerate(mean)}, sync_dist=True)
        self.log_dict({"validation/loss": mean.mean().float(), "validation/bits_per_second": bits}, sync_dist=True)
        self.log("step", float(self.step))

    def export(self, folder: Path) -> None:
        """A prior's folder, with the density of the training voices."""
        save_prior(self.average, folder, fit_voices(self.cache, self._codec[0]))


def code_corpora(codec: SpeechCodec, corpora: list[Any]) -> CodesCache:
    """Codes from the cache, or made now, which the log tells."""
    start = time.perf_counter()

    def tell(done: int, total: int) -> None:
        if done % 1000 == 0 or done == total:
            log.info("coded %d of %d recordings, %.0f s", done, total, time.perf_counter() - start)

    return cached_codes(codec, corpora, progress=tell)


def fit_voices(cache: CodesCache, codec: SpeechCodec) -> VoiceDensity | None:
    """The density of the training recordings' speaker vectors; None where a voice is a number in a table."""
    if codec.has_speaker_table:
        return None
    train = cache.split("train")
    seconds = np.array([u.n_samples / codec.sample_rate for u in train])
    speakers = [u.speaker for u in train]
    return VoiceDensity.fit(np.stack([u.voice for u in train]), speakers, seconds, codec.speaker_encoder.levels)


class ExportBestPrior(L.Callback):
    """Export the averaged weights: ``best`` whenever validation improves, ``latest`` each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.best = folder, float("inf")

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best = state["best"]

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        values = {k[11:]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("validation/")}
        loss = values["loss"]
        if not math.isfinite(loss):
            raise AudioVQError("the validation loss is no number: lower task.learning_rate and start anew")
        names = ["latest"]
        if loss < self.best:
            self.best, names = loss, ["latest", "best"]
        for name in names:
            task.export(self.folder / name)
            with atomic_write(self.folder / name / "training.json") as path:
                path.write_text(json.dumps({"step": int(task.step), "validation": values}) + "\n")


class PriorProgress(L.Callback):
    """A line in the log every few steps: nats, codes a second, time left."""

    def __init__(self, every: int, codes_per_step: int, max_steps: int) -> None:
        self.every, self.codes, self.max_steps = every, codes_per_step, max_steps

    def on_train_start(self, trainer: L.Trainer, task: Any) -> None:
        self.clock, self.steps = time.perf_counter(), int(task.step)

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        if trainer.is_global_zero:
            values = {k[11:]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("validation/")}
            books = "  ".join(f"{values[k]:.3f}" for k in sorted(values) if k.startswith("nats_book"))
            log.info("validation  nats %.4f  (%s)  %.0f bits/s", values["loss"], books, values["bits_per_second"])
        self.on_train_start(trainer, task)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        step = int(task.step)
        if step % self.every or step == self.steps or not trainer.is_global_zero:
            return
        pace = (step - self.steps) / (time.perf_counter() - self.clock)
        self.on_train_start(trainer, task)
        left = (self.max_steps - step) / pace
        nats, codes = float(trainer.callback_metrics["train/nats"]), pace * self.codes * trainer.world_size
        line = "step %d/%d  nats %.3f  %.0f codes/s  %dh%02dm left"
        log.info(line, step, self.max_steps, nats, codes, left // 3600, left % 3600 // 60)
        if trainer.logger is not None:
            trainer.logger.log_metrics({"train/codes_per_second": codes}, step)
