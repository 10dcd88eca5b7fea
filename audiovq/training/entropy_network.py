"""A small float network that predicts the codes of packets, and its form in integers.

The network sees a packet's past as sums of learned vectors, one for each code (as the codec's latents are sums of its
codebooks' vectors), through a few dilated causal convolutions, once for each frame. It also
sees which frames are voiced, before and behind: pitch stands before the codes in a packet, and moving it leaves the
voicing as it is. For each code of the frame, coarse to fine, one rectified layer adds what the coarser codes say, and
gives a logit for every code of the codebook. It does not see the speaker vector: a file's speaker can be replaced
without touching its packets, and it saved no bits.

In integers its weights have 8 bits, its activations 10, and each output one multiplier.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.bitstream.entropy_kernels import MAX_ACTIVATION, MAX_STATE, PRECISION, SHIFT, Network

if TYPE_CHECKING:
    from audiovq.data.utterance import CodedUtterance


DIM = 64
"""Channels of the codes' vectors where the codec's codebooks are not known."""


@dataclass(frozen=True)
class EntropySettings:
    """Sizes of the network.

    Attributes:
        width, hidden: units of a frame's state and of each code's layer.
        first_delays: frames back that the first convolution sees, 1 is the frame before.
        delays: of each later convolution, counted from its own frame.
        voicing_offsets: frames, counted from its own, whose voicing the first layer sees.
    """

    width: int = 128
    hidden: int = 128
    first_delays: Sequence[int] = (1, 2, 3)
    delays: Sequence[Sequence[int]] = ((0, 3), (0, 6))
    voicing_offsets: Sequence[int] = (-3, -2, -1, 0, 1, 2, 3, 4)


class EntropyNetwork(nn.Module):
    """The float network, whose vectors start at the codec's codebooks (K, V, D)."""

    def __init__(self, tables: Tensor, settings: EntropySettings) -> None:
        super().__init__()
        n_books, n_values, dim = tables.shape
        width, hidden = settings.width, settings.hidden
        n_layers, n_taps = len(settings.delays), len(settings.delays[0])
        self.settings, self.n_codebooks, self.codebook_size = settings, n_books, n_values
        self.voicing_offsets = tuple(settings.voicing_offsets)
        # Named and laid out as the integers are: matrices are (in, out).
        self.embedding = nn.Parameter(tables / tables[0].std())
        self.first_weight = _uniform(dim, len(settings.first_delays), dim, width)
        self.condition = nn.Parameter(torch.zeros(n_books, width))
        self.voicing_weight = nn.Parameter(torch.zeros(len(self.voicing_offsets), width))
        self.weight = _uniform(width, n_layers, n_taps, width, width)
        self.bias = nn.Parameter(torch.zeros(n_layers, width))
        self.state_weight = _uniform(width, n_books, width, hidden)
        self.sum_weight = _uniform(dim, n_books - 1, dim, hidden)
        self.previous = nn.Parameter(torch.zeros(n_books - 1, n_values, hidden))
        self.hidden_bias = _uniform(width, n_books, hidden)
        self.output_weight = nn.Parameter(0.5 / math.sqrt(hidden) * torch.randn(n_books, hidden, n_values))
        self.output_bias = nn.Parameter(torch.zeros(n_books, n_values))

    def partial_sums(self, codes: Tensor) -> list[Tensor]:
        """Codes (B, K, F) -> K + 1 sums (B, F, D): before the first codebook, before the second ... and of all."""
        sums = [self.embedding.new_zeros(codes.shape[0], codes.shape[2], self.embedding.shape[2])]
        for book in range(codes.shape[1]):
            sums.append(sums[-1] + F.embedding(codes[:, book], self.embedding[book]))
        return sums

    def states(self, sums: Tensor, n_books: int, voiced: Tensor) -> list[Tensor]:
        """Each layer's state (B, F, H), from sums (B, F, D) of the codes of frames before and from voicing (B, F)."""
        total = self.condition[n_books - 1]
        for weight, delay in zip(self.first_weight, self.settings.first_delays, strict=True):
            total = total + _delayed(sums, delay) @ weight
        for weight, offset in zip(self.voicing_weight, self.voicing_offsets, strict=True):
            total = total + _delayed(voiced[..., None].to(weight.dtype), -offset) * weight
        states = [F.relu(total)]
        for weights, bias, delays in zip(self.weight, self.bias, self.settings.delays, strict=True):
            total = bias
            for weight, delay in zip(weights, delays, strict=True):
                total = total + _delayed(states[-1], delay) @ weight
            states.append(states[-1] + F.relu(total))
        return states

    def hidden(self, state: Tensor, partial: Tensor, codes: Tensor, book: int) -> Tensor:
        """Units that decide on a codebook's code: (B, F, U)."""
        total = torch.matmul(state, self.state_weight[book]) + self.hidden_bias[book]
        if book:
            total = total + partial @ self.sum_weight[book - 1]
            total = total + F.embedding(codes[:, book - 1], self.previous[book - 1])
        return F.relu(total)

    def forward(self, codes: Tensor, voiced: Tensor) -> list[Tensor]:
        """Logits (B, F, V) of each codebook, from codes (B, K, F) of packets and voicing (B, F).

        Each depends on nothing that a decoder does not know before it.
        """
        n_books = codes.shape[1]
        sums = self.partial_sums(codes)
        state = self.states(sums[-1], n_books, voiced)[-1]
        return [
            self.hidden(state, sums[k], codes, k) @ self.output_weight[k] + self.output_bias[k] for k in range(n_books)
        ]

    def losses(self, codes: Tensor, voiced: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bits of each codebook's codes, (K,): means over frames, or sums over those of ``mask (B, F)``."""
        found = []
        for book, logits in enumerate(self(codes, voiced)):
            bits = F.cross_entropy(logits.flatten(0, 1).float(), codes[:, book].flatten(), reduction="none")
            bits = bits / math.log(2)
            found.append(bits.mean() if mask is None else (bits * mask.flatten()).sum())
        return torch.stack(found)


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape) - 1) / math.sqrt(fan_in))


def _delayed(x: Tensor, delay: int) -> Tensor:
    """(B, F, C) -> the same ``delay`` frames later (earlier, for a negative delay), zeros in the place of the rest."""
    if delay < 0:
        return F.pad(x, (0, 0, 0, -delay))[:, -delay:]
    return F.pad(x, (0, 0, delay, 0))[:, : x.shape[1]] if delay else x


def voicing_of(utterance: CodedUtterance) -> np.ndarray:
    """Which frames are voiced, (F,) uint8."""
    return (utterance.pitch > 0).astype(np.uint8)


def packets_of(utterances: Sequence[CodedUtterance], packet_frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Codes (K, F) and voicing (F,) uint8 of each packet of utterances, each utterance a file of its own."""
    packets = []
    for utterance in utterances:
        voiced = voicing_of(utterance)
        for start in range(0, utterance.n_frames, packet_frames):
            stretch = slice(start, start + packet_frames)
            packets.append((np.asarray(utterance.codes[:, stretch], np.int64), voiced[stretch]))
    return packets


@torch.no_grad()
def ideal_bits(
    network: EntropyNetwork, utterances: Sequence[CodedUtterance], packet_frames: int, n_codebooks: int
) -> np.ndarray:
    """Bits that the float network gives the packets of utterances, each a file of its own: (K,) sums by codebook."""
    packets, device = packets_of(utterances, packet_frames), network.embedding.device
    packets.sort(key=lambda packet: packet[0].shape[1])
    total = np.zeros(n_codebooks)
    for first in range(0, len(packets), 16):
        group = packets[first : first + 16]
        longest = group[-1][0].shape[1]
        codes = torch.zeros(len(group), n_codebooks, longest, dtype=torch.int64)
        mask, voiced = torch.zeros(len(group), longest), torch.zeros(len(group), longest)
        for i, (packet, voicing) in enumerate(group):
            codes[i, :, : packet.shape[1]] = torch.from_numpy(packet[:n_codebooks])
            mask[i, : packet.shape[1]] = 1
            voiced[i, : packet.shape[1]] = torch.from_numpy(voicing)
        total += network.losses(codes.to(device), voiced.to(device), mask.to(device)).cpu().double().numpy()
    return total


LOGIT_UNIT = math.log(2) / 64
"""Logits are in steps of 1/64 bit: rounding them costs less than 10^-5 bits a code."""
_TOP = 20  # bits of the largest weight of the exponential


def exponential() -> np.ndarray:
    """2**20 times 2**(-i / 64), rounded, down to the first 0."""
    values = np.array([round(2 ** (_TOP - i / 64)) for i in range(64 * (_TOP + 2))], np.int64)
    return values[: np.argmin(values > 0) + 1]


def speaker_weights(utterances: Sequence[CodedUtterance], n_values: int) -> np.ndarray:
    """How often each value of a speaker vector takes each level, (S, n_values) int64; rows sum to 2**24 - n_values.

    A twentieth of the weight goes to all levels alike: other speakers than those of the training will come.
    """
    voices = np.stack([u.voice for u in utterances])
    counts = np.stack([(voices == level).sum(axis=0) for level in range(n_values)], axis=1).astype(np.float64)
    shares = 0.95 * counts / counts.sum(axis=1, keepdims=True) + 0.05 / n_values
    total = (1 << PRECISION) - n_values
    weights = np.floor(shares * total).astype(np.int64)
    weights[np.arange(len(weights)), weights.argmax(axis=1)] += total - weights.sum(axis=1)
    return weights


@torch.no_grad()
def to_integers(network: EntropyNetwork, packets: Sequence[tuple[Tensor, Tensor]]) -> Network:
    """The network in integers.

    Some codes (B, K, F) int64 and their voicing (B, F), with all K codebooks and with fewer, show how large the
    activations get.
    """
    state_unit, hidden_units = _units(network, packets)
    network = copy.deepcopy(network).cpu()
    embedding = network.embedding.double()
    sum_unit = embedding.abs().amax(dim=(0, 1)) / 127  # (D,)
    first = _matrix(network.first_weight * sum_unit[:, None], state_unit)
    weight, multiplier = _matrix(network.voicing_weight[None], state_unit)
    voicing = {"voicing_weight": weight[0], "voicing_multiplier": multiplier}
    voicing["voicing_offsets"] = np.array(network.voicing_offsets, np.int64)
    later = [_matrix(weight * state_unit, state_unit) for weight in network.weight]
    state = [_matrix(w[None] * state_unit, unit) for w, unit in zip(network.state_weight, hidden_units, strict=True)]
    finer = hidden_units[1:]
    sums = [_matrix((w * sum_unit[:, None])[None], unit) for w, unit in zip(network.sum_weight, finer, strict=True)]
    previous = [_matrix(w[None], unit) for w, unit in zip(network.previous, finer, strict=True)]
    output = [_matrix(w[None] * unit, LOGIT_UNIT) for w, unit in zip(network.output_weight, hidden_units, strict=True)]
    return Network(
        embedding=_small(embedding / sum_unit),
        first_delays=np.array(network.settings.first_delays, np.int64),
        first_weight=first[0],
        first_multiplier=first[1],
        condition=_rounded(network.condition / state_unit),
        **voicing,
        delays=np.array(network.settings.delays, np.int64),
        weight=np.stack([weight for weight, _ in later]),
        multiplier=np.stack([multiplier for _, multiplier in later]),
        bias=_rounded(network.bias / state_unit),
        state_weight=np.concatenate([weight for weight, _ in state]),
        state_multiplier=np.stack([multiplier for _, multiplier in state]),
        sum_weight=np.concatenate([weight for weight, _ in sums]),
        sum_multiplier=np.stack([multiplier for _, multiplier in sums]),
        previous=np.concatenate([weight for weight, _ in previous]),
        previous_multiplier=np.stack([multiplier for _, multiplier in previous]),
        hidden_bias=_rounded(network.hidden_bias / torch.tensor(hidden_units)[:, None]),
        output_weight=np.concatenate([weight for weight, _ in output]),
        output_multiplier=np.stack([multiplier for _, multiplier in output]),
        output_bias=_rounded(network.output_bias / LOGIT_UNIT),
        exponential=exponential(),
    )


def from_integers(network: Network) -> dict[str, Tensor]:
    """Weights of the float network of which these are the integers, up to rounding.

    The scales of states, hidden units and codes' vectors are not kept in integers, and make no difference: rectifiers
    pass them on. They are set to usual ones.
    """
    state_unit = hidden_unit = 8 / MAX_ACTIVATION
    sum_unit = 4 / 127

    def matrix(weight: np.ndarray, multiplier: np.ndarray, unit: float) -> np.ndarray:
        return weight * (multiplier[..., None, :] * (unit / 2**SHIFT))

    floats = {
        "embedding": network.embedding * sum_unit,
        "first_weight": matrix(network.first_weight, network.first_multiplier, state_unit / sum_unit),
        "condition": network.condition * state_unit,
        "voicing_weight": matrix(network.voicing_weight, network.voicing_multiplier, state_unit),
        "weight": matrix(network.weight, network.multiplier[:, None], 1.0),
        "bias": network.bias * state_unit,
        "state_weight": matrix(network.state_weight, network.state_multiplier, hidden_unit / state_unit),
        "sum_weight": matrix(network.sum_weight, network.sum_multiplier, hidden_unit / sum_unit),
        "previous": matrix(network.previous, network.previous_multiplier, hidden_unit),
        "hidden_bias": network.hidden_bias * hidden_unit,
        "output_weight": matrix(network.output_weight, network.output_multiplier, LOGIT_UNIT / hidden_unit),
        "output_bias": network.output_bias * LOGIT_UNIT,
    }
    return {name: torch.from_numpy(values).float() for name, values in floats.items()}


def _units(network: EntropyNetwork, packets: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, list[float]]:
    """Values of one unit of a state, and of each codebook's hidden layer, so that the largest ones seen just fit."""
    top_state, top_step, top_hidden = 1e-3, 1e-3, [1e-3] * network.n_codebooks
    for batch, voiced in packets:
        sums = network.partial_sums(batch)
        states = network.states(sums[-1], batch.shape[1], voiced)
        steps = [states[0], *(after - before for before, after in pairwise(states))]
        top_state = max(top_state, max(float(s.max()) for s in states))
        top_step = max(top_step, max(float(s.max()) for s in steps))
        for book in range(batch.shape[1]):
            hidden = network.hidden(states[-1], sums[book], batch, book)
            top_hidden[book] = max(top_hidden[book], float(hidden.max()))
    return max(top_state / MAX_STATE, top_step / MAX_ACTIVATION), [top / MAX_ACTIVATION for top in top_hidden]


def _matrix(weight: Tensor, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (taps, in, out) with outputs in ``unit`` -> the same in int8, multipliers (out,)."""
    weight = weight.double()
    step = (weight.abs().amax(dim=(0, 1)) / 127).clamp_min(1e-12)
    multiplier = (step / unit * 2**SHIFT).round().clamp(1, 2**31 - 1)
    return _small(weight / step), multiplier.long().numpy()


def _small(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.round().clamp(-127, 127).to(torch.int8).numpy())


def _rounded(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().round().long().numpy()
