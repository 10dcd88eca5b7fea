"""Reading, resampling and writing waveforms block by block, in constant memory.

Blocks are (n, channels) float32, full scale 1.0. What comes out never depends on how the audio was cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.io import (
    Guard,
    Peekable,
    Place,
    describe,
    errors_about,
    is_path,
    is_special,
    open_input,
    open_output,
    size_of,
)
from audiovq.media.audio_files import open_stream
from audiovq.media.containers import wav_header
from audiovq.media.samples import Audio, ClippingDetector, Mixdown, RawFormat, TimeRanges, from_float, open_raw

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 768_000
MAX_CHANNELS = 255

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# By suffix: container and coding as libsndfile calls them, and which sample rates and channels they take. libsndfile
# does not know all of these limits, and ends the process beyond some. WAV is written here.
_FORMATS: dict[str, tuple[str, str, Callable[[int, int], bool]]] = {
    ".wav": ("WAV", "PCM_16", lambda rate, n: True),
    ".flac": ("FLAC", "PCM_16", lambda rate, n: n <= 8 and (rate < 1 << 16 or (rate <= 655_350 and rate % 10 == 0))),
    ".ogg": ("OGG", "VORBIS", lambda rate, n: n <= 255 and rate <= 200_000),
    ".opus": ("OGG", "OPUS", lambda rate, n: n <= 255 and rate in _OPUS_RATES),
    ".mp3": ("MP3", "MPEG_LAYER_III", lambda rate, n: n <= 2 and rate in _MP3_RATES),
    ".aiff": ("AIFF", "PCM_16", lambda rate, n: True),
}
WRITABLE = tuple(_FORMATS)
#: Suffixes that a folder is searched for.
READABLE = (
    *WRITABLE,
    ".oga",
    ".aif",
    ".aifc",
    ".au",
    ".snd",
    ".caf",
    ".w64",
    ".rf64",
    ".m4a",
    ".aac",
    ".3gp",
    ".mka",
    ".wma",
)
#: Suffixes of audio without a header.
RAW_SUFFIXES = (".raw", ".pcm")

_RESAMPLE_SECONDS = 0.01


def n_resampled(n: int, source_rate: int, target_rate: int) -> int:
    """Samples that ``n`` become: ``ceil(n * target_rate / source_rate)``, so that one sample stays at least one."""
    return -(-n * target_rate // source_rate)


class Resampler:
    """Resample a stream of blocks with soxr (HQ) so that the output depends on the samples alone.

    The input goes through in blocks of 10 ms, whatever size it arrives in. Equal rates pass it on at once, as it is.
    """

    def __init__(self, source_rate: int, target_rate: int, n_channels: int = 1) -> None:
        import soxr

        self._stream = None
        if source_rate != target_rate:
            self._stream = soxr.ResampleStream(source_rate, target_rate, n_channels, dtype="float32", quality="HQ")
        self._n_channels, self._block = n_channels, max(round(_RESAMPLE_SECONDS * source_rate), 1)
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._given = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) -> the output that is ready, (m, channels)."""
        if self._stream is None:
            self._given += len(block)
            return block
        self._waiting.append(block)
        self._n_waiting += len(block)
        if self._n_waiting < self._block:
            return np.zeros((0, self._n_channels), np.float32)
        data = np.concatenate(self._waiting)
        whole = len(data) - len(data) % self._block
        parts = [self._resample(data[i : i + self._block]) for i in range(0, whole, self._block)]
        self._waiting, self._n_waiting = [data[whole:].copy()], len(data) - whole
        self._given += sum(map(len, parts))
        return np.concatenate(parts)

    def finish(self, n_total: int) -> np.ndarray:
        """The rest, cut or filled with zeros so that all output together has ``n_total`` frames."""
        nothing = np.zeros((0, self._n_channels), np.float32)
        rest = self._resample(np.concatenate([nothing, *self._waiting]), last=True)
        missing = n_total - self._given
        if missing < 0:
            raise ValueError(f"{self._given} frames were already given, more than {n_total}")
        self._given = n_total
        return np.concatenate([rest[:missing], np.zeros((max(missing - len(rest), 0), self._n_channels), np.float32)])

    def _resample(self, data: np.ndarray, last: bool = False) -> np.ndarray:
        if self._stream is None:
            return data
        return self._stream.resample_chunk(np.ascontiguousarray(data, np.float32), last=last)


def resample(samples: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Whole arrays: (n,) or (n, channels) -> ``n_resampled(n, ...)`` frames, the same numbers as block by block."""
    frames = np.asarray(samples, np.float32)
    frames = frames[:, None] if frames.ndim == 1 else frames
    resampler = Resampler(source_rate, target_rate, frames.shape[1])
    out = [resampler.push(frames), resampler.finish(n_resampled(len(frames), source_rate, target_rate))]
    return np.concatenate(out).reshape(-1, *np.shape(samples)[1:])


class AudioReader:
    """A waveform that is read block by block, made by `open_audio`; facts as of `Audio`.

    Attributes:
        n_clipped: samples beyond full scale seen so far, which were clipped to it.
        n_read: samples of each channel read so far.
        remarks: on the recording, for its user; complete when all blocks are read.
    """

    def __init__(self, name: str, audio: Audio) -> None:
        self.name, self._audio = name, audio
        self.sample_rate, self.n_channels, self.n_frames = audio.sample_rate, audio.n_channels, audio.n_frames
        self.n_clipped = self.n_read = 0
        self.remarks: list[str] = []

    def count_channels(self, mono: bool = False) -> int:
        """Channels that `blocks` gives; `AudioVQError` for more than can be coded."""
        if not mono and self.n_channels > MAX_CHANNELS:
            raise AudioVQError(f"has {self.n_channels} channels, more than {MAX_CHANNELS}; mix them down (--mono)")
        return 1 if mono else self.n_channels

    def blocks(self, mono: bool = False) -> Iterator[np.ndarray]:
        """Blocks (n, channels) float32 in [-1, 1]; ``mono`` mixes all channels down to one, see `Mixdown`.

        Raises:
            AudioVQError: for NaN or infinite samples, no samples at all, and data that cannot be decoded.
        """
        mixdown = Mixdown(self.sample_rate, self.n_channels)
        clipping = ClippingDetector(self.sample_rate, self.n_channels)
        with errors_about(self.name):
            for block in self._audio.blocks:
                magnitudes = np.abs(block)
                peak = magnitudes.max(initial=0)
                if not np.isfinite(peak):
                    self._refuse(block)
                clipping.add(magnitudes)
                self.n_read += len(block)
                if peak > 1:
                    self.n_clipped += int((magnitudes > 1).sum())
                    block = np.clip(block, -1, 1)
                yield mixdown.push(block) if mono else block
            if self.n_read == 0:
                raise AudioVQError("; ".join(["contains no audio samples", *self._audio.remarks]))
            if mono:
                yield mixdown.finish()
        self.remarks += self._audio.remarks
        if clipped := clipping.finish():
            self.remarks.append(f"warning: clipped, and so distorted, at {clipped}")
        if mixdown.cancelled:
            self.remarks.append(
                f"warning: its channels cancel each other at {mixdown.cancelled}; only the louder one is used there"
            )

    def _refuse(self, block: np.ndarray) -> None:
        """Raise `AudioVQError` with the places of all samples that are not numbers; ``block`` has the first of them."""
        places, channels = TimeRanges(), set()
        what = "NaN" if np.isnan(block[~np.isfinite(block)][0]) else "infinite"
        with suppress(AudioVQError):  # the rest may be damaged, too
            # A recording that is still being made is not waited for.
            for part in chain([block], self._audio.blocks if self.n_frames is not None else ()):
                bad = ~np.isfinite(part)
                places.add_frames(bad.any(axis=1), self.n_read, self.sample_rate)
                channels |= set((np.flatnonzero(bad.any(axis=0)) + 1).tolist())
                self.n_read += len(part)
        where = f" of channel {channels.pop()}" if len(channels) == 1 and self.n_channels > 1 else ""
        raise AudioVQError(f"has {what} samples{where} at {places}; repair it first")


@contextmanager
def open_audio(source: Place, raw: RawFormat | None = None) -> Iterator[AudioReader]:
    """Open a path, ``-`` (standard input) or a binary file object: any format that libsndfile or PyAV reads.

    WAV and raw audio from a pipe are read while they arrive; other formats go through a temporary file. ``raw`` is the
    format of audio without a header.

    Raises:
        AudioVQError: for a file that is missing, empty, or not audio.
    """
    name = describe(source)
    on_disk = is_path(source) and not is_special(source)  # type: ignore[arg-type]
    with errors_about(name), ExitStack() as stack:
        stream = stack.enter_context(open_input(source))
        audio = open_stream(stream, stack, on_disk) if raw is None else open_raw(Peekable(stream), raw, size_of(stream))
        if not MIN_SAMPLE_RATE <= audio.sample_rate <= MAX_SAMPLE_RATE:
            raise AudioVQError(
                f"has a sample rate of {audio.sample_rate} Hz; supported are {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
            )
        yield AudioReader(name, audio)


class AudioWriter:
    """Audio written block by block. Made by `create_audio`."""

    def __init__(self, stream: Any, sample_rate: int, n_channels: int, suffix: str, raw: RawFormat | None) -> None:
        self._stream, self._shape = stream, (sample_rate, n_channels)
        self._format = "s16le" if raw is None else raw.samples
        self._n_bytes = 0
        self._file: Any = None
        self._is_wav = raw is None and suffix == ".wav"
        if raw is not None:
            raw.expect(sample_rate, n_channels)
        if self._is_wav:
            stream.write(wav_header(sample_rate, n_channels, None))
        if self._is_wav or raw is not None:
            return
        if not stream.seekable():
            raise AudioVQError(f"only .wav can be written to a pipe, not {suffix}")
        import soundfile

        container, coding, fits = _FORMATS[suffix]
        plural = "s" if n_channels > 1 else ""
        message = f"{suffix} cannot hold {n_channels} channel{plural} at {sample_rate} Hz; write .wav instead"
        if not fits(sample_rate, n_channels):
            raise AudioVQError(message)
        self._guard = Guard(stream)
        try:
            with self._guard.reporting():
                self._file = soundfile.SoundFile(self._guard, "w", sample_rate, n_channels, coding, format=container)
        except (soundfile.LibsndfileError, ValueError, TypeError) as error:
            raise AudioVQError(message) from error

    def write(self, block: np.ndarray) -> None:
        """Append (n, channels) float; in integer formats, what is beyond full scale is clipped."""
        data = from_float(block, self._format)
        if self._file is None:
            self._stream.write(data)
            self._n_bytes += len(data)
        elif len(data):
            with self._guard.reporting():
                self._file.write(np.frombuffer(data, "<i2").reshape(block.shape))

    def finish(self) -> None:
        """Complete the file. On a stream that cannot seek, a WAV keeps the sizes that mean "until the end"."""
        if self._file is not None:
            with self._guard.reporting():
                self._file.close()
        elif self._is_wav and self._stream.seekable():
            self._stream.seek(0)
            self._stream.write(wav_header(*self._shape, self._n_bytes))


def check_writable(target: Place, raw: RawFormat | None = None) -> str:
    """The suffix that says in which format ``target`` is written; standard output and devices get WAV.

    Audio without a header, ``raw``, goes into files of any name but those of other formats.

    Raises:
        AudioVQError: for a suffix that is not known, or not that of raw audio.
    """
    if not is_path(target) or is_special(target):  # type: ignore[arg-type]
        return ".wav"
    suffix = Path(target).suffix.lower()  # type: ignore[arg-type]
    if raw is not None:
        if suffix in READABLE:
            raise AudioVQError(f"{describe(target)}: raw audio is not {suffix}; name it {RAW_SUFFIXES[0]}")
    elif suffix not in _FORMATS:
        hint = "; --raw writes it: --raw s16le" if suffix in RAW_SUFFIXES else f"; use {', '.join(WRITABLE)}"
        raise AudioVQError(f"{describe(target)}: cannot write {suffix or 'a file without suffix'}{hint}")
    return suffix


@contextmanager
def create_audio(
    target: Place, sample_rate: int, n_channels: int, raw: RawFormat | None = None
) -> Iterator[AudioWriter]:
    """Open audio for writing: a path (format by suffix), ``-`` (standard output, WAV) or a binary file (WAV).

    It has 16 bits a sample, or the format ``raw`` without a header. A file appears under its name only when the block
    ends well.

    Raises:
        AudioVQError: for a format that cannot hold this audio, or a place that cannot be written or is full.
    """
    suffix = check_writable(target, raw)
    with open_output(target) as stream:
        with errors_about(describe(target, "standard output"), "written"):
            writer = AudioWriter(stream, sample_rate, n_channels, suffix, raw)
        yield writer
        writer.finish()
