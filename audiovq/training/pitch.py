"""Training the pitch tracker on labels that trackers agree on."""

from __future__ import annotations

import copy
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
from audiovq.hub import write_weights
from audiovq.training.batches import rank
from audiovq.training.loop import Place, Task, copy_buffers, update_average


class PitchTask(Task):
    """Cross-entropy against labels, blurred over neighbouring steps; frames without a label do not count.

    Half of the crops have noise added, and all a random level below the nominal one.

    Args:
        pitch: arguments of `PitchTracker`.
        corpus: folder with the packed corpora ``train`` and ``validation`` and their pitch labels; None: ``packed`` in
            the cache.
        batch_size, crop_frames: of a step.
        learning_rate, average_decay: AdamW, and the moving average of the weights.
        blur: standard deviation of the targets, steps of the scale.
        seed: of the crops.
    """

    def __init__(
        self,
        pitch: dict[str, Any],
        corpus: str | None = None,
        batch_size: int = 24,
        crop_frames: int = 64,
        learning_rate: float = 2e-3,
        average_decay: float = 0.998,
        blur: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = pitch
        self.model = PitchTracker(**pitch)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.train_corpus, self.validation_corpus = open_packed(corpus)
        self.batch_size, self.crop_frames, self.seed, self.decay = batch_size, crop_frames, seed, average_decay
        steps = torch.arange(-4, 5, dtype=torch.float32)
        self.register_buffer("kernel", torch.exp(-0.5 * (steps / blur).square()), persistent=False)
        self.optimizers = {
            "model": torch.optim.AdamW(self.model.parameters(), learning_rate, (0.9, 0.98), weight_decay=0.01)
        }
        self.rates = {"model": learning_rate}
        self.audio_seconds = batch_size * crop_frames * FRAME / SAMPLE_RATE

    kernel: Tensor

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

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
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
        waveform, labels = self.batch(
            self.train_corpus, self.batch_size, np.random.default_rng((self.seed, place.step, rank()))
        )
        loss = self.loss(self.model(waveform), labels)
        self.update("model", loss, place.rate, 1.0)
        update_average(self.average, self.model, place.step, self.decay)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.model)
        rng = np.random.default_rng(0)
        total = {"loss": 0.0, "voicing": 0.0, "gross": 0.0, "cents": 0.0}
        rounds = 8
        for _ in range(rounds):
            waveform, labels = self.batch(self.validation_corpus, 32, rng)
            logits = self.average(waveform)
            total["loss"] += float(self.loss(logits, labels)) / rounds
            for name, value in errors(decide(logits, 0.5), labels).items():
                total[name] += value / rounds
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
