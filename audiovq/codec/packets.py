"""Packets of several recordings as one batch, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.interfaces import EncodedSpeech, Packet


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
