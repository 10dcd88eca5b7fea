"""Networks of a prior over codes (conditions, embedding, backbone, depth model), and sampling from it step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.sequence import FeedForward, RootMeanSquareNorm, Transformer, WaveNetBackbone
from audiovq.prior.sampling import SamplingConfig

HEAD_SCALE, FIRST_HEAD_SCALE = 0.15, 0.3
"""Factors of head rows that start as the codes' vectors; codes of the first codebook last over several frames."""
BACKBONES: dict[str, Any] = {"transformer": Transformer, "wavenet": WaveNetBackbone}


@dataclass
class Condition:
    """Conditions of a batch; None where there is none.

    Attributes:
        speaker: (B, S) float, the speaker vector as the codec's decoder gets it.
        language: (B,) int64, indices into the prior's languages; -1 for unknown.
    """

    speaker: Tensor | None = None
    language: Tensor | None = None

    def items(self, start: int, stop: int) -> Condition:
        """The conditions of the items from ``start`` to ``stop``."""
        return Condition(*(None if x is None else x[start:stop] for x in (self.speaker, self.language)))


class Conditioner(nn.Module):
    """Conditions to one vector that is added to every input of the backbone.

    A learned vector replaces a missing condition. In training conditions are dropped at random (as for classifier-free
    guidance, Ho and Salimans 2022), so that the model also learns the unconditional distribution.

    Args:
        width, speaker_dim: channels of the vector and of speaker vectors; 0 for a model without these.
        n_languages: languages; one more is the unknown one.
    """

    def __init__(self, width: int, speaker_dim: int, n_languages: int) -> None:
        super().__init__()
        self.unknown = n_languages
        self.speaker = nn.Linear(speaker_dim, width) if speaker_dim else None
        self.no_speaker = nn.Parameter(torch.zeros(width))
        self.language = nn.Parameter(0.02 * torch.randn(n_languages + 1, width))

    def forward(
        self,
        batch: int,
        condition: Condition | None,
        keep_speaker: Tensor | None = None,
        keep_language: Tensor | None = None,
    ) -> Tensor:
        """Conditions of ``batch`` items -> (B, C). ``keep_*`` (B,) bool: items whose condition is kept; None: all."""
        condition = condition or Condition()
        vector = self.no_speaker.expand(batch, -1)
        if condition.speaker is not None and self.speaker is not None:
            given = self.speaker(condition.speaker.to(self.no_speaker.dtype)).to(vector.dtype)
            vector = given if keep_speaker is None else torch.where(keep_speaker[:, None], given, vector)
        unknown, language = self.unknown, condition.language
        if language is None:
            language = torch.full((batch,), unknown, device=vector.device)
        else:
            language = torch.where(language < 0, unknown, language)
        if keep_language is not None:
            language = torch.where(keep_language, language, unknown)
        return vector + self.language[language]


class CodeEmbedding(nn.Module):
    """A small vector of ``dim`` channels for each code of each stream, read by the backbone and by the depth model.

    Each stream has one more for an absent code, when fewer codebooks are modelled. Where the first stream is pitch, its
    vectors begin as sines of it, since near pitches are alike.
    """

    def __init__(self, sizes: Sequence[int], dim: int, has_pitch: bool = False) -> None:
        super().__init__()
        self.n_streams, self.absent = len(sizes), max(sizes)
        vectors = torch.randn(len(sizes), self.absent + 1, dim)
        if has_pitch:
            periods = 4 * 2 ** (torch.arange(dim // 4) * 7 / max(dim // 4, 1))  # steps: 4 to 512, above the whole scale
            phase = 2 * math.pi * torch.arange(1, sizes[0])[:, None] / periods
            waves = math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], dim=1)
            vectors[0, 1 : sizes[0], : waves.shape[1]] = waves
        self.vectors = nn.Parameter(vectors)

    @torch.no_grad()
    def begin_from(self, tables: Tensor) -> None:
        """Start the vectors of codes from a codec's codebooks (K, V, D), their leading directions, at unit variance."""
        for vectors, table in zip(self.vectors[-len(tables) :], tables.float(), strict=True):
            centred = table - table.mean(0)
            directions = torch.linalg.svd(centred, full_matrices=False)[2][: vectors.shape[1]]
            start = centred @ directions.T / centred.std()
            vectors[: len(table)] = F.pad(start, (0, vectors.shape[1] - len(directions)))

    def forward(self, codes: Tensor) -> Tensor:
        """(B, F, S) -> (B, F, S, E)."""
        streams = torch.arange(self.n_streams, device=codes.device)
        return self.vectors[streams, codes]


class DepthModel(nn.Module):
    """Stream k of a frame from the backbone's output and the frame's codes below k (the depth step of Lee et al. 2022).

    In a residual quantizer the sum of the coarser codes' vectors is the latent as far as it is known, so the coarser
    codes enter as a sum of learned vectors, followed by small feed-forward layers; there is no attention::

        h ---- into_k ---(+)-- x + ff(norm(x)) -- ... -- norm -- head_k --> logits of code k
        codes below k ----^  sum of their vectors

    Args:
        width, embedding_dim: channels of the backbone's output and of the codes' vectors.
        sizes: number of codes of each stream.
        depth_width, hidden, n_layers: channels, channels inside the feed-forward layers, and their number.
    """

    def __init__(
        self,
        width: int,
        sizes: Sequence[int],
        embedding_dim: int,
        depth_width: int = 256,
        hidden: int = 512,
        n_layers: int = 2,
    ) -> None:
        super().__init__()
        self.sizes, self.n_streams, self.depth_width = tuple(sizes), len(sizes), depth_width
        self.into = nn.Linear(width, self.n_streams * depth_width, bias=False)
        # Maps of the codes' vectors into the sum; no code follows that of the last stream.
        self.below = nn.Parameter(torch.randn(self.n_streams - 1, depth_width, embedding_dim) * embedding_dim**-0.5)
        self.norms = nn.ModuleList([RootMeanSquareNorm(depth_width) for _ in range(n_layers)])
        self.layers = nn.ModuleList([FeedForward(depth_width, hidden) for _ in range(n_layers)])
        self.norm = RootMeanSquareNorm(depth_width)
        self.heads = nn.Parameter(torch.randn(self.n_streams, max(sizes), depth_width) * 0.02)

    def refine(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), the input of a head."""
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.norm(x)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """The backbone's output (N, C), vectors of the frame's codes (N, S, E) -> inputs of the heads (N, S, D)."""
        x = self.start(hidden)
        known = torch.einsum("nke,kde->nkd", embedded[:, :-1], self.below.to(embedded.dtype))
        return self.refine(x + F.pad(known.cumsum(1), (0, 0, 1, 0)))

    def start(self, hidden: Tensor) -> Tensor:
        """The backbone's output (N, C) -> its map for each stream (N, S, D)."""
        return self.into(hidden).unflatten(-1, (self.n_streams, self.depth_width))

    def logits(self, x: Tensor, stream: int) -> Tensor:
        """The input of a head (N, D) -> (N, V), V the number of codes of that stream."""
        return F.linear(x, self.heads[stream, : self.sizes[stream]])


class Stepper:
    """A batch of sequences of a `audiovq.prior.CodePrior` that grow frame by frame, with the backbone's cache.

    ``offset`` (B, C) is the conditions' vector that is added to every input.
    """

    def __init__(self, prior: Any, offset: Tensor, config: SamplingConfig, n_streams: int) -> None:
        self.prior, self.offset, self.config, self.n_streams = prior, offset, config, n_streams
        self.state = prior.backbone.start(len(offset), offset)

    def hidden(self, codes: Tensor) -> Tensor:
        """The frame before (B, S) -> the backbone's output (B, C) for the next frame."""
        embedded = self.prior.embedding(codes[:, None])[:, 0]
        return self.prior.backbone.step(self.prior.entry(embedded.flatten(1)) + self.offset, self.state)

    @torch.no_grad()
    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """The frame before (B, S) and uniform numbers in [0, 1), (B, S') -> the next frame (B, S').

        Without numbers nothing is sampled; the frame only enters the cache.
        """
        from audiovq.prior.kernels import sample_code  # compiled, which needs a cache folder

        prior, config = self.prior, self.config
        hidden = self.hidden(torch.from_numpy(codes).to(self.offset.device))
        if uniforms is None:
            return None
        rows = prior.depth.start(hidden)
        known = torch.zeros_like(rows[:, 0])
        sampled = np.empty(uniforms.shape, np.int64)
        for k in range(self.n_streams):
            logits = prior.depth.logits(prior.depth.refine(rows[:, k] + known), k).float().cpu().numpy()
            for i, row in enumerate(logits):
                sampled[i, k] = sample_code(row, uniforms[i, k], config.temperature, config.top_k, config.top_p)
            if k + 1 < self.n_streams:
                chosen = torch.from_numpy(sampled[:, k]).to(self.offset.device)
                known = known + prior.embedding.vectors[k, chosen] @ prior.depth.below[k].T
        return sampled
