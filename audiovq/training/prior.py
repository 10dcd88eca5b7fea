"""The training task of a prior over a codec's codes."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from audiovq.data.code_stretches import CodeRuns, CodeStretches, make_tapes
from audiovq.data.codes import CodesCache, cached_codes
from audiovq.errors import AudioVQError
from audiovq.hub import model_folder
from audiovq.prior.model import CodePrior
from audiovq.prior.networks import Condition
from audiovq.prior.speakers import SpeakerDistribution
from audiovq.prior.speech import FOLDER, condition_of, load_prior, save_prior
from audiovq.speech.codec import SpeechCodec
from audiovq.training.batches import ordered_batches
from audiovq.training.ema_task import EMATask
from audiovq.training.loop import copy_buffers

log = logging.getLogger("audiovq")


class CodePriorTask(EMATask):
    """Maximum likelihood of the codes.

    Args:
        prior: constructor arguments of `CodePrior`, without those that the codec and the data decide.
        codec: model whose codes are modelled; None for the bundled one.
        corpora: see `audiovq.data.corpora`; their codes are made once and kept.
        condition_dropout, book_dropout: see `CodeStretches`.
        crop_seconds: of a training item.
        settings: of `EMATask`.
    """

    def __init__(
        self,
        prior: dict[str, Any],
        codec: str | None,
        corpora: list[Any],
        condition_dropout: float,
        book_dropout: float,
        crop_seconds: float,
        **settings: Any,
    ) -> None:
        speech = SpeechCodec.from_pretrained(codec)
        cache = code_corpora(speech, corpora)
        languages = sorted({u.language for u in cache.utterances if u.split == "train"} - {"und"})
        model = CodePrior(
            n_codebooks=cache.n_codebooks,
            codebook_size=cache.codebook_size,
            speaker_dim=speech.speaker_encoder.dim,
            languages=languages,
            codec=cache.codec,
            **prior,
        )
        super().__init__(model, **settings)
        self._codec = [speech.to(self.device)]  # in a list: its weights are no part of this task's state
        self.cache, self.languages = cache, languages
        self.condition_dropout, self.book_dropout = condition_dropout, book_dropout
        self.n_frames = round(crop_seconds * speech.frame_rate)
        self.audio_seconds = crop_seconds * self.batch_size

    def begin_from(self, source: str) -> None:
        """Take the weights of another prior of the same shape: a prior's folder, or a model with one beside it.

        Raises:
            AudioVQError: when there is none, or it does not fit.
        """
        folder = Path(source) if Path(source).is_dir() else model_folder(source)
        config = folder / "config.json"
        if config.is_file() and "backbone" not in json.loads(config.read_text()):
            folder = folder / FOLDER  # it is a codec's
        prior, _ = load_prior(folder, self._codec[0])
        theirs, own = prior.state_dict(), self.model.state_dict()
        if {k: t.shape for k, t in theirs.items()} != {k: t.shape for k, t in own.items()}:
            raise AudioVQError(f"the prior in {folder} has another shape: its configuration is {folder}/config.json")
        self.model.load_state_dict(theirs)
        self.average.load_state_dict(theirs)
        log.info("weights from the prior in %s", folder)

    def datasets(self) -> tuple[Dataset, Dataset]:
        absent = self.model.absent
        train = CodeStretches(
            make_tapes(self.cache.split("train")),
            self.languages,
            self.n_frames,
            absent,
            self.seed,
            self.condition_dropout,
            self.book_dropout,
        )
        runs = CodeRuns(make_tapes(self.cache.split("validation")), self.languages, self.n_frames, absent)
        n = min(self.validation_items, len(runs))
        chosen = np.linspace(0, len(runs) - 1, n).round().astype(int).tolist()
        return train, Subset(runs, chosen)

    def condition(self, batch: dict[str, Tensor]) -> Condition:
        return condition_of(self._codec[0], batch)

    def book_nats(self, prior: CodePrior, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum of nats and number of codes of each book, (K,) each."""
        keep = {name: batch[name] for name in ("keep_speaker", "keep_language") if name in batch}
        nats = prior.nll(batch["codes"], self.condition(batch), batch["before"], **keep)
        return nats.sum((0, 2)), (batch["codes"] != prior.absent).sum((0, 2))

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        nats, counts = self.book_nats(model, batch)
        loss = nats.sum() / counts.sum()
        books = {f"nats_book_{k + 1}": v for k, v in enumerate(nats / counts.clamp_min(1))}
        return loss, {"nats": loss, **books}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.model)
        self.average.eval()
        torch.manual_seed(0)
        sums = []
        for batch in ordered_batches(self.data[1], self.batch_size, self.device):
            with self.autocast():
                sums.append(torch.stack(self.book_nats(self.average, batch)))
        nats, counts = torch.stack(sums).double().sum(0)
        mean = (nats / counts).tolist()
        bits = sum(mean) * self._codec[0].frame_rate / math.log(2)
        measures = {"loss": sum(mean) / len(mean), "bits_per_second": bits}
        return measures | {f"nats_book_{k + 1}": value for k, value in enumerate(mean)}

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


def fit_voices(cache: CodesCache, codec: SpeechCodec) -> SpeakerDistribution | None:
    """The density of the training recordings' speaker vectors; None where a voice is a number in a table."""
    if codec.has_speaker_table:
        return None
    train = cache.split("train")
    seconds = np.array([u.n_samples / codec.sample_rate for u in train])
    speakers = [u.speaker for u in train]
    return SpeakerDistribution.fit(np.stack([u.voice for u in train]), speakers, seconds, codec.speaker_encoder.levels)
