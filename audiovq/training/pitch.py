"""Training the pitch tracker on labels that trackers agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.codec.encoder import N_VALUES, UNVOICED, PitchTracker, decide
from audiovq.codec.signal import TARGET_DB, frame_levels
from audiovq.data.packed import FRAME, PackedCorpus, open_packed
from audiovq.data.utterance import SAMPLE_RATE
from audiovq.tensor_files import write_weights
from audiovq.training.batches import rank
from audiovq.training.task import EMATask, Place, copy_buffers


class PitchTask(EMATask):
    """Cross-entropy against labels, blurred over neighbouring steps; frames without a label do not count.

    Half of the crops have noise added, and all a random level below the nominal one.

    Args:
        pitch: arguments of `PitchTracker`.
        corpus: see `open_packed`; with pitch labels.
        blur: standard deviation of the targets, steps of the scale.
    """

    kernel: Tensor

    def __init__(
        self,
        pitch: dict[str, Any],
        corpus: str | None = None,
        crop_frames: int = 64,
        blur: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(PitchTracker(**pitch), device="cpu", precision="float32", **settings)
        self.settings, self.crop_frames = pitch, crop_frames
        self.train_corpus, self.validation_corpus = open_packed(corpus)
        steps = torch.arange(-4, 5, dtype=torch.float32)
        self.register_buffer("kernel", torch.exp(-0.5 * (steps / blur).square()), persistent=False)
        optimizer = torch.optim.AdamW(self.model.parameters(), self.rates["model"], (0.9, 0.98), weight_decay=0.01)
        self.optimizers = {"model": optimizer}
        self.audio_seconds = self.batch_size * crop_frames * FRAME / SAMPLE_RATE

    def batch(self, corpus: PackedCorpus, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Waveforms (B, 1, T) at a random level, and labels (B, F)."""
        sizes = np.diff(corpus.spans, axis=1)[:, 0].astype(float) ** 0.7
        speakers = rng.choice(len(sizes), n, p=sizes / sizes.sum())
        first, last = corpus.spans[speakers].T
        start = np.minimum(
            (first + rng.random(n) * (last - first)).astype(int), len(corpus.samples) // FRAME - self.crop_frames
        )
        waveform = corpus.crops(start, self.crop_frames)
        loudest = frame_levels(waveform, FRAME).amax(1, keepdim=True).clamp_min(-80.0)
        fall = torch.from_numpy(rng.exponential(5.0, (n, 1))).float()
        waveform = waveform * 10 ** ((TARGET_DB - loudest - fall) / 20)
        ratio = torch.from_numpy(rng.uniform(5, 40, (n, 1))).float()
        noisy = torch.from_numpy(rng.random((n, 1)) < 0.5).float()
        noise = torch.randn_like(waveform) * 10 ** ((TARGET_DB - fall - ratio) / 20)
        return (waveform + noisy * noise)[:, None], corpus.rows("pitch", start, self.crop_frames).long()

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, N_VALUES + 1, F), labels (B, F), -1 unknown -> scalar."""
        target = F.one_hot(labels.clamp_min(0), N_VALUES + 1).float()
        voiced = F.conv1d(target[..., 1:].flatten(0, 1)[:, None], self.kernel[None, None], padding=4)[:, 0]
        voiced = voiced.view(*labels.shape, N_VALUES)
        voiced = voiced / voiced.sum(-1, keepdim=True).clamp_min(1e-6) * (labels > UNVOICED)[..., None]
        target = torch.cat([target[..., :1], voiced], dim=-1)
        entropy = -(target * torch.log_softmax(logits.float(), dim=1).transpose(1, 2)).sum(-1)
        known = labels >= 0
        return (entropy * known).sum() / known.sum().clamp_min(1)

    def training_step(self, place: Place) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, place.step, rank()))
        waveform, labels = self.batch(self.train_corpus, self.batch_size, rng)
        loss = self.cross_entropy(self.model(waveform), labels)
        self.improve(loss, place)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.model)
        rng, rounds = np.random.default_rng(0), 8
        total = {"loss": 0.0, "voicing": 0.0, "gross": 0.0, "cents": 0.0}
        for _ in range(rounds):
            waveform, labels = self.batch(self.validation_corpus, 32, rng)
            logits = self.average(waveform)
            measures = {"loss": float(self.cross_entropy(logits, labels)), **errors(decide(logits, 0.5), labels)}
            total = {name: value + measures[name] / rounds for name, value in total.items()}
        return total

    def export(self, folder: Path) -> None:
        write_weights(self.average.state_dict(), self.settings, folder)


def errors(codes: Tensor, labels: Tensor) -> dict[str, float]:
    """Per cent of labelled frames with wrong voicing, per cent of voiced ones off by a semitone and more, and the mean
    deviation of the others in cents."""
    known = labels >= 0
    both = (codes > UNVOICED) & (labels > UNVOICED)
    distance = (codes - labels).abs()[both].float() * 25
    near = distance < 100
    return {
        "voicing": 100 * float(((codes > UNVOICED) != (labels > UNVOICED))[known].float().mean()),
        "gross": 100 * float((~near).float().mean()),
        "cents": float(distance[near].mean()),
    }
