"""Training on a codec's codes: the prior over them, and the entropy model for smaller files."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from audiovq.bitstream.entropy_model import EntropyModel, load_entropy_model
from audiovq.bitstream.speech_layout import pitch_bits
from audiovq.codec.codec import SpeechCodec
from audiovq.data.codes import CodesCache, cached_codes
from audiovq.data.tokens import CodeRuns, CodeStretches, make_tapes
from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, model_folder, weights_folder
from audiovq.interfaces import N_VALUES, PITCH_AND_LEVEL_KBPS
from audiovq.io import cache_dir, read_json
from audiovq.prior.model import CodePrior
from audiovq.prior.networks import Condition
from audiovq.prior.speech import FOLDER, SpeakerDistribution, load_prior, save_prior
from audiovq.quantize import FiniteScalarQuantizer
from audiovq.tensor_files import write_weights
from audiovq.training.entropy_network import (
    DIM,
    EntropyNetwork,
    EntropySettings,
    from_integers,
    ideal_bits,
    speaker_weights,
    to_integers,
    voicing_of,
)
from audiovq.training.task import DatasetTask, Place, Task

log = logging.getLogger("audiovq")


class CodePriorTask(DatasetTask):
    """Maximum likelihood of pitch and codes.

    Args:
        prior: arguments of `CodePrior`, without those that the codec and the data decide.
        codec, corpora, codes: see `open_codes`.
        condition_dropout, book_dropout: see `CodeStretches`.
        crop_seconds: of a training item.
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
        self.names = ["nats_pitch", *(f"nats_codebook_{k + 1}" for k in range(facts.n_codebooks))]
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
        tapes, judged = (make_tapes(self.cache.split(name)) for name in ("train", "validation"))
        shared = (self.languages, self.n_frames, self.model.absent)
        train = CodeStretches(tapes, *shared, self.seed, self.condition_dropout, self.book_dropout)
        runs = CodeRuns(judged, *shared)
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

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        sums = []
        for batch in self.validation_batches():
            with self.autocast():
                sums.append(torch.stack(self.stream_nats(self.average, batch)))
        nats, counts = torch.stack(sums).double().sum(0)
        mean = (nats / counts).tolist()
        bits = sum(mean) * self.cache.facts.frame_rate / math.log(2)
        return {"loss": sum(mean) / len(mean), "bits_per_second": bits, **dict(zip(self.names, mean, strict=True))}

    def export(self, folder: Path) -> None:
        """A prior's folder, with the distribution of the training recordings' speaker vectors and levels."""
        train, facts = self.cache.split("train"), self.cache.facts
        speakers = SpeakerDistribution.fit(
            np.stack([u.voice for u in train]),
            [u.speaker for u in train],
            np.array([u.n_samples / facts.sample_rate for u in train]),
            facts.speaker_levels,
            loudness=np.array([float(np.mean(u.levels)) for u in train]),
        )
        save_prior(self.average, folder, speakers)


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


SHARES = ((1, 0.13), (2, 0.15), (3, 0.06), (4, 0.22), (5, 0.04), (6, 0.05), (7, 0.04), (8, 0.31))
"""Numbers of codebooks that are trained for, with their shares."""
_LEVEL_BITS = 8


def training_rows(
    utterances: Sequence[CodedUtterance], length: int, generator: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of codes (K, length) with their voicing (length,) uint8, one epoch of them in random order.

    Each speaker's utterances are joined in random order. Half of the rows begin where an utterance does, as files
    do, the others anywhere, as the later packets of long files do.
    """
    order = sorted(generator.permutation(len(utterances)).tolist(), key=lambda i: utterances[i].speaker)
    codes = np.concatenate([np.asarray(utterances[i].codes) for i in order], axis=1)
    voiced = np.concatenate([voicing_of(utterances[i]) for i in order])
    begins = np.zeros(codes.shape[1], np.int64)
    firsts = np.cumsum([0, *(utterances[i].n_frames for i in order[:-1])])
    begins[firsts] = firsts
    begins = np.maximum.accumulate(begins)
    starts = np.arange(generator.integers(length), codes.shape[1] - length, length)
    starts = np.where(generator.random(len(starts)) < 0.5, begins[starts], starts)
    for start in generator.permutation(starts):
        stretch = slice(start, start + length)
        yield codes[:, stretch], voiced[stretch]


class EntropyTask(Task):
    """Minimise the bits of the codes of packets, each with a random number of codebooks.

    Args:
        network: arguments of `EntropySettings`.
        codec, corpora, codes: see `open_codes`.
        batch_size: packets of a step.
        shares: numbers of codebooks trained for, with their shares.
        validation_items: utterances to validate on, at even distances.

    Raises:
        AudioVQError: for less codes than two packets, or a codec with one codebook.
    """

    epoch: Tensor
    used: Tensor

    def __init__(
        self,
        network: dict[str, Any],
        codec: str | None,
        corpora: Sequence[Any],
        batch_size: int,
        learning_rate: float,
        weight_decay: float = 0.01,
        shares: Sequence[Sequence[float]] = SHARES,
        validation_items: int = 200,
        codes: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(device, precision)
        self.cache: CodesCache = open_codes(codes, codec, corpora)
        self.facts, self.seed, self.batch_size = self.cache.facts, seed, batch_size
        if self.facts.n_codebooks < 2:
            raise AudioVQError("the codes have one codebook: entropy models are for two and more")
        self.utterances, held_out = self.cache.split("train"), self.cache.split("validation")
        chosen = np.unique(np.linspace(0, len(held_out) - 1, min(validation_items, len(held_out))).round().astype(int))
        self.validation = [held_out[i] for i in chosen]
        n_frames = sum(u.n_frames for u in self.utterances)
        if n_frames < 2 * self.facts.packet_frames + 1:
            raise AudioVQError(f"{n_frames} frames of codes are too few to fit an entropy model")
        tables = self.cache.tables
        if tables is None:
            tables = torch.randn(self.facts.n_codebooks, self.facts.codebook_size, DIM)
        self.model = EntropyNetwork(tables, EntropySettings(**network))
        self.to(self.device)
        parameters = [parameter for parameter in self.model.parameters() if parameter.numel()]
        optimizer = torch.optim.AdamW(parameters, learning_rate, (0.9, 0.98), weight_decay=weight_decay, fused=True)
        self.optimizers, self.rates = {"model": optimizer}, {"model": learning_rate}
        self.numbers = [int(n) for n, _ in shares if n <= self.facts.n_codebooks]
        weights = np.array([share for n, share in shares if n <= self.facts.n_codebooks])
        self.shares = weights / weights.sum()
        self.audio_seconds = batch_size * self.facts.packet_frames / self.facts.frame_rate
        # The place in the data: epochs begun, and rows of the last one used.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._pitch_bits: float | None = None

    def begin_from(self, source: str) -> None:
        """Take the float weights of an earlier run, or those of a codec's entropy model, of codes that were alike.

        Raises:
            AudioVQError: when there are none, or they have other shapes.
        """
        from safetensors.torch import load

        folder = weights_folder(source)
        weights = load((folder / "model.safetensors").read_bytes())
        if "output_weight" not in weights and (model := load_entropy_model(folder, codes_hash(folder))):
            weights = from_integers(model.network)
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise AudioVQError(f"{folder}: its weights do not fit this entropy model") from error

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next codes (B, K, packet_frames) and their voicing (B, packet_frames)."""
        batch: list[tuple[np.ndarray, np.ndarray]] = []
        while len(batch) < self.batch_size:
            if not self._rows:
                rng = np.random.default_rng((self.seed, int(self.epoch)))
                self._rows = list(training_rows(self.utterances, self.facts.packet_frames, rng))
            if int(self.used) >= len(self._rows):
                self._rows = []
                self.epoch += 1
                self.used.zero_()
                continue
            batch.append(self._rows[int(self.used)])
            self.used += 1
        return self._stacked(batch)

    def _stacked(self, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
        codes, voiced = (np.stack(part) for part in zip(*rows, strict=True))
        return torch.from_numpy(codes.astype(np.int64)).to(self.device), torch.from_numpy(voiced).to(self.device)

    def training_step(self, place: Place) -> dict[str, Tensor]:
        self.model.train()
        rng = np.random.default_rng((self.seed, place.step))
        n_books = int(rng.choice(self.numbers, p=self.shares))
        codes, voiced = self.batch()
        with self.autocast():
            losses = self.model.losses(codes[:, :n_books], voiced)
        self.update("model", losses.sum(), place.rate, 5.0)
        return {f"bits_{k + 1}": bits for k, bits in enumerate(losses.detach())}

    def validate(self) -> dict[str, float]:
        """Bits a code by codebook, and the share of the nominal rate that is saved by number of codebooks."""
        self.model.eval()
        facts, measures = self.facts, {}
        n_frames = sum(u.n_frames for u in self.validation)
        side, nominal_side = self.side_bits() / n_frames, 1000 * PITCH_AND_LEVEL_KBPS / facts.frame_rate
        for n in sorted({1, 2, 4, facts.n_codebooks} & set(range(1, facts.n_codebooks + 1))):
            bits = ideal_bits(self.model, self.validation, facts.packet_frames, n) / n_frames
            nominal = n * (facts.codebook_size - 1).bit_length() + nominal_side
            measures[f"saved_{n}"] = 1 - (float(bits.sum()) + side) / nominal
        books = {f"bits_{k + 1}": float(b) for k, b in enumerate(bits)}
        return {"loss": float(bits.mean()), "side": side, **books, **measures}

    def side_bits(self) -> float:
        """Bits of pitch and level of the validation utterances, by the fixed tables."""
        if self._pitch_bits is None:
            size, total = self.facts.packet_frames, 0.0
            for utterance in self.validation:
                parts = [utterance.pitch[i : i + size] for i in range(0, utterance.n_frames, size)]
                total += sum(pitch_bits(part.astype(np.int64)) + _LEVEL_BITS for part in parts)
            self._pitch_bits = total
        return self._pitch_bits

    def export(self, folder: Path) -> None:
        """The float weights, and ``entropy.safetensors`` for a model's folder."""
        write_weights(self.model.state_dict(), asdict(self.model.settings), folder, torch.float32)
        self.integers().save(folder)

    @torch.no_grad()
    def integers(self) -> EntropyModel:
        """The model in integers, calibrated on training codes with all and with fewer codebooks."""
        rows = training_rows(self.utterances, self.facts.packet_frames, np.random.default_rng(1))
        codes, voiced = self._stacked(list(islice(rows, 48)))
        numbers = sorted({1, 2, 4, self.facts.n_codebooks} & set(range(1, self.facts.n_codebooks + 1)))
        network = to_integers(self.model, [(codes[:, :n], voiced) for n in numbers])
        speakers = speaker_weights(self.utterances, 1 << (self.facts.speaker_levels - 1).bit_length())
        return EntropyModel(bytes.fromhex(self.facts.codec), network, speakers)
