"""Packets of codes without pitch and level, from arrays and back."""

import numpy as np

from audiovq.interfaces import Packet


def packets_of(codes):
    """Codes (channels, K, F) -> a packet of each channel."""
    return [Packet(row) for row in np.asarray(codes)]


def codes_of(packets):
    """Inverse of `packets_of`."""
    return np.stack([packet.codes for packet in packets])
