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
from audiovq.io import cache_dir
from audiovq.prior.sampling import Progress, SamplingConfig, sample_codes
from audiovq.prior.weights import (
    EPS,
    FOLDER,
    PriorWeights,
    SpeakerDistribution,
    check_codec,
    check_prior,
    damage_in,
    read_prior,
    rotary_row,
)

BATCH = 16
"""Number of items that are sampled together."""
_USUAL_LEVEL = quantize_level(-20.0)


class NumpyStepper:
    """`audiovq.prior.kernels.CompiledStepper` in NumPy.

    Every product is of one sequence, so that its codes do not depend on the batch.
    """

    def __init__(self, weights: PriorWeights, offset: np.ndarray, config: SamplingConfig, n_streams: int) -> None:
        self.weights, self.offset, self.config, self.n_streams = weights, offset, config, n_streams
        cache = (weights.n_layers, len(offset), weights.n_groups, weights.window, weights.head_dim)
        self.keys, self.values = np.zeros(cache, np.float32), np.zeros(cache, np.float32)
        into = weights.arrays["depth.into.weight"]
        self.into = into.reshape(weights.n_streams, weights.depth_width, weights.width)
        self.length = 0

    def hidden(self, codes: np.ndarray) -> np.ndarray:
        """The frame before (B, S) -> the backbone's output (B, C) for the next frame."""
        w, arrays = self.weights, self.weights.arrays
        vectors = arrays["embedding.vectors"][np.arange(w.n_streams), codes]
        x = _times(vectors.reshape(len(codes), -1), arrays["entry.weight"]) + self.offset
        table = rotary_row(self.length, w.head_dim)
        for layer in range(w.n_layers):
            block = f"backbone.blocks.{layer}."
            x = x + self._attend(_normalise(x, arrays[block + "attention_norm.scale"]), layer, table)
            normed = _normalise(x, arrays[block + "feed_forward_norm.scale"])
            x = x + self._feed_forward(normed, block + "feed_forward.")
        self.length += 1
        return _normalise(x, arrays["backbone.norm.scale"])

    def logits(self, rows: np.ndarray, stream: int) -> np.ndarray:
        """A stream's part of the backbone's output plus the vectors of the coarser codes (B, D) -> (B, V)."""
        arrays = self.weights.arrays
        for layer in range(self.weights.n_depth_layers):
            normed = _normalise(rows, arrays[f"depth.norms.{layer}.scale"])
            rows = rows + self._feed_forward(normed, f"depth.layers.{layer}.")
        heads = arrays["depth.heads"][stream, : self.weights.sizes[stream]]
        return _times(_normalise(rows, arrays["depth.norm.scale"]), heads)

    def advance(self, codes: np.ndarray, uniforms: np.ndarray | None) -> np.ndarray | None:
        """See `audiovq.prior.networks.Stepper.advance`."""
        hidden = self.hidden(codes)
        if uniforms is None:
            return None
        arrays, known = self.weights.arrays, np.zeros((len(codes), self.weights.depth_width), np.float32)
        sampled = np.empty((len(codes), self.n_streams), np.int64)
        for k in range(self.n_streams):
            rows = _times(hidden, self.into[k]) + known
            sampled[:, k] = sample_codes(self.logits(rows, k), uniforms[:, k], self.config)
            if k + 1 < self.n_streams:
                known = known + _times(arrays["embedding.vectors"][k, sampled[:, k]], arrays["depth.below"][k])
        return sampled

    def _attend(self, x: np.ndarray, layer: int, table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Attention of one layer (B, C) -> (B, C); its keys and values enter the ring buffer."""
        w, block = self.weights, f"backbone.blocks.{layer}.attention."
        heads = _times(x, w.arrays[block + "project.weight"]).reshape(len(x), -1, w.head_dim)
        queries, keys, values = np.split(heads, [w.n_heads, w.n_heads + w.n_groups], axis=1)
        slot, seen = self.length % w.window, min(self.length + 1, w.window)
        self.keys[layer, :, :, slot], self.values[layer, :, :, slot] = _rotate(keys, *table), values
        shared = _rotate(queries, *table).reshape(len(x), w.n_groups, -1, w.head_dim)
        scores = shared @ self.keys[layer, :, :, :seen].swapaxes(2, 3) / np.float32(np.sqrt(w.head_dim))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = shares @ self.values[layer, :, :, :seen]
        return _times(mixed.reshape(len(x), -1), w.arrays[block + "mix.weight"])

    def _feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        arrays = self.weights.arrays
        inner = np.maximum(_times(x, arrays[name + "expand.weight"]), 0)
        return _times(inner * inner, arrays[name + "reduce.weight"])


def _times(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B, I) and (O, I) -> (B, O), row by row: BLAS sums the rows of a matrix in another order than single ones."""
    return (x[:, None] @ weight.T)[:, 0]


def _normalise(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(EPS)) * scale


def _rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotary positions of heads (B, H, D)."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


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

        return self.sample_streams(stepper_for, n_frames, n, prompt, seed, n_codebooks, first, progress)

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
        settings: dict[str, Any] = {"prompt": given, "sampling": sampling, "seed": seed, "n_codebooks": n_codebooks}
        for start in batches:
            rows = who[start : start + BATCH]
            report = _part(progress, start // BATCH, len(batches))
            conditions = self._conditions(rows, number)
            drawn = self.prior.sample(
                n_frames, len(rows), **conditions, **settings, first=first + start, progress=report
            )
            parts.append(np.asarray(drawn))
        return self._coded(np.concatenate(parts), who, n_samples, prompt)

    def _conditions(self, speakers: np.ndarray, language: int) -> dict[str, Any]:
        """Arguments of the prior's ``sample`` for quantized speaker vectors (B, S) and a language's index."""
        return {"speakers": self.codec.speaker_vector(speakers), "language": language}

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
    """The folder ``prior``, that of a run (``runs/NAME``, its best weights), or that of a model's prior.

    Raises:
        AudioVQError: when there is no such model, or no prior in the folder.
    """
    folder = Path(prior) if prior is not None else model_folder(name_or_dir) / FOLDER
    if prior is not None and not folder.is_dir():
        runs = (cache_dir() / prior, cache_dir() / prior / "best")
        folder = next((run for run in runs if (run / "config.json").is_file()), folder)
    check_prior(folder)
    return folder


def load_sampler(folder: str | Path, codec: Any = None) -> tuple[CodeSampler, SpeakerDistribution | None]:
    """As `audiovq.prior.speech.load_prior`, in NumPy; raises `AudioVQError` also for a prior without a transformer."""
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
