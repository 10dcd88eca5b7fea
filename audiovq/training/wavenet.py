"""The training task of the WaveNet decoder: on the codes of a trained codec, or together with an encoder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.files import atomic_write
from audiovq.quantize import Quantized
from audiovq.speech.checkpoint import codes_hash, save_codec, save_wavenet
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.wavenet import WaveNetDecoder
from audiovq.speech.wavenet_stream import draw_waveform
from audiovq.training.averaged import AveragedTask, ExportAverage
from audiovq.training.callbacks import Progress, compare
from audiovq.training.data import SpeechCrops

#: Numbers of codebooks that validation listens to, as far as the codec has them.
VALIDATED = (1, 2, 4, 8)


class WaveNetTask(AveragedTask):
    """Maximum likelihood of the waveform given codes and voice, by teacher forcing.

    Args:
        decoder: constructor arguments of `WaveNetDecoder` but for those that the codec decides.
        codec: a trained codec, held fixed: a model's name or folder; None for the bundled one. One WaveNet then serves
            all its bitrates: each item is coded with a number of codebooks drawn at random.
        model: constructor arguments of a `SpeechCodec` to be trained together with the WaveNet (van den Oord et al.
            2017, eq. 3); then ``codec`` is not looked at. Its parallel decoder is left out.
        book_weights: how often 1, 2, ... codebooks are drawn; None: equally often.
        backbone_from_codec: begin with the weights of the parallel decoder's backbone, which must have the same shapes.
        quantizer_weight: of the quantizer's loss beside the mean negative log-likelihood in nats.
        settings: of `AveragedTask`.
    """

    def __init__(
        self,
        decoder: dict[str, Any],
        codec: str | None,
        model: dict[str, Any] | None,
        book_weights: list[float] | None,
        backbone_from_codec: bool,
        quantizer_weight: float,
        **settings: Any,
    ) -> None:
        given = SpeechCodec(**{**model, "decoder": None}) if model is not None else SpeechCodec.from_pretrained(codec)
        wavenet = WaveNetDecoder(given.encoder.latent_dim, given.speaker_encoder.dim, given.hop_length, **decoder)
        joint = model is not None
        if wavenet.draft is not None and (joint or given.decoder is None):
            raise AudioVQError("a WaveNet with a draft reads the parallel decoder of a trained codec: set task.codec")
        if backbone_from_codec:
            take_backbone(wavenet, given)
        trained = nn.ModuleDict({"wavenet": wavenet, **({"codec": given} if joint else {})})
        super().__init__(trained, second_beta=0.99, **settings)
        self._fixed = None if joint else [given.requires_grad_(False)]  # in a list: no part of this task's state
        weights = [1.0] * given.n_codebooks if book_weights is None else book_weights
        if len(weights) != given.n_codebooks:
            raise AudioVQError(f"book_weights must be {given.n_codebooks} numbers, one for each codebook of the codec")
        self.book_weights, self.quantizer_weight = torch.tensor(weights), quantizer_weight

    @property
    def codec(self) -> SpeechCodec:
        """The codec whose codes are read, as it is now."""
        return self._codec_of(self.model)

    def _codec_of(self, modules: nn.ModuleDict) -> SpeechCodec:
        codec = self._fixed[0] if self._fixed is not None else modules["codec"]
        assert isinstance(codec, SpeechCodec)
        return codec

    # -- what a run asks for ----------------------------------------------------------------------------------------

    def data_module(self, config: Any) -> SpeechCrops:
        """Crops of speech, as the codec's own training has them."""
        from omegaconf import OmegaConf

        settings, corpora = config.training, OmegaConf.to_container(config.data.corpora)
        assert isinstance(corpora, list)
        return SpeechCrops(
            corpora,
            self.codec.sample_rate,
            self.codec.hop_length,
            settings.batch_size,
            settings.crop_seconds,
            settings.other_seconds,
            settings.validation_items,
            settings.max_steps,
            config.seed,
        )

    def callbacks(self, config: Any, folder: Path) -> list[L.Callback]:
        """Exports, the log, and something to hear."""
        settings = config.training
        hop, rate = self.codec.hop_length, self.codec.sample_rate
        seconds = round(settings.crop_seconds * rate / hop) * hop / rate * settings.batch_size
        return [
            Progress(settings.log_every, seconds, settings.max_steps),
            ExportAverage(folder),
            ListenToWaveNet(settings.get("listen_items", 2), settings.get("listen_seconds", 1.0)),
        ]

    def on_fit_start(self) -> None:
        if self._fixed is not None:
            self._fixed[0].to(self.device)
        known = self.codec.speaker_encoder.levels
        speakers = getattr(getattr(self.trainer, "datamodule", None), "train", None)
        if self.codec.has_speaker_table and speakers is not None and len(speakers.speakers) > known:
            raise AudioVQError(
                f"the data has {len(speakers.speakers)} speakers, the model's table {known} rows: "
                "set model.speaker_encoder.n_speakers"
            )

    # -- steps ------------------------------------------------------------------------------------------------------

    def speaker_input(self, batch: dict[str, Tensor]) -> Tensor:
        """What tells the codec who speaks: a number for a table, another stretch of speech else."""
        return batch["speaker"] if self.codec.has_speaker_table else batch["other"]

    def code(self, batch: dict[str, Tensor], modules: nn.ModuleDict, books: Tensor | int) -> tuple[Quantized, Tensor]:
        """What the decoder is told of a batch: quantized latents (B, C, F), and the speaker vectors (B, S).

        ``books`` (B,), or one number for all, is of codebooks for each item of a fixed codec.
        """
        codec = self._codec_of(modules)
        if self._fixed is None:
            quantized = codec.quantizer(codec.encoder(batch["waveform"]), books if isinstance(books, int) else None)
            return quantized, codec.speaker_encoder(self.speaker_input(batch))
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):  # the codes that a file would hold
            codes = codec.quantizer.encode(codec.encoder(batch["waveform"]))
            numbers = [books] * len(codes) if isinstance(books, int) else books.tolist()
            latents = [codec.quantizer.decode(c[None, :n]) for c, n in zip(codes, numbers, strict=True)]
            quantized = Quantized(torch.cat(latents), codes, torch.zeros((), device=self.device), {})
            return quantized, codec.speaker_encoder(self.speaker_input(batch))

    @torch.no_grad()
    def draft(self, wavenet: Any, quantized: Quantized, speaker: Tensor) -> Tensor | None:
        """The parallel decoder's waveform (B, 1, T), where the WaveNet reads it."""
        if wavenet.draft is None:
            return None
        return self.codec.decoder(quantized.latents, speaker).float()

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood in nats a sample, each item with a number of codebooks drawn at random."""
        books = 1 + torch.multinomial(self.book_weights, len(batch["waveform"]), replacement=True)
        quantized, speaker = self.code(batch, model, books)
        wavenet = model["wavenet"]
        nll = wavenet(batch["waveform"], quantized.latents, speaker, self.draft(wavenet, quantized, speaker))
        logged = {"bits": wavenet.bits_per_sample(nll.detach())}
        if self._fixed is None:
            logged["quantizer_loss"] = quantized.loss
            logged |= {name: value.float().mean() for name, value in quantized.metrics.items()}
        return nll.mean() + self.quantizer_weight * quantized.loss, logged

    def measures(self, model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bits a sample by the number of codebooks, and their mean."""
        wavenet, bits = model["wavenet"], {}
        for n in [n for n in VALIDATED if n <= self.codec.n_codebooks]:
            quantized, speaker = self.code(batch, model, n)
            nll = wavenet(batch["waveform"], quantized.latents, speaker, self.draft(wavenet, quantized, speaker))
            bits[f"bits_{n}"] = wavenet.bits_per_sample(nll)
        return {"loss": torch.stack(list(bits.values())).mean(), **bits}

    def export(self, folder: Path) -> None:
        """A model folder: the codec's files, and the WaveNet's beside them."""
        fixed = self._fixed[0] if self._fixed is not None else None
        if fixed is None:
            save_codec(self.average["codec"], folder)
            made_for = codes_hash(folder)
        else:
            made_for = fixed.model_hash
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "model.safetensors"):
                if fixed.folder is not None and fixed.folder.resolve() != folder.resolve():
                    with atomic_write(folder / name) as path:
                        shutil.copyfile(fixed.folder / name, path)
        save_wavenet(self.average["wavenet"], folder, made_for)


def take_backbone(wavenet: WaveNetDecoder, codec: SpeechCodec) -> None:
    """Copy the parallel decoder's backbone: it has learned what the codes mean already.

    Raises:
        AudioVQError: when the shapes differ.
    """
    theirs = codec.decoder.state_dict() if codec.decoder is not None else {}
    own = wavenet.backbone.state_dict()
    if any(name not in theirs or theirs[name].shape != own[name].shape for name in own):
        raise AudioVQError(
            f"the backbone of model {codec.name}'s decoder has another shape than the WaveNet's: make them alike "
            "(task.decoder.backbone), or start anew with task.backbone_from_codec=false"
        )
    wavenet.backbone.load_state_dict({name: theirs[name] for name in own})


class ListenToWaveNet(L.Callback):
    """Drawn audio and spectrograms of the first validation items in TensorBoard, at every validation."""

    def __init__(self, n_items: int, seconds: float) -> None:
        self.n_items, self.seconds = n_items, seconds

    @torch.inference_mode()
    def on_validation_end(self, trainer: L.Trainer, task: Any) -> None:
        writer = getattr(trainer.logger, "experiment", None)
        if writer is None or not trainer.is_global_zero or trainer.sanity_checking or not self.n_items:
            return
        loader: Any = trainer.val_dataloaders
        codec, wavenet = task.codec, task.average["wavenet"]
        length = max(round(self.seconds * codec.sample_rate / codec.hop_length), 1) * codec.hop_length
        batch = {k: v[: self.n_items].to(task.device) for k, v in next(iter(loader)).items()}
        batch["waveform"] = batch["waveform"][..., :length]
        quantized, speaker = task.code(batch, task.average, codec.default_n_codebooks)
        draft = task.draft(wavenet, quantized, speaker)
        decoded = draw_waveform(wavenet, quantized.latents.float(), speaker.float(), seed=0, draft=draft)
        step = int(task.step)
        for i, (reference, estimate) in enumerate(zip(batch["waveform"], decoded, strict=True)):
            for name, signal in (("reference", reference), ("decoded", estimate)):
                writer.add_audio(f"{name}/{i}", signal.float().cpu().clamp(-1, 1), step, codec.sample_rate)
            writer.add_figure(f"spectrogram/{i}", compare(reference[0], estimate[0], codec.sample_rate), step)
