"""Fitting an entropy model to codes: a small float network that predicts them, and its translation into integers.

The network sees a packet's past as sums of learned vectors, one for each code (as the codec's own latents are sums of
its codebooks' vectors), through a few dilated causal convolutions, once for each frame. For each code of the frame,
coarse to fine, one rectified layer adds what the coarser codes say, and gives a logit for every code of the book. It
does not see the speaker vector: a file's speaker can be replaced without touching its packets, and it saved no bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.hub import write_weights
from audiovq.training.loop import Place, Run, Task
from audiovq.training.precision import bfloat16_is_fast

if TYPE_CHECKING:
    from audiovq.data.utterance import CodedUtterance


@dataclass(frozen=True)
class EntropySettings:
    """How large the network is and how it is trained.

    Attributes:
        width, hidden: units of a frame's state and of each code's layer.
        first_delays: frames back that the first convolution sees, 1 is the frame before.
        delays: of each later convolution, counted from its own frame.
        steps, batch, learning_rate, weight_decay: of AdamW; the rate falls linearly to zero.
        n_codebooks: numbers of codebooks trained for, with their shares.
        seed: of everything random.
    """

    width: int = 128
    hidden: int = 128
    first_delays: tuple[int, ...] = (1, 2, 3)
    delays: tuple[tuple[int, ...], ...] = ((0, 3), (0, 6))
    steps: int = 3000
    batch: int = 12
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    n_codebooks: tuple[tuple[int, float], ...] = (
        (1, 0.13),
        (2, 0.15),
        (3, 0.06),
        (4, 0.22),
        (5, 0.04),
        (6, 0.05),
        (7, 0.04),
        (8, 0.31),
    )
    seed: int = 0


class EntropyNetwork(nn.Module):
    """The float network; `audiovq.training.entropy_integers` makes integers of it.

    Args:
        tables: the codec's codebooks (K, V, D), where its own vectors start.
        settings: sizes.
    """

    def __init__(self, tables: Tensor, settings: EntropySettings) -> None:
        super().__init__()
        n_books, n_values, dim = tables.shape
        width, hidden = settings.width, settings.hidden
        n_layers, n_taps = len(settings.delays), len(settings.delays[0])
        self.settings, self.n_codebooks, self.codebook_size = settings, n_books, n_values
        # Named and laid out as the integers are: matrices are (in, out).
        self.embedding = nn.Parameter(tables / tables[0].std())
        self.first_weight = _uniform(dim, len(settings.first_delays), dim, width)
        self.condition = nn.Parameter(torch.zeros(n_books, width))
        self.weight = _uniform(width, n_layers, n_taps, width, width)
        self.bias = nn.Parameter(torch.zeros(n_layers, width))
        self.state_weight = _uniform(width, n_books, width, hidden)
        self.sum_weight = _uniform(dim, n_books - 1, dim, hidden)
        self.previous = nn.Parameter(torch.zeros(n_books - 1, n_values, hidden))
        self.hidden_bias = _uniform(width, n_books, hidden)
        self.output_weight = nn.Parameter(0.5 / math.sqrt(hidden) * torch.randn(n_books, hidden, n_values))
        self.output_bias = nn.Parameter(torch.zeros(n_books, n_values))

    def partial_sums(self, codes: Tensor) -> list[Tensor]:
        """Codes (B, K, F) -> K + 1 sums (B, F, D): before the first book, before the second ... and of all."""
        sums = [self.embedding.new_zeros(codes.shape[0], codes.shape[2], self.embedding.shape[2])]
        for book in range(codes.shape[1]):
            sums.append(sums[-1] + F.embedding(codes[:, book], self.embedding[book]))
        return sums

    def states(self, sums: Tensor, n_books: int) -> list[Tensor]:
        """Sums (B, F, D) of frames' codes -> what each layer of the trunk knows of the frames before, (B, F, H)."""
        total = self.condition[n_books - 1]
        for weight, delay in zip(self.first_weight, self.settings.first_delays, strict=True):
            total = total + _delayed(sums, delay) @ weight
        states = [F.relu(total)]
        for weights, bias, delays in zip(self.weight, self.bias, self.settings.delays, strict=True):
            total = bias
            for weight, delay in zip(weights, delays, strict=True):
                total = total + _delayed(states[-1], delay) @ weight
            states.append(states[-1] + F.relu(total))
        return states

    def hidden(self, state: Tensor, partial: Tensor, codes: Tensor, book: int) -> Tensor:
        """What decides on a book's code: (B, F, U)."""
        total = torch.matmul(state, self.state_weight[book]) + self.hidden_bias[book]
        if book:
            total = total + partial @ self.sum_weight[book - 1]
            total = total + F.embedding(codes[:, book - 1], self.previous[book - 1])
        return F.relu(total)

    def forward(self, codes: Tensor) -> list[Tensor]:
        """Codes (B, K, F) of packets -> logits (B, F, V) of each book, each from what a decoder knows before it."""
        n_books = codes.shape[1]
        sums = self.partial_sums(codes)
        state = self.states(sums[-1], n_books)[-1]
        return [
            self.hidden(state, sums[k], codes, k) @ self.output_weight[k] + self.output_bias[k] for k in range(n_books)
        ]

    def losses(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bits of each book's codes, (K,): means over frames, or sums over those of ``mask (B, F)``."""
        found = []
        for book, logits in enumerate(self(codes)):
            bits = F.cross_entropy(logits.flatten(0, 1).float(), codes[:, book].flatten(), reduction="none")
            bits = bits / math.log(2)
            found.append(bits.mean() if mask is None else (bits * mask.flatten()).sum())
        return torch.stack(found)


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape) - 1) / math.sqrt(fan_in))


def _delayed(x: Tensor, delay: int) -> Tensor:
    """(B, F, C) -> the same ``delay`` frames later, zeros before."""
    return F.pad(x, (0, 0, delay, 0))[:, : x.shape[1]] if delay else x


def training_rows(
    utterances: Sequence[CodedUtterance], length: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Rows (K, length) of codes, one epoch of them in random order.

    Each speaker's utterances are joined in random order. Half of the rows begin where an utterance does, as files
    do, the others anywhere, as the later packets of long files do.
    """
    order = sorted(generator.permutation(len(utterances)).tolist(), key=lambda i: utterances[i].speaker)
    codes = np.concatenate([np.asarray(utterances[i].codes) for i in order], axis=1)
    begins = np.zeros(codes.shape[1], np.int64)
    firsts = np.cumsum([0, *(utterances[i].n_frames for i in order[:-1])])
    begins[firsts] = firsts
    begins = np.maximum.accumulate(begins)
    starts = np.arange(generator.integers(length), codes.shape[1] - length, length)
    starts = np.where(generator.random(len(starts)) < 0.5, begins[starts], starts)
    for start in generator.permutation(starts):
        yield codes[:, start : start + length]


class EntropyTask(Task):
    """Minimise the bits of the codes of packets, each with a random number of codebooks.

    Args:
        tables: the codec's codebooks (K, V, D).
        utterances: to train on, with codes of all K codebooks.
        validation: to validate on.
        packet_frames: frames of a packet: the network starts anew with each.
        settings: sizes and schedule.

    Raises:
        AudioVQError: for less codes than two packets.
    """

    epoch: Tensor
    used: Tensor

    def __init__(
        self,
        tables: Tensor,
        utterances: Sequence[CodedUtterance],
        validation: Sequence[CodedUtterance],
        packet_frames: int,
        settings: EntropySettings,
    ) -> None:
        super().__init__()
        n_frames = sum(u.n_frames for u in utterances)
        if n_frames < 2 * packet_frames + 1:
            raise AudioVQError(f"{n_frames} frames of codes are too few to fit an entropy model")
        self.utterances, self.validation = utterances, validation
        self.packet_frames, self.settings = packet_frames, settings
        self.model = EntropyNetwork(tables, settings)
        self.mixed = bfloat16_is_fast("cpu")
        self.optimizers = {
            "model": torch.optim.AdamW(
                self.model.parameters(),
                settings.learning_rate,
                (0.9, 0.98),
                weight_decay=settings.weight_decay,
                fused=True,
            )
        }
        self.rates = {"model": settings.learning_rate}
        self.numbers = [n for n, _ in settings.n_codebooks if n <= self.model.n_codebooks]
        shares = np.array([share for n, share in settings.n_codebooks if n <= self.model.n_codebooks])
        self.shares = shares / shares.sum()
        # The place in the data: epochs begun, and rows of the last one used.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("used", torch.zeros((), dtype=torch.int64))
        self._rows: list[np.ndarray] = []

    def batch(self) -> np.ndarray:
        """The next rows (B, K, packet_frames)."""
        batch: list[np.ndarray] = []
        while len(batch) < self.settings.batch:
            if not self._rows:
                rng = np.random.default_rng((self.settings.seed, int(self.epoch)))
                self._rows = list(training_rows(self.utterances, self.packet_frames, rng))
            if int(self.used) >= len(self._rows):
                self._rows = []
                self.epoch += 1
                self.used.zero_()
                continue
            batch.append(self._rows[int(self.used)])
            self.used += 1
        return np.stack(batch)

    def training_step(self, place: Place) -> dict[str, Tensor]:
        self.model.train()
        rng = np.random.default_rng((self.settings.seed, place.step))
        n_books = int(rng.choice(self.numbers, p=self.shares))
        codes = torch.from_numpy(self.batch()[:, :n_books].astype(np.int64))
        with self.autocast():
            losses = self.model.losses(codes)
        self.update("model", losses.sum(), place.rate, 5.0)
        return {f"bits_{k + 1}": bits for k, bits in enumerate(losses.detach())}

    def validate(self) -> dict[str, float]:
        self.model.eval()
        n_frames = sum(u.n_frames for u in self.validation)
        bits = ideal_bits(self.model, self.validation, self.packet_frames, self.model.n_codebooks) / n_frames
        return {"loss": float(bits.mean())} | {f"bits_{k + 1}": float(b) for k, b in enumerate(bits)}

    def export(self, folder: Path) -> None:
        write_weights(self.model.state_dict(), asdict(self.settings), folder, torch.float32)


def fit(
    tables: Tensor,
    utterances: Sequence[CodedUtterance],
    packet_frames: int,
    folder: Path,
    settings: EntropySettings | None = None,
    validation: Sequence[CodedUtterance] | None = None,
) -> EntropyNetwork:
    """Train a network on coded utterances, or go on where a run in ``folder`` stopped.

    Args:
        tables: the codec's codebooks (K, V, D).
        utterances: with codes of all K codebooks.
        packet_frames: frames of a packet: the network starts anew with each.
        folder: of the run.
        settings: sizes and schedule.
        validation: to validate on; None: some of ``utterances``.

    Raises:
        AudioVQError: for less codes than two packets, or when the folder holds another run.
    """
    settings = settings or EntropySettings()
    torch.manual_seed(settings.seed)
    task = EntropyTask(tables, utterances, validation or utterances[:16], packet_frames, settings)
    run = Run(folder, settings.seed, settings.steps, decay=1.0, validate_every=1000, log_every=250)
    run.resume(task)
    run.fit(task)
    return task.model.eval()


@torch.inference_mode()
def ideal_bits(
    network: EntropyNetwork, utterances: Sequence[CodedUtterance], packet_frames: int, n_codebooks: int
) -> np.ndarray:
    """Bits that the float network gives the packets of utterances, each a file of its own: (K,) sums for each book."""
    packets = [
        np.asarray(u.codes[:n_codebooks, start : start + packet_frames], np.int64)
        for u in utterances
        for start in range(0, u.n_frames, packet_frames)
    ]
    packets.sort(key=lambda packet: packet.shape[1])
    total = np.zeros(n_codebooks)
    for first in range(0, len(packets), 16):
        group = packets[first : first + 16]
        codes = torch.zeros(len(group), n_codebooks, group[-1].shape[1], dtype=torch.int64)
        mask = torch.zeros(len(group), group[-1].shape[1])
        for i, packet in enumerate(group):
            codes[i, :, : packet.shape[1]] = torch.from_numpy(packet)
            mask[i, : packet.shape[1]] = 1
        total += network.losses(codes, mask).double().numpy()
    return total
