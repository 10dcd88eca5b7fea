"""Decoding by the WaveNet while packets arrive, on one fixed grid of stretches of about a second.

Each stretch is drawn in one go: condition from its latents and their context, values by the sampler, which carries the
layers' memories on, samples from the sub-bands. Noise belongs to places in the recording. So the same codes and seed
give the same samples, however the packets come.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audiovq.speech.stream import DecoderStream, ParallelStream
from audiovq.speech.wavenet import WaveNetDecoder
from audiovq.wavenet.sampler import Noise, WaveNetSampler

#: Frames of the draft around a stretch that its reading depends on: those of the filter bank and of `DraftReader`.
DRAFT_CONTEXT = 1


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
        self._drafts = ParallelStream(codec, speaker) if wavenet.draft is not None else None
        self._waiting = torch.zeros(1, codec.encoder.latent_dim, 0)  # latents to be drafted
        self._draft = np.zeros(0, np.float32)  # what the parallel decoder has made, from ...
        self._draft_start = 0  # ... this frame on

    def push_latents(self, latents: torch.Tensor) -> np.ndarray:
        """See `DecoderStream.push_latents`."""
        if self._drafts is not None:
            self._waiting = torch.cat([self._waiting, latents], dim=2)
            while self._waiting.shape[2] >= self.codec.packet_frames:
                self._push_draft(self.codec.packet_frames)
        return super().push_latents(latents)

    def finish(self, n_samples: int) -> np.ndarray:
        """See `DecoderStream.finish`."""
        if self._drafts is not None:
            with torch.inference_mode():
                if self._waiting.shape[2]:
                    self._push_draft(self._waiting.shape[2])
            self._draft = np.concatenate([self._draft, self._drafts.finish(self._end * self.codec.hop_length)])
        return super().finish(n_samples)

    def _push_draft(self, n_frames: int) -> None:
        """Draft the next frames: by whole packets, so that it has the same bits however they arrived."""
        assert self._drafts is not None
        piece = self._drafts.push_latents(self._waiting[..., :n_frames])
        self._draft, self._waiting = np.concatenate([self._draft, piece]), self._waiting[..., n_frames:]

    def _decode(self, until: int, ended: bool = False) -> np.ndarray:
        until = until if ended else self._ready(until)
        pieces = [np.zeros(0, np.float32)]
        while self._drawn < until:
            last = min(self._drawn + self._stretch, self._end)
            if last > until or (last < self._drawn + self._stretch and not ended):
                break
            self._draw(last)
            pieces.append(self._samples(ended and last == self._end))
        return np.concatenate(pieces)

    def _ready(self, until: int) -> int:
        """Up to which frame there is a draft as well, where one is read."""
        if self._drafts is None:
            return until
        return min(until, self._draft_start + len(self._draft) // self.codec.hop_length - DRAFT_CONTEXT)

    def _draw(self, last: int) -> None:
        """Values of the frames up to ``last``, into ``_bands``."""
        wavenet = self._wavenet
        condition, noise, extra, base = self._read(self._drawn, last)
        values = self._sampler.sample(condition, noise, self._state, temperature=wavenet.temperature, extra=extra)
        values = values if base is None else values + base
        self._bands = torch.cat([self._bands, wavenet.to_bands(values)], dim=2)
        self._drawn = last
        self._forget(last)
        self._drop_draft(last)

    def _read(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Condition, noise, and of a draft what the stack gets and what is added to the values, of these frames."""
        wavenet = self._wavenet
        window, begin = self._window(first, last)
        rate = wavenet.backbone.rate
        around = wavenet.condition(window[None], self._speaker)
        condition = around[..., (first - begin) * rate : (last - begin) * rate]
        steps = wavenet.steps_per_frame
        noise = self._noise.at(first * steps, (last - first) * steps)
        extra, base = self._read_draft(first, last, around, begin) if self._drafts is not None else (None, None)
        return condition, noise, extra, base

    def _read_draft(self, first: int, last: int, condition: torch.Tensor, begin: int) -> tuple[Tensor, Tensor]:
        """What the network gets of the draft of these frames, from a condition that starts at ``begin``."""
        wavenet, hop = self._wavenet, self.codec.hop_length
        low, high = max(first - DRAFT_CONTEXT, 0), min(last + DRAFT_CONTEXT, self._end)
        samples = self._draft[(low - self._draft_start) * hop : (high - self._draft_start) * hop]
        rate, steps = wavenet.backbone.rate, wavenet.steps_per_frame
        around = condition[..., (low - begin) * rate : (high - begin) * rate]
        extra, base = wavenet.read_draft(torch.from_numpy(samples)[None, None], around)
        own = slice((first - low) * steps, (last - low) * steps)
        return extra[..., own], base[..., own]

    def _drop_draft(self, until: int) -> None:
        """Forget what frames from ``until`` on do not need."""
        drop = max(until - DRAFT_CONTEXT, 0) - self._draft_start
        if self._drafts is not None and drop > 0:
            hop = self.codec.hop_length
            self._draft, self._draft_start = self._draft[drop * hop :], self._draft_start + drop

    def _samples(self, ended: bool) -> np.ndarray:
        """What ``_bands`` are enough for: all but the last few, which wait for those behind them."""
        bank, done = self._wavenet.pqmf, self._done
        ready = self._bands.shape[2] if ended else max(self._bands.shape[2] - bank.context_steps, done)
        samples = bank.synthesis(self._bands)[0, 0, done * bank.n_bands : ready * bank.n_bands]
        drop = max(ready - bank.context_steps, 0)
        self._bands, self._done = self._bands[..., drop:], ready - drop
        return samples.numpy()


@torch.inference_mode()
def draw_waveform(
    wavenet: WaveNetDecoder, latents: Tensor, speaker: Tensor, seed: int = 0, draft: Tensor | None = None
) -> Tensor:
    """Drawn waveforms (B, 1, F * hop_length), the same noise for all.

    Args:
        latents: (B, C, F).
        speaker: vectors (B, S).
        seed: of the noise.
        draft: (B, 1, F * hop_length), of the parallel decoder, where the WaveNet reads one.
    """
    sampler = WaveNetSampler(wavenet)
    condition = wavenet.condition(latents, speaker)
    extra, base = (None, 0.0) if wavenet.draft is None else wavenet.read_draft(draft, condition)
    noise = Noise(sampler, seed).at(0, latents.shape[-1] * wavenet.steps_per_frame)
    noise = noise.expand(len(latents), -1, -1, -1)
    values = sampler.sample(condition.cpu(), noise, temperature=wavenet.temperature, extra=extra)
    return wavenet.pqmf.synthesis(wavenet.to_bands(values.to(wavenet.gains.device) + base))
