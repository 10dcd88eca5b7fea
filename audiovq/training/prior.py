"""The training task of a prior over a codec's codes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from audiovq.codec.codec import SpeechCodec
from audiovq.data.codes import CodesCache, CodesFacts, cached_codes
from audiovq.data.tokens import CodeRuns, CodeStretches, make_tapes
from audiovq.errors import AudioVQError
from audiovq.hub import model_folder
from audiovq.interfaces import N_VALUES
from audiovq.io import cache_dir, read_json
from audiovq.prior.model import CodePrior
from audiovq.prior.networks import Condition
from audiovq.prior.speech import FOLDER, SpeakerDistribution, load_prior, save_prior
from audiovq.quantize import FiniteScalarQuantizer
from audiovq.training.batches import ordered_batches
from audiovq.training.ema_task import EMATask
from audiovq.training.loop import copy_buffers

log = logging.getLogger("audiovq")


class CodePriorTask(EMATask):
    """Maximum likelihood of pitch and codes.

    Args:
        prior: constructor arguments of `CodePrior`, without those that the codec and the data decide.
        codec: model whose codes are modelled; None for the bundled one.
        corpora: see `audiovq.data.corpora`; their codes are made once and kept.
        condition_dropout, book_dropout: see `CodeStretches`.
        crop_seconds: of a training item.
        codes: folder of codes that are there already, a path or relative to the cache; codec and corpora are then not
            opened.
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
        codes: str | None = None,
        **settings: Any,
    ) -> None:
        cache = open_codes(codes, codec, corpora)
        facts = cache.facts
        languages = sorted({u.language for u in cache.utterances if u.split == "train"} - {"und"})
        model = CodePrior(
            n_codebooks=facts.n_codebooks,
            codebook_size=facts.codebook_size,
            speaker_dim=len(cache.utterances[0].voice),
            languages=languages,
            pitch_values=N_VALUES + 1,
            codec=facts.codec,
            **prior,
        )
        if cache.tables is not None:
            model.begin_from(cache.tables)
        super().__init__(model, **settings)
        self.cache, self.languages = cache, languages
        self.speakers = FiniteScalarQuantizer([facts.speaker_levels]).to(self.device)
        self.condition_dropout, self.book_dropout = condition_dropout, book_dropout
        self.n_frames = round(crop_seconds * facts.frame_rate)
        self.audio_seconds = crop_seconds * self.batch_size

    def begin_from(self, source: str) -> None:
        """Take the weights of another prior of the same shape: a prior's folder, or a model with one beside it.

        Raises:
            AudioVQError: when there is none, or it does not fit.
        """
        folder = Path(source) if Path(source).is_dir() else model_folder(source)
        config = folder / "config.json"
        if config.is_file() and "backbone" not in read_json(config):
            folder = folder / FOLDER  # it is a codec's
        prior, _ = load_prior(folder)
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

    @torch.no_grad()
    def condition(self, batch: dict[str, Tensor]) -> Condition:
        """Conditions of a batch."""
        return Condition(self.speakers.decode(batch["voice"].unsqueeze(1)).squeeze(1).float(), batch["language"])

    def stream_nats(self, prior: CodePrior, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Sum of nats and number of codes of each stream, (S,) each."""
        keep = {name: batch[name] for name in ("keep_speaker", "keep_language") if name in batch}
        nats = prior.nll(batch["codes"], self.condition(batch), batch["before"], **keep)
        return nats.sum((0, 2)), (batch["codes"] != prior.absent).sum((0, 2))

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        nats, counts = self.stream_nats(model, batch)
        loss = nats.sum() / counts.sum()
        return loss, {"nats": loss, **dict(zip(self.names, nats / counts.clamp_min(1), strict=True))}

    @property
    def names(self) -> list[str]:
        """Names of the streams' figures."""
        books = [f"nats_codebook_{k + 1}" for k in range(self.model.n_codebooks)]
        return ["nats_pitch", *books]

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        copy_buffers(self.average, self.model)
        self.average.eval()
        torch.manual_seed(0)
        sums = []
        for batch in ordered_batches(self.data[1], self.batch_size, self.device):
            with self.autocast():
                sums.append(torch.stack(self.stream_nats(self.average, batch)))
        nats, counts = torch.stack(sums).double().sum(0)
        mean = (nats / counts).tolist()
        bits = sum(mean) * self.cache.facts.frame_rate / math.log(2)
        return {"loss": sum(mean) / len(mean), "bits_per_second": bits, **dict(zip(self.names, mean, strict=True))}

    def export(self, folder: Path) -> None:
        """A prior's folder, with the distribution of the training speakers."""
        save_prior(self.average, folder, fit_speakers(self.cache))


def open_codes(codes: str | None, codec: str | None, corpora: Sequence[Any]) -> CodesCache:
    """The codes in a folder, or those of corpora by a codec: from the cache, or made now, which the log reports.

    Args:
        codes: folder, a path or relative to the cache; None: ``codec`` and ``corpora`` say which.
        codec: model's name or folder; None for the bundled one.
        corpora: see `audiovq.data.corpora`.

    Raises:
        AudioVQError: when they cannot be opened or made.
    """
    if codes is not None:
        return CodesCache(codes if Path(codes).is_dir() else cache_dir() / codes)
    model = SpeechCodec.from_pretrained(codec)
    begun = shown = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal shown
        if time.perf_counter() - shown > 30 or done == total:
            shown = time.perf_counter()
            log.info("coded %d of %d recordings, %.0f s", done, total, shown - begun)

    return cached_codes(model, corpora, progress=report)


def fit_speakers(cache: CodesCache) -> SpeakerDistribution:
    """The distribution of the training recordings' speaker vectors and levels."""
    facts: CodesFacts = cache.facts
    train = cache.split("train")
    return SpeakerDistribution.fit(
        np.stack([u.voice for u in train]),
        [u.speaker for u in train],
        np.array([u.n_samples / facts.sample_rate for u in train]),
        facts.speaker_levels,
        loudness=np.array([float(np.mean(u.levels)) for u in train]),
    )
