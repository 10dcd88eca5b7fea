"""A trained `EntropyNetwork` as integers: weights of 8 bits, activations of 10, one multiplier for each output."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from audiovq.bitstream.entropy_kernels import MAX_ACTIVATION, MAX_STATE, PRECISION, SHIFT, Network
from audiovq.training.entropy_network import EntropyNetwork

if TYPE_CHECKING:
    from audiovq.data.utterance import CodedUtterance

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

    Args:
        network: trained.
        packets: some codes (B, K, F) int64 and their voicing (B, F), with all K codebooks and with fewer: they show how
            large the activations get.
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
