"""Compiled sampling on the CPU: a prior's weights packed for the kernels, and a stepper that runs them."""

from __future__ import annotations

import numpy as np

from audiovq.prior.kernels import backbone_step, depth_step
from audiovq.prior.sampling import SamplingConfig
from audiovq.prior.vectors import PANEL, UNROLL
from audiovq.prior.weights import EPS, PriorWeights, restore_rows, rotary_row, round_rows

_ALIGNMENT = 64


class _Packer:
    """Collects matrices in one array of weights and one of scales."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.scales: list[np.ndarray] = []
        self.matrices: list[tuple[int, int, int, int]] = []
        self.n_weights = self.n_scales = self.widest = 0

    def add(self, weight: np.ndarray) -> None:
        """Append a matrix (O, I), padded with zeros to whole panels, as (panels, I, PANEL)."""
        rows, scale = round_rows(weight)
        n_out, n_in = -(-rows.shape[0] // PANEL) * PANEL, -(-rows.shape[1] // UNROLL) * UNROLL
        padded = np.zeros((n_out, n_in), np.int8)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        scales = np.zeros(n_out, np.float32)
        scales[: len(scale)] = scale
        self.weights.append(padded.reshape(-1, PANEL, n_in).transpose(0, 2, 1).ravel())
        self.scales.append(scales)
        self.matrices.append((self.n_weights, self.n_scales, n_in, n_out))
        self.n_weights, self.n_scales = self.n_weights + padded.size, self.n_scales + n_out
        self.widest = max(self.widest, n_in, n_out)

    def packed(self) -> tuple[np.ndarray, np.ndarray]:
        """All weights, aligned, and all scales."""
        room = np.zeros(self.n_weights + _ALIGNMENT, np.int8)
        start = -room.ctypes.data % _ALIGNMENT
        weights = room[start : start + self.n_weights]
        weights[:] = np.concatenate(self.weights)
        return weights, np.concatenate(self.scales)


class PackedPrior:
    """The weights of a prior with a transformer, for `CompiledStepper`."""

    def __init__(self, prior: PriorWeights) -> None:
        self.prior = prior
        arrays, packer, norms = prior.arrays, _Packer(), []
        packer.add(arrays["entry.weight"])
        for i in range(prior.n_layers):
            block = f"backbone.blocks.{i}."
            for name in ("attention.project", "attention.mix", "feed_forward.expand", "feed_forward.reduce"):
                packer.add(arrays[f"{block}{name}.weight"])
            norms += [arrays[block + "attention_norm.scale"], arrays[block + "feed_forward_norm.scale"]]
        self.n_backbone = len(packer.matrices)
        into = arrays["depth.into.weight"].reshape(prior.n_streams, prior.depth_width, prior.width)
        for k, size in enumerate(prior.sizes):
            packer.add(into[k])
            packer.add(arrays["depth.heads"][k, :size])
        self.sizes = np.array(prior.sizes, np.int64)
        for matrix in arrays["depth.below"]:
            packer.add(matrix)
        for i in range(prior.n_depth_layers):
            packer.add(arrays[f"depth.layers.{i}.expand.weight"])
            packer.add(arrays[f"depth.layers.{i}.reduce.weight"])
        self.weights, self.scales = packer.packed()
        self.matrices = np.array(packer.matrices, np.int64)
        self.widest = packer.widest
        self.norms = np.stack([*norms, arrays["backbone.norm.scale"]])
        depth_norms = [arrays[f"depth.norms.{i}.scale"] for i in range(prior.n_depth_layers)]
        self.depth_norms = np.stack([*depth_norms, arrays["depth.norm.scale"]])
        self.eps = np.float32(EPS)
        self.vectors = restore_rows(*round_rows(arrays["embedding.vectors"]))
        self.n_layers, self.n_groups = prior.n_layers, prior.n_groups
        self.window, self.head_dim = prior.window, prior.head_dim
        self.width, self.depth_width = prior.width, prior.depth_width


class CompiledStepper:
    """A batch of sequences that grow frame by frame: `audiovq.prior.networks.Stepper`, compiled and on one thread.

    Args:
        packed: the weights.
        offset: (B, C) float32, the conditions' vector that is added to every input.
        config: sampling settings.
        n_streams: number of streams to sample.
    """

    def __init__(self, packed: PackedPrior, offset: np.ndarray, config: SamplingConfig, n_streams: int) -> None:
        self.packed, self.n_streams = packed, n_streams
        self.offset = np.ascontiguousarray(offset, np.float32)
        self.settings = np.array([config.temperature, config.top_k, config.top_p], np.float64)
        n = len(offset)
        ring = (packed.n_layers, n, packed.n_groups)
        panels, columns = -(-packed.window // PANEL), -(-packed.head_dim // PANEL)
        self.keys = np.zeros((*ring, panels, packed.head_dim, PANEL), np.float32)
        self.values = np.zeros((*ring, columns, panels * PANEL, PANEL), np.float32)
        self.x, self.a, self.b, self.rows = (np.zeros((n, packed.widest), np.float32) for _ in range(4))
        self.known = np.zeros((n, packed.depth_width), np.float32)
        self.length = 0

    def hidden(self, codes: np.ndarray) -> np.ndarray:
        """The frame before (B, S) -> the backbone's output (B, C) for the next frame; valid until the next call."""
        p = self.packed
        cos, sin = rotary_row(self.length, p.head_dim)
        backbone_step(
            np.ascontiguousarray(codes),
            self.offset,
            p.vectors,
            p.weights,
            p.scales,
            p.matrices[: p.n_backbone],
            p.norms,
            self.keys,
            self.values,
            self.length,
            p.window,
            cos,
            sin,
            p.eps,
            self.x,
            self.a,
            self.b,
        )
        self.length += 1
        return self.a[:, : p.width]

    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """See `Stepper.advance`."""
        hidden = self.hidden(codes)
        if uniforms is None:
            return None
        p = self.packed
        self.rows[:, : p.width] = hidden
        sampled = np.empty((len(codes), self.n_streams), np.int64)
        depth_step(
            self.rows,
            sampled,
            np.ascontiguousarray(uniforms),
            p.sizes,
            p.vectors,
            p.weights,
            p.scales,
            p.matrices[p.n_backbone :],
            p.depth_norms,
            p.eps,
            self.settings,
            self.known,
            self.x,
            self.a,
            self.b,
        )
        return sampled
