"""Decoding by the WaveNet while packets arrive, on the grid of the parallel decoder; its weights on disk.

Each piece is sampled in one go, with states carried over and random numbers that depend on the position: the same
codes and seed give the same samples however the packets arrive.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.streaming import DecoderStream
from audiovq.codec.torch_engine import TorchEngine
from audiovq.devices import full_precision
from audiovq.errors import AudioVQError
from audiovq.hub import WAVENET, codes_hash, decoder_hash, write_weights
from audiovq.interfaces import Stretch
from audiovq.wavenet.model import CodedFrames, WaveNetDecoder
from audiovq.wavenet.sampler import Noise, WaveNetSampler

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec

AHEAD = 1
"""Frames that are sampled before they are needed: the filter bank looks ahead."""


class WaveNetStream(DecoderStream):
    """Packets in, one channel of waveform out.

    Args:
        codec: whose packets are decoded.
        wavenet: trained on its codes.
        sampler: with the same weights.
        speaker: (S,) quantized speaker vector.
        seed: of the random numbers.
    """

    def __init__(
        self, codec: SpeechCodec, wavenet: WaveNetDecoder, sampler: WaveNetSampler, speaker: np.ndarray, seed: int = 0
    ) -> None:
        super().__init__(codec, speaker, wavenet.context_frames + AHEAD)
        self._wavenet, self._sampler = wavenet, sampler
        self._noise, self._state = Noise(sampler, seed), sampler.state()
        assert isinstance(codec.engine, TorchEngine)
        self._parallel = codec.engine.decoder(self._speaker)
        self._sampled = 0  # frames
        self._bands = torch.zeros(1, wavenet.n_values, 0)  # sampled, from step self._bands_start on
        self._bands_start = 0

    @full_precision
    def _decode(self, latents: np.ndarray, pitch: np.ndarray, source: np.ndarray, stretch: Stretch) -> np.ndarray:
        wavenet, steps, first, last = self._wavenet, self._wavenet.steps_per_frame, stretch.first, stretch.last
        end = self._end if stretch.total is None else stretch.total
        goal = min(last + AHEAD, end)
        if goal > self._sampled:
            low = max(self._sampled - wavenet.context_frames, 0)
            high = min(goal + wavenet.context_frames, end)
            part = source[(low - first) * self._hop + self._margin - self._shape.margin :]
            coded = self._coded(latents, pitch, replace(stretch, first=low, last=high), part)
            rate = wavenet.rate
            prepared = wavenet.prepare(coded).steps((self._sampled - low) * rate, (goal - low) * rate, wavenet.hold)
            noise = self._noise.at(self._sampled * steps, (goal - self._sampled) * steps)
            values = self._sampler.sample(
                prepared.condition, noise, self._state, temperature=wavenet.temperature, extra=prepared.extra
            )
            self._bands = torch.cat([self._bands, values + prepared.base], dim=2)
            self._sampled = goal
        samples = wavenet.join(self._bands)[0, 0]
        at = (first * steps - self._bands_start) * wavenet.n_values
        samples = samples[at : at + (last - first) * self._hop]
        keep = max(last * steps - 2 * wavenet.pqmf.context_steps, self._bands_start)
        self._bands, self._bands_start = self._bands[..., keep - self._bands_start :], keep
        return samples.cpu().numpy()

    def _coded(self, latents: np.ndarray, pitch: np.ndarray, stretch: Stretch, source: np.ndarray) -> CodedFrames:
        """The wanted frames; ``source`` begins the parallel decoder's margin before them."""
        decoder, rate, margin = self._parallel, self._shape.rate, self._shape.margin
        low, high, start = stretch.first, stretch.last, stretch.start
        direct = self._n_codebooks >= self._shape.direct_from
        tensors = torch.from_numpy(np.ascontiguousarray(latents)), torch.from_numpy(pitch)
        span = decoder.features(*tensors, start, stretch.total, direct)
        frames = self._shape.short_frames(stretch)
        gains, without_source = decoder.project(span, frames, direct)
        source = source[: (high - low) * self._hop + 2 * margin]
        extra = None if without_source is None else without_source.numpy()
        parallel = self._synthesizer(gains.numpy(), extra, frames, low, high, source)
        rows = span.rows[low * rate - span.start : high * rate - span.start]
        return CodedFrames(
            tensors[0][None, :, low - start : high - start],
            decoder.norm(rows.t()[None]),
            torch.from_numpy(self._speaker)[None],
            torch.from_numpy(parallel)[None, None],
            torch.from_numpy(source)[None, None, margin:-margin],
        )


# -- on disk -----------------------------------------------------------------------------------------------------------


def save_wavenet(tensors: dict[str, Tensor], config: dict[str, Any], folder: str | Path) -> None:
    """Write a WaveNet into the folder of the model that it was trained on.

    Args:
        tensors: of its state dict.
        config: its arguments.
        folder: of the model; gets ``wavenet/config.json`` and ``wavenet/model.safetensors``.
    """
    write_weights(tensors, {**config, "made_for": hashes(folder)}, Path(folder) / WAVENET)


def load_wavenet(folder: Path) -> WaveNetDecoder:
    """The WaveNet in a model's folder.

    Raises:
        AudioVQError: when its files are damaged, or it was trained on another model than the one beside it.
    """
    from safetensors.torch import load

    inside = folder / WAVENET
    try:
        config = json.loads((inside / "config.json").read_text())
        made_for = config.pop("made_for")
        wavenet = WaveNetDecoder(**config)
        data = load((inside / "model.safetensors").read_bytes())
        wavenet.load_state_dict({name: tensor.float() for name, tensor in data.items()})
    except Exception as error:
        raise AudioVQError(f"the WaveNet in {inside} cannot be loaded: {str(error).splitlines()[0]}") from error
    if made_for != hashes(folder):
        raise AudioVQError(
            f"the WaveNet in {inside} was trained on another codec or parallel decoder than those beside it: train it "
            "again (audiovq train experiment=wavenet), or decode with --decoder parallel"
        )
    return wavenet.eval()


def hashes(folder: str | Path) -> dict[str, str]:
    """Hashes of a model's codes and of its parallel decoder."""
    return {"codes": codes_hash(folder).hex(), "decoder": decoder_hash(folder).hex()}


class WaveNetStreams:
    """Streams of the WaveNet in a model's folder, for `SpeechCodec.add_decoder`; it is loaded at the first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: tuple[WaveNetDecoder, WaveNetSampler] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_loaded": None}

    def __call__(self, codec: SpeechCodec, speaker: np.ndarray, seed: int) -> WaveNetStream:
        """A stream for one speaker.

        Raises:
            AudioVQError: when the WaveNet cannot be loaded.
        """
        if self._loaded is None:
            wavenet = load_wavenet(self.folder)
            self._loaded = wavenet, WaveNetSampler(wavenet)
        return WaveNetStream(codec, *self._loaded, speaker, seed)
