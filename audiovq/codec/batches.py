"""Batches of recordings: from what users give as audio to packets, many at a time for accelerators.

A stream computes packet after packet, which leaves a GPU idle. Here all windows of equal length, whichever recordings
they are from, go through the networks together. Packets, contexts and levels are those of the stream; sums are taken
in another order, so that a code may differ where two are equally near (fewer than one frame in a thousand).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.codec.signal import FALL_DB, LOWEST_DB, TARGET_DB, HighPass, frame_levels, quantize_level
from audiovq.devices import full_precision
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet, Stretch
from audiovq.media.waveform import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, resample

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec


LOUDEST = 1.5
"""Samples of floating point beyond this magnitude are probably integers that were converted without scaling."""


def recordings(
    waveform: Tensor | np.ndarray | Sequence[Tensor | np.ndarray], sample_rate: int, target_rate: int
) -> list[np.ndarray]:
    """One recording (T,), a batch (B, 1, T) or a list of recordings (T_i,) or (1, T_i) -> (T_i,) float32 arrays.

    Integer samples are scaled by their type to -1..1; rates that differ are converted.

    Raises:
        AudioVQError: for any other shape or type, for what is no sample rate, and when there is nothing to code.
    """
    rate = int(sample_rate) if isinstance(sample_rate, Real) and math.isfinite(sample_rate) else None
    if rate != sample_rate or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioVQError(
            f"a sample rate is a whole number of Hz from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}, not {sample_rate!r}"
        )
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
    if rate == target_rate:
        return items
    return [resample(item, rate, target_rate) for item in items]


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


BATCH_FRAMES = 30_000
"""Frames of a batch of windows: ten minutes of audio, about 3 GB of activations."""


#: The number of a recording, and the part of it that a network is given.
Window = tuple[int, Stretch]


class _Recording:
    """One item on its way through the networks."""

    def __init__(self, codec: SpeechCodec, samples: np.ndarray, device: torch.device) -> None:
        bad = ~np.isfinite(samples)
        if bad.any():
            where = int(np.argmax(bad)) / codec.sample_rate
            raise AudioVQError(f"the audio has NaN or infinite samples, the first at {where:.3f} s; repair it first")
        if not len(samples):
            raise AudioVQError("the audio is empty: there is nothing to code")
        self.n_samples = len(samples)
        self.n_frames = -(-len(samples) // codec.hop_length)
        filtered = torch.from_numpy(HighPass(codec.sample_rate)(samples)).to(device)
        self.signal = F.pad(filtered, (0, self.n_frames * codec.hop_length - len(samples)))
        self.pitch = torch.zeros(self.n_frames, dtype=torch.int64, device=device)
        self.source = self.signal
        self.packets: list[Packet] = []
        self.levels: list[float] = []


def encode_items(
    codec: SpeechCodec, items: Sequence[np.ndarray], n_codebooks: int | None, packet_frames: int | None
) -> list[tuple[list[Packet], np.ndarray]]:
    """As `encode_batch`; on the CPU each recording alone through its stream, so that codes depend on nothing else."""
    if codec.device.type != "cpu":
        return encode_batch(codec, items, n_codebooks, packet_frames)
    coded = []
    for item in items:
        stream = codec.encoder_stream(n_codebooks, packet_frames)
        packets = stream.push(item) + stream.finish()
        assert stream.speaker is not None
        coded.append((packets, stream.speaker))
    return coded


@full_precision
def encode_batch(
    codec: SpeechCodec,
    items: Sequence[np.ndarray],
    n_codebooks: int | None = None,
    packet_frames: int | None = None,
    batch_frames: int = BATCH_FRAMES,
) -> list[tuple[list[Packet], np.ndarray]]:
    """Code recordings (T_i,) at the codec's rate on the codec's device -> packets and speaker vector of each.

    As `SpeechCodec.encode`, for a model in evaluation mode, float32 samples, and ``batch_frames`` frames
    at a time.
    """
    n, hop, size = codec.check_n_codebooks(n_codebooks), codec.hop_length, codec.check_packet_frames(packet_frames)
    recordings = [_Recording(codec, np.asarray(item, np.float32).reshape(-1), codec.device) for item in items]

    def cut(windows: list[Window]) -> tuple[Tensor, Tensor]:
        """Windows (B, T) of the signals, and the level of each (B,) in dB."""
        stack = torch.stack([recordings[item].signal[part.start * hop : part.stop * hop] for item, part in windows])
        return stack, frame_levels(stack, hop).amax(1).clamp_min(LOWEST_DB)

    for group in _grouped(_pitch_windows(codec, recordings, size), batch_frames):
        tracks = codec.pitch.track(_normalised(*cut(group))[:, None])
        for (item, part), track in zip(group, tracks, strict=True):
            recordings[item].pitch[part.first : part.last] = track[part.wanted]
    windows = _packet_windows(codec, recordings, size)
    for group in _grouped(windows, batch_frames):
        for (item, part), level in zip(group, cut(group)[1].tolist(), strict=True):
            recordings[item].levels[part.first // size] = level
    for recording in recordings:
        recording.source = codec.source(recording.pitch[None])[0, 0]
        recording.levels = _fall(recording, size, codec.frame_rate)
    speakers = _speakers(codec, recordings, batch_frames)
    vectors = codec.speaker_encoder.decode(speakers)
    for group in _grouped(windows, batch_frames):
        samples, _ = cut(group)
        levels = torch.tensor([recordings[item].levels[part.first // size] for item, part in group]).to(samples)
        source = torch.stack([recordings[item].source[part.start * hop : part.stop * hop] for item, part in group])
        speaker = vectors[[item for item, _ in group]]
        latents = codec.encoder(_normalised(samples, levels)[:, None], speaker, source[:, None])
        codes = codec.quantizer.encode(latents[:, :, group[0][1].wanted].contiguous(), n).cpu().numpy()
        for (item, part), one in zip(group, codes, strict=True):
            recording, index = recordings[item], part.first // size
            pitch = recording.pitch[part.first : part.last].cpu().numpy()
            recording.packets[index] = Packet(one, pitch, quantize_level(recording.levels[index]))
    return [(recording.packets, speaker) for recording, speaker in zip(recordings, speakers.cpu().numpy(), strict=True)]


def _packet_windows(codec: SpeechCodec, recordings: list[_Recording], size: int) -> list[Window]:
    """A window for each packet with the encoder's context."""
    windows: list[Window] = []
    for item, recording in enumerate(recordings):
        total, none = recording.n_frames, np.zeros(0, np.int64)
        starts = range(0, total, size)
        parts = [Stretch.around(i, min(i + size, total), codec.encoder.context_frames, total) for i in starts]
        windows += [(item, part) for part in parts]
        recording.packets = [Packet(none[None], none, 0)] * len(parts)
        recording.levels = [0.0] * len(parts)
    return windows


def _pitch_windows(codec: SpeechCodec, recordings: list[_Recording], size: int) -> list[Window]:
    """The stretches whose pitch a stream measures at once: up to a frame behind a packet's context, each."""
    windows: list[Window] = []
    for item, recording in enumerate(recordings):
        known, total = 0, recording.n_frames
        for first in range(0, total, size):
            until = min(first + size + codec.encoder.detail.context_frames + 1, total)
            if until > known:
                windows.append((item, Stretch.around(known, until, codec.pitch.context_frames, total)))
                known = until
    return windows


def _grouped(windows: list[Window], batch_frames: int) -> Iterator[list[Window]]:
    """Windows of equal length and context together, as many as fit a batch."""
    by_shape: dict[tuple[int, int, int], list[Window]] = {}
    for item, part in windows:
        shape = (part.stop - part.start, part.first - part.start, part.last - part.first)
        by_shape.setdefault(shape, []).append((item, part))
    for shape in sorted(by_shape, reverse=True):
        size = max(batch_frames // shape[0], 1)
        for i in range(0, len(by_shape[shape]), size):
            yield by_shape[shape][i : i + size]


def _normalised(samples: Tensor, levels: Tensor) -> Tensor:
    """Windows (B, T) brought from their levels (B,) in dB to the level that the networks expect."""
    return samples * (10 ** ((TARGET_DB - levels) / 20))[:, None]


def _fall(recording: _Recording, packet_frames: int, frame_rate: float) -> list[float]:
    """Levels of packets that fall no faster than `FALL_DB` a second."""
    level, levels = -np.inf, []
    for index, loudest in enumerate(recording.levels):
        n_frames = min(packet_frames, recording.n_frames - index * packet_frames)
        level = max(loudest, level - FALL_DB * n_frames / frame_rate)
        levels.append(level)
    return levels


def _speakers(codec: SpeechCodec, recordings: list[_Recording], batch_frames: int) -> Tensor:
    """Quantized speaker vectors (B, S), as of `EncoderStream`: of a stretch that does not depend on the packets."""
    hop, size, context = codec.hop_length, codec.packet_frames, codec.encoder.context_frames
    by_length: dict[tuple[int, int], list[int]] = {}
    for item, recording in enumerate(recordings):
        lengths = min(size * hop, recording.n_samples), min(size + context, recording.n_frames) * hop
        by_length.setdefault(lengths, []).append(item)
    result: list[Tensor] = [torch.zeros(0)] * len(recordings)
    for (length, around), members in by_length.items():
        step = max(batch_frames * hop // around, 1)
        for i in range(0, len(members), step):
            group = members[i : i + step]
            stack = torch.stack([recordings[item].signal[:around] for item in group])
            levels = frame_levels(stack, hop).amax(1).clamp_min(LOWEST_DB)
            vectors = codec.speaker_encoder.encode(_normalised(stack, levels)[:, None, :length])
            for item, vector in zip(group, vectors, strict=True):
                result[item] = vector
    return torch.stack(result)
