"""Fitting an entropy model to codes: see `audiovq.training.entropy_network`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiovq.bitstream.entropy_model import EntropyModel, load_entropy_model
from audiovq.bitstream.speech_layout import pitch_bits
from audiovq.data.codes import CodesCache
from audiovq.data.utterance import CodedUtterance
from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, weights_folder, write_weights
from audiovq.interfaces import PITCH_AND_LEVEL_KBPS
from audiovq.training.batches import pick_device, use_bfloat16
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
from audiovq.training.loop import Place, Task
from audiovq.training.prior import open_codes

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
        codec, corpora, codes: see `audiovq.training.prior.open_codes`.
        batch_size: packets of a step.
        learning_rate, weight_decay: of AdamW.
        shares: numbers of codebooks trained for, with their shares.
        validation_items: utterances to validate on, at even distances.
        device, precision: see `audiovq.training.batches`.
        seed: of the data.

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
        super().__init__()
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
        self.device = pick_device(device)
        self.mixed = use_bfloat16(precision, self.device)
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
