"""Training the speech codec on packed corpora: one step on any device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.codec.codec import Reconstruction, SpeechCodec
from audiovq.codec.concealment import FILE_NAME, LatentPredictor
from audiovq.codec.signal import TARGET_DB, frame_levels
from audiovq.data.packed import FRAME, open_packed
from audiovq.data.utterance import SAMPLE_RATE
from audiovq.data.whisper import WhisperEncoder, encoder_folder
from audiovq.devices import compile_modules, restore, to_device
from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, model_folder, weights_folder
from audiovq.tensor_files import write_weights
from audiovq.training.batches import rank
from audiovq.training.crops import Batch, CropSampler
from audiovq.training.losses import (
    EnvelopeCorrelationLoss,
    MultiResolutionDiscriminator,
    SpeakerMeans,
    SpectralLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    relative_waveform_loss,
)
from audiovq.training.task import EMATask, Place, add_previews, copy_buffers

log = logging.getLogger("audiovq")

GAP_FRAMES, GAP_RATE = 3, 0.1
"""Length of the gaps that the decoder learns to bridge, and the share of the frames that they take."""
TEACHER_DIM = 64
"""Features of a recogniser for each frame."""


def loudness(waveform: Tensor) -> Tensor:
    """Levels (B, F) of the frames of (B, T), in units of 10 dB above a floor 50 dB below the nominal level."""
    return (frame_levels(waveform, FRAME) - TARGET_DB + 50).clamp_min(0) / 10


def fit_linear(layer: nn.Conv1d, rows: Tensor, wanted: Tensor, ridge: float = 1e-3) -> None:
    """Set a convolution of width 1 to the least-squares map from ``rows (N, C)`` to ``wanted (N, D)``."""
    inputs = nn.functional.pad(rows.double(), (0, 1), value=1.0)
    products = inputs.T @ inputs
    damping = ridge * products.diagonal().mean() * torch.eye(len(products), device=rows.device)
    solution = torch.linalg.solve(products + damping, inputs.T @ wanted.double()).float()
    layer.weight.copy_(solution[:-1].T[..., None])
    layer.bias.copy_(solution[-1])  # type: ignore[union-attr]


def predictor_of(name_or_dir: str) -> LatentPredictor:
    """What fills the gaps of a model; `AudioVQError` where its folder has nothing of the kind."""
    folder = model_folder(name_or_dir)
    found = LatentPredictor.load(folder, codes_hash(folder))
    if found is None:
        raise AudioVQError(f"{folder} has no {FILE_NAME} of its codes: recipes/speech/concealment.py makes it")
    return found


class CodecTask(EMATask):
    """Reconstruction, what a recogniser makes of it, and, from ``adversarial_from`` on, discriminators.

    Args:
        model: arguments of `SpeechCodec`.
        weights: of the losses ``mel, magnitude, complex, waveform, harmonics, disturbance, envelope, level, quantizer,
            listener, teacher, loudness, speaker, adversarial, feature``.
        corpus: see `open_packed`.
        sampler, crop_frames, other_frames: arguments of `CropSampler`.
        phase_from, harmonics_from: fewest codebooks of an item that is asked for the phase, and for that of its lowest
            harmonics.
        gap_share: share of items of which the decoder loses packets of 60 ms, one in ten.
        concealment: folder or name of the model by whose network they are filled (its codes have to be this one's);
            None: in a straight line.
        listener_items, listener_layers: of a batch that Whisper's encoder hears (0: none), and of its first layers.
        adversarial_from: share of the run after which the discriminators begin.
        adversarial_samples, adversarial_rate: of each item that they see, and their learning rate.
        discriminator: arguments of `MultiResolutionDiscriminator`.
        frozen: prefixes of the codec's weights that stay as they are.
        slow: factors of the learning rate, by prefixes of the codec's weights (the longest one counts).
        compile: whether the networks go through torch.compile.

    Raises:
        AudioVQError: for another sample rate than that of packed corpora.
    """

    clip = 5.0

    def __init__(
        self,
        model: dict[str, Any],
        weights: Mapping[str, float],
        corpus: str | None = None,
        sampler: Mapping[str, Any] | None = None,
        crop_frames: int = 48,
        other_frames: int = 100,
        phase_from: int = 5,
        harmonics_from: int = 2,
        gap_share: float = 0.0,
        concealment: str | None = None,
        listener_items: int = 4,
        listener_layers: int = 4,
        adversarial_from: float = 0.5,
        adversarial_samples: int = 5120,
        adversarial_rate: float = 3e-4,
        discriminator: Mapping[str, Any] | None = None,
        frozen: Sequence[str] = (),
        slow: Mapping[str, float] | None = None,
        compile: bool = False,
        weight_decay: float = 0.01,
        **settings: Any,
    ) -> None:
        codec = SpeechCodec(**model)
        super().__init__(codec, **settings)
        self.weights, self.frozen = dict(weights), tuple(frozen)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(("pitch.", *self.frozen)))
        self.discriminator = MultiResolutionDiscriminator(**(discriminator or {}))
        if (rate := codec.sample_rate) != SAMPLE_RATE:
            raise AudioVQError(f"packed corpora are at {SAMPLE_RATE} Hz: set sample_rate={SAMPLE_RATE}")
        self.spectral, self.envelope = SpectralLoss(sample_rate=rate), EnvelopeCorrelationLoss(rate)
        self.teacher = nn.Conv1d(codec.quantizer.content_dim, TEACHER_DIM, 1)
        self.loudness = nn.Conv1d(codec.quantizer.content_dim, 1, 1)
        #: Whisper's encoder, in a list: that keeps it out of the state.
        self.listener = [self._load_listener()] if listener_items else []
        self.gap_share, self.listener_items, self.listener_layers = gap_share, listener_items, listener_layers
        self.phase_from, self.harmonics_from = phase_from, harmonics_from
        self.predictor = predictor_of(concealment) if concealment else None
        self.adversarial_from, self.adversarial_samples = adversarial_from, adversarial_samples
        self.to(self.device)
        train, validation = (part.to(self.device) for part in open_packed(corpus))
        self.train_crops = CropSampler(train, crop_frames, other_frames, **(sampler or {}))
        self.validation_crops = CropSampler(validation, 2 * crop_frames, other_frames)
        means = SpeakerMeans(codec.quantizer.detail_dim, len(train.speaker_names))
        self.speaker_means = means.to(self.device) if self.weights.get("speaker") else None
        self.audio_seconds = self.batch_size * crop_frames * FRAME / rate
        self.rates["discriminator"] = adversarial_rate
        self._make_optimizers(slow or {}, weight_decay)
        if compile:  # what takes most of the time; the average, and so validation, stays as it is
            parts = (codec.encoder.content, codec.encoder.detail, codec.decoder.backbone, codec.speaker_encoder.units)
            compile_modules((*parts, self.discriminator), log.info)

    def _load_listener(self) -> WhisperEncoder:
        listener = WhisperEncoder.load(encoder_folder("the listener's loss")).to(self.device)
        return listener.lower(torch.bfloat16) if self.mixed and listener.mel.is_cuda else listener

    def _make_optimizers(self, slow: Mapping[str, float], weight_decay: float) -> None:
        shared: dict[str, Any] = {"betas": (0.8, 0.99), "fused": True}
        adamw = torch.optim.AdamW
        self.optimizers = {
            "model": adamw(self._groups(slow), self.rates["model"], weight_decay=weight_decay, **shared),
            "discriminator": adamw(self.discriminator.parameters(), self.rates["discriminator"], **shared),
        }

    def _groups(self, slow: Mapping[str, float]) -> list[dict[str, Any]]:
        """Trained parameters of the codec, and of the maps from its content vectors, by the factor of their rate."""
        groups: dict[float, list[Tensor]] = {}
        for part in (self.model, self.teacher, self.loudness):
            for name, parameter in part.named_parameters():
                prefixes = [prefix for prefix in slow if name.startswith(prefix)] if part is self.model else []
                factor = slow[max(prefixes, key=len)] if prefixes else 1.0
                if parameter.requires_grad:
                    groups.setdefault(factor, []).append(parameter)
        return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]

    def training_step(self, place: Place) -> dict[str, Tensor]:
        self._training_mode()
        rng, n = np.random.default_rng((self.seed, place.step, rank())), self.batch_size
        n_codebooks = self.model.quantizer.draw_n_codebooks(n)
        batch = self.train_crops.draw(n, rng, n_codebooks=n_codebooks.numpy())
        with self.autocast():
            coded = self.code(self.model, batch, n_codebooks, self.draw_gaps(n))
        terms = self.losses(coded, batch)
        if place.progress >= self.adversarial_from:
            terms |= self.adversarial(batch.target[:, None], coded.waveform, place.rate)
        total = torch.stack([self.weights.get(name, 0.0) * term for name, term in terms.items()]).sum()
        norm = self.improve(total, place)
        metrics = coded.quantized.metrics
        logged = {name: term.detach() for name, term in terms.items()} | {"gradient": norm}
        return logged | {name: metrics[name] for name in ("perplexity", "perplexity/detail") if name in metrics}

    def draw_gaps(self, n: int) -> Tensor | None:
        """Frames (n, F) that are lost, stretches of ``GAP_FRAMES`` of some items; None without ``gap_share``."""
        if not self.gap_share:
            return None
        n_frames = self.train_crops.crop_frames
        packets = torch.rand(n, -(-n_frames // GAP_FRAMES)) < GAP_RATE
        packets &= torch.rand(n, 1) < self.gap_share
        return to_device(packets.repeat_interleave(GAP_FRAMES, dim=1)[:, :n_frames], self.device)

    def code(
        self, codec: SpeechCodec, batch: Batch, n_codebooks: int | Tensor | None = None, lost: Tensor | None = None
    ) -> Reconstruction:
        """Encode the sources and decode them as the targets' speakers, on the targets' pitch."""
        items = batch.converted.nonzero()[:, 0]
        if self.device.type != "cpu":  # always the same shapes; of unconverted items both stretches are the same
            others = torch.cat([batch.target_other, batch.source_other])[:, None]
            speaker, source_speaker = codec.speaker_encoder(others).chunk(2)
        else:  # one call: in each, statistics of the vectors' quantizer are summed over the processes
            others = torch.cat([batch.target_other, batch.source_other[items]])
            speaker, of_sources = codec.speaker_encoder(others[:, None]).split([len(batch.target), len(items)])
            source_speaker = speaker.index_copy(0, items, of_sources)
        pitch = codec.pitch.track(batch.target[:, None])
        return codec(batch.source[:, None], source_speaker, speaker, pitch, n_codebooks, lost, self.predictor)

    def losses(self, coded: Reconstruction, batch: Batch) -> dict[str, Tensor]:
        """All terms but the adversarial ones."""
        with torch.autocast(self.device.type, enabled=False):
            decoded, target = coded.waveform[:, 0].float(), batch.target
            assert coded.quantized.n_codebooks is not None
            with_phase = (coded.quantized.n_codebooks >= self.phase_from) & ~batch.converted
            phase = to_device(with_phase.nonzero()[:, 0], self.device)
            with_harmonics = (coded.quantized.n_codebooks >= self.harmonics_from) & ~batch.converted
            low = to_device(with_harmonics.nonzero()[:, 0], self.device)
            terms = dict(self.spectral(decoded, target, phase, low, coded.pitch > 0))
            terms["waveform"] = decoded.new_zeros(())
            if len(phase):
                share = len(phase) / len(target)
                terms["complex"] = terms["complex"] * share
                terms["waveform"] = relative_waveform_loss(decoded[phase, None], target[phase, None]) * share
            terms["envelope"] = self.envelope(decoded[:, None], target[:, None])
            powers = [wave.square().mean(1) + 1e-5 for wave in (decoded, target)]
            # Quadratic below 1 dB: there, a gradient of constant size would be noise that drowns the other terms.
            levels = [torch.log10(power) for power in powers]
            terms["level"] = nn.functional.huber_loss(levels[0], levels[1], delta=0.1) / 0.1
            terms["quantizer"] = coded.quantized.loss
        if batch.teacher is not None and self.weights.get("teacher"):
            terms["teacher"] = self.teacher_loss(coded.quantized.latents, batch.teacher)
        if self.weights.get("loudness"):
            terms["loudness"] = self.loudness_loss(coded.quantized.latents, target)
        if self.speaker_means is not None and batch.speaker is not None and torch.is_grad_enabled():
            terms["speaker"] = self.speaker_loss(self.speaker_means, coded, batch.speaker)
        if self.listener and self.weights.get("listener"):
            terms["listener"] = self.listener_loss(decoded, target)
        return terms

    def teacher_loss(self, latents: Tensor, teacher: Tensor) -> Tensor:
        """Squared error of a linear map from content vectors to a recogniser's features of unit variance.

        Zhang et al. 2024, SpeechTokenizer, section 3.2."""
        content = latents[:, : self.model.quantizer.content_dim]
        known = (teacher != 0).any(-1)
        error = (self.teacher(content).float().transpose(1, 2) - teacher).square().mean(-1)
        return (error * known).sum() / known.sum().clamp_min(1)

    def loudness_loss(self, latents: Tensor, target: Tensor) -> Tensor:
        """Squared error, in units of 10 dB, of a linear map from content vectors to the level of each frame: with the
        content codebook alone, nothing else brings the energy contour."""
        content = latents[:, : self.model.quantizer.content_dim]
        return (self.loudness(content)[:, 0].float() - loudness(target)).square().mean()

    def speaker_loss(self, means: SpeakerMeans, coded: Reconstruction, speaker: Tensor) -> Tensor:
        """What the first detail codebook tells of the speaker, see `SpeakerMeans`; in frames that are voiced."""
        codes, level = coded.quantized.codes[:, 1], self.model.quantizer.detail.levels[0]
        items = ((codes[:, 0] >= 0) & (speaker >= 0)).nonzero()[:, 0]
        detail = coded.quantized.latents[items, self.model.quantizer.content_dim :].float()
        values = level.table()[codes[items]].transpose(1, 2)  # type: ignore[operator]
        if not len(items):
            return values.new_zeros(())
        return means(detail, values, coded.pitch[items] > 0, speaker[items])

    def listener_loss(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Relative L1 distance between the states that Whisper's encoder has for decoded and original speech."""
        listener, n = self.listener[0], min(self.listener_items, len(decoded))
        items = to_device(torch.randperm(len(decoded), device="cpu")[:n], decoded.device)
        with self.autocast():
            with torch.no_grad():
                wanted = listener(target[items], self.listener_layers)
            states = listener(decoded[items], self.listener_layers)
        pairs = list(zip(states, wanted, strict=True))[1::2]
        terms = [(a.float() - b.float()).abs().mean() / b.float().abs().mean() for a, b in pairs]
        return torch.stack(terms).mean()

    def adversarial(self, real: Tensor, fake: Tensor, rate: float) -> dict[str, Tensor]:
        """Update the discriminators, then give the decoder's losses against them."""
        room = real.shape[-1] - self.adversarial_samples
        start = int(torch.randint(max(room, 1), ()))
        real = real[..., start : start + self.adversarial_samples]
        fake = fake[..., start : start + self.adversarial_samples]
        n = len(real)
        self.discriminator.requires_grad_(True)
        with self.autocast():
            scores, _ = self.discriminator(torch.cat([real, fake.detach().to(real.dtype)]))
        loss = discriminator_loss([s[:n] for s in scores], [s[n:] for s in scores])
        self.update("discriminator", loss, rate, self.clip)
        self.discriminator.requires_grad_(False)
        with self.autocast():
            with torch.no_grad():
                _, real_features = self.discriminator(real)
            fake_scores, fake_features = self.discriminator(fake)
        return {
            "discriminator": loss.detach(),
            "adversarial": generator_loss(fake_scores),
            "feature": feature_matching_loss(real_features, fake_features),
        }

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.model)
        self.average.eval()
        batches = [self.validation_crops.draw(16, np.random.default_rng(i), augmented=False) for i in range(3)]
        measures: dict[str, float] = {"loss": 0.0}
        torch.manual_seed(0)
        books = self.model.n_codebooks
        for n in sorted({1, 2, 4, books} & set(range(1, books + 1))):
            for batch in batches:
                coded = self.code(self.average, batch, n)
                terms = self.losses(coded, batch)
                for name in ("mel", "magnitude", "envelope", "level", *(["listener"] if "listener" in terms else [])):
                    key = f"{name}/{n}"
                    measures[key] = measures.get(key, 0.0) + float(terms[name]) / len(batches)
            heard = measures.get(f"listener/{n}", 0.0)
            measures["loss"] += measures[f"mel/{n}"] + 4 * measures[f"magnitude/{n}"] + heard
        return measures

    def preview(self, writer: Any, step: int) -> None:
        batch = self.validation_crops.draw(3, np.random.default_rng(0), augmented=False)
        coded = self.code(self.average, batch, self.model.default_n_codebooks)
        add_previews(writer, step, batch.target, coded.waveform[:, 0], self.model.sample_rate)

    def export(self, folder: Path) -> None:
        write_weights(self.average.state_dict(), self.average.config, folder)

    def begin_from(self, source: Mapping[str, str] | str) -> None:
        """Take weights from model folders: all from one, or for each prefix of the codec's weights from another.

        Codebooks get statistics that fit their vectors; residual units that the folders lack begin as identities, so
        that a deeper network starts from what a shallower one has learned.

        Raises:
            AudioVQError: when a folder has no such weights.
        """
        from safetensors.torch import load

        own = self.model.state_dict()
        for part, folder in (source if isinstance(source, Mapping) else {"": source}).items():
            path = weights_folder(folder) / "model.safetensors"
            theirs = restore(load(path.read_bytes()))
            if part and not any(name.startswith(part) for name in theirs):
                theirs = {f"{part}.{name}": tensor for name, tensor in theirs.items()}  # a part of its own
            taken = {n: t for n, t in theirs.items() if n.startswith(part) and n in own and t.shape == own[n].shape}
            if not taken:
                raise AudioVQError(f"{path} has no weights for {part or 'this model'}")
            own |= taken
            codebooks = [name.removesuffix("vectors") for name in taken if name.endswith("codebook.vectors")]
            stale = {name for name in own if name.startswith(tuple(codebooks)) and name not in taken}
            own = {name: tensor for name, tensor in own.items() if name not in stale}
            for name in own.keys() - theirs.keys():  # residual units that the weights lack begin as identities
                if name.startswith(part) and name.endswith((".mix.weight", ".mix.bias")):
                    own[name] = torch.zeros_like(own[name])
        self.model.load_state_dict(own)
        self.average.load_state_dict(own)
        self.fit_heads()

    @torch.no_grad()
    def fit_heads(self, n_batches: int = 60) -> None:
        """Set the maps from content vectors to a recogniser's features and to levels by least squares: gradients
        through random maps would destroy what the content codebook knows."""
        trunk, quantizer = self.average.encoder.content, self.average.quantizer
        if trunk is None or not (self.weights.get("teacher") or self.weights.get("loudness")):
            return
        self.average.eval()
        contents, features, levels = [], [], []
        for i in range(n_batches):
            batch = self.train_crops.draw(self.batch_size, np.random.default_rng((self.seed, i)), augmented=False)
            contents.append(quantizer.content(trunk(batch.source[:, None])).latents.transpose(1, 2).flatten(0, 1))
            levels.append(loudness(batch.source).flatten()[:, None])
            if batch.teacher is not None:
                features.append(batch.teacher.flatten(0, 1))
        rows = torch.cat(contents)
        fit_linear(self.loudness, rows, torch.cat(levels))
        if features:
            known = (torch.cat(features) != 0).any(1)
            fit_linear(self.teacher, rows[known], torch.cat(features)[known])

    def _training_mode(self) -> None:
        """Everything trains but what is frozen: statistics of frozen codebooks stay as they are, too."""
        if self.training and not self.model.pitch.training:
            return
        self.train()
        self.average.eval()
        self.model.pitch.eval()
        for name, module in self.model.named_modules():
            if name and name.startswith(self.frozen):
                module.eval()
