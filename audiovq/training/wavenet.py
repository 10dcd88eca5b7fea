"""The training task of the WaveNet decoder: on the codes of a trained codec, or together with an encoder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, save_weights
from audiovq.io import atomic_write
from audiovq.quantize import Quantized
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.wavenet import WaveNetDecoder
from audiovq.speech.wavenet_files import save_wavenet
from audiovq.speech.wavenet_stream import draw_waveform
from audiovq.training.batches import ordered_batches
from audiovq.training.data import crop_samples, speech_crops
from audiovq.training.ema_task import EMATask
from audiovq.training.previews import add_previews

#: Numbers of codebooks to validate with, as far as the codec has them.
VALIDATED = (1, 2, 4, 8)


class WaveNetTask(EMATask):
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
        corpora, crop_seconds, other_seconds: see `audiovq.training.data.speech_crops`.
        preview_items, preview_seconds: validation items that are sampled after each validation, for TensorBoard.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        decoder: dict[str, Any],
        codec: str | None,
        model: dict[str, Any] | None,
        book_weights: list[float] | None,
        backbone_from_codec: bool,
        quantizer_weight: float,
        corpora: Sequence[Any],
        crop_seconds: float,
        other_seconds: float,
        preview_items: int = 2,
        preview_seconds: float = 1.0,
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
        self._fixed = (
            None if joint else [given.requires_grad_(False).to(self.device)]
        )  # in a list: no part of this task's state
        weights = [1.0] * given.n_codebooks if book_weights is None else book_weights
        if len(weights) != given.n_codebooks:
            raise AudioVQError(f"book_weights must be {given.n_codebooks} numbers, one for each codebook of the codec")
        self.book_weights, self.quantizer_weight = torch.tensor(weights), quantizer_weight
        self.corpora, self.crop_seconds, self.other_seconds = corpora, crop_seconds, other_seconds
        self.preview_items, self.preview_seconds = preview_items, preview_seconds
        self.audio_seconds = crop_samples(given, crop_seconds) / given.sample_rate * self.batch_size

    @property
    def codec(self) -> SpeechCodec:
        """The codec whose codes are read, as it is now."""
        return self._codec_of(self.model)

    def _codec_of(self, modules: nn.ModuleDict) -> SpeechCodec:
        codec = self._fixed[0] if self._fixed is not None else modules["codec"]
        assert isinstance(codec, SpeechCodec)
        return codec

    def datasets(self) -> tuple[Dataset, Dataset]:
        return speech_crops(
            self.codec, self.corpora, self.crop_seconds, self.other_seconds, self.validation_items, self.seed
        )

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

    def preview(self, writer: Any, step: int) -> None:
        if not self.preview_items:
            return
        codec, wavenet = self.codec, self.average["wavenet"]
        batch = next(ordered_batches(self.data[1], self.batch_size, self.device))
        batch = {name: value[: self.preview_items] for name, value in batch.items()}
        batch["waveform"] = batch["waveform"][..., : crop_samples(codec, self.preview_seconds)]
        quantized, speaker = self.code(batch, self.average, codec.default_n_codebooks)
        draft = self.draft(wavenet, quantized, speaker)
        decoded = draw_waveform(wavenet, quantized.latents.float(), speaker.float(), seed=0, draft=draft)
        add_previews(writer, step, batch["waveform"][:, 0], decoded[:, 0], codec.sample_rate)

    def export(self, folder: Path) -> None:
        """A model folder: the codec's files, and the WaveNet's beside them."""
        fixed = self._fixed[0] if self._fixed is not None else None
        if fixed is None:
            save_weights(self.average["codec"], folder)
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
