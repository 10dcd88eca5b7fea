"""What happens beside the steps of a run: checkpoints, exports, pictures, progress."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write
from audiovq.speech.checkpoint import save_codec

log = logging.getLogger("audiovq")


class KeepLast(L.Callback):
    """Write ``last.ckpt`` every few steps, by renaming, so that a killed run always finds a whole one."""

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / "last.ckpt", every

    def save(self, trainer: L.Trainer) -> None:
        temporary = self.path.with_suffix(".partial")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.path)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        if int(task.step) % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, task: Any) -> None:
        self.save(trainer)


class ExportBest(L.Callback):
    """Export the averaged weights as a model folder: ``best`` whenever validation improves, ``latest`` each time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.best = folder, float("inf")

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.best = state["best"]

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        loss = float(trainer.callback_metrics["validation/loss"])
        if not math.isfinite(loss):
            raise AudioVQError("the validation loss is no number: lower task.learning_rate and start anew")
        self.export(task, "latest", loss)
        if loss < self.best:
            self.best = loss
            self.export(task, "best", loss)

    def export(self, task: Any, name: str, loss: float) -> None:
        """A model folder, with a note of how far the training was."""
        save_codec(task.average, self.folder / name)
        with atomic_write(self.folder / name / "training.json") as path:
            path.write_text(json.dumps({"step": int(task.step), "validation_loss": loss}) + "\n")


class Progress(L.Callback):
    """A line in the log every few steps: losses, codebook usage, audio-seconds a second, time left."""

    def __init__(self, every: int, audio_seconds_per_step: float, max_steps: int) -> None:
        self.every, self.audio, self.max_steps = every, audio_seconds_per_step, max_steps

    def on_train_start(self, trainer: L.Trainer, task: Any) -> None:
        self.clock, self.steps = time.perf_counter(), int(task.step)

    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("validation/")}
        log.info("validation  %s", "  ".join(f"{k[11:]} {v:.3f}" for k, v in sorted(metrics.items())))
        self.clock, self.steps = time.perf_counter(), int(task.step)

    def on_train_batch_end(self, trainer: L.Trainer, task: Any, *_: Any) -> None:
        step = int(task.step)
        if step % self.every or step == self.steps or not trainer.is_global_zero:
            return
        now = time.perf_counter()
        pace = (step - self.steps) / (now - self.clock)
        self.clock, self.steps = now, step
        values = {k.split("/", 1)[1]: float(v) for k, v in trainer.callback_metrics.items() if k[:3] in ("tra", "cod")}
        losses = (
            "bits",
            "mel",
            "complex",
            "magnitude",
            "waveform",
            "quantizer_loss",
            "adversarial",
            "feature",
            "voice",
            "content",
        )
        shown = [k for k in values if k in losses]
        shown += [k for k in values if k.startswith(("perplexity", "usage"))][:2]
        left = (self.max_steps - step) / pace
        log.info(
            "step %d/%d  %s  %.1f audio-s/s  %dh%02dm left",
            step,
            self.max_steps,
            "  ".join(f"{k} {values[k]:.3f}" for k in shown),
            pace * self.audio * trainer.world_size,
            left // 3600,
            left % 3600 // 60,
        )
        if trainer.logger is not None:
            trainer.logger.log_metrics({"train/audio_seconds_per_second": pace * self.audio}, step)


class Listen(L.Callback):
    """Audio and spectrogram pictures of validation items in TensorBoard, at every validation."""

    def __init__(self, n_items: int = 3) -> None:
        self.n_items = n_items

    @torch.inference_mode()
    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        writer = getattr(trainer.logger, "experiment", None)
        if writer is None or not trainer.is_global_zero or trainer.sanity_checking:
            return
        codec = task.average
        loader: Any = trainer.val_dataloaders
        batch = next(iter(loader))
        waveform = batch["waveform"][: self.n_items].to(task.device)
        batch = {k: v[: self.n_items].to(task.device) for k, v in batch.items()}
        decoded, _ = codec(waveform, task.speaker_input(batch), n_codebooks=codec.default_n_codebooks)
        step = int(task.step)
        for i, (reference, estimate) in enumerate(zip(waveform, decoded, strict=True)):
            for name, signal in (("reference", reference), ("decoded", estimate)):
                writer.add_audio(f"{name}/{i}", signal.float().cpu().clamp(-1, 1), step, codec.sample_rate)
            writer.add_figure(f"spectrogram/{i}", compare(reference[0], estimate[0], codec.sample_rate), step)


def compare(reference: torch.Tensor, decoded: torch.Tensor, sample_rate: int) -> Any:
    """A matplotlib figure: spectrogram of the reference above that of the decoded waveform (both (T,))."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    for axis, signal, title in zip(figure.subplots(2), (reference, decoded), ("reference", "decoded"), strict=True):
        spectrum = torch.stft(signal.float().cpu(), 512, 128, window=torch.hann_window(512), return_complex=True).abs()
        level = 20 * torch.log10(spectrum + 1e-3)
        extent = (0, len(signal) / sample_rate, 0, sample_rate / 2000)
        axis.imshow(level.numpy(), origin="lower", aspect="auto", extent=extent, vmin=-50, vmax=40, cmap="magma")
        axis.set(title=title, ylabel="kHz")
    return figure
