"""Speech out of nothing: a codec, the prior over its codes, and the density of its voices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.prior.checkpoint import FOLDER, check_prior, load_prior
from audiovq.prior.condition import Condition
from audiovq.prior.density import VoiceDensity
from audiovq.prior.model import CodePrior, Progress
from audiovq.speech.checkpoint import model_folder
from audiovq.speech.codec import EncodedSpeech, SpeechCodec

BATCH = 16
"""Items that are drawn side by side; more are drawn batch after batch."""


class SpeechPrior:
    """Draws speech: what is said from the prior, who says it from the density or from the caller.

    Args:
        codec, prior: that belong together.
        voices: the density that random voices are drawn from; None where there is none.
    """

    def __init__(self, codec: SpeechCodec, prior: CodePrior, voices: VoiceDensity | None = None) -> None:
        self.codec, self.prior, self.voices = codec, prior, voices

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, prior: str | Path | None = None) -> SpeechPrior:
        """A codec by name or folder (default: the bundled one), with the prior beside it or from another folder.

        Raises:
            AudioVQError: when there is no such model or prior, or the prior was trained on another codec's codes.
        """
        folder = Path(prior) if prior is not None else model_folder(name_or_dir) / FOLDER
        check_prior(folder)  # before the codec takes its seconds
        codec = SpeechCodec.from_pretrained(name_or_dir)
        return cls(codec, *load_prior(folder, codec))

    def random_voice(self, seed: int = 0, item: int = 0) -> np.ndarray:
        """A voice that nobody has: (S,) int64. The same numbers give the same voice.

        Raises:
            AudioVQError: when this prior has no density of voices.
        """
        if self.voices is None:
            raise AudioVQError(f"prior {self.prior.name} has no voices to draw from: name a speaker")
        return self.voices.sample(np.random.default_rng([seed, item, 1]))

    def generate(
        self,
        seconds: float,
        n: int = 1,
        speaker: np.ndarray | Tensor | None = None,
        language: str | None = None,
        prompt: EncodedSpeech | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        seed: int = 0,
        n_codebooks: int | None = None,
        first: int = 0,
        progress: Progress | None = None,
    ) -> EncodedSpeech:
        """Draw ``n`` items. Item i is decided by the seed and its number ``first + i``, however many are drawn.

        Args:
            seconds: to draw; with a prompt, after it.
            n: items.
            speaker: a quantized vector (S,) of one voice, or (n, S) of each; None: the prompt's, or without one a
                random voice for each.
            language: ISO 639 code; None: whichever comes.
            prompt: one item of coded speech to go on from; its last, incomplete frame is left out.
            temperature, top_k, top_p: see `audiovq.prior.drawing.draw`; None for the prior's own, which validation
                showed best.
            seed: of all draws.
            n_codebooks: books to draw; the prompt's number, or the prior's own, by default.
            first: number of the first item.
            progress: called with frames done and frames there are.

        Returns:
            The prompt's codes and the new ones, for `SpeechCodec.decode` or `SpeechCodec.save`.

        Raises:
            AudioVQError: for a length, language, prompt or number of books that does not fit.
        """
        codec, drawing = self.codec, self.prior.drawing.asked(temperature, top_k, top_p)
        n_samples = round(seconds * codec.sample_rate)
        if n_samples < 1:
            raise AudioVQError(f"{seconds:g} s of speech cannot be drawn: ask for more than nothing")
        given = self._given(prompt)
        if n_codebooks is None:
            n_codebooks = self.prior.drawn_codebooks if given is None else given.shape[1]
        who = self._speakers(n, speaker, prompt, seed, first)
        number = self.prior.conditioner.number(language)
        with torch.inference_mode():
            condition = Condition(codec.speaker_encoder.decode(who).float(), torch.full((n,), number))
        n_frames = -(-n_samples // codec.hop_length)
        parts, batches = [], range(0, n, BATCH)
        for start in batches:
            size = min(BATCH, n - start)
            codes = self.prior.sample(
                n_frames,
                size,
                condition.items(start, start + size),
                given,
                drawing,
                seed,
                n_codebooks,
                first + start,
                progress=_part(progress, start // BATCH, len(batches)),
            )
            parts.append(codes)
        before = 0 if given is None else given.shape[2] * codec.hop_length
        return EncodedSpeech(torch.cat(parts), who, torch.full((n,), before + n_samples))

    def _given(self, prompt: EncodedSpeech | None) -> Tensor | None:
        if prompt is None:
            return None
        if len(prompt.codes) != 1:
            raise AudioVQError(f"a prompt is one item of coded speech, not {len(prompt.codes)}")
        whole = int(prompt.n_samples[0]) // self.codec.hop_length
        if whole < 1:
            raise AudioVQError("the prompt is shorter than one frame; give some seconds of speech")
        return prompt.codes[:, :, :whole]

    def _speakers(
        self, n: int, speaker: np.ndarray | Tensor | None, prompt: EncodedSpeech | None, seed: int, first: int
    ) -> Tensor:
        """(n, S) int64."""
        if speaker is None and prompt is not None:
            speaker = prompt.speaker[0]
        if speaker is not None:
            rows = torch.as_tensor(speaker, dtype=torch.int64)
            return rows.expand(n, -1)
        return torch.from_numpy(np.stack([self.random_voice(seed, first + i) for i in range(n)]))


def _part(progress: Progress | None, batch: int, n_batches: int) -> Progress | None:
    """Progress of one batch as that of all."""
    if progress is None:
        return None
    return lambda done, total: progress(batch * total + done, n_batches * total)
