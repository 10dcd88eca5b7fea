"""Sampling of speech with PyTorch, as tensors; and priors on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.codec import SpeechCodec
from audiovq.devices import restore, round_rows
from audiovq.errors import AudioVQError
from audiovq.interfaces import EncodedSpeech
from audiovq.io import atomic_write
from audiovq.prior.model import CodePrior
from audiovq.prior.networks import Condition
from audiovq.prior.sampler import BATCH as BATCH
from audiovq.prior.sampler import SpeechSampler, prior_folder
from audiovq.prior.weights import (
    CONFIG,
    SCALE,
    SPEAKERS,
    WEIGHTS,
    SpeakerDistribution,
    check_codec,
    check_prior,
    damage_in,
    read_prior,
)
from audiovq.prior.weights import FOLDER as FOLDER
from audiovq.tensor_files import with_checksum, write_json


class SpeechPrior(SpeechSampler):
    """`SpeechSampler` for tensors: its codec and its prior are PyTorch's.

    Args:
        codec: the codec whose codes are modelled.
        prior: trained on this codec's codes.
        voices: the distribution of random speakers; None for none.
    """

    prior: CodePrior

    @classmethod
    def from_pretrained(cls, name_or_dir: str | Path | None = None, prior: str | Path | None = None) -> SpeechPrior:
        """Load a codec by name or folder (default: the bundled one), with its prior or one from another folder.

        Raises:
            AudioVQError: when there is no such model or prior, or the prior was trained on another codec's codes.
        """
        folder = prior_folder(name_or_dir, prior)  # before loading the codec, which takes seconds
        codec = SpeechCodec.from_pretrained(name_or_dir)
        return cls(codec, *load_prior(folder, codec))

    def generate(
        self,
        seconds: float,
        n: int = 1,
        speaker: np.ndarray | Tensor | Sequence[int] | None = None,
        language: str | None = None,
        prompt: EncodedSpeech | None = None,
        **settings: Any,
    ) -> EncodedSpeech:
        """`sample` with coded speech as a batch: the prompt, of one item, and the result.

        Args:
            seconds, n, speaker, language: see `sample`.
            prompt: one item of coded speech to continue; its last, incomplete frame is dropped.
            settings: further arguments of `sample`.

        Returns:
            The prompt's pitch and codes and the new ones, for `SpeechCodec.decode` or `SpeechCodec.save`.

        Raises:
            AudioVQError: for a length, language, prompt or number of codebooks that does not fit.
        """
        vector = None if speaker is None else np.asarray(speaker, np.int64)
        if prompt is not None and len(prompt.codes) != 1:
            raise AudioVQError(f"a prompt is one item of coded speech, not {len(prompt.codes)}")
        given = None if prompt is None else prompt.channel(0, self.codec)
        return EncodedSpeech.of(self.sample(seconds, n, vector, language, given, **settings))

    def streams(self, encoded: EncodedSpeech) -> Tensor:
        """Coded speech as the prior's streams (B, S, F): pitch first, then the codebooks."""
        return torch.cat([encoded.pitch[:, None], encoded.codes], dim=1)

    def _conditions(self, speakers: np.ndarray, language: int) -> dict[str, Any]:
        batch = {"voice": torch.tensor(speakers), "language": torch.full((len(speakers),), language)}
        return {"condition": condition_of(self.codec, batch)}


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
        tensors |= {SPEAKERS + name: torch.from_numpy(value) for name, value in voices.tensors().items()}
    with atomic_write(folder / WEIGHTS) as path:
        path.write_bytes(with_checksum(save(tensors)))
    write_json(folder / CONFIG, prior.config)


def load_prior(folder: str | Path, codec: Any = None) -> tuple[CodePrior, SpeakerDistribution | None]:
    """Load a prior and its distribution of speakers; with a codec, check that the prior is for its codes.

    Raises:
        AudioVQError: when there is none, when it is damaged, or when it was trained on another codec's codes.
    """
    folder = Path(folder)
    check_prior(folder)
    with damage_in(folder):
        config, arrays, speakers = read_prior(folder)
        prior = CodePrior(**config)
        prior.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    check_codec(folder, prior.codec, codec)
    return prior.eval(), speakers
