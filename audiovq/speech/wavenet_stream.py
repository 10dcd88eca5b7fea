"""Decoding by the WaveNet while packets arrive, on one fixed grid of stretches of about a second.

Each stretch is drawn in one go: condition from its latents and their context, values by the sampler, which carries the
layers' memories on, samples from the sub-bands. Noise belongs to places in the recording. So the same codes and seed
give the same samples, however the packets come.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audiovq.speech.sampler import Noise, WaveNetSampler
from audiovq.speech.stream import DecoderStream
from audiovq.speech.wavenet import WaveNetDecoder


class WaveNetStream(DecoderStream):
    """The WaveNet decoder.

    Args:
        codec: whose codes are decoded.
        wavenet: made for them.
        sampler: with the same weights.
        speaker: quantized vector (S,).
        seed: of the noise.
    """

    def __init__(
        self,
        codec,
        wavenet: WaveNetDecoder,
        sampler: WaveNetSampler,
        speaker: np.ndarray,
        seed: int = 0,
    ) -> None:
        super().__init__(codec, wavenet.context_frames)
        self._wavenet, self._sampler = wavenet, sampler
        self._noise, self._state = Noise(sampler, seed), sampler.state()
        with torch.inference_mode():
            self._speaker = codec.speaker_encoder.decode(torch.from_numpy(np.asarray(speaker, np.int64))[None])
        self._stretch = round(codec.frame_rate)  # frames
        self._drawn = 0  # frames
        self._bands = torch.zeros(1, wavenet.n_bands, 0)  # what is drawn and still needed
        self._done = 0  # steps at their beginning whose samples are given out already

    def _decode(self, until: int, ended: bool = False) -> np.ndarray:
        pieces = [np.zeros(0, np.float32)]
        while self._drawn < until:
            last = min(self._drawn + self._stretch, self._end)
            if last > until or (last < self._drawn + self._stretch and not ended):
                break
            self._draw(last)
            pieces.append(self._samples(ended and last == self._end))
        return np.concatenate(pieces)

    def _draw(self, last: int) -> None:
        """Values of the frames up to ``last``, into ``_bands``."""
        wavenet, first = self._wavenet, self._drawn
        window, begin = self._window(first, last)
        rate = wavenet.backbone.rate
        condition = wavenet.condition(window[None], self._speaker)[..., (first - begin) * rate : (last - begin) * rate]
        steps = wavenet.steps_per_frame
        noise = self._noise.at(first * steps, (last - first) * steps)
        values = self._sampler.sample(condition, noise, self._state, temperature=wavenet.temperature)
        self._bands = torch.cat([self._bands, wavenet.to_bands(values)], dim=2)
        self._drawn = last
        self._forget(last)

    def _samples(self, ended: bool) -> np.ndarray:
        """What ``_bands`` are enough for: all but the last few, which wait for those behind them."""
        bank, done = self._wavenet.pqmf, self._done
        ready = self._bands.shape[2] if ended else max(self._bands.shape[2] - bank.context_steps, done)
        samples = bank.synthesis(self._bands)[0, 0, done * bank.n_bands : ready * bank.n_bands]
        drop = max(ready - bank.context_steps, 0)
        self._bands, self._done = self._bands[..., drop:], ready - drop
        return samples.numpy()


@torch.inference_mode()
def draw_waveform(wavenet: WaveNetDecoder, latents: Tensor, speaker: Tensor, seed: int = 0) -> Tensor:
    """Latents (B, C, F), speaker vectors (B, S) -> drawn waveforms (B, 1, F * hop_length), the same noise for all."""
    sampler = WaveNetSampler(wavenet)
    condition = wavenet.condition(latents, speaker).cpu()
    noise = Noise(sampler, seed).at(0, latents.shape[-1] * wavenet.steps_per_frame)
    values = sampler.sample(condition, noise.expand(len(latents), -1, -1, -1), temperature=wavenet.temperature)
    return wavenet.pqmf.synthesis(wavenet.to_bands(values.to(wavenet.gains.device)))
