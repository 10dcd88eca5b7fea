"""Training the VQ-VAE for speech of van den Oord et al. (2017), section 4.2, on packed corpora."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from audiovq.data.corpora import open_corpora
from audiovq.data.packed import FRAME, PackedCorpus, open_packed, pack
from audiovq.data.utterance import SAMPLE_RATE
from audiovq.devices import compile_modules
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.io import cache_dir
from audiovq.training.batches import ordered_batches, rank, wait_for_all
from audiovq.training.ema_task import EMATask
from audiovq.training.loop import add_previews
from audiovq.wavenet.paper import PaperVQVAE

log = logging.getLogger("audiovq")


class SpeakerCrops(Dataset[dict[str, Any]]):
    """Crops of a packed corpus with their speakers' numbers; item i is decided by ``(seed, i)``.

    A speaker is drawn with probability proportional to ``duration ** 0.7``, then a place in their recordings. Items are
    dicts: ``waveform (1, n_frames * FRAME)`` float32 and ``speaker`` int.

    Args:
        corpus: packed.
        speakers: names in the order of their numbers; others are left out.
        n_frames: of a crop.
        seed: of all draws.

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


class PaperTask(EMATask):
    """Equation 3 of the paper: the likelihood by teacher forcing, the codebook loss and the commitment loss.

    Equation 3 sums the likelihood over samples and the other terms over latents. Here all is divided by the number of
    samples, so that the loss is in nats a sample.

    Args:
        model: arguments of `PaperVQVAE` without the speakers, who are those of the training corpus.
        corpora, corpus: see `packed_folder`.
        crop_frames: of a training crop, frames of 20 ms; validation crops are twice as long.
        quantizer_weight: of the codebook and commitment losses in equation 3, where it is 1.
        preview_items, preview_seconds: validation items that are sampled for TensorBoard; no items: none.
        compile: whether encoder and stack go through torch.compile.
        settings: of `EMATask`.

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
        names = ("perplexity", "usage_window")
        logged = {"bits": nll.mean() / math.log(2), "quantizer": quantized.loss}
        logged |= {name: quantized.metrics[name] for name in names}
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
