"""An autoregressive prior over a codec's codes: over frames in time, then over the codebooks of each frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.devices import arguments
from audiovq.errors import AudioVQError
from audiovq.prior.networks import (
    BACKBONES,
    FIRST_HEAD_SCALE,
    HEAD_SCALE,
    CodeEmbedding,
    Condition,
    Conditioner,
    DepthModel,
    Stepper,
)
from audiovq.prior.sampling import Progress, SamplingConfig, Streams
from audiovq.prior.weights import PriorWeights


class CodePrior(Streams, nn.Module):
    """``p(codes) = prod_t prod_k p(code[k, t] | codes before frame t, codes below k of frame t, condition)``.

    A backbone at the frame rate reads the vectors of each frame's codes; a small depth model then predicts the codes of
    the frame one after the other (Lee et al. 2022). A frame costs one step of the backbone, whatever the number of
    codebooks. Fewer codebooks are modelled by the same weights: in training some items have only their first ones.

    Codes are (B, S, F), a row for each stream: the pitch codes first, where there are pitch values, then the codebooks,
    coarse to fine. S may be less than all.

    Args:
        n_codebooks, codebook_size: of the codec.
        width: the backbone's channels.
        backbone: ``kind`` ("transformer" or "wavenet") and further arguments of `Transformer` or `WaveNetBackbone`.
        depth: further arguments of `DepthModel`.
        embedding_dim: of a code's vector.
        speaker_dim: of the codec's speaker vectors; 0 for none.
        languages: ISO 639 codes of the supported languages.
        pitch_values: number of pitch codes; 0 for no pitch.
        codec: the model hash, in hexadecimal, of the codec whose codes are modelled; "" for none.
        name: for messages.
        temperature, top_p: defaults of sampling, see `SamplingConfig`.
        drawn_codebooks: default number of codebooks to sample; None for all.

    Raises:
        AudioVQError: for another kind of backbone, and sampling settings outside their ranges.
    """

    def __init__(
        self,
        n_codebooks: int,
        codebook_size: int,
        width: int,
        backbone: dict[str, Any],
        depth: dict[str, Any] | None = None,
        embedding_dim: int = 64,
        speaker_dim: int = 0,
        languages: Sequence[str] = (),
        pitch_values: int = 0,
        codec: str = "",
        name: str = "prior",
        temperature: float = 1.0,
        top_p: float = 1.0,
        drawn_codebooks: int | None = None,
    ) -> None:
        depth = depth or {}
        given = arguments(locals())
        super().__init__()
        self.describe(given)
        settings = dict(backbone)
        kind = settings.pop("kind")
        if kind not in BACKBONES:
            raise AudioVQError(f"unknown backbone {kind!r}; choose from {', '.join(BACKBONES)}")
        self.embedding = CodeEmbedding(self.sizes, embedding_dim, self.n_side > 0)
        self.entry = nn.Linear(self.n_streams * embedding_dim, width, bias=False)
        self.conditioner = Conditioner(width, speaker_dim, len(languages))
        #: A causal sequence model (B, F, C) -> (B, F, C) with ``start`` and ``step``.
        self.backbone: Any = BACKBONES[kind](width, **settings)
        self.depth = DepthModel(width, self.sizes, embedding_dim, **depth)

    @torch.no_grad()
    def begin_from(self, tables: Tensor) -> None:
        """Start the codes' vectors, and their rows of the heads, from a codec's codebooks (K, V, D).

        What holds for one code then holds for those near to it: that a code follows itself is one linear map, not one
        fact for each code.
        """
        self.embedding.begin_from(tables)
        dim = min(self.embedding.vectors.shape[2], self.depth.depth_width)
        for stream, size in enumerate(self.sizes):
            scale = FIRST_HEAD_SCALE if stream == self.n_side else HEAD_SCALE
            self.depth.heads[stream, :size, :dim] = scale * self.embedding.vectors[stream, :size, :dim]

    def complete(self, codes: Tensor) -> Tensor:
        """Codes (B, S', F) of the first streams -> (B, S, F), the others absent.

        Raises:
            ValueError: for more streams than the model has.
        """
        missing = self.n_streams - codes.shape[1]
        if missing < 0:
            found, known = codes.shape[1] - self.n_side, self.n_codebooks
            raise ValueError(f"codes have {found} codebooks, the prior has {known}")
        return F.pad(codes, (0, 0, 0, missing), value=self.absent)

    def hidden(
        self, codes: Tensor, condition: Condition | None = None, before: Tensor | None = None, **keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The backbone's outputs (B, F, C) and the vectors (B, F, S, E) of complete codes (B, S, F).

        Args:
            codes: with absent ones, see `complete`.
            condition: of each item.
            before: (B, S), the frame before the first; None: absent, at the start of a recording.
            keep: ``keep_speaker``, ``keep_language``: see `Conditioner`.
        """
        if before is None:
            before = codes.new_full(codes.shape[:2], self.absent)
        frames = torch.cat([before[:, None], codes.transpose(1, 2)], dim=1)  # (B, 1 + F, S)
        embedded = self.embedding(frames)
        inputs = self.entry(embedded[:, :-1].flatten(2))
        inputs = inputs + self.conditioner(len(codes), condition, **keep)[:, None]
        return self.backbone(inputs), embedded[:, 1:]

    def logits(self, codes: Tensor, condition: Condition | None = None, before: Tensor | None = None) -> Tensor:
        """(B, S', F) -> (B, S', F, V): the logits of each code given all codes before it, teacher-forced.

        V is the largest number of codes of a stream; what the others do not have is -inf.
        """
        n_streams, n_values = codes.shape[1], max(self.sizes)
        hidden, embedded = self.hidden(self.complete(codes), condition, before)
        x = self.depth(hidden.flatten(0, 1), embedded.flatten(0, 1))
        found = [self.depth.logits(x[:, k], k) for k in range(n_streams)]
        rows = torch.stack([F.pad(row, (0, n_values - row.shape[-1]), value=-math.inf) for row in found])
        return rows.unflatten(1, (codes.shape[0], -1)).transpose(0, 1)

    def nll(
        self, codes: Tensor, condition: Condition | None = None, before: Tensor | None = None, **keep: Tensor
    ) -> Tensor:
        """(B, S', F) -> (B, S', F), nats of each code; 0 where it is absent."""
        complete = self.complete(codes)
        hidden, embedded = self.hidden(complete, condition, before, **keep)
        x = self.depth(hidden.flatten(0, 1), embedded.flatten(0, 1))
        # One stream at a time, so that no tensor is larger than its logits. Unbound rather than indexed: the gradient
        # of an index is as large as the tensor that was indexed.
        nats = []
        rows = zip(x.unbind(1), self.depth.heads.unbind(0), self.sizes, complete.unbind(1), strict=True)
        for row, head, size, target in list(rows)[: codes.shape[1]]:
            logits = F.linear(row, head[:size]).float()
            loss = F.cross_entropy(logits, target.flatten(), ignore_index=self.absent, reduction="none")
            nats.append(loss)
        return torch.stack(nats).unflatten(1, (codes.shape[0], -1)).transpose(0, 1)

    @torch.no_grad()
    def sample(
        self,
        n_frames: int,
        n: int = 1,
        condition: Condition | None = None,
        prompt: Tensor | np.ndarray | None = None,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        n_codebooks: int | None = None,
        first: int = 0,
        fast: bool | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Sample ``n`` sequences -> (n, S', P + n_frames), the prompt's codes first.

        Sequence i is a function of ``(seed, first + i)`` alone, whatever ``n`` is.

        Args:
            n_frames: number of frames to sample.
            n: number of sequences, sampled together.
            condition: of each sequence, or one item for all.
            prompt: (1 or n, at least S', P) codes to continue.
            sampling: temperature, top-k and top-p; None: temperature 1, all codes.
            seed: random seed.
            n_codebooks: number of codebooks to sample, pitch not counted; None for all.
            first: number of the first sequence.
            fast: use the compiled sampler (a transformer on the CPU only), which rounds weights to 8 bits; None: where
                possible. A prior loaded from its folder has such weights already.
            progress: called with the number of frames done and the total.

        Raises:
            AudioVQError: for a number of codebooks or frames, or a prompt, that does not fit.
        """
        given = None if prompt is None else np.asarray(prompt)

        def stepper_for(n_streams: int) -> Any:
            return self._stepper(n, condition, sampling or SamplingConfig(), n_streams, fast)

        return torch.from_numpy(
            self.sample_streams(stepper_for, n_frames, n, given, seed, n_codebooks, first, progress)
        )

    def _stepper(
        self, n: int, condition: Condition | None, sampling: SamplingConfig, n_streams: int, fast: bool | None
    ) -> Any:
        # The compiled sampler reads inputs in fours.
        head_dim = self.width // self.config["backbone"].get("n_heads", 1)
        transformer = self.config["backbone"]["kind"] == "transformer" and head_dim % 4 == 0
        able = transformer and self.entry.weight.device.type == "cpu"
        if fast and not able:
            raise AudioVQError("the compiled sampler is for a transformer on the CPU, with heads of 4, 8, ... channels")
        if able and fast is not False:
            from audiovq.prior.kernels import CompiledStepper  # needs a cache folder

            # Not by the conditioner: the last digits of its product depend on the number of sequences.
            given = condition or Condition()
            speakers = None if given.speaker is None else given.speaker.detach().float().cpu().numpy()
            language = -1 if given.language is None else given.language.cpu().numpy()
            offset = self.packed().prior.offset(n, speakers, language)
            return CompiledStepper(self.packed(), offset, sampling, n_streams)
        offset = self.conditioner(1, None)
        if condition is not None:
            items = {len(x) for x in (condition.speaker, condition.language) if x is not None}
            offset = self.conditioner(max(items, default=1), condition)
        offset = offset.float().expand(n, -1)
        return Stepper(self, offset, sampling, n_streams)

    def packed(self) -> Any:
        """The weights in the form of the compiled sampler; cached until `train` or `load_state_dict` changes them."""
        if self._packed is None:
            from audiovq.prior.kernels import PackedPrior

            arrays = {name: tensor.detach().float().numpy() for name, tensor in self.state_dict().items()}
            self._packed = PackedPrior(PriorWeights(self.config, arrays))
        return self._packed

    _packed: Any = None

    def train(self, mode: bool = True) -> CodePrior:
        """As in torch; also drops the packed weights."""
        self._packed = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; also drops the packed weights."""
        self._packed = None
        return super().load_state_dict(*args, **kwargs)
