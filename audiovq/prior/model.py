"""An autoregressive prior over a codec's codes: frames in time, then the books of each frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.errors import AudioVQError
from audiovq.prior.condition import Condition, Conditioner
from audiovq.prior.depth import DepthModel
from audiovq.prior.embedding import CodeEmbedding

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Drawing:
    """How codes are drawn: see `audiovq.prior.drawing.draw`.

    Raises:
        AudioVQError: for settings outside their ranges.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise AudioVQError(f"temperature is a number of at least 0, not {self.temperature:g}")
        if self.top_k < 0:
            raise AudioVQError(f"top-k is at least 0, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise AudioVQError(f"top-p is above 0 and at most 1, not {self.top_p:g}")

    def asked(self, temperature: float | None, top_k: int, top_p: float | None) -> Drawing:
        """This one but for what is asked for; None leaves it as it is.

        Raises:
            AudioVQError: for settings outside their ranges.
        """
        return Drawing(
            self.temperature if temperature is None else temperature, top_k, self.top_p if top_p is None else top_p
        )


def make_backbone(kind: str, width: int, **arguments: Any) -> nn.Module:
    """A causal sequence model (B, F, C) -> (B, F, C) with ``start`` and ``step``: "transformer" or "wavenet".

    Raises:
        AudioVQError: for another kind.
    """
    if kind == "transformer":
        from audiovq.nn.transformer import Transformer

        return Transformer(width, **arguments)
    if kind == "wavenet":
        from audiovq.prior.wavenet import WaveNetBackbone

        return WaveNetBackbone(width, **arguments)
    raise AudioVQError(f"no backbone {kind!r}: there are transformer and wavenet")


class CodePrior(nn.Module):
    """``p(codes) = prod_t prod_k p(code[k, t] | codes before frame t, books below k of frame t, condition)``.

    A backbone at the frame rate reads the sum of each frame's codes' vectors; a small depth model then goes through
    the frame's books (Lee et al. 2022). A frame costs one step of the backbone, whatever the number of books. Fewer
    books are modelled by the same weights: in training some items show only their first ones.

    Args:
        n_codebooks, codebook_size: of the codec.
        width: the backbone's channels.
        backbone: ``kind`` and further arguments of `make_backbone`.
        depth: further arguments of `DepthModel`.
        embedding_dim: of a code's vector.
        speaker_dim: of the codec's speaker vectors; 0 for none.
        languages: that may be asked for.
        codec: the model hash, in hexadecimal, of the codec whose codes these are; "" for none.
        name: for messages.
        temperature, top_p, drawn_codebooks: how codes are drawn where nothing is asked for, see
            `audiovq.prior.drawing.draw`, and of how many books; None for all.
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
        codec: str = "",
        name: str = "prior",
        temperature: float = 1.0,
        top_p: float = 1.0,
        drawn_codebooks: int | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = dict(  # noqa: C408
            n_codebooks=n_codebooks,
            codebook_size=codebook_size,
            width=width,
            backbone=dict(backbone),
            depth=dict(depth or {}),
            embedding_dim=embedding_dim,
            speaker_dim=speaker_dim,
            languages=list(languages),
            codec=codec,
            name=name,
            temperature=temperature,
            top_p=top_p,
            drawn_codebooks=drawn_codebooks,
        )
        #: How codes are drawn where nothing is asked for.
        self.drawing = Drawing(temperature, top_p=top_p)
        self.drawn_codebooks = drawn_codebooks or n_codebooks
        self.n_codebooks, self.codebook_size, self.width = n_codebooks, codebook_size, width
        self.codec, self.name = codec, name
        self.embedding = CodeEmbedding(n_codebooks, codebook_size, embedding_dim)
        self.entry = nn.Linear(n_codebooks * embedding_dim, width, bias=False)
        self.conditioner = Conditioner(width, speaker_dim, languages)
        self.backbone = make_backbone(width=width, **backbone)
        self.depth = DepthModel(width, n_codebooks, codebook_size, embedding_dim, **(depth or {}))

    @property
    def absent(self) -> int:
        """The number that stands for no code: all of the frame before the first, and books that are not modelled."""
        return self.embedding.absent

    def complete(self, codes: Tensor) -> Tensor:
        """Codes (B, K', F) of the first books -> (B, K, F), the others absent.

        Raises:
            ValueError: for more books than the model has.
        """
        missing = self.n_codebooks - codes.shape[1]
        if missing < 0:
            raise ValueError(f"{codes.shape[1]} books were given, the prior has {self.n_codebooks}")
        return F.pad(codes, (0, 0, 0, missing), value=self.absent)

    def hidden(
        self, codes: Tensor, condition: Condition | None = None, before: Tensor | None = None, **keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The backbone's outputs (B, F, C) and the vectors (B, F, K, E) of complete codes (B, K, F).

        Args:
            codes: absent ones included.
            condition: for all of it.
            before: (B, K), the frame before the first; absent everywhere at the beginning of a recording (None).
            keep: ``keep_speaker``, ``keep_language``: see `Conditioner`.
        """
        if before is None:
            before = codes.new_full(codes.shape[:2], self.absent)
        frames = torch.cat([before[:, None], codes.transpose(1, 2)], dim=1)  # (B, 1 + F, K)
        embedded = self.embedding(frames)
        inputs = self.entry(embedded[:, :-1].flatten(2))
        inputs = inputs + self.conditioner(len(codes), condition, **keep)[:, None]
        return self.backbone(inputs), embedded[:, 1:]

    def logits(self, codes: Tensor, condition: Condition | None = None, before: Tensor | None = None) -> Tensor:
        """(B, K', F) -> (B, K', F, V): the logits of each code given what comes before it, teacher-forced."""
        n_books = codes.shape[1]
        hidden, embedded = self.hidden(self.complete(codes), condition, before)
        x = self.depth(hidden.flatten(0, 1), embedded.flatten(0, 1))
        rows = torch.stack([self.depth.logits(x[:, k], k) for k in range(n_books)])
        return rows.unflatten(1, (codes.shape[0], -1)).transpose(0, 1)

    def nll(
        self, codes: Tensor, condition: Condition | None = None, before: Tensor | None = None, **keep: Tensor
    ) -> Tensor:
        """(B, K', F) -> (B, K', F), nats of each code; 0 where it is absent."""
        complete = self.complete(codes)
        hidden, embedded = self.hidden(complete, condition, before, **keep)
        x = self.depth(hidden.flatten(0, 1), embedded.flatten(0, 1))
        # Book by book, so that no tensor is larger than one book's logits. Unbound rather than indexed: the gradient of
        # an index is as large as what it was taken from.
        nats = []
        rows = zip(x.unbind(1), self.depth.heads.unbind(0), complete.unbind(1), strict=True)
        for row, head, target in list(rows)[: codes.shape[1]]:
            logits = F.linear(row, head).float()
            loss = F.cross_entropy(logits, target.flatten(), ignore_index=self.absent, reduction="none")
            nats.append(loss)
        return torch.stack(nats).unflatten(1, (codes.shape[0], -1)).transpose(0, 1)

    @torch.inference_mode()
    def sample(
        self,
        n_frames: int,
        n: int = 1,
        condition: Condition | None = None,
        prompt: Tensor | None = None,
        drawing: Drawing | None = None,
        seed: int = 0,
        n_codebooks: int | None = None,
        first: int = 0,
        fast: bool | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Draw ``n`` sequences -> (n, K', P + n_frames), the prompt's codes first.

        Sequence i draws from the seed ``(seed, first + i)`` alone, so that it is the same whatever ``n`` is.

        Args:
            n_frames: to draw.
            n: how many sequences at once.
            condition: for each of them, or one item for all.
            prompt: (1 or n, at least K', P) codes to go on from.
            drawing: temperature and the like.
            seed: of all draws.
            n_codebooks: K', books to draw; all by default.
            first: number of the first sequence.
            fast: with the compiled sampler (a transformer on the CPU only), which rounds weights to 8 bits; None: where
                that is possible. A prior loaded from its folder has such weights already.
            progress: called with frames done and frames there are.

        Raises:
            AudioVQError: for a number of books or frames, or a prompt, that does not fit.
        """
        books = self.n_codebooks if n_codebooks is None else n_codebooks
        if not 1 <= books <= self.n_codebooks:
            raise AudioVQError(f"prior {self.name} has 1 to {self.n_codebooks} codebooks, {books} were asked for")
        if n_frames < 0 or n < 1:
            raise AudioVQError(f"{n} sequences of {n_frames} frames cannot be drawn")
        given = self._prompt(prompt, n, books)
        stepper = self._stepper(n, condition, drawing or Drawing(), books, fast)
        generators = [np.random.default_rng([seed, first + i]) for i in range(n)]
        uniforms = np.stack([rng.random((n_frames, books), np.float32) for rng in generators])
        total = given.shape[2] + n_frames
        codes = np.full((total + 1, n, self.n_codebooks), self.absent)
        codes[1 : 1 + given.shape[2], :, :books] = given.transpose(2, 0, 1)
        for frame in range(total):
            drawn = frame - given.shape[2]
            if drawn < 0:
                stepper.advance(codes[frame], None)
            else:
                codes[frame + 1, :, :books] = stepper.advance(codes[frame], uniforms[:, drawn])
            if progress is not None:
                progress(frame + 1, total)
        return torch.from_numpy(codes[1:, :, :books].transpose(1, 2, 0).copy())

    def _prompt(self, prompt: Tensor | None, n: int, books: int) -> np.ndarray:
        if prompt is None:
            return np.zeros((n, books, 0), np.int64)
        if prompt.shape[0] not in (1, n) or prompt.shape[1] < books:
            raise AudioVQError(f"a prompt of shape {tuple(prompt.shape)} does not fit {n} sequences of {books} books")
        return np.broadcast_to(prompt[:, :books].numpy(), (n, books, prompt.shape[2]))

    def _stepper(self, n: int, condition: Condition | None, drawing: Drawing, books: int, fast: bool | None) -> Any:
        # The compiled sampler takes inputs by fours.
        heads = self.width // self.config["backbone"].get("n_heads", 1)
        transformer = self.config["backbone"]["kind"] == "transformer" and heads % 4 == 0
        able = transformer and self.entry.weight.device.type == "cpu"
        if fast and not able:
            raise AudioVQError("the compiled sampler is for a transformer on the CPU, with heads of 4, 8, ... channels")
        offset = self.conditioner(1, None)
        if condition is not None:
            items = {len(x) for x in (condition.speaker, condition.language) if x is not None}
            offset = self.conditioner(max(items, default=1), condition)
        offset = offset.float().expand(n, -1)
        if able and fast is not False:
            from audiovq.prior.fast import FastStepper

            return FastStepper(self.packed(), offset.cpu().numpy(), drawing, books)
        from audiovq.prior.steps import Stepper

        return Stepper(self, offset, drawing, books)

    def packed(self) -> Any:
        """The weights as the compiled sampler reads them; made once per evaluation, since training moves them."""
        if self._packed is None:
            from audiovq.prior.fast import PackedPrior

            self._packed = PackedPrior(self)
        return self._packed

    _packed: Any = None

    def train(self, mode: bool = True) -> CodePrior:
        """As in torch; also forgets what was packed for sampling."""
        self._packed = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; also forgets what was packed for sampling."""
        self._packed = None
        return super().load_state_dict(*args, **kwargs)
