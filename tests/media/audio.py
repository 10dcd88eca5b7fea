"""Reading in tests: the same bytes from a file, from a pipe, and in small pieces."""

from __future__ import annotations

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.media.waveform import open_audio


class Pipe:
    """Pieces of any size, no seeking, no length."""

    def __init__(self, data, seed=0):
        self._data, self._position, self._rng = data, 0, np.random.default_rng(seed)

    def read(self, size=-1):
        size = min(size if size > 0 else 9999, int(self._rng.integers(1, 3000)))
        piece = self._data[self._position : self._position + size]
        self._position += len(piece)
        return piece


def read(source, **options):
    """Samples (n, channels) and the reader."""
    mono = options.pop("mono", False)
    with open_audio(source, **options) as audio:
        blocks = list(audio.blocks(mono))
    return np.concatenate(blocks), audio


def read_bytes(data, folder, name="a.wav", **options):
    """Samples and remarks of a file with these bytes; a pipe must give the same."""
    (folder / name).write_bytes(data)
    samples, audio = read(folder / name, **options)
    piped, from_pipe = read(Pipe(data), **options)
    assert np.array_equal(samples, piped)
    assert audio.remarks == from_pipe.remarks
    assert audio.n_read == from_pipe.n_read
    return samples, audio.remarks


def refusal(data, folder, name="a.wav", **options):
    """The message with which these bytes are refused, as a file and from a pipe."""
    (folder / name).write_bytes(data)
    found = []
    for source in (folder / name, Pipe(data)):
        try:
            read(source, **options)
        except AudioVQError as error:
            found.append(str(error).partition(": ")[2])
    assert len(found) == 2, "it was read"
    assert found[0] == found[1]
    return found[0]
