"""Sampling of speech: a codec, the prior over its codes, the distribution of speakers; and priors on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.codec import SpeechCodec
from audiovq.codec.signal import quantize_level
from audiovq.devices import SCALE, restore, round_rows
from audiovq.errors import AudioVQError
from audiovq.hub import model_folder
from audiovq.interfaces import EncodedSpeech
from audiovq.io import atomic_write
from audiovq.prior.model import CodePrior, Progress
from audiovq.prior.networks import Condition


class SpeakerDistribution:
    """A Gaussian kernel around the mean vector of each training speaker.

    Kernels share one covariance: that between speakers, scaled by Scott's rule (Scott 1992), along its leading
    directions only. A few speakers, far fewer than dimensions squared, do not determine the others.

    Args:
        means: (N, S) float32, in integer levels.
        weights: (N,) float32, summing to 1.
        factor: (S, R) float32; a kernel's noise is ``factor @ normal(R)``.
        spread: (S,) float32, deviation within a speaker's recordings.
        levels: number of levels of each value.
        loudness: (N,) float32, mean level code of each speaker's packets.
    """

    def __init__(
        self,
        means: np.ndarray,
        weights: np.ndarray,
        factor: np.ndarray,
        spread: np.ndarray,
        levels: int,
        loudness: np.ndarray,
    ) -> None:
        self.means, self.weights, self.factor, self.spread = means, weights, factor, spread
        self.levels, self.loudness = levels, loudness

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        speakers: Sequence[str],
        seconds: np.ndarray,
        levels: int,
        loudness: np.ndarray,
        min_seconds: float = 20.0,
    ) -> SpeakerDistribution:
        """Fit to the vectors (N, S) of recordings; speakers with less than ``min_seconds`` of speech are left out.

        Args:
            vectors: in integer levels.
            speakers: name of each recording's speaker.
            seconds: (N,), duration of each recording.
            levels: number of levels of each value.
            loudness: (N,), mean level code of each recording.
            min_seconds: of a speaker's recordings together.

        Raises:
            ValueError: without recordings.
        """
        names = np.asarray(speakers)
        totals = {name: float(seconds[names == name].sum()) for name in sorted(set(speakers))}
        kept = [name for name, total in totals.items() if total >= min_seconds] or list(totals)
        if not kept:
            raise ValueError("there are no recordings")
        rows = vectors.astype(np.float64)
        means = np.stack([np.average(rows[names == n], axis=0, weights=seconds[names == n]) for n in kept])
        inside = [rows[names == n] - mean for n, mean in zip(kept, means, strict=True)]
        spread = np.sqrt(np.concatenate(inside).var(axis=0))
        n, dim = means.shape
        centred = means - means.mean(0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        energy = np.cumsum(sizes**2) / max(float(np.sum(sizes**2)), 1e-12)
        rank = min(int(np.searchsorted(energy, 0.9)) + 1, len(sizes))
        bandwidth = n ** (-1 / (rank + 4))
        factor = bandwidth * directions[:rank].T * (sizes[:rank] / np.sqrt(max(n - 1, 1)))
        weights = np.sqrt([totals[name] for name in kept])  # much speech makes a speaker only a little likelier
        parts = (means, weights / weights.sum(), factor.reshape(dim, -1), spread)
        means, weights, factor, spread = (np.ascontiguousarray(part, np.float32) for part in parts)
        loud = np.array([np.average(loudness[names == n], weights=seconds[names == n]) for n in kept], np.float32)
        return cls(means, weights, factor, spread, levels, loud)

    def level_of(self, vector: np.ndarray) -> int:
        """Level code of a speaker (S,): that of the nearest training speaker."""
        return round(float(self.loudness[np.square(self.means - vector).sum(1).argmin()]))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A random speaker vector, (S,) int64 in ``[0, levels)``."""
        mean = self.means[
            rng.choice(len(self.means), p=self.weights.astype(np.float64) / self.weights.sum(dtype=float))
        ]
        value = mean + self.factor @ rng.standard_normal(self.factor.shape[1])
        return np.clip(np.round(value), 0, self.levels - 1).astype(np.int64)

    def tensors(self) -> dict[str, np.ndarray]:
        """The parameters by name, for a file of weights."""
        return {
            "means": self.means,
            "weights": self.weights,
            "factor": self.factor,
            "spread": self.spread,
            "levels": np.array([self.levels], np.float32),
            "loudness": self.loudness,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> SpeakerDistribution:
        """The inverse of `tensors`."""
        names = ("means", "weights", "factor", "spread", "loudness")
        named = {name: np.ascontiguousarray(tensors[name], np.float32) for name in names}
        return cls(**named, levels=int(tensors["levels"][0]))


FOLDER = "prior"
"""Name of a codec's prior folder, beside the codec's weights."""
BATCH = 16
"""Number of items that are sampled together."""
_SPEAKERS = "voices."
_USUAL_LEVEL = quantize_level(-20.0)


class SpeechPrior:
    """Samples speech: pitch and codes from the prior, speakers from a distribution or from the caller.

    The level is one for each item: the prompt's, or the usual one of the speaker.

    Args:
        codec: the codec whose codes are modelled.
        prior: trained on this codec's codes.
        voices: the distribution of random speakers; None for none.
    """

    def __init__(self, codec: Any, prior: CodePrior, voices: SpeakerDistribution | None = None) -> None:
        self.codec, self.prior, self.voices = codec, prior, voices

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, prior: str | Path | None = None) -> SpeechPrior:
        """Load a codec by name or folder (default: the bundled one), with its prior or one from another folder.

        Raises:
            AudioVQError: when there is no such model or prior, or the prior was trained on another codec's codes.
        """
        folder = Path(prior) if prior is not None else model_folder(name_or_dir) / FOLDER
        check_prior(folder)  # before loading the codec, which takes seconds
        codec = SpeechCodec.from_pretrained(name_or_dir)
        return cls(codec, *load_prior(folder, codec))

    def random_voice(self, seed: int = 0, item: int = 0) -> np.ndarray:
        """A random speaker vector, (S,) int64, as a function of ``seed`` and ``item``.

        Raises:
            AudioVQError: when this prior has no distribution of speakers.
        """
        if self.voices is None:
            raise AudioVQError(f"prior {self.prior.name} has no distribution of speakers: name a speaker")
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
        """Sample ``n`` items. Item i is a function of the seed and its number ``first + i``, whatever ``n`` is.

        Args:
            seconds: duration; with a prompt, of the continuation.
            n: number of items.
            speaker: a quantized vector (S,) for all items, or (n, S) for each; None: the prompt's, or without a prompt
                a random speaker for each.
            language: ISO 639 code; None for any.
            prompt: one item of coded speech to continue; its last, incomplete frame is dropped.
            temperature, top_k, top_p: see `audiovq.prior.networks.SamplingConfig`; None for the prior's defaults, which
                were best on validation data.
            seed: random seed.
            n_codebooks: number of codebooks to sample; None: the prompt's, or the prior's default.
            first: number of the first item.
            progress: called with the number of frames done and the total.

        Returns:
            The prompt's pitch and codes and the new ones, for `SpeechCodec.decode` or `SpeechCodec.save`.

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
        number = self.prior.conditioner.number(language)
        condition = condition_of(codec, {"voice": who, "language": torch.full((n,), number)})
        n_frames = -(-n_samples // codec.hop_length)
        parts, batches = [], range(0, n, BATCH)
        for start in batches:
            size = min(BATCH, n - start)
            part = condition.items(start, start + size)
            report = _part(progress, start // BATCH, len(batches))
            settings = (given, sampling, seed, n_codebooks, first + start)
            parts.append(self.prior.sample(n_frames, size, part, *settings, progress=report))
        return self._encoded(torch.cat(parts), who, n_samples, prompt)

    def _encoded(self, streams: Tensor, who: Tensor, n_samples: int, prompt: EncodedSpeech | None) -> EncodedSpeech:
        """Streams (B, S, F) as coded speech; the last ``n_samples`` are new."""
        hop = self.codec.hop_length
        lengths = torch.full((len(who),), streams.shape[2] * hop - (-n_samples % hop))
        size = (prompt.packet_frames if prompt is not None else None) or self.codec.packet_frames
        levels = self._levels(who, -(-streams.shape[2] // size), prompt)
        return EncodedSpeech(streams[:, 1:], who, lengths, streams[:, 0], levels, size)

    def _levels(self, who: Tensor, n_packets: int, prompt: EncodedSpeech | None) -> Tensor:
        """(n, P) level codes."""
        if prompt is not None:
            given = prompt.level[0, :n_packets]
            usual = given.median().expand(n_packets - len(given))
            return torch.cat([given, usual]).expand(len(who), -1)
        levels = torch.tensor([self.voices.level_of(row.numpy()) if self.voices else _USUAL_LEVEL for row in who])
        return levels[:, None].expand(-1, n_packets)

    def streams(self, encoded: EncodedSpeech) -> Tensor:
        """Coded speech as the prior's streams (B, S, F): pitch first, then the codebooks."""
        return torch.cat([encoded.pitch[:, None], encoded.codes], dim=1)

    def _given(self, prompt: EncodedSpeech | None) -> Tensor | None:
        if prompt is None:
            return None
        if len(prompt.codes) != 1:
            raise AudioVQError(f"a prompt is one item of coded speech, not {len(prompt.codes)}")
        whole = int(prompt.n_samples[0]) // self.codec.hop_length
        if whole < 1:
            raise AudioVQError("the prompt is shorter than one frame; give some seconds of speech")
        return self.streams(prompt)[:, :, :whole]

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
    """Progress of one batch as progress of all batches."""
    if progress is None:
        return None
    return lambda done, total: progress(batch * total + done, n_batches * total)


def condition_of(codec: Any, batch: Mapping[str, Tensor]) -> Condition:
    """Conditions of a batch with quantized speaker vectors ``voice`` (B, S) and indices ``language`` (B,)."""
    with torch.no_grad():
        return Condition(codec.speaker_encoder.decode(batch["voice"]).float(), batch["language"])


# -- priors on disk -----------------------------------------------------------------------------------------------


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of a prior is stored in 8 bits: all matrices but those of the conditions, which are small."""
    return tensor.dim() > 1 and tensor.is_floating_point() and not name.startswith("conditioner.")


def rounded(prior: CodePrior) -> dict[str, torch.Tensor]:
    """The weights after saving and loading, rounded to 8 bits."""
    return restore(_store(prior))


def _store(prior: CodePrior) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, tensor in prior.state_dict().items():
        tensor = tensor.detach().cpu()
        if is_matrix(name, tensor):
            tensors[name], tensors[name + SCALE] = round_rows(tensor)
        else:
            tensors[name] = tensor.float().contiguous()
    return tensors


def save_prior(prior: CodePrior, folder: str | Path, voices: SpeakerDistribution | None = None) -> None:
    """Write configuration, weights and the distribution of speakers."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _store(prior)
    if voices is not None:
        tensors |= {_SPEAKERS + name: torch.from_numpy(value) for name, value in voices.tensors().items()}
    with atomic_write(folder / "model.safetensors") as path:
        path.write_bytes(save(tensors))
    with atomic_write(folder / "config.json") as path:
        path.write_text(json.dumps(prior.config, indent=2) + "\n")


def check_prior(folder: Path) -> None:
    """Check that there is a prior, without loading it.

    Raises:
        AudioVQError: when there is none.
    """
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise AudioVQError(
            f"no prior in {folder}: train one with `audiovq train experiment=prior task.codec=MODEL`, on the codes of "
            "that model"
        )


def load_prior(folder: str | Path, codec: Any = None) -> tuple[CodePrior, SpeakerDistribution | None]:
    """Load a prior and its distribution of speakers; with a codec, check that the prior is for its codes.

    Raises:
        AudioVQError: when there is none, when it is damaged, or when it was trained on another codec's codes.
    """
    from safetensors.torch import load

    folder = Path(folder)
    check_prior(folder)
    try:
        prior = CodePrior(**json.loads((folder / "config.json").read_text()))
        tensors = load((folder / "model.safetensors").read_bytes())
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_SPEAKERS)}
        prior.load_state_dict(restore(weights))
        voices = {n.removeprefix(_SPEAKERS): t.numpy() for n, t in tensors.items() if n.startswith(_SPEAKERS)}
        speakers = SpeakerDistribution.from_tensors(voices) if voices else None
    except Exception as error:
        raise AudioVQError(f"the prior in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    if codec is not None and prior.codec != codec.model_hash.hex():
        raise AudioVQError(
            f"the prior in {folder} was trained on codes of model {prior.codec or 'none'}, not on those of "
            f"{codec.name} ({codec.model_hash.hex()}); train one on them: audiovq train experiment=prior"
        )
    return prior.eval(), speakers
