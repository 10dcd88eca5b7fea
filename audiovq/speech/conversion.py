"""Voice conversion of waveforms in memory; `audiovq.bitstream.convert` does files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiovq.speech.disguise import Pitch, make_shifter
from audiovq.speech.target import TargetVoice
from audiovq.speech.timbre import Timbre, TimbreMatch, check_timbre

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
    check_timbre(timbre)
    spectrum = voice.spectrum if timbre == "auto" else None
    n_books = codec.conversion_codebooks if n_codebooks is None else n_codebooks
    moved = []
    for samples in sources:
        shifter = make_shifter(codec.sample_rate, pitch, voice.pitch)
        if shifter is not None:
            samples = np.concatenate([shifter.push(samples[:, None]), shifter.finish()])[:, 0]
        moved.append(torch.from_numpy(samples))
    encoded = codec.encode(moved, codec.sample_rate, n_books)
    vectors = torch.from_numpy(voice.vector()).expand(len(moved), -1)
    spoken = codec.decode(encoded, decoder, vectors)
    if spectrum is not None:
        for item, n_samples in zip(spoken[:, 0], encoded.n_samples.tolist(), strict=True):
            match = TimbreMatch(spectrum, codec.sample_rate)
            pieces = [match.push(item[:n_samples].numpy()), match.finish()]
            item[:n_samples] = torch.from_numpy(np.concatenate(pieces))
    return spoken


def gather_voice(codec: SpeechCodec, targets: Sequence[str | Path | np.ndarray]) -> TargetVoice:
    """The voice of all targets together: recordings (T,) at the codec's rate, paths and names."""
    from audiovq.bitstream import target_voice

    voice = TargetVoice(codec)
    for target in targets:
        if isinstance(target, str | Path):
            target_voice(codec, [target], voice)
        else:
            voice.add(target)
            voice.finish_recording()
    return voice
