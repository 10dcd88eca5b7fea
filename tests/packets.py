"""Packets with constant pitch and level, from arrays of codes and back."""

import numpy as np

from audiovq.bitstream.speech_layout import pack_side
from audiovq.interfaces import Packet

PITCH, LEVEL = 49, 100
"""Codes: 100 Hz, and any level."""


def packet_of(codes):
    """Codes (K, F) -> a packet."""
    return Packet(codes, np.full(codes.shape[1], PITCH), LEVEL)


def packets_of(codes):
    """Codes (channels, K, F) -> a packet of each channel."""
    return [packet_of(row) for row in np.asarray(codes)]


def codes_of(packets):
    """Inverse of `packets_of`."""
    return np.stack([packet.codes for packet in packets])


def side_size(n_frames, channels=1):
    """Bytes of the level and pitch of such packets."""
    return len(pack_side([packet_of(np.zeros((1, n_frames), np.int64))] * channels))
