"""Reading, resampling and writing waveforms block by block, in constant memory.

Blocks are (n, channels) float32, full scale 1.0. What comes out never depends on how the audio was cut into blocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.speech.riff import NotStreamableError, read_wav_blocks, read_wav_header, wav_header
from audiovq.streams import Place, check_input, describe, errors_about, is_path, is_special, open_input, open_output

#: Formats by suffix: container and coding as libsndfile calls them. WAV is written here.
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
}
WRITABLE = tuple(_FORMATS)
#: Suffixes that a folder is searched for.
READABLE = (*WRITABLE, ".oga", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64")

_READ_VALUES = 1 << 18  # samples of all channels in a block that is read
_RESAMPLE_FRAMES = 8192


def n_resampled(n: int, source_rate: int, target_rate: int) -> int:
    """Samples that ``n`` become: ``ceil(n * target_rate / source_rate)``, so that one sample stays at least one."""
    return -(-n * target_rate // source_rate)


class Resampler:
    """Resample a stream of blocks with soxr (HQ) so that the output depends on the samples alone.

    The input goes through in blocks of one fixed size, whatever size it arrives in. Equal rates leave it as it is.
    """

    def __init__(self, source_rate: int, target_rate: int, n_channels: int = 1) -> None:
        import soxr

        self._stream = None
        if source_rate != target_rate:
            self._stream = soxr.ResampleStream(source_rate, target_rate, n_channels, dtype="float32", quality="HQ")
        self._n_channels = n_channels
        self._waiting: list[np.ndarray] = []
        self._n_waiting = 0
        self._given = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) -> the output that is ready, (m, channels)."""
        self._waiting.append(block)
        self._n_waiting += len(block)
        if self._n_waiting < _RESAMPLE_FRAMES:
            return np.zeros((0, self._n_channels), np.float32)
        data = np.concatenate(self._waiting)
        whole = len(data) - len(data) % _RESAMPLE_FRAMES
        parts = [self._resample(data[i : i + _RESAMPLE_FRAMES]) for i in range(0, whole, _RESAMPLE_FRAMES)]
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
    """A waveform that is read block by block. Made by `open_audio`.

    Attributes:
        sample_rate: Hz.
        n_channels: channels.
        n_frames: samples of each channel as the file tells it, for progress; None for a pipe.
        n_clipped: samples beyond full scale seen so far, which were clipped to it.
        n_read: samples of each channel read so far.
    """

    def __init__(
        self, name: str, sample_rate: int, n_channels: int, n_frames: int | None, blocks: Iterator[np.ndarray]
    ) -> None:
        self.name, self.sample_rate, self.n_channels, self.n_frames = name, sample_rate, n_channels, n_frames
        self.n_clipped = self.n_read = 0
        self._blocks = blocks

    def blocks(self) -> Iterator[np.ndarray]:
        """Blocks (n, channels) float32 in [-1, 1].

        Raises:
            AudioVQError: for NaN or infinite samples, no samples at all, and data that cannot be decoded.
        """
        with errors_about(self.name):
            for block in self._blocks:
                self._check(block)
                self.n_read += len(block)
                peak = np.abs(block).max(initial=0)
                if peak > 1:
                    self.n_clipped += int((np.abs(block) > 1).sum())
                    block = np.clip(block, -1, 1)
                yield block
            if self.n_read == 0:
                raise AudioVQError("holds no audio samples")

    def _check(self, block: np.ndarray) -> None:
        finite = np.isfinite(block)
        if not finite.all():
            frame, channel = np.argwhere(~finite)[0]
            time = (self.n_read + frame) / self.sample_rate
            what = "NaN" if np.isnan(block[frame, channel]) else "infinite"
            where = f"{time:.3f} s" + (f", channel {channel + 1}" if self.n_channels > 1 else "")
            raise AudioVQError(f"has {what} samples, the first at {where}; repair it first")


@contextmanager
def open_audio(source: Place) -> Iterator[AudioReader]:
    """Open a path, ``-`` (standard input) or a binary file object: any format that libsndfile reads.

    A WAV from a pipe is read while it arrives; other formats from a pipe go through a temporary file.

    Raises:
        AudioVQError: for a file that is missing, empty, or not audio.
    """
    name = describe(source)
    with errors_about(name), ExitStack() as stack:
        if is_path(source) and not is_special(source):  # type: ignore[arg-type]
            check_input(source)  # type: ignore[arg-type]
            yield _open_file(stack.enter_context(open(source, "rb")), name)  # type: ignore[arg-type]
            return
        stream = stack.enter_context(open_input(source))
        head: list[bytes] = []

        def read(size: int) -> bytes:
            head.append(_read_exactly(stream, size))
            return head[-1]

        try:
            wav = read_wav_header(read)
        except NotStreamableError:
            if not any(head):
                raise AudioVQError("is empty") from None
            yield _open_file(_spool(stream, head, stack), name)
            return
        frame = wav.bytes_per_sample * wav.n_channels
        n_frames = None if wav.size is None else wav.size // frame
        yield AudioReader(name, wav.sample_rate, wav.n_channels, n_frames, read_wav_blocks(stream, wav))


def _read_exactly(stream: Any, size: int) -> bytes:
    parts = []
    while size > 0:
        data = stream.read(size)
        if not data:
            break
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _spool(stream: Any, head: list[bytes], stack: ExitStack) -> BinaryIO:
    spool = tempfile.TemporaryFile(prefix="audiovq-")  # noqa: SIM115 - closed by the stack
    stack.callback(spool.close)
    with errors_about("the temporary file for standard input", "written"):
        spool.writelines(head)
        while data := stream.read(1 << 20):
            spool.write(data)
        spool.seek(0)
    return spool  # type: ignore[return-value]


def _open_file(stream: BinaryIO, name: str) -> AudioReader:
    import soundfile

    try:
        # A descriptor rather than a name: libsndfile then goes by the content, not by the suffix.
        audio = soundfile.SoundFile(stream.fileno(), closefd=False)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioVQError(
            "is not audio that can be read (WAV, FLAC, Ogg, MP3, AIFF, ...); convert it first, for example with ffmpeg"
        ) from error
    n_frames = audio.frames if 0 <= audio.frames < 1 << 48 else None

    def blocks() -> Iterator[np.ndarray]:
        size = max(_READ_VALUES // audio.channels, 1)
        n = 0
        while True:
            try:
                block = audio.read(size, dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise AudioVQError(f"cannot be decoded from {n / audio.samplerate:.2f} s on; it is damaged") from error
            if not len(block):
                audio.close()
                return
            n += len(block)
            yield block

    return AudioReader(name, audio.samplerate, audio.channels, n_frames, blocks())


class AudioWriter:
    """16-bit audio written block by block. Made by `create_audio`."""

    def __init__(self, stream: Any, sample_rate: int, n_channels: int, suffix: str) -> None:
        self._stream, self._shape = stream, (sample_rate, n_channels)
        self._n_bytes = 0
        self._file: Any = None
        container, coding = _FORMATS[suffix]
        if container == "WAV":
            stream.write(wav_header(sample_rate, n_channels, None))
            return
        if not stream.seekable():
            raise AudioVQError(f"only .wav can be written to a pipe, not {suffix}")
        import soundfile

        self._guard = _Guard(stream)
        try:
            with self._guard.reporting():
                self._file = soundfile.SoundFile(self._guard, "w", sample_rate, n_channels, coding, format=container)
        except (soundfile.LibsndfileError, ValueError, TypeError) as error:
            plural = "s" if n_channels > 1 else ""
            message = f"{suffix} cannot hold {n_channels} channel{plural} at {sample_rate} Hz; write .wav instead"
            raise AudioVQError(message) from error

    def write(self, block: np.ndarray) -> None:
        """Append (n, channels) float; what is beyond full scale is clipped."""
        samples = np.clip(np.rint(block * np.float32(32768)), -32768, 32767).astype("<i2")
        if self._file is None:
            self._stream.write(samples.tobytes())
            self._n_bytes += samples.nbytes
        elif len(samples):
            with self._guard.reporting():
                self._file.write(samples)

    def finish(self) -> None:
        """Complete the file. On a stream that cannot seek, a WAV keeps the sizes that mean "until the end"."""
        if self._file is not None:
            with self._guard.reporting():
                self._file.close()
        elif self._stream.seekable():
            self._stream.seek(0)
            self._stream.write(wav_header(*self._shape, self._n_bytes))


class _Guard:
    """A stream for libsndfile, whose callbacks no exception can leave: the first one is kept and raised afterwards."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._error: BaseException | None = None

    def _call(self, action: Any, *arguments: Any) -> Any:
        if self._error is None:
            try:
                return action(*arguments)
            except BaseException as error:
                self._error = error
        return 0

    def read(self, size: int) -> bytes:
        return self._call(self._stream.read, size) or b""

    def write(self, data: bytes) -> int:
        return self._call(self._stream.write, data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._call(self._stream.seek, offset, whence)

    def tell(self) -> int:
        return self._call(self._stream.tell)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Raise what a callback met rather than what libsndfile makes of it."""
        try:
            yield
        except Exception:
            if self._error is None:
                raise
        if self._error is not None:
            raise self._error


def check_writable(target: Place) -> str:
    """The suffix that says in which format ``target`` is written; standard output and devices get WAV.

    Raises:
        AudioVQError: for a suffix that is not known.
    """
    if not is_path(target) or is_special(target):  # type: ignore[arg-type]
        return ".wav"
    suffix = Path(target).suffix.lower()  # type: ignore[arg-type]
    if suffix not in _FORMATS:
        raise AudioVQError(f"{target}: cannot write {suffix or 'a file without suffix'}; use {', '.join(WRITABLE)}")
    return suffix


@contextmanager
def create_audio(target: Place, sample_rate: int, n_channels: int) -> Iterator[AudioWriter]:
    """Open 16-bit audio for writing: a path (format by suffix), ``-`` (standard output, WAV) or a binary file (WAV).

    A file appears under its name only when the block ends well.

    Raises:
        AudioVQError: for a format that cannot hold this audio, or a place that cannot be written or is full.
    """
    suffix = check_writable(target)
    with open_output(target) as stream:
        with errors_about(describe(target, "standard output"), "written"):
            writer = AudioWriter(stream, sample_rate, n_channels, suffix)
        yield writer
        writer.finish()
