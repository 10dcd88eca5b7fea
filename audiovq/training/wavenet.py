"""Training WaveNets on packed corpora: the decoder of a frozen speech codec, and the VQ-VAE of the paper.

The VQ-VAE for speech is that of van den Oord et al. (2017), section 4.2.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from audiovq.codec.codec import SpeechCodec
from audiovq.data.corpora import open_corpora
from audiovq.data.packed import FRAME, PackedCorpus, open_packed, pack
from audiovq.data.utterance import SAMPLE_RATE
from audiovq.devices import compile_modules, to_device
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.io import atomic_write, cache_dir
from audiovq.training.batches import ordered_batches, rank, wait_for_all
from audiovq.training.crops import Batch, CropSampler
from audiovq.training.losses import SpectralLoss, stft
from audiovq.training.task import DatasetTask, EMATask, Place, add_previews
from audiovq.wavenet.model import CodedFrames, WaveNetDecoder
from audiovq.wavenet.paper import PaperVQVAE
from audiovq.wavenet.sampler import Noise, WaveNetSampler, save_wavenet

log = logging.getLogger("audiovq")


class WaveNetDecoderTask(EMATask):
    """Maximum likelihood by teacher forcing; validation by audio that is sampled freely.

    The target is the recording on the phase of the parallel decoder, see `on_phase_of`.

    Args:
        decoder: arguments of `WaveNetDecoder` without those that the codec decides.
        codec: folder, run or name of the frozen model; None: the bundled one.
        corpus: see `open_packed`.
        sampler, crop_frames, other_frames: arguments of `CropSampler`.
        book_weights: how often items have 1, 2, ... codebooks; None: equally often.
        phase_n_fft: window of `on_phase_of`; 0: the target is the recording itself.
        validation_frames, validation_codebooks: of the crops that are sampled at each validation.
        metrics: classes by which sampled audio is scored as well; those whose packages are missing are left out.

    Raises:
        AudioVQError: when there are not as many ``book_weights`` as codebooks.
    """

    clip = 5.0

    def __init__(
        self,
        decoder: Mapping[str, Any],
        codec: str | None = None,
        corpus: str | None = None,
        sampler: Mapping[str, Any] | None = None,
        crop_frames: int = 48,
        other_frames: int = 100,
        book_weights: Sequence[float] | None = None,
        phase_n_fft: int = 512,
        validation_frames: int = 100,
        validation_codebooks: Sequence[int] = (4, 8),
        metrics: Sequence[str] = (),
        compile: bool = False,
        weight_decay: float = 0.01,
        **settings: Any,
    ) -> None:
        frozen = SpeechCodec.from_pretrained(codec)
        backbone = frozen.decoder.backbone
        sizes = (frozen.encoder.latent_dim, backbone.channels[-1], frozen.speaker_encoder.dim)
        super().__init__(WaveNetDecoder(*sizes, frozen.hop_length, backbone.rate, **decoder), **settings)
        self.frozen = [frozen.requires_grad_(False).to(self.device)]  # a list keeps it out of the state
        weights = np.ones(frozen.n_codebooks) if book_weights is None else np.asarray(book_weights, np.float64)
        if len(weights) != frozen.n_codebooks:
            raise AudioVQError(f"task.book_weights must be {frozen.n_codebooks} numbers, one for each codebook")
        self.book_weights, self.phase_n_fft = weights / weights.sum(), phase_n_fft
        self.validation_codebooks = sorted({min(n, frozen.n_codebooks) for n in validation_codebooks})
        self.spectral, self.metrics = SpectralLoss(frozen.sample_rate).to(self.device), make_metrics(metrics)
        train, validation = (part.to(self.device) for part in open_packed(corpus))
        self.train_crops = CropSampler(train, crop_frames, other_frames, **(sampler or {}))
        self.validation_crops = CropSampler(validation, validation_frames, other_frames, synthetic_share=0.0)
        self.audio_seconds = self.batch_size * crop_frames * FRAME / frozen.sample_rate
        shared: dict[str, Any] = {"weight_decay": weight_decay, "fused": self.device.type == "cuda" or None}
        parameters, rate = self.model.parameters(), self.rates["model"]
        self.optimizers = {"model": torch.optim.AdamW(parameters, rate, (0.9, 0.99), **shared)}
        if compile:
            compile_modules([self.model.stack], log.info)

    @property
    def codec(self) -> SpeechCodec:
        """The frozen codec."""
        return self.frozen[0]

    @torch.no_grad()
    def code(self, batch: Batch, n_codebooks: np.ndarray, random_noise: bool = False) -> CodedFrames:
        """Code recordings as a file would hold them, with (B,) codebooks, and decode them in parallel.

        ``random_noise``: see `SourceFilterDecoder.synthesize`.
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
        return {"nats": loss.detach(), "gradient": self.improve(loss, place)}

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
        arrays = ((a.cpu().numpy(), b.float().cpu().numpy()) for a, b in zip(original, decoded, strict=True))
        pairs = [SimpleNamespace(reference=a, degraded=b) for a, b in arrays]  # what a metric reads
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

    Few codebooks do not hold the phase of a recording, and a decoder must invent one; that of the parallel decoder's
    output is as good, and known. What is left to learn is small, and the sampled waveform stays aligned with it.
    """
    window = torch.hann_window(n_fft, device=waveform.device)
    magnitudes, phases = (stft(x.float(), window, n_fft // 4) for x in (waveform, other))
    spectrum = magnitudes.abs() * phases / phases.abs().clamp_min(1e-7)
    return torch.istft(spectrum, n_fft, n_fft // 4, window=window, length=waveform.shape[-1])


@torch.no_grad()
def sample_waveform(wavenet: WaveNetDecoder, coded: CodedFrames, seed: int = 0) -> Tensor:
    """Sampled waveforms (B, 1, T), with the same random numbers for all items; the WaveNet is on the CPU."""
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


class SpeakerCrops(Dataset[dict[str, Any]]):
    """Crops of a packed corpus with their speakers' numbers; item i is decided by ``(seed, i)``.

    A speaker is drawn with probability proportional to ``duration ** 0.7``, then a place in their recordings. Items are
    dicts: ``waveform (1, n_frames * FRAME)`` float32 and ``speaker`` int, the place of the name in ``speakers``; others
    are left out.

    Raises:
        AudioVQError: when none of the speakers is in the corpus.
    """

    def __init__(self, corpus: PackedCorpus, speakers: Sequence[str], n_frames: int, seed: int = 0) -> None:
        numbers = {name: number for number, name in enumerate(speakers)}
        self.corpus, self.n_frames, self.seed = corpus, n_frames, seed
        self.numbers = [numbers.get(name, -1) for name in corpus.speaker_names]
        weights = np.diff(corpus.spans, axis=1)[:, 0].astype(np.float64) ** 0.7 * (np.array(self.numbers) >= 0)
        if not weights.any():
            raise AudioVQError("none of the speakers that the model is trained on has recordings for validation")
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        speaker = int(rng.choice(len(self.weights), p=self.weights))
        first, end = self.corpus.spans[speaker].tolist()
        last = len(self.corpus.samples) // FRAME - self.n_frames
        start = min(first + int(rng.integers(max(end - first - self.n_frames, 0) + 1)), last)
        return {"waveform": self.corpus.crops(np.array([start]), self.n_frames), "speaker": self.numbers[speaker]}


class PaperTask(DatasetTask):
    """Equation 3 of the paper: the likelihood by teacher forcing, the codebook loss and the commitment loss.

    Equation 3 sums the likelihood over samples and the other terms over latents. Here all is divided by the number of
    samples, so that the loss is in nats a sample.

    Args:
        model: arguments of `PaperVQVAE` without the speakers, who are those of the training corpus.
        corpora, corpus: see `packed_folder`.
        crop_frames: of a training crop, frames of 20 ms; validation crops are twice as long.
        quantizer_weight: of the codebook and commitment losses in equation 3, where it is 1.
        preview_items, preview_seconds: validation items that are sampled for TensorBoard.

    Raises:
        AudioVQError: without a corpus; for another sample rate than that of packed corpora, or crops that are no whole
            number of latents.
    """

    def __init__(
        self,
        model: dict[str, Any],
        corpora: Sequence[Any],
        corpus: str | None = None,
        crop_frames: int = 22,
        quantizer_weight: float = 1.0,
        preview_items: int = 2,
        preview_seconds: float = 1.0,
        compile: bool = False,
        **settings: Any,
    ) -> None:
        train, validation = open_packed(packed_folder(corpora, corpus))
        speakers = train.speaker_names
        vqvae = PaperVQVAE(**model, speakers=speakers)
        if vqvae.sample_rate != SAMPLE_RATE:
            raise AudioVQError(f"packed corpora are at {SAMPLE_RATE} Hz: set sample_rate={SAMPLE_RATE}")
        if crop_frames * FRAME % vqvae.hop_length:
            raise AudioVQError(f"crops of {crop_frames} frames are no whole number of latents: set task.crop_frames")
        super().__init__(vqvae, **settings)
        self.quantizer_weight = quantizer_weight
        self.preview_items, self.preview_seconds = preview_items, preview_seconds
        self.train_crops = SpeakerCrops(train, speakers, crop_frames, self.seed)
        self.validation_crops = SpeakerCrops(validation, speakers, 2 * crop_frames)
        self.audio_seconds = self.batch_size * crop_frames * FRAME / SAMPLE_RATE
        if compile:
            compile_modules([vqvae.encoder, vqvae.decoder.stack], log.info)

    def datasets(self) -> tuple[Dataset, Dataset]:
        return self.train_crops, Subset(self.validation_crops, range(self.validation_items))

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        nll, quantized = model(batch["waveform"], batch["speaker"])
        logged = {"bits": nll.mean() / math.log(2), "quantizer": quantized.loss}
        logged |= {name: quantized.metrics[name] for name in ("perplexity", "usage_window")}
        return nll.mean() + self.quantizer_weight / model.hop_length * quantized.loss, logged

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bits of a sample (``loss``), and bits of a sample with the next item's speaker, which should be more."""
        nll, quantized = model(batch["waveform"], batch["speaker"])
        other = model.decoder(batch["waveform"], quantized.latents, batch["speaker"].roll(1))
        bits = {"loss": nll.mean() / math.log(2), "bits/other_speaker": other.mean() / math.log(2)}
        return {**bits, "quantizer": quantized.loss, "perplexity": quantized.metrics["perplexity"]}

    def preview(self, writer: Any, step: int) -> None:
        if not self.preview_items:
            return
        batch = next(ordered_batches(self.data[1], self.preview_items, self.device))
        waveform = batch["waveform"][..., : round(self.preview_seconds * SAMPLE_RATE)]
        decoded = self.average.convert(waveform, batch["speaker"])
        add_previews(writer, step, waveform[:, 0], decoded[:, 0], SAMPLE_RATE)

    def export(self, folder: Path) -> None:
        save_weights(self.average, folder, torch.float32)


def packed_folder(corpora: Sequence[Any], corpus: str | None = None) -> Path:
    """Folder of the packed corpora ``train`` and ``validation``; other corpora are packed when they are first used.

    Args:
        corpora: ``[{"name": "packed"}]``, or corpora as for `audiovq.data.corpora.open_corpora`.
        corpus: the folder; None: ``packed`` in the cache, or a folder beside it that is named after ``corpora``.

    Raises:
        AudioVQError: when there are no such corpora, or a split of them is empty.
    """
    if list(corpora) == [{"name": "packed"}]:
        return Path(corpus) if corpus else cache_dir() / "packed"
    digest = hashlib.sha256(json.dumps(list(corpora), sort_keys=True, default=str).encode()).hexdigest()[:8]
    folder = Path(corpus) if corpus else cache_dir() / f"packed-{digest}"
    for split in ("train", "validation") if rank() == 0 else ():
        if not (folder / split / "index.json").is_file():
            utterances = open_corpora(corpora, split)
            if not utterances:
                raise AudioVQError(f"there is nothing for {split} in {', '.join(map(str, corpora))}")
            log.info("packing %d recordings into %s, once", len(utterances), folder / split)
            pack(utterances, folder / split)
    wait_for_all()
    return folder
