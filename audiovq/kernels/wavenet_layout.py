"""A WaveNet stack's weights as the sampler's kernel wants them: padded, in panels, in the order of use."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.kernels.vectors import TILE, WIDTH
from audiovq.kernels.wavenet import (
    BIAS,
    BLOCK,
    BLOCKS,
    CATEGORICAL,
    DILATION,
    LOGISTICS,
    NOW,
    OUT,
    PAST,
    RING,
    Network,
    State,
)
from audiovq.nn.distributions import MuLawCategorical
from audiovq.nn.sequence import WaveNetStack

BYTES = 4
"""Bytes of a weight."""


class Recurrence(Protocol):
    """A WaveNet as the kernel needs it: layers, and the distribution of one value."""

    n_values: int  # of a step
    hold: int  # steps that one position of the condition lasts
    taps: int  # steps of the linear prediction of mixtures; 0 for mu-law

    @property
    def stack(self) -> WaveNetStack: ...
    @property
    def output(self) -> Any: ...
    @property
    def level(self) -> nn.Linear | None: ...  # logarithms of the mixtures' units from the condition
    @property
    def has_extra(self) -> bool: ...  # whether something is added to the first layer's input at each step


ALIGNMENT = 64  # bytes of a cache line: vectors that straddle two are read at half speed


def aligned(shape: int | tuple[int, ...]) -> np.ndarray:
    """float32 zeros that start at a cache line."""
    size = int(np.prod(shape)) * BYTES
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def up(n: int, multiple: int) -> int:
    """``n`` rounded up to a multiple."""
    return -(-n // multiple) * multiple


def matrix_of(layer: Any, tap: int = 0) -> Tensor:
    """(n, k), one tap of a convolution."""
    return layer.weight[:, :, tap]


def placed(values: Any, shape: tuple[int, ...], *starts: int) -> np.ndarray:
    """Zeros of ``shape`` with ``values`` in them, from ``starts`` on along the first axes."""
    array = np.zeros(shape, np.float32)
    numbers = values.detach().float().cpu().numpy()
    slices = tuple(slice(s, s + n) for s, n in zip((*starts, *[0] * len(shape)), numbers.shape, strict=False))
    array[slices] = numbers
    return array


class _Store:
    """Arrays behind each other, and the place of each."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        self.size = 0

    def add(self, array: np.ndarray) -> int:
        """The place of its first number."""
        self.arrays.append(array.ravel())
        self.size += array.size
        return self.size - array.size

    def add_matrix(self, matrix: np.ndarray) -> int:
        """(n, k) with n a multiple of TILE -> panels (k, 2 * TILE), the last (k, TILE) where there is an odd one."""
        panels = [matrix[start : start + 2 * TILE].T for start in range(0, len(matrix), 2 * TILE)]
        return self.add(np.concatenate([panel.ravel() for panel in panels]))

    def join(self) -> np.ndarray:
        joined = aligned(self.size)
        joined[:] = np.concatenate(self.arrays)
        return joined


def lay_out(decoder: Recurrence) -> Network:
    """The weights of the decoder's stack for the kernel.

    Raises:
        AudioVQError: for convolutions of one tap, or classes that fill no whole vectors.
    """
    stack, output = decoder.stack, decoder.output
    if stack.kernel_size < 2:
        raise AudioVQError("the sampler needs convolutions of at least two taps")
    if isinstance(output, MuLawCategorical):
        if output.n_levels % WIDTH:
            raise AudioVQError(f"the sampler needs a multiple of {WIDTH} classes, not {output.n_levels}")
        kind, levels, low_scale = CATEGORICAL, output.value(torch.arange(output.n_levels)).numpy(), 0.0
    else:
        kind, levels, low_scale = LOGISTICS, np.array([output.bin]), output.min_log_scale
    c, s = stack.channels, stack.skip_channels
    x_width, skip_width = up(c, WIDTH), up(s, WIDTH)
    y_width, z_width = up(x_width + skip_width, TILE), up(2 * x_width, TILE)
    hidden_width, logits_width = up(s, TILE), up(stack.out_channels, TILE)
    store, biases = _Store(), _Store()
    layers = _lay_out_layers(stack, store, biases, (x_width, y_width, z_width))
    mix = store.add_matrix(placed(matrix_of(stack.mix), (hidden_width, skip_width)))
    mix_bias = biases.add(placed(stack.mix.bias, (hidden_width,)))
    project = store.add_matrix(placed(matrix_of(stack.project), (logits_width, hidden_width)))
    project_bias = biases.add(placed(stack.project.bias, (logits_width,)))
    layers[:, [PAST, NOW, OUT]] *= BYTES
    return Network(
        weights=store.join(),
        biases=biases.join(),
        layers=layers,
        n_taps=stack.kernel_size,
        input_weight=placed(matrix_of(stack.entry).t(), (stack.in_channels, x_width)),
        input_bias=placed(stack.entry.bias, (x_width,)),
        x_width=x_width,
        y_width=y_width,
        z_width=z_width,
        skip_width=skip_width,
        hidden_width=hidden_width,
        logits_width=logits_width,
        head=np.array([mix * BYTES, mix_bias, project * BYTES, project_bias]),
        n_values=decoder.n_values,
        n_outputs=stack.out_channels,
        n_parameters=output.n_parameters,
        kind=kind,
        levels=levels.astype(np.float32),
        low_scale=low_scale,
        condition_width=stack.n_layers * z_width + up(decoder.n_values, ALIGNMENT // 4),
    )


def _lay_out_layers(stack: WaveNetStack, store: _Store, biases: _Store, widths: tuple[int, int, int]) -> np.ndarray:
    """Put the layers' matrices and biases into the stores -> `Network.layers`."""
    x_width, y_width, z_width = widths
    c, taps = stack.channels, stack.kernel_size
    layers = np.zeros((stack.n_layers, 7), np.int64)
    ring, later = 0, []
    for i, dilation in enumerate(stack.dilations):
        matrices = [gate_rows(matrix_of(stack.dilated[i], tap), c, x_width, x_width, z_width) for tap in range(taps)]
        blocks = dilation % BLOCK == 0
        if blocks:  # read once in BLOCK steps: out of the way of what is read at each
            later.append((i, matrices[-2::-1]))  # the nearest tap first
        else:
            layers[i, PAST] = min(store.add_matrix(matrix) for matrix in matrices[-2::-1])
        now = store.add_matrix(matrices[-1])
        out = placed(matrix_of(stack.skip[i]), (y_width, x_width), x_width)
        bias = placed(stack.skip[i].bias, (y_width,), x_width)
        if i < stack.n_layers - 1:
            out += placed(matrix_of(stack.residual[i]), (y_width, x_width))
            bias += placed(stack.residual[i].bias, (y_width,))
        layers[i, [DILATION, RING, NOW, OUT, BIAS, BLOCKS]] = (
            dilation, ring, now, store.add_matrix(out), biases.add(bias), blocks
        )  # fmt: skip
        ring += (taps - 1) * dilation
    for i, past in later:
        layers[i, PAST] = min(store.add_matrix(matrix) for matrix in past)
    return layers


def gate_rows(matrix: Tensor, channels: int, width: int, start: int, height: int) -> np.ndarray:
    """(2 * channels, k) -> (height, width): the gates' first halves from row 0 on, the second from row ``start`` on."""
    a, b = matrix[:channels], matrix[channels:]
    return placed(a, (height, width)) + placed(b, (height, width), start)


def lay_out_condition(decoder: Recurrence, net: Network) -> tuple[np.ndarray, np.ndarray]:
    """Weight (condition_channels, condition_width) and bias (condition_width,) of the condition's projection to
    the gates and to the logarithms of the mixtures' units (0 where there are none)."""
    stack, c, width = decoder.stack, decoder.stack.channels, net.z_width
    layer: Any = stack.condition
    weight = matrix_of(layer).unflatten(0, (stack.n_layers, 2 * c))
    bias = layer.bias.unflatten(0, (stack.n_layers, 2 * c)).unsqueeze(-1)
    rows = [gate_rows(matrix, c, matrix.shape[1], net.x_width, width) for matrix in weight]
    biases = [gate_rows(matrix, c, 1, net.x_width, width) for matrix in bias]
    height, level = net.condition_width - stack.n_layers * width, decoder.level
    rows.append(placed(torch.zeros(0, weight.shape[2]) if level is None else level.weight, (height, weight.shape[2])))
    biases.append(placed(torch.zeros(0, 1) if level is None else level.bias.unsqueeze(1), (height, 1)))
    return np.concatenate(rows).astype(np.float64).T.copy(), np.concatenate(biases).astype(np.float64)[:, 0]


def fresh_state(net: Network, taps: int, batch: int) -> State:
    """The state before the first step; ``taps`` steps of values are remembered, one at least."""
    reach = int((net.n_taps - 1) * net.layers[:, DILATION].sum())
    return State(
        rings=aligned(reach * batch * net.x_width),
        pre=aligned(len(net.layers) * BLOCK * batch * net.z_width),
        past=aligned((batch, max(taps, 1), net.n_values)),
        clock=np.zeros(1, np.int64),
        y=aligned(batch * net.y_width),
        z=aligned(batch * net.z_width),
        h=aligned(batch * net.x_width),
        skip=aligned(batch * net.skip_width),
        hidden=aligned(batch * net.hidden_width),
        logits=aligned(batch * net.logits_width),
        zeros=aligned(max(net.z_width, net.y_width, net.hidden_width, net.logits_width)),
        probabilities=aligned(net.logits_width),
    )
