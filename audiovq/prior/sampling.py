"""Sampling of codes frame by frame, with any stepper (NumPy alone): settings, one code from logits, whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError

#: Called with the number of frames done and the total.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of sampling codes from logits.

    Attributes:
        temperature: logits are divided by it; 0 takes the likeliest code.
        top_k: only the ``top_k`` likeliest codes (and those as likely as the last of them); 0 for all.
        top_p: only the likeliest codes that together reach this probability (Holtzman et al. 2020); 1 for all.

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

    def override(self, temperature: float | None, top_k: int, top_p: float | None) -> SamplingConfig:
        """These settings with some replaced; None keeps the temperature or top-p.

        Raises:
            AudioVQError: for settings outside their ranges.
        """
        return SamplingConfig(
            self.temperature if temperature is None else temperature, top_k, self.top_p if top_p is None else top_p
        )


STEEPEST = 1e30
"""Factor of logits above which float32 has no room for them."""


def sample_codes(logits: np.ndarray, uniforms: np.ndarray, config: SamplingConfig) -> np.ndarray:
    """A code (B,) int64 for each row of logits (B, V) and number (B,) in [0, 1), by inverse transform.

    It is that of `audiovq.prior.kernels.sample_code` but for rounding.
    """
    if config.temperature <= 0:
        return logits.argmax(axis=1)
    n = logits.shape[1]
    inverse = np.float32(min(1 / config.temperature, STEEPEST))
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)) * inverse).astype(np.float64)
    least = np.zeros((len(weights), 1))
    if 0 < config.top_k < n or config.top_p < 1:
        ordered = -np.sort(-weights, axis=1)
        if 0 < config.top_k < n:
            least = ordered[:, config.top_k - 1 : config.top_k]
        if config.top_p < 1:
            reached = np.cumsum(np.where(ordered >= least, ordered, 0), axis=1)
            place = (reached < config.top_p * reached[:, -1:]).sum(axis=1, keepdims=True)
            least = np.maximum(least, np.take_along_axis(ordered, np.minimum(place, n - 1), axis=1))
    reached = np.cumsum(np.where(weights >= least, weights, 0), axis=1)
    return np.minimum((reached <= uniforms[:, None] * reached[:, -1:]).sum(axis=1), n - 1)


class Streams:
    """The streams that a prior models: pitch, where it has it, then the codebooks, coarse to fine.

    Attributes:
        config: the arguments of `audiovq.prior.CodePrior`.
        name, codec, languages, width, n_codebooks, codebook_size: of these.
        sampling: default settings of sampling.
        drawn_codebooks: default number of codebooks to sample.
        n_side: streams before the codebooks.
        sizes: number of codes of each stream.
        n_streams: their number.
        absent: the number for no code: all of the frame before the first, and codebooks that are not modelled.
    """

    def describe(self, config: dict[str, Any]) -> None:
        """Set the attributes.

        Raises:
            AudioVQError: for sampling settings outside their ranges.
            KeyError, TypeError, ValueError: for a damaged configuration.
        """
        self.config, self.name, self.codec = config, config.get("name", "prior"), config.get("codec", "")
        self.sampling = SamplingConfig(config.get("temperature", 1.0), top_p=config.get("top_p", 1.0))
        self.n_codebooks, self.codebook_size = config["n_codebooks"], config["codebook_size"]
        self.drawn_codebooks = config.get("drawn_codebooks") or self.n_codebooks
        pitch_values = config.get("pitch_values", 0)
        self.n_side = int(pitch_values > 0)
        self.sizes = (pitch_values,) * self.n_side + (self.codebook_size,) * self.n_codebooks
        self.n_streams, self.absent = len(self.sizes), max(self.sizes)
        self.languages, self.width = tuple(config.get("languages", ())), config["width"]

    def language_number(self, language: str | None) -> int:
        """Index of a language; -1 for None. Raises `AudioVQError` for a language that the prior was not trained on."""
        if language is None:
            return -1
        if language not in self.languages:
            known = ", ".join(self.languages) or "none"
            raise AudioVQError(f"language {language!r} is not supported; supported: {known}")
        return self.languages.index(language)

    def sample_streams(
        self,
        stepper_for: Callable[[int], Any],
        n_frames: int,
        n: int,
        prompt: np.ndarray | None,
        seed: int,
        n_codebooks: int | None,
        first: int,
        progress: Progress | None,
    ) -> np.ndarray:
        """Sample ``n`` sequences -> (n, S', P + n_frames) int64, the prompt's codes first.

        Args:
            stepper_for: makes, for a number of streams, what has `audiovq.prior.networks.Stepper.advance`.
            n_frames, n, seed, n_codebooks, first, progress: see `audiovq.prior.CodePrior.sample`.
            prompt: (1 or n, at least S', P) codes to continue.

        Raises:
            AudioVQError: for a number of codebooks or frames, or a prompt, that does not fit.
        """
        n_codebooks = self.n_codebooks if n_codebooks is None else n_codebooks
        if not 1 <= n_codebooks <= self.n_codebooks:
            raise AudioVQError(f"prior {self.name} has 1 to {self.n_codebooks} codebooks, got {n_codebooks}")
        if n_frames < 0 or n < 1:
            raise AudioVQError(f"cannot sample {n} sequences of {n_frames} frames")
        n_streams = self.n_side + n_codebooks
        given = np.zeros((1, n_streams, 0), np.int64) if prompt is None else prompt
        if given.shape[0] not in (1, n) or given.shape[1] < n_streams:
            raise AudioVQError(
                f"a prompt of shape {tuple(given.shape)} does not fit {n} sequences of {n_codebooks} codebooks"
            )
        stepper, n_given = stepper_for(n_streams), given.shape[2]
        generators = [np.random.default_rng([seed, first + i]) for i in range(n)]
        uniforms = np.stack([rng.random((n_frames, n_streams), np.float32) for rng in generators])
        total = n_given + n_frames
        codes = np.full((total + 1, n, self.n_streams), self.absent)
        codes[1 : 1 + n_given, :, :n_streams] = given[:, :n_streams].transpose(2, 0, 1)
        for frame in range(total):
            new = frame - n_given
            if new < 0:
                stepper.advance(codes[frame], None)
            else:
                codes[frame + 1, :, :n_streams] = stepper.advance(codes[frame], uniforms[:, new])
            if progress is not None:
                progress(frame + 1, total)
        return codes[1:, :, :n_streams].transpose(1, 2, 0).copy()
