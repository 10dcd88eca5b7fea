"""Causal models of sequences, whole or step by step: a transformer, and the gated stack of WaveNet.

The transformer has rotary attention over a sliding window, and feed-forward layers; the stack a state for each layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotary_table(positions: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """Cosines and sines of rotary positions (Su et al. 2021): positions (T,) -> (2, T, dim / 2) float32.

    The angles are computed in float64: float32 has too few digits for long recordings.
    """
    frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions.double().cpu()[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float().to(positions.device)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D / 2) of x (..., T, D) by the table (2, T, D / 2)."""
    cos, sin = table.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@dataclass
class KeyValueCache:
    """Ring buffer of the keys and values of the last ``window`` steps: step t is stored at ``t % window``.

    Their order does not matter to attention, because keys carry their positions.
    """

    keys: Tensor  # (B, G, W, D), as the values
    values: Tensor
    length: int = 0  # steps seen so far


class CausalSelfAttention(nn.Module):
    """Step t attends to steps ``t - window + 1`` to t.

    Args:
        width: channels.
        n_heads: query heads.
        n_groups: heads of keys and values, each shared by ``n_heads / n_groups`` query heads (grouped-query attention,
            Ainslie et al. 2023): the cache, which every step reads in full, is smaller by this factor.
        window: steps attended to, the current one included.

    Raises:
        ValueError: for numbers of channels, heads and groups that do not divide.
    """

    def __init__(self, width: int, n_heads: int, n_groups: int, window: int) -> None:
        super().__init__()
        if width % n_heads or n_heads % n_groups or width // n_heads % 2:
            raise ValueError(f"{width} channels do not split into {n_heads} heads in {n_groups} groups")
        self.n_heads, self.n_groups, self.window = n_heads, n_groups, window
        self.head_dim = width // n_heads
        self.project = nn.Linear(width, (n_heads + 2 * n_groups) * self.head_dim, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.mix.weight)

    def split(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> rotated queries (B, H, T, D), rotated keys and values (B, G, T, D)."""
        heads = self.project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        queries, keys, values = heads.split([self.n_heads, self.n_groups, self.n_groups], dim=1)
        return rotate(queries, table), rotate(keys, table), values

    def share(self, x: Tensor) -> Tensor:
        """(B, G, T, D) -> (B, H, T, D): each group's keys or values for all of its query heads."""
        return x.repeat_interleave(self.n_heads // self.n_groups, dim=1)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, C), table from `rotary_table` -> (B, T, C)."""
        queries, keys, values = self.split(x, table)
        position = torch.arange(x.shape[1], device=x.device)
        distance = position[:, None] - position
        mask = (distance >= 0) & (distance < self.window)
        out = F.scaled_dot_product_attention(queries, self.share(keys), self.share(values), attn_mask=mask)
        return self.mix(out.transpose(1, 2).flatten(2))

    def start(self, batch: int, like: Tensor) -> KeyValueCache:
        """An empty cache for ``batch`` sequences, with the device and type of ``like``."""
        shape = (batch, self.n_groups, self.window, self.head_dim)
        return KeyValueCache(like.new_zeros(shape), like.new_zeros(shape))

    def step(self, x: Tensor, table: Tensor, cache: KeyValueCache) -> Tensor:
        """One step (B, C), table (2, 1, D / 2) of its position -> (B, C); adds its keys and values to the cache."""
        queries, keys, values = self.split(x[:, None], table)
        slot = cache.length % self.window
        cache.keys[:, :, slot], cache.values[:, :, slot] = keys[:, :, 0], values[:, :, 0]
        cache.length += 1
        n = min(cache.length, self.window)
        out = F.scaled_dot_product_attention(
            queries, self.share(cache.keys[:, :, :n]), self.share(cache.values[:, :, :n])
        )
        return self.mix(out.transpose(1, 2).flatten(1))


class RootMeanSquareNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension, in float32 (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.rms_norm(x.float(), self.scale.shape, self.scale, self.eps).to(x.dtype)


class FeedForward(nn.Module):
    """``expand``, squared ReLU (So et al. 2021), ``reduce`` on (..., C); zero at the start of training.

    The squared ReLU needs no exponential, so that the cost of a step is that of its matrix products.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden, bias=False)
        self.reduce = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(F.relu(self.expand(x)).square())


class TransformerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, width: int, n_heads: int, n_groups: int, window: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = RootMeanSquareNorm(width)
        self.attention = CausalSelfAttention(width, n_heads, n_groups, window)
        self.feed_forward_norm = RootMeanSquareNorm(width)
        self.feed_forward = FeedForward(width, hidden)
        self.dropout = dropout

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop(self.attention(self.attention_norm(x), table))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))

    def step(self, x: Tensor, table: Tensor, cache: KeyValueCache) -> Tensor:
        """(B, C) -> (B, C)."""
        x = x + self.attention.step(self.attention_norm(x), table, cache)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A causal stack of blocks: output t depends on at most the last ``L * (window - 1) + 1`` inputs up to t.

    Args:
        width: channels.
        n_layers: number of blocks L.
        n_heads, n_groups, window: of `CausalSelfAttention`.
        hidden: channels inside the feed-forward branches.
        dropout: of both branches of every block in training.
    """

    def __init__(
        self,
        width: int,
        n_layers: int,
        n_heads: int,
        n_groups: int,
        window: int,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.head_dim = width // n_heads
        self.blocks = nn.ModuleList(
            [TransformerBlock(width, n_heads, n_groups, window, hidden, dropout) for _ in range(n_layers)]
        )
        self.norm = RootMeanSquareNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        table = rotary_table(torch.arange(x.shape[1], device=x.device), self.head_dim)
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x)

    def start(self, batch: int, like: Tensor) -> list[KeyValueCache]:
        """The state of ``batch`` sequences before the first step, with the device and type of ``like``."""
        return [block.attention.start(batch, like) for block in self.blocks]  # type: ignore[union-attr, operator]

    def step(self, x: Tensor, state: list[KeyValueCache]) -> Tensor:
        """The next input (B, C) -> its output (B, C), equal to that of `forward`."""
        table = rotary_table(torch.tensor([state[0].length], device=x.device), self.head_dim)
        for block, cache in zip(self.blocks, state, strict=True):
            x = block.step(x, table, cache)  # type: ignore[operator]
        return self.norm(x)


class WaveNetStack(nn.Module):
    """Dilated causal convolutions with gates, residual and skip paths (van den Oord et al. 2016, section 2).

    Layer ``l`` with dilation ``d = 2 ** (l % dilation_cycle)`` (1, 2, 4, ..., then 1 again)::

        a, b = W_l * x + condition_l          (each ``channels``; the taps reach back 0, d, 2d, ... steps)
        h    = tanh(a) * sigmoid(b)
        x    = x + R_l h + r_l                (not in the last layer)
        s    = s + S_l h + s_l

    and the head is ``out = P relu(M relu(s) + m) + p``. Output t reads the input up to and including t: to predict
    sample t, feed samples up to t - 1.

    The dilated convolutions have no bias: the projection of the condition has it, which a sampler computes outside of
    its inner loop. Parameters (all channel-first, as in `torch.nn.Conv1d`):

    ========================  =============================================================================
    ``entry``                 ``weight (channels, in_channels, 1)``, ``bias (channels,)``
    ``condition``             ``weight (n_layers * 2 * channels, condition_channels, 1)``, ``bias``;
                              rows ``l * 2 * channels`` on are layer l's: first its ``a``, then its ``b``
    ``dilated.l``             ``weight (2 * channels, channels, kernel_size)``; the last tap is the present step
    ``residual.l``            ``weight (channels, channels, 1)``, ``bias``; ``n_layers - 1`` of them
    ``skip.l``                ``weight (skip_channels, channels, 1)``, ``bias``
    ``mix``                   ``weight (skip_channels, skip_channels, 1)``, ``bias``
    ``project``               ``weight (out_channels, skip_channels, 1)``, ``bias``
    ========================  =============================================================================

    Args:
        in_channels, out_channels: of the input and of the head.
        channels: of the residual path.
        skip_channels: of the skip path and the head.
        n_layers, dilation_cycle, kernel_size: see above.
        condition_channels: of the local condition (which includes global conditions).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        skip_channels: int,
        out_channels: int,
        n_layers: int,
        dilation_cycle: int,
        kernel_size: int = 2,
        condition_channels: int = 64,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.channels, self.skip_channels = channels, skip_channels
        self.n_layers, self.kernel_size, self.condition_channels = n_layers, kernel_size, condition_channels
        self.dilations = [2 ** (layer % dilation_cycle) for layer in range(n_layers)]
        #: Number of input steps that one output depends on.
        self.receptive_field = 1 + (kernel_size - 1) * sum(self.dilations)
        self.entry = nn.Conv1d(in_channels, channels, 1)
        self.condition = nn.Conv1d(condition_channels, n_layers * 2 * channels, 1)
        self.dilated = nn.ModuleList(
            nn.Conv1d(channels, 2 * channels, kernel_size, dilation=d, bias=False) for d in self.dilations
        )
        self.residual = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in range(n_layers - 1))
        self.skip = nn.ModuleList(nn.Conv1d(channels, skip_channels, 1) for _ in range(n_layers))
        self.mix = nn.Conv1d(skip_channels, skip_channels, 1)
        self.project = nn.Conv1d(skip_channels, out_channels, 1)
        with torch.no_grad():
            for layer in range(n_layers):
                self.skip[layer].get_parameter("weight").mul_(math.sqrt(3 / n_layers))  # a sum of many

    @property
    def macs_per_step(self) -> int:
        """Multiplications for one step of one stream, without the projection of the condition."""
        c, s = self.channels, self.skip_channels
        layers = self.n_layers * (self.kernel_size * 2 * c * c + c * s) + (self.n_layers - 1) * c * c
        return layers + self.in_channels * c + s * s + s * self.out_channels

    def forward(self, x: Tensor, condition: Tensor, extra: Tensor | None = None) -> Tensor:
        """Input (B, in, T) and condition (B, condition_channels, T'), T a multiple of T' -> (B, out, T).

        Every position of the condition is repeated for ``T / T'`` steps; ``extra`` is as in `advance`.
        """
        return self.advance(x, self.project_condition(condition), self.initial_state(x.shape[0], x), extra)

    def project_condition(self, condition: Tensor) -> Tensor:
        """(B, condition_channels, T') -> the conditions added in the gates (B, n_layers * 2 * channels, T')."""
        return self.condition(condition)

    def initial_state(self, batch_size: int, like: Tensor | None = None) -> list[Tensor]:
        """The layers' state before the first step, for `advance`: zeros (B, (kernel_size - 1) * d, channels) each."""
        like = self.entry.weight if like is None else like
        reach = self.kernel_size - 1
        return [like.new_zeros(batch_size, reach * d, self.channels) for d in self.dilations]

    def advance(self, x: Tensor, projected: Tensor, state: list[Tensor], extra: Tensor | None = None) -> Tensor:
        """The next T steps: x (B, in, T), projected condition (B, n_layers * 2 * channels, T') -> (B, out, T).

        Any division of a sequence into calls gives the same output.

        Args:
            state: from `initial_state` or an earlier call; updated in place (its tensors are replaced).
            extra: (B, channels, T), added to the output of ``entry``.

        Raises:
            ValueError: when T is no multiple of T'.
        """
        # Channels last inside: every layer is then two matrix products over all steps, with no transposition between.
        n_steps = x.shape[-1]
        hold = n_steps // projected.shape[-1]
        if hold * projected.shape[-1] != n_steps:
            raise ValueError(f"{n_steps} steps are no multiple of the condition's {projected.shape[-1]}")
        y = _pointwise(x.transpose(1, 2), self.entry)
        if extra is not None:
            y = y + extra.transpose(1, 2).to(y.dtype)
        gates = projected.transpose(1, 2).chunk(self.n_layers, dim=2)
        total: Tensor | None = None
        for layer in range(self.n_layers):
            seen = torch.cat([state[layer].to(y.dtype), y], dim=1)  # (B, reach + T, C)
            state[layer] = seen[:, n_steps:].detach()
            h = self._gated(seen, gates[layer], layer, n_steps, hold)
            skip = _pointwise(h, self.skip[layer])
            total = skip if total is None else total + skip
            if layer < self.n_layers - 1:
                y = y + _pointwise(h, self.residual[layer])
        assert total is not None
        return self._head(total)

    def _head(self, total: Tensor) -> Tensor:
        """Sum of the skip paths (B, T, skip) -> (B, out, T), in float32: too coarse in half precision."""
        with torch.autocast(total.device.type, enabled=False):
            return _pointwise(F.relu(_pointwise(F.relu(total.float()), self.mix)), self.project).transpose(1, 2)

    def _gated(self, seen: Tensor, gate: Tensor, layer: int, n_steps: int, hold: int) -> Tensor:
        """Convolution, condition and gate of one layer -> (B, T, C)."""
        weight, dilation = self.dilated[layer].get_parameter("weight"), self.dilations[layer]
        taps = [seen[:, k * dilation : k * dilation + n_steps] for k in range(self.kernel_size)]
        matrix = weight.permute(0, 2, 1).flatten(1)  # (2C, kernel_size * C), one block a tap
        z = F.linear(torch.cat(taps, dim=2), matrix)
        z = z.view(len(z), -1, hold, z.shape[-1]) + gate.unsqueeze(2)  # each position of the condition is repeated
        a, b = z.flatten(1, 2).chunk(2, dim=2)
        return torch.tanh(a) * torch.sigmoid(b)


class WaveNetBackbone(nn.Module):
    """`WaveNetStack` over frames as the backbone of a prior (van den Oord et al. 2016; 2017, section 4.2).

    It has the interface of `audiovq.nn.sequence.Transformer`. Conditions are part of the input, so that the
    condition of the gates is a constant: their bias.

    Args:
        width: channels of input and output.
        channels, skip_channels, n_layers, dilation_cycle, kernel_size: of `WaveNetStack`.
    """

    def __init__(
        self, width: int, channels: int, skip_channels: int, n_layers: int, dilation_cycle: int, kernel_size: int = 2
    ) -> None:
        super().__init__()
        self.stack = WaveNetStack(
            width, channels, skip_channels, width, n_layers, dilation_cycle, kernel_size, condition_channels=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, C) -> (B, F, C)."""
        return self.stack(x.transpose(1, 2), x.new_ones(len(x), 1, 1)).transpose(1, 2)

    def start(self, batch: int, like: Tensor) -> tuple[list[Any], Tensor]:
        """The state of ``batch`` sequences before the first step, with the device and type of ``like``."""
        projected = self.stack.project_condition(like.new_ones(batch, 1, 1))
        return self.stack.initial_state(batch, like), projected

    def step(self, x: Tensor, state: tuple[list[Any], Tensor]) -> Tensor:
        """The next input (B, C) -> its output (B, C), equal to that of `forward`."""
        layers, projected = state
        return self.stack.advance(x[:, :, None], projected, layers)[:, :, 0]


def _pointwise(x: Tensor, layer: nn.Module) -> Tensor:
    """A convolution of width one over channels that come last: (B, T, in) -> (B, T, out)."""
    assert isinstance(layer, nn.Conv1d)
    return F.linear(x, layer.weight[:, :, 0], layer.bias)
