"""Recordings in and packets out: what users give as audio, and encoded speech as packets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.errors import AudioVQError
from audiovq.interfaces import EncodedSpeech, Packet
from audiovq.media.waveform import resample

LOUDEST = 1.5
"""Samples of floating point beyond this magnitude are probably integers that were converted without scaling."""


def recordings(
    waveform: Tensor | np.ndarray | Sequence[Tensor | np.ndarray], sample_rate: int, target_rate: int
) -> list[np.ndarray]:
    """One recording (T,), a batch (B, 1, T) or a list of recordings (T_i,) or (1, T_i) -> (T_i,) float32 arrays.

    Integer samples are scaled by their type to -1..1; rates that differ are converted.

    Raises:
        AudioVQError: for any other shape or type, and when there is nothing to code.
    """
    if isinstance(waveform, Tensor | np.ndarray):
        array = _floats(waveform)
        if array.ndim == 1:
            items = [array]
        elif array.ndim == 3 and array.shape[1] == 1:
            items = list(array[:, 0])
        else:
            hint = "; channels come first" if array.ndim == 2 and array.shape[-1] <= 8 else ""
            raise AudioVQError(
                f"expected one recording (T,) or a batch (B, 1, T) of mono recordings, got {array.shape}{hint}"
            )
    else:
        items = []
        for item in waveform:
            array = _floats(item)
            if array.ndim == 2 and array.shape[0] == 1:
                array = array[0]
            if array.ndim != 1:
                raise AudioVQError(f"expected recordings (T,) in the list, got {array.shape}")
            items.append(array)
    if not items or any(len(item) == 0 for item in items):
        raise AudioVQError("the audio is empty: there is nothing to encode")
    if sample_rate == target_rate:
        return items
    return [resample(item, sample_rate, target_rate) for item in items]


def _floats(waveform: Tensor | np.ndarray) -> np.ndarray:
    """float32 samples in -1..1."""
    if not isinstance(waveform, Tensor | np.ndarray):
        raise AudioVQError(f"expected a tensor or an array of samples, got {type(waveform).__name__}")
    tensor = torch.as_tensor(waveform).detach().cpu()
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise AudioVQError(f"expected real samples, got {tensor.dtype}")
    if tensor.is_floating_point():
        samples = tensor.float().numpy()
        peak = float(np.abs(samples).max(initial=0.0))
        if np.isfinite(peak) and peak > LOUDEST:
            warnings.warn(f"samples reach {peak:g}, but full scale is 1: scale them, or pass integers", stacklevel=4)
        return samples
    limits = torch.iinfo(tensor.dtype)
    if limits.min == 0:
        return ((tensor.double() - (limits.max + 1) / 2) / ((limits.max + 1) / 2)).float().numpy()
    return (tensor.double() / -limits.min).float().numpy()


def join_packets(
    packets: Sequence[Sequence[Packet]], speakers: Sequence[Tensor], lengths: Sequence[int], packet_frames: int
) -> EncodedSpeech:
    """A batch from the packets, the quantized speaker vector and the number of samples of each recording."""
    return EncodedSpeech(
        codes=padded([torch.from_numpy(np.concatenate([p.codes for p in one], axis=1)) for one in packets]),
        pitch=padded([torch.from_numpy(np.concatenate([p.pitch for p in one])) for one in packets]),
        level=padded([torch.tensor([p.level for p in one]) for one in packets]),
        speaker=torch.stack(list(speakers)),
        n_samples=torch.tensor(lengths),
        packet_frames=packet_frames,
    )


def split_packets(encoded: EncodedSpeech, item: int, packet_frames: int, hop_length: int) -> list[Packet]:
    """The packets of one item of a batch."""
    n_frames = -(-int(encoded.n_samples[item]) // hop_length)
    codes, pitch = encoded.codes[item].cpu().numpy(), encoded.pitch[item].cpu().numpy()
    levels = encoded.level[item].tolist()
    starts = range(0, n_frames, packet_frames)
    parts = [slice(start, min(start + packet_frames, n_frames)) for start in starts]
    return [Packet(codes[:, part], pitch[part], levels[i]) for i, part in enumerate(parts)]


def padded(items: Sequence[Tensor]) -> Tensor:
    """Stack tensors that differ in their last dimension, with zeros behind the shorter ones."""
    longest = max(item.shape[-1] for item in items)
    return torch.stack([F.pad(item, (0, longest - item.shape[-1])) for item in items])
