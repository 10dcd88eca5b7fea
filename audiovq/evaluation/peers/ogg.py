"""Sizes of the packets in an Ogg file."""

from __future__ import annotations


def packet_sizes(data: bytes) -> list[int]:
    """Bytes of each packet of a file with one logical stream (RFC 3533, section 6).

    Raises:
        ValueError: when it is no Ogg file.
    """
    sizes, position, open_size = [], 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise ValueError("not an Ogg page")
        n_segments = data[position + 26]
        table = data[position + 27 : position + 27 + n_segments]
        for segment in table:
            open_size += segment
            if segment < 255:  # a packet ends at its first segment that is not full
                sizes.append(open_size)
                open_size = 0
        position += 27 + n_segments + sum(table)
    return sizes
