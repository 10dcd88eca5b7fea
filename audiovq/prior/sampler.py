"""Sampling of speech without PyTorch: a codec on any engine, a prior with a transformer, and random speakers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.codec.signal import quantize_level
from audiovq.errors import AudioVQError, need
from audiovq.hub import model_folder
from audiovq.interfaces import CodedChannel, Packet
from audiovq.prior.numpy_stepper import NumpyStepper
from audiovq.prior.sampling import Progress, SamplingConfig, sample_streams
from audiovq.prior.weights import (
    FOLDER,
    PriorWeights,
    SpeakerDistribution,
    check_codec,
    check_prior,
    damage_in,
    read_prior,
)

BATCH = 16
"""Number of items that are sampled together."""
_USUAL_LEVEL = quantize_level(-20.0)


class CodeSampler(PriorWeights):
    """A prior with a transformer, for sampling alone: by the compiled kernels, without numba in NumPy.

    Both compute the same model in float32. Their sums differ in the last digits, so that a code may differ where its
    random number is at the border between two codes, and the rest of that sequence with it.
    """

    _packed: Any = None

    def sample(
        self,
        n_frames: int,
        n: int = 1,
        speakers: np.ndarray | None = None,
        language: int = -1,
        prompt: np.ndarray | None = None,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        n_codebooks: int | None = None,
        first: int = 0,
        fast: bool | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Sample ``n`` sequences -> (n, S', P + n_frames) int64, the prompt's codes first.

        Sequence i is a function of ``(seed, first + i)`` alone, whatever ``n`` is.

        Args:
            n_frames, n, seed, n_codebooks, first, progress: see `audiovq.prior.CodePrior.sample`.
            speakers: (n, S) float32 speaker vectors as the codec's decoder gets them; None for any.
            language: index, see `language_number`; -1 for any.
            prompt: (1 or n, at least S', P) codes to continue.
            sampling: temperature, top-k and top-p; None: temperature 1, all codes.
            fast: use the compiled kernels; None: where numba is installed.

        Raises:
            AudioVQError: for a number of codebooks or frames, or a prompt, that does not fit.
        """

        def stepper_for(n_streams: int) -> Any:
            return self._stepper(self.offset(n, speakers, language), sampling or SamplingConfig(), n_streams, fast)

        return sample_streams(self, stepper_for, n_frames, n, prompt, seed, n_codebooks, first, progress)

    def _stepper(self, offset: np.ndarray, config: SamplingConfig, n_streams: int, fast: bool | None) -> Any:
        if fast:
            need("numba", "the compiled sampler", "torch")
        if fast is not False and self.head_dim % 4 == 0:  # the kernels read inputs in fours
            try:
                from audiovq.prior.kernels import CompiledStepper, PackedPrior
            except ImportError:
                return NumpyStepper(self, offset, config, n_streams)
            self._packed = self._packed or PackedPrior(self)
            return CompiledStepper(self._packed, offset, config, n_streams)
        return NumpyStepper(self, offset, config, n_streams)


class SpeechSampler:
    """Samples speech: pitch and codes from the prior, speakers from a distribution or from the caller.

    The level is one for each item: the prompt's, or the usual one of the speaker.

    Args:
        codec: the codec whose codes are modelled, on any engine.
        prior: trained on this codec's codes.
        voices: the distribution of random speakers; None for none.
    """

    def __init__(self, codec: Any, prior: Any, voices: SpeakerDistribution | None = None) -> None:
        self.codec, self.prior, self.voices = codec, prior, voices

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, prior: str | Path | None = None) -> SpeechSampler:
        """Load a codec by name or folder (default: the bundled one), with its prior or one from another folder.

        Raises:
            AudioVQError: when there is no such model or prior, or the prior was trained on another codec's codes.
        """
        from audiovq.codec.onnx_codec import OnnxCodec

        folder = prior_folder(name_or_dir, prior)
        codec = OnnxCodec.from_pretrained(name_or_dir)
        return cls(codec, *load_sampler(folder, codec))

    def random_voice(self, seed: int = 0, item: int = 0) -> np.ndarray:
        """A random speaker vector, (S,) int64, as a function of ``seed`` and ``item``.

        Raises:
            AudioVQError: when this prior has no distribution of speakers.
        """
        if self.voices is None:
            raise AudioVQError(f"prior {self.prior.name} has no distribution of speakers: name a speaker")
        return self.voices.sample(np.random.default_rng([seed, item, 1]))

    def sample(
        self,
        seconds: float,
        n: int = 1,
        speaker: np.ndarray | Sequence[int] | None = None,
        language: str | None = None,
        prompt: CodedChannel | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        seed: int = 0,
        n_codebooks: int | None = None,
        first: int = 0,
        progress: Progress | None = None,
    ) -> list[CodedChannel]:
        """Sample ``n`` items. Item i is a function of the seed and its number ``first + i``, whatever ``n`` is.

        Args:
            seconds: duration; with a prompt, of the continuation.
            n: number of items.
            speaker: a quantized vector (S,) for all items, or (n, S) for each; None: the prompt's, or without a prompt
                a random speaker for each.
            language: ISO 639 code; None for any.
            prompt: coded speech to continue; its last, incomplete frame is dropped.
            temperature, top_k, top_p: see `audiovq.prior.SamplingConfig`; None for the prior's defaults, which were
                best on validation data.
            seed: random seed.
            n_codebooks: number of codebooks to sample; None: the prompt's, or the prior's default.
            first: number of the first item.
            progress: called with the number of frames done and the total.

        Returns:
            The prompt's pitch and codes and the new ones.

        Raises:
            AudioVQError: for a length, language, prompt or number of codebooks that does not fit.
        """
        codec, sampling = self.codec, self.prior.sampling.override(temperature, top_k, top_p)
        n_samples = round(seconds * codec.sample_rate)
        if n_samples < 1:
            raise AudioVQError(f"cannot sample {seconds:g} s of speech: give a longer duration")
        given = self._given(prompt)
        if n_codebooks is None:
            n_codebooks = self.prior.drawn_codebooks if given is None else given.shape[1] - 1
        who = self._speakers(n, speaker, prompt, seed, first)
        number = self.prior.language_number(language)
        n_frames = -(-n_samples // codec.hop_length)
        parts, batches = [], range(0, n, BATCH)
        for start in batches:
            rows = who[start : start + BATCH]
            report = _part(progress, start // BATCH, len(batches))
            parts.append(
                self._sample(n_frames, rows, number, given, sampling, seed, n_codebooks, first + start, report)
            )
        return self._coded(np.concatenate(parts), who, n_samples, prompt)

    def _sample(
        self,
        n_frames: int,
        speakers: np.ndarray,
        language: int,
        given: np.ndarray | None,
        sampling: SamplingConfig,
        seed: int,
        n_codebooks: int,
        first: int,
        progress: Progress | None,
    ) -> np.ndarray:
        """A batch of the prior's streams (B, S', P + n_frames), for quantized speaker vectors (B, S)."""
        vectors = self.codec.speaker_vector(speakers)
        settings: tuple[Any, ...] = (given, sampling, seed, n_codebooks, first, None, progress)
        return self.prior.sample(n_frames, len(speakers), vectors, language, *settings)

    def _coded(
        self, streams: np.ndarray, who: np.ndarray, n_samples: int, prompt: CodedChannel | None
    ) -> list[CodedChannel]:
        """Streams (n, S, F) as coded speech; the last ``n_samples`` are new."""
        n_frames, hop = streams.shape[2], self.codec.hop_length
        size = self.codec.packet_frames if prompt is None else prompt.packet_frames
        found = []
        for rows, speaker in zip(streams, who, strict=True):
            levels = self._levels(speaker, -(-n_frames // size), prompt)
            parts = [slice(start, start + size) for start in range(0, n_frames, size)]
            packets = [Packet(rows[1:, part], rows[0, part], level) for part, level in zip(parts, levels, strict=True)]
            found.append(CodedChannel(packets, speaker, n_frames * hop - (-n_samples % hop), size))
        return found

    def _levels(self, speaker: np.ndarray, n_packets: int, prompt: CodedChannel | None) -> list[int]:
        """Level codes of an item's packets."""
        if prompt is None:
            return [self.voices.level_of(speaker) if self.voices else _USUAL_LEVEL] * n_packets
        given = [packet.level for packet in prompt.packets[:n_packets]]
        return given + [sorted(given)[(len(given) - 1) // 2]] * (n_packets - len(given))

    def _given(self, prompt: CodedChannel | None) -> np.ndarray | None:
        if prompt is None:
            return None
        whole = prompt.n_samples // self.codec.hop_length
        if whole < 1:
            raise AudioVQError("the prompt is shorter than one frame; give some seconds of speech")
        return streams_of(prompt.packets)[None, :, :whole]

    def _speakers(
        self, n: int, speaker: np.ndarray | Sequence[int] | None, prompt: CodedChannel | None, seed: int, first: int
    ) -> np.ndarray:
        """(n, S) int64."""
        if speaker is None and prompt is not None:
            speaker = prompt.speaker
        if speaker is not None:
            rows = np.asarray(speaker, np.int64)
            return np.broadcast_to(rows, (n, rows.shape[-1]))
        return np.stack([self.random_voice(seed, first + i) for i in range(n)])


def streams_of(packets: Iterable[Packet]) -> np.ndarray:
    """Packets as the prior's streams (S, F): pitch first, then the codebooks."""
    return np.concatenate([np.vstack([packet.pitch, packet.codes]) for packet in packets], axis=1)


def prior_folder(name_or_dir: str | Path | None = None, prior: str | Path | None = None) -> Path:
    """The folder ``prior``, or that of a model's prior.

    Raises:
        AudioVQError: when there is no such model, or no prior in the folder.
    """
    folder = Path(prior) if prior is not None else model_folder(name_or_dir) / FOLDER
    check_prior(folder)
    return folder


def load_sampler(folder: str | Path, codec: Any = None) -> tuple[CodeSampler, SpeakerDistribution | None]:
    """Load a prior and its distribution of speakers; with a codec, check that the prior is for its codes.

    Raises:
        AudioVQError: when there is none, when it is damaged or has no transformer, or when it was trained on another
            codec's codes.
    """
    folder = Path(folder)
    check_prior(folder)
    with damage_in(folder):
        config, arrays, speakers = read_prior(folder)
        prior = CodeSampler(config, arrays)
    check_codec(folder, prior.codec, codec)
    return prior, speakers


def _part(progress: Progress | None, batch: int, n_batches: int) -> Progress | None:
    """Progress of one batch as progress of all batches."""
    if progress is None:
        return None
    return lambda done, total: progress(batch * total + done, n_batches * total)
