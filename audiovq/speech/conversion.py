"""Voice conversion of waveforms in memory; `audiovq.conversion.files` does files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiovq.conversion.request import Pitch, make_disguise
from audiovq.conversion.spectral_match import Timbre, TimbreMatch
from audiovq.conversion.target import TargetVoice

if TYPE_CHECKING:
    from audiovq.speech.codec import SpeechCodec


@torch.inference_mode()
def convert(
    codec: SpeechCodec,
    sources: Sequence[np.ndarray],
    voice: TargetVoice,
    n_codebooks: int | None,
    pitch: Pitch,
    decoder: str,
    timbre: Timbre,
) -> torch.Tensor:
    """Sources (T_i,) at the codec's rate, spoken by ``voice`` -> (B, 1, max T_i); see `SpeechCodec.convert`."""
    n_books = codec.conversion_codebooks if n_codebooks is None else n_codebooks
    disguises = [make_disguise(voice, codec, pitch, timbre) for _ in sources]
    moved = []
    for disguise, samples in zip(disguises, sources, strict=True):
        if disguise.shift is not None:
            samples = np.concatenate([disguise.shift.push(samples[:, None]), disguise.shift.finish()])[:, 0]
        moved.append(torch.from_numpy(samples))
    encoded = codec.encode(moved, codec.sample_rate, n_books)
    vectors = torch.from_numpy(voice.vector()).expand(len(moved), -1)
    spoken = codec.decode(encoded, decoder, vectors)
    for disguise, item, n_samples in zip(disguises, spoken[:, 0], encoded.n_samples.tolist(), strict=True):
        if disguise.spectrum is not None:
            match = TimbreMatch(disguise.spectrum, codec.sample_rate)
            pieces = [match.push(item[:n_samples].numpy()), match.finish()]
            item[:n_samples] = torch.from_numpy(np.concatenate(pieces))
    return spoken
