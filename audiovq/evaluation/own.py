"""This package's codec as a system to evaluate."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.system import Coded

if TYPE_CHECKING:
    from audiovq.speech.codec import SpeechCodec


def n_codebooks_of(codec: Any, bitrate: float) -> int:
    """The number of codebooks whose nominal rate is ``bitrate`` kb/s.

    Raises:
        AudioVQError: when the model has no such rate.
    """
    for n, nominal in enumerate(codec.bitrates, 1):
        if abs(nominal - bitrate) < 1e-6:
            return n
    rates = ", ".join(f"{rate:g}" for rate in codec.bitrates)
    raise AudioVQError(f"model {codec.name} has no bit rate of {bitrate:g} kb/s; it has {rates}")


class OwnCodec:
    """A `SpeechCodec` at one bit rate."""

    exact = True
    family = "audiovq"

    def __init__(self, codec: SpeechCodec, bitrate: float, decoder: str = "parallel") -> None:
        self._codec, self._decoder = codec, decoder
        self._n_codebooks = n_codebooks_of(codec, bitrate)
        self.name = f"audiovq {bitrate:g}"
        self.call = f"model {codec.name}, {self._n_codebooks} codebooks, {decoder} decoder"

    def code(self, waveform: np.ndarray) -> Coded:
        import torch

        from audiovq.bitstream import save_encoded

        encoded = self._codec.encode(torch.from_numpy(waveform).view(1, 1, -1), n_codebooks=self._n_codebooks)
        decoded = self._codec.decode(encoded, decoder=self._decoder)[0, 0].numpy()
        bits = (self._codec.codebook_size - 1).bit_length()
        payload = -(-encoded.codes[0].numel() * bits // 8)
        file = io.BytesIO()
        save_encoded(encoded, file, self._codec)
        return Coded(decoded, payload, file.getbuffer().nbytes)
