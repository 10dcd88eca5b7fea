"""Training the WaveNet decoder on the codes of a frozen speech codec, on packed corpora."""

from __future__ import annotations

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.codec import SpeechCodec
from audiovq.data.packed import FRAME, open_packed
from audiovq.devices import compile_modules, to_device
from audiovq.errors import AudioVQError
from audiovq.io import atomic_write
from audiovq.training.batches import pick_device, rank, use_bfloat16
from audiovq.training.codec import Batch, CropSampler
from audiovq.training.loop import Place, Task, add_previews, update_average
from audiovq.training.losses import SpectralLoss, stft
from audiovq.wavenet.model import CodedFrames, WaveNetDecoder
from audiovq.wavenet.sampler import Noise, WaveNetSampler, save_wavenet

log = logging.getLogger("audiovq")


@dataclass
class Decoded:
    """A sampled recording beside its original: what a metric of `audiovq.evaluation` reads.

    Attributes:
        id: unique within a validation.
        reference, degraded: (T,) float32 each.
    """

    id: str
    reference: np.ndarray
    degraded: np.ndarray


class WaveNetDecoderTask(Task):
    """Maximum likelihood by teacher forcing; validation by audio that is sampled freely.

    The target is the recording on the phase of the parallel decoder, see `on_phase_of`.

    Args:
        decoder: arguments of `WaveNetDecoder` without those that the codec decides.
        codec: folder, run or name of the frozen model; None: the bundled one.
        corpus: folder with the packed corpora ``train`` and ``validation``; None: ``packed`` in the cache.
        sampler: further arguments of `CropSampler`.
        batch_size, crop_frames, other_frames: of a step.
        book_weights: how often items have 1, 2, ... codebooks; None: equally often.
        phase_n_fft: window of `on_phase_of`; 0: the target is the recording itself.
        learning_rate, weight_decay, average_decay: AdamW, and the moving average of the weights.
        validation_items, validation_frames: crops that are sampled at each validation.
        validation_codebooks: the numbers of codebooks for that.
        metrics: classes by which sampled audio is scored as well; those whose packages are missing are left out.
        device, precision: see `audiovq.training.batches`.
        compile: whether the stack goes through torch.compile.
        seed: of the data.
    """

    def __init__(
        self,
        decoder: Mapping[str, Any],
        codec: str | None = None,
        corpus: str | None = None,
        sampler: Mapping[str, Any] | None = None,
        batch_size: int = 8,
        crop_frames: int = 48,
        other_frames: int = 100,
        book_weights: Sequence[float] | None = None,
        phase_n_fft: int = 512,
        learning_rate: float = 1.5e-3,
        weight_decay: float = 0.01,
        average_decay: float = 0.999,
        validation_items: int = 4,
        validation_frames: int = 100,
        validation_codebooks: Sequence[int] = (4, 8),
        metrics: Sequence[str] = (),
        device: str = "cpu",
        precision: str = "float32",
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        frozen = SpeechCodec.from_pretrained(codec)
        self.device = pick_device(device)
        self.mixed = use_bfloat16(precision, self.device)
        self.frozen = [frozen.requires_grad_(False).to(self.device)]  # a list keeps it out of the state
        backbone = frozen.decoder.backbone
        sizes = (frozen.encoder.latent_dim, backbone.channels[-1], frozen.speaker_encoder.dim)
        self.model = WaveNetDecoder(*sizes, frozen.hop_length, backbone.rate, **decoder)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        weights = np.ones(frozen.n_codebooks) if book_weights is None else np.asarray(book_weights, np.float64)
        if len(weights) != frozen.n_codebooks:
            raise AudioVQError(f"task.book_weights must be {frozen.n_codebooks} numbers, one for each codebook")
        self.book_weights, self.phase_n_fft = weights / weights.sum(), phase_n_fft
        self.batch_size, self.seed, self.average_decay = batch_size, seed, average_decay
        self.validation_items = validation_items
        self.validation_codebooks = sorted({min(n, frozen.n_codebooks) for n in validation_codebooks})
        self.spectral, self.metrics = SpectralLoss(sample_rate=frozen.sample_rate), make_metrics(metrics)
        self.to(self.device)
        train, validation = (part.to(self.device) for part in open_packed(corpus))
        self.train_crops = CropSampler(train, crop_frames, other_frames, **(sampler or {}))
        self.validation_crops = CropSampler(validation, validation_frames, other_frames, synthetic_share=0.0)
        self.audio_seconds = batch_size * crop_frames * FRAME / frozen.sample_rate
        self.optimizers = {
            "model": torch.optim.AdamW(
                self.model.parameters(),
                learning_rate,
                (0.9, 0.99),
                weight_decay=weight_decay,
                fused=True if self.device.type == "cuda" else None,
            )
        }
        self.rates = {"model": learning_rate}
        if compile:
            compile_modules([self.model.stack], log.info)

    @property
    def codec(self) -> SpeechCodec:
        """The frozen codec."""
        return self.frozen[0]

    @torch.no_grad()
    def code(self, batch: Batch, n_codebooks: np.ndarray, random_noise: bool = False) -> CodedFrames:
        """Code recordings as a file would hold them, and decode them in parallel.

        Args:
            batch: of recordings.
            n_codebooks: (B,) for each item.
            random_noise: see `SourceFilterDecoder.synthesize`.
        """
        codec, waveform = self.codec, batch.source[:, None]
        speaker = codec.speaker_encoder(batch.source_other[:, None])
        pitch = codec.pitch.track(waveform)
        source = codec.source(pitch)
        codes = codec.quantizer.encode(codec.encoder(waveform, speaker, source))
        latents = codes.new_zeros((len(codes), codec.encoder.latent_dim, codes.shape[-1]), dtype=torch.float32)
        for n in np.unique(n_codebooks).tolist():
            items = to_device(np.flatnonzero(n_codebooks == n), self.device)
            latents[items] = codec.quantizer.decode(codes[items, :n])
        direct = to_device(n_codebooks >= codec.decoder.direct_from, self.device)
        features = codec.decoder.features(latents, pitch, speaker, direct)
        parallel = codec.decoder.synthesize(features, pitch, direct, random_noise)
        return CodedFrames(latents, features, speaker, parallel, source)

    def target(self, batch: Batch, coded: CodedFrames) -> Tensor:
        """The waveform to be learned (B, 1, T)."""
        if not self.phase_n_fft:
            return batch.source[:, None]
        return on_phase_of(batch.source, coded.parallel[:, 0], self.phase_n_fft)[:, None]

    def training_step(self, place: Place) -> dict[str, Tensor]:
        self.train()
        rng = np.random.default_rng((self.seed, place.step, rank()))
        batch = self.train_crops.draw(self.batch_size, rng, augmented=False)
        books = rng.choice(len(self.book_weights), self.batch_size, p=self.book_weights) + 1
        coded = self.code(batch, books, random_noise=True)
        target = self.target(batch, coded)
        with self.autocast():
            loss = self.model(target, coded).mean()
        norm = self.update("model", loss, place.rate, 5.0)
        update_average(self.average, self.model, place.step, self.average_decay)
        return {"nats": loss.detach(), "gradient": norm}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Distances and scores of sampled audio, ``/n`` for n codebooks, beside those of the parallel decoder."""
        batch, average = self._validation_batch(), self._average_on_cpu()
        measures: dict[str, float] = {"loss": 0.0}
        for n in self.validation_codebooks:
            coded = self.code(batch, np.full(len(batch.source), n))
            torch.manual_seed(0)
            nats = float(self.average.eval()(self.target(batch, coded), coded).mean())
            sampled = sample_waveform(average, coded).to(self.device)
            measures[f"nats/{n}"] = nats
            for name, decoded in (("", sampled), ("parallel/", coded.parallel)):
                for metric, value in self.scores(decoded[:, 0], batch.source).items():
                    measures[f"{name}{metric}/{n}"] = value
            measures["loss"] += measures[f"mel/{n}"] + 4 * measures[f"magnitude/{n}"]
        return measures

    def scores(self, decoded: Tensor, original: Tensor) -> dict[str, float]:
        """Means over the items (B, T)."""
        terms = self.spectral(decoded.float(), original)
        values = {name: float(terms[name]) for name in ("mel", "magnitude")}
        pairs = [
            Decoded(str(i), a.cpu().numpy(), b.float().cpu().numpy())
            for i, (a, b) in enumerate(zip(original, decoded, strict=True))
        ]
        for metric in self.metrics:
            scored = [score.value for score in map(metric.score, pairs) if score is not None]
            values |= {metric.name: float(np.mean(scored))} if scored else {}
        return values

    def preview(self, writer: Any, step: int) -> None:
        batch = self._validation_batch()
        n = self.validation_codebooks[0]
        coded = self.code(batch, np.full(len(batch.source), n))
        sampled = sample_waveform(self._average_on_cpu(), coded)
        add_previews(writer, step, batch.source, sampled[:, 0], self.codec.sample_rate)

    def export(self, folder: Path) -> None:
        """A model folder: the codec's files, and the WaveNet's beside them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            assert self.codec.folder is not None
            with atomic_write(folder / name) as path:
                shutil.copyfile(self.codec.folder / name, path)
        save_wavenet(self.average.state_dict(), self.average.config, folder)

    def _validation_batch(self) -> Batch:
        return self.validation_crops.draw(self.validation_items, np.random.default_rng(0), augmented=False)

    def _average_on_cpu(self) -> WaveNetDecoder:
        return copy.deepcopy(self.average).cpu().eval()


def on_phase_of(waveform: Tensor, other: Tensor, n_fft: int) -> Tensor:
    """A waveform (B, T) with its magnitudes and the phases of another one, by short-time Fourier transforms.

    Few codebooks do not hold the phase of a recording. A decoder that has to reproduce it nevertheless must invent it;
    the phase of the parallel decoder's output is as good, and known. What is left to learn is small, and the
    sampled waveform stays aligned with that output.
    """
    window = torch.hann_window(n_fft, device=waveform.device)
    magnitudes, phases = (stft(x.float(), window, n_fft // 4) for x in (waveform, other))
    spectrum = magnitudes.abs() * phases / phases.abs().clamp_min(1e-7)
    return torch.istft(spectrum, n_fft, n_fft // 4, window=window, length=waveform.shape[-1])


@torch.no_grad()
def sample_waveform(wavenet: WaveNetDecoder, coded: CodedFrames, seed: int = 0) -> Tensor:
    """Sampled waveforms (B, 1, T), with the same random numbers for all items.

    Args:
        wavenet: on the CPU.
        coded: on any device.
        seed: of the random numbers.
    """
    on_cpu = CodedFrames(**{name: tensor.float().cpu() for name, tensor in vars(coded).items()})
    prepared, sampler = wavenet.prepare(on_cpu), WaveNetSampler(wavenet)
    batch, _, n_steps = prepared.base.shape
    noise = Noise(sampler, seed).at(0, n_steps).expand(batch, -1, -1, -1)
    values = sampler.sample(prepared.condition, noise, temperature=wavenet.temperature, extra=prepared.extra)
    return wavenet.join(values + prepared.base)


def make_metrics(names: Sequence[str]) -> list[Any]:
    """Metrics by the names of their classes, as far as their packages are installed."""
    made = []
    for name in names:
        module, _, kind = name.rpartition(".")
        try:
            made.append(getattr(import_module(module), kind)())
        except (AudioVQError, ImportError) as error:
            log.info("validation without %s: %s", kind, error)
    return made
