"""Sampling a WaveNet value by value, and decoding by it while packets arrive; its weights on disk.

Each piece is sampled in one go, with states carried over and random numbers that depend on the position: the same
codes and seed give the same samples however the packets arrive.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba.core import event
from torch import Tensor

from audiovq.codec.decoder_stream import DecoderStream
from audiovq.codec.torch_engine import TorchEngine
from audiovq.devices import full_precision, restore
from audiovq.errors import AudioVQError, reason_of
from audiovq.hub import WAVENET, codes_hash, decoder_hash
from audiovq.interfaces import Stretch
from audiovq.io import checked, read_json
from audiovq.kernels import wavenet as wavenet_kernel
from audiovq.kernels.wavenet import State
from audiovq.kernels.wavenet_layout import Recurrence, aligned, fresh_state, lay_out, lay_out_condition
from audiovq.tensor_files import write_weights
from audiovq.wavenet.model import UNITS, CodedFrames, WaveNetDecoder

if TYPE_CHECKING:
    from audiovq.codec.codec import SpeechCodec


logger = logging.getLogger(__name__)

#: Positions of the condition, of all streams together, that are projected at a time: some 8 MB.
CONDITION_ROWS = 512


class WaveNetSampler:
    """A WaveNet with its weights laid out for the sampling kernel. Make it anew when the weights change.

    Every layer keeps its past inputs (Le Paine et al. 2016, "fast WaveNet"), so that a step costs each weight one
    multiplication. Streams in a batch share the reading of the weights and nothing else: each gets the bits that it
    gets alone. Random numbers are an argument, see `Noise`.

    The kernel is compiled when it is first called on a machine, which takes some 10 seconds and is logged; afterwards
    it is loaded from the cache folder in a fraction of a second.

    Args:
        decoder: on the CPU, see `audiovq.kernels.wavenet_layout.Recurrence`.

    Raises:
        AudioVQError: for a decoder that the kernel cannot take.
    """

    def __init__(self, decoder: Recurrence) -> None:
        with torch.no_grad():
            self.net = lay_out(decoder)
            self._condition = lay_out_condition(decoder, self.net)
        self.hold, self.taps = decoder.hold, decoder.taps
        self.has_extra = decoder.has_extra
        self.n_values, self.n_uniform = decoder.n_values, decoder.output.n_uniform
        self.n_outputs, self.receptive_field = decoder.stack.out_channels, decoder.stack.receptive_field

    def state(self, batch_size: int = 1) -> State:
        """State of a batch of streams before the first step, for `sample`, which updates it."""
        return fresh_state(self.net, self.taps, batch_size)

    def sample(
        self,
        condition: Tensor,
        uniform: Tensor,
        state: State | None = None,
        given: Tensor | None = None,
        temperature: float | Sequence[float] = 1.0,
        extra: Tensor | None = None,
    ) -> Tensor:
        """Sample the values of the next steps.

        Args:
            condition: of the stack (B, condition_channels, F).
            uniform: noise within (0, 1), (B, n_uniform, n_values, F * hold), as `Noise` gives it.
            state: of `state` or as an earlier call left it; any division of a sequence gives the same values.
            given: (B, n_values, N): values of the first N steps, used instead of sampled ones (to continue a prompt);
                for mu-law, on its grid.
            temperature: below 1, samples are nearer to the most likely values; one number, or one for each value of a
                step.
            extra: added to the stack's first layer (B, channels, F * hold), for a WaveNet that has such an input.

        Returns:
            Values (B, n_values, F * hold) in [-1, 1].
        """
        return self._run(condition, uniform, state, given, temperature, extra, want_outputs=False)[0]

    def outputs(
        self, condition: Tensor, values: Tensor, state: State | None = None, extra: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: the stack's outputs of each step, given the values before it (B, n_values, F * hold).

        Returns:
            (B, n_outputs, F * hold), the outputs of `WaveNetStack`.
        """
        noise = values.new_full((len(values), self.n_uniform, *values.shape[1:]), 0.5)
        return self._run(condition, noise, state, values, 1.0, extra, want_outputs=True)[1]

    def _run(
        self,
        condition: Tensor,
        uniform: Tensor,
        state: State | None,
        given: Tensor | None,
        temperature: float | Sequence[float],
        extra: Tensor | None,
        want_outputs: bool,
    ) -> tuple[Tensor, Tensor]:
        """Values and outputs, time last."""
        batch, _, n_frames = condition.shape
        steps = n_frames * self.hold
        if uniform.shape != (batch, self.n_uniform, self.n_values, steps):
            want = (batch, self.n_uniform, self.n_values, steps)
            raise ValueError(f"noise of shape {tuple(uniform.shape)} for this condition, which needs {want}")
        if given is not None and given.shape != (batch, self.n_values, min(given.shape[-1], steps)):
            raise ValueError(f"given values of shape {tuple(given.shape)}, more than are sampled, or of another batch")
        if (extra is not None) != self.has_extra or (extra is not None and extra.shape[::2] != (batch, steps)):
            raise ValueError(f"an extra input of {steps} steps goes with a network that has one, and with no other")
        state = self.state(batch) if state is None else state
        noise = _numbers(uniform.permute(3, 0, 2, 1))
        frames = _numbers(condition.permute(2, 0, 1))
        values = np.zeros((steps, batch, self.n_values), np.float32)
        n_given = 0 if given is None else given.shape[2]
        if given is not None:
            values[:n_given] = _numbers(given.permute(2, 0, 1))
        outputs = np.zeros((steps if want_outputs else 0, batch, self.n_outputs), np.float32)
        added = aligned((steps if extra is not None else 0, batch, self.net.x_width))
        if extra is not None:
            added[:, :, : extra.shape[1]] = _numbers(extra.permute(2, 0, 1))
        temperatures = np.array(np.broadcast_to(np.asarray(temperature, np.float64), self.n_values))
        chunk = max(CONDITION_ROWS // batch, 1)
        with _compilation_logged():
            for first in range(0, n_frames, chunk):
                part = frames[first : first + chunk]
                now = slice(first * self.hold, (first + len(part)) * self.hold)
                wavenet_kernel.run(
                    self.net, state, self._project(part), self.hold, noise[now], n_given - now.start, temperatures,
                    values[now], outputs[now], added[now],
                )  # fmt: skip
        return torch.from_numpy(values).permute(1, 2, 0), torch.from_numpy(outputs).permute(1, 2, 0)

    def _project(self, frames: np.ndarray) -> np.ndarray:
        """Condition (F, B, channels) -> its part of the gates, and units: (F, B, condition_width) float32.

        In float64: the float32 result then does not depend on how many frames are projected together.
        """
        weight, bias = self._condition
        projected = aligned((*frames.shape[:2], weight.shape[1]))
        projected[:] = (
            frames.reshape(-1, frames.shape[2]).astype(np.float64).dot(weight).reshape(projected.shape) + bias
        )
        units = projected[..., len(self.net.layers) * self.net.z_width :]
        np.clip(units, *UNITS, out=units)
        return projected


class Noise:
    """Uniform random numbers for every step of a recording of ``sampler``, as a function of seed and position."""

    #: Steps that are generated together.
    BLOCK = 4096

    def __init__(self, sampler: WaveNetSampler, seed: int = 0) -> None:
        self.seed, self.shape = seed, (sampler.n_values, sampler.n_uniform)

    def at(self, start: int, n_steps: int) -> Tensor:
        """Steps from ``start`` on -> (1, n_uniform, n_values, n_steps) float32, 0 and 1 excluded."""
        first, last = start // self.BLOCK, -(-(start + n_steps) // self.BLOCK)
        blocks = [self._block(index) for index in range(first, max(last, first + 1))]
        skip = start - first * self.BLOCK
        numbers = np.concatenate(blocks)[skip : skip + n_steps]
        return torch.from_numpy(numbers).permute(2, 1, 0).unsqueeze(0)

    def _block(self, index: int) -> np.ndarray:
        # Philox is a function of its key and a counter, with a stream that is the same everywhere. The middle of one of
        # 2^23 steps is exact in float32 and neither 0 nor 1.
        bits = np.random.Philox(key=np.array([self.seed, index], np.uint64))
        words = bits.random_raw(self.BLOCK * int(np.prod(self.shape)))
        return (((words >> np.uint64(41)) + 0.5) * 2.0**-23).astype(np.float32).reshape(self.BLOCK, *self.shape)


@contextmanager
def _compilation_logged():
    """Log the compilation where the cache has no compiled kernel."""

    class Listener(event.Listener):
        began: float | None = None

        def on_start(self, event) -> None:
            if self.began is None:
                self.began = time.perf_counter()
                # A warning, so that the command line shows it.
                logger.warning("compiling the WaveNet sampler for this machine, once: some 10 seconds")

        def on_end(self, event) -> None:
            pass

    listener = Listener()
    with event.install_listener("numba:compile", listener):
        yield
    if listener.began is not None:
        logger.info("the WaveNet sampler is compiled and cached")


def _numbers(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy())


AHEAD = 1
"""Frames that are sampled before they are needed: the filter bank looks ahead."""


class WaveNetStream(DecoderStream):
    """Packets in, one channel of waveform out.

    Args:
        codec: whose packets are decoded.
        wavenet, sampler: trained on its codes, with the same weights.
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
        direct = torch.full(pitch.shape, self._n_codebooks >= self._shape.direct_from)
        tensors = torch.from_numpy(np.ascontiguousarray(latents)), torch.from_numpy(pitch)
        span = decoder.features(*tensors, direct, start, stretch.total)
        frames = self._shape.short_frames(stretch)
        gains, without_source = decoder.project(span, frames, bool(direct.any()))
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
    """Write a WaveNet, its state dict and arguments, into the folder of the model that it was trained on."""
    write_weights(tensors, {**config, "made_for": hashes(folder)}, Path(folder) / WAVENET)


def load_wavenet(folder: Path) -> WaveNetDecoder:
    """The WaveNet in a model's folder.

    Raises:
        AudioVQError: when its files are damaged, or it was trained on another model than the one beside it.
    """
    from safetensors.torch import load

    inside = folder / WAVENET
    try:
        config = read_json(inside / "config.json")
        made_for = config.pop("made_for")
        wavenet = WaveNetDecoder(**config)
        data = load(checked((inside / "model.safetensors").read_bytes()))
        wavenet.load_state_dict(restore(data))
    except Exception as error:
        raise AudioVQError(f"the WaveNet in {inside} cannot be loaded: {reason_of(error)}") from error
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
        """A stream for one speaker; `AudioVQError` when the WaveNet cannot be loaded."""
        if self._loaded is None:
            wavenet = load_wavenet(self.folder)
            self._loaded = wavenet, WaveNetSampler(wavenet)
        return WaveNetStream(codec, *self._loaded, speaker, seed)
