"""Sound of any format: plain WAV while it arrives, else by libsndfile where it knows it, or PyAV (extra ``video``)."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from threading import Thread
from typing import Any, BinaryIO

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.io import Peekable, errors_about, size_of
from audiovq.media.containers import (
    HEAD_BYTES,
    NotStreamableError,
    check_end,
    check_sizes,
    container_of,
    open_container,
    open_wav,
    reason_of,
)
from audiovq.media.pages import MpegFrames, OggPages, check_frames, check_pages, read_frames, read_pages
from audiovq.media.samples import Audio, TimeRanges

_READ_VALUES = 1 << 18  # samples of all channels in a block that is read
_MISSING_SECONDS = 0.05  # of what PyAV reads, whose times are rounded
_AVI_SECONDS = 0.2  # by which headers of AVI may be wrong
_WITH_CHECKSUMS = ("flac", "wavpack", "tta", "ac3", "eac3")  # codecs of which FFmpeg compares them when it is asked to
_SLACK = 64  # bytes by which sizes in headers may be wrong where nothing is missing
_UNKNOWN_SIZE = 0x7FF00000  # and more: what writers leave that do not know the size
_MOST_PADDING = 4096  # samples
_BLOCK = 1 << 16


def open_stream(stream: BinaryIO, stack: ExitStack, on_disk: bool) -> Audio:
    """Plain WAV while it arrives; all else from a file, which is a temporary one unless ``stream`` is ``on_disk``.

    Args:
        stream: from its first byte.
        stack: keeps open what the blocks are read from.
        on_disk: whether it can seek and has a descriptor.

    Raises:
        AudioVQError: for what is empty or not audio, or needs PyAV where that is missing.
    """
    recorder = _Recorder(stream)
    try:
        audio = open_wav(Peekable(recorder), size_of(stream))
        recorder.taken = None
        return audio
    except NotStreamableError as other:
        if not recorder.taken:
            raise AudioVQError("is empty") from None
        file = stream if on_disk else _spool(stream, recorder.taken, stack)
        if other.header is None:
            remarks = check_end(file, size_of(file) or 0)
        else:
            file.seek(other.header.begins + other.header.size)
            remarks = check_sizes(Peekable(file), other.header, size_of(file) or 0)
        file.seek(0)
        audio = _open_file(file, stack)
        audio.remarks += remarks
        return audio


class _Recorder:
    """A stream that keeps what is read from it, until it need not."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.taken: list[bytes] | None = []

    def read(self, size: int) -> bytes:
        return self._keep(self._stream.read(size))

    def read1(self, size: int) -> bytes:
        return self._keep(getattr(self._stream, "read1", self._stream.read)(size))

    def _keep(self, data: bytes) -> bytes:
        if self.taken is not None and data:
            self.taken.append(data)
        return data


def _spool(stream: Any, head: list[bytes], stack: ExitStack) -> BinaryIO:
    spool = tempfile.TemporaryFile(prefix="audiovq-")  # noqa: SIM115 - closed by the stack
    stack.callback(_close, spool)
    with errors_about("the temporary file for standard input", "written"):
        spool.writelines(head)
        while data := stream.read(1 << 20):
            spool.write(data)
        spool.flush()
    return spool  # type: ignore[return-value]


def _close(spool: Any) -> None:
    with suppress(OSError):  # where libsndfile has left the descriptor at an impossible place
        spool.close()


def _open_file(stream: BinaryIO, stack: ExitStack) -> Audio:
    import soundfile

    try:
        return _read_sndfile(stream, stack)
    except (soundfile.LibsndfileError, TypeError) as error:
        container = container_of(_bytes_at(stream, 0, HEAD_BYTES))
        is_caf = container is not None and container[0] == "caf"  # libsndfile refuses those that leave their size open
        if getattr(error, "code", None) == 3 and not is_caf:  # SF_ERR_MALFORMED_FILE
            raise AudioVQError("is damaged or truncated near its beginning") from error
        if container is not None:
            _rewind(stream)
            pages = read_pages(stream) if container[0] == "ogg" else None
            stream.seek(0)
            audio = _read_av(stack.enter_context(open_container(stream, *container)))
            if pages is not None:
                check_pages(pages, audio.sample_rate)
                audio.remarks += [] if pages.is_complete else ["warning: its end is missing"]
            return audio
        raise AudioVQError(
            "is not audio in a supported format (WAV, FLAC, Ogg, MP3, AIFF, M4A, ...); convert it first, for example "
            "with ffmpeg"
        ) from error


def _open_sndfile(stream: BinaryIO) -> Any:
    import soundfile

    os.lseek(stream.fileno(), 0, os.SEEK_SET)
    # A descriptor rather than a name: libsndfile then goes by the content, not by the suffix.
    return soundfile.SoundFile(stream.fileno(), closefd=False)


def _read_sndfile(stream: BinaryIO, stack: ExitStack) -> Audio:
    file = _open_sndfile(stream)
    frames = pages = None
    if file.format == "OGG":
        _rewind(stream)
        pages = read_pages(stream)
        check_pages(pages, 48_000 if file.subtype == "OPUS" else file.samplerate)
        file = _open_sndfile(stream)
    elif file.format == "MP3":
        _rewind(stream)
        frames = read_frames(stream)
        # Without a frame that counts the others libsndfile would estimate the length, and stop there.
        file = _open_sndfile(stream) if _says_its_length(stream) else _open_piped(stream, stack)
    n_frames = file.frames if 0 <= file.frames < 1 << 48 else None
    if file.format == "NIST":  # libsndfile goes by the file's size alone
        stated = re.search(rb"sample_count -i (\d{1,12})\n", _bytes_at(stream, 0, 1024))
        n_frames = int(stated[1]) if stated else n_frames
    audio = Audio(file.samplerate, file.channels, n_frames, iter(()))
    audio.blocks = _sndfile_blocks(stream, file, audio, pages, frames)
    return audio


def _rewind(stream: BinaryIO) -> None:
    """Go to the beginning, although Python has not seen how libsndfile moved the descriptor."""
    stream.seek(0, os.SEEK_END)
    stream.seek(0)


def _bytes_at(stream: BinaryIO, position: int, size: int) -> bytes:
    """Bytes of a file, with its descriptor left where libsndfile reads."""
    descriptor = stream.fileno()
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, position, os.SEEK_SET)
    data = os.read(descriptor, size)
    os.lseek(descriptor, before, os.SEEK_SET)
    return data


def _says_its_length(stream: BinaryIO) -> bool:
    """Whether an MP3 begins with a frame that counts the others."""
    head, position = _bytes_at(stream, 0, 10), 0
    if head[:3] == b"ID3" and len(head) == 10:
        position = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    first = _bytes_at(stream, position, 4096)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _open_piped(stream: BinaryIO, stack: ExitStack) -> Any:
    """A file as libsndfile reads it from a pipe: to its end, without seeking."""
    import soundfile

    reading, writing = os.pipe()
    stack.callback(os.close, reading)  # which ends the thread, too

    def feed() -> None:
        # The reader may be done, and the file be closed, before all of it was fed.
        with suppress(BrokenPipeError, ValueError), open(writing, "wb") as pipe:
            while data := stream.read(_BLOCK):
                pipe.write(data)

    _rewind(stream)
    Thread(target=feed, daemon=True).start()
    return soundfile.SoundFile(reading, closefd=False)


def _sndfile_blocks(
    stream: BinaryIO, file: Any, audio: Audio, pages: OggPages | None, frames: MpegFrames | None
) -> Iterator[np.ndarray]:
    import soundfile

    buffer = np.empty((max(_READ_VALUES // file.channels, 1), file.channels), np.float32)
    n, rate = 0, audio.sample_rate
    while True:
        buffer.fill(np.nan)
        try:
            block = file.read(out=buffer)
        except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
            # What was decoded before the fault is in the buffer.
            block = buffer[: int(np.isfinite(buffer).all(axis=1).sum())]
            n += len(block)
            if frames is None and not _ends_early(stream, audio.n_frames):
                raise AudioVQError(f"cannot be decoded from {n / rate:.2f} s on; it is damaged") from error
            audio.remarks.append(f"warning: its end is damaged or missing; {n / rate:.2f} s were read")
            yield block.copy()
            break
        if not len(block):
            break
        n += len(block)
        yield block.copy()
    if frames is not None:
        check_frames(frames, n, audio)
    if not audio.remarks:
        audio.remarks += _length_remarks(file, n, audio.n_frames, pages, frames)
    file.close()


def _ends_early(stream: BinaryIO, n_frames: int | None) -> bool:
    """Whether a file has not even its last sample: it is cut off rather than damaged somewhere in between."""
    import soundfile

    if not n_frames:
        return True
    try:
        with _open_sndfile(stream) as probe:
            probe.seek(n_frames - 1)
            return not len(probe.read(1))
    except (soundfile.LibsndfileError, RuntimeError, ValueError):
        return True


def _length_remarks(
    file: Any, n_read: int, n_stated: int | None, pages: OggPages | None, frames: MpegFrames | None
) -> list[str]:
    """Remarks on a file that ended elsewhere than its header says."""
    rate = file.samplerate
    if frames is not None and not frames.is_complete:
        return [f"warning: its end is missing; {n_read / rate:.2f} s were read"]
    if pages is not None and pages.is_chained:
        return [f"warning: it ends at {n_read / rate:.2f} s, but another recording follows, which was left out"]
    slack = frames.frame_samples if frames is not None else 0
    if n_stated is not None and n_read < n_stated - slack:
        return [_cut_off(n_read / rate, n_stated / rate)]
    # libsndfile lowers the number of frames to what is there and notes it among other facts.
    for stated, actual in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
        if int(stated) < _UNKNOWN_SIZE and abs(int(stated) - int(actual)) > _SLACK:
            return [
                f"warning: its header counts {int(stated):,} bytes where {int(actual):,} are; {n_read / rate:.2f} s "
                "were read"
            ]
    if "truncated file" in file.extra_info or (pages is not None and not pages.is_complete):
        return [f"warning: its end is missing; {n_read / rate:.2f} s were read"]
    return []


def _cut_off(seconds: float, expected: float) -> str:
    return f"warning: it ends at {seconds:.2f} s, but its header states {expected:.2f} s; was it cut off?"


def _read_av(container: Any) -> Audio:
    """Read the first sound of a container; `AudioVQError` when there is none."""
    if not container.streams.audio:
        raise AudioVQError("has no sound track")
    stream, remarks = container.streams.audio[0], list[str]()
    frames = _av_frames(container, stream, remarks)
    first = next(frames, None)
    if first is None:
        raise AudioVQError("; ".join(["contains no audio samples", *remarks]))
    rate, (n_channels, _) = first.sample_rate, first.to_ndarray().shape
    n_frames = round(stream.duration * stream.time_base * rate) if stream.duration else None
    blocks: Iterator[np.ndarray] = (np.ascontiguousarray(frame.to_ndarray().T) for frame in chain([first], frames))
    if n_frames and container.format.name.startswith("mov"):
        blocks = _without_padding(blocks, n_frames)
    return Audio(rate, n_channels, n_frames, blocks, remarks)


def _av_frames(container: Any, stream: Any, remarks: list[str]) -> Iterator[Any]:
    """Frames of planar float32 samples.

    Raises:
        AudioVQError: for damage with something good behind it. Other damage is a remark: the file was cut off.
    """
    import av

    if stream.codec_context is not None and stream.codec_context.name in _WITH_CHECKSUMS:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    resampler, seconds, end, n_ticks = av.AudioResampler(format="fltp"), 0.0, 0.0, 0
    fault: Exception | None = None
    gaps = _Gaps()
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not stream:
                continue
            n_ticks += packet.duration or 0
            try:
                decoded = [part for frame in packet.decode() for part in resampler.resample(gaps.add(frame))]
            except (av.FFmpegError, OSError, ValueError) as error:
                fault = fault or error
                continue
            if decoded and packet.size and fault is not None:
                raise AudioVQError(f"cannot be decoded from {seconds:.2f} s on ({reason_of(fault)})")
            for part in decoded:
                seconds += part.samples / part.sample_rate
                yield part
        yield from resampler.resample(None)
    except (av.FFmpegError, OSError, ValueError) as error:
        fault = fault or error
    end, expected, slack = max(end, gaps.end), float(container.duration or 0) / av.time_base, _MISSING_SECONDS
    if container.format.name == "avi":  # without times; its header counts packets
        end, expected = float(n_ticks * stream.time_base), float(stream.frames * stream.time_base)
        slack = _AVI_SECONDS
    elif gaps.ranges:
        remarks.append(f"warning: no audio at {gaps.ranges}; what follows was moved up to there")
    if fault is not None:
        remarks.append(f"warning: its end is damaged or missing; {seconds:.2f} s were read ({reason_of(fault)})")
    elif container.format.name.startswith(("mov", "matroska", "avi")) and end < expected - slack:
        # Of other containers the length is an estimate.
        remarks.append(_cut_off(end, expected))


class _Gaps:
    """Finds times that a container leaves out between frames: what was there is lost, or was not recorded."""

    def __init__(self) -> None:
        self.ranges = TimeRanges()
        self._begin: float | None = None
        self.end = 0.0

    def add(self, frame: Any) -> Any:
        """The frame itself."""
        if frame.time is not None:
            if self._begin is None:
                self._begin = self.end = frame.time
            if frame.time > self.end + _MISSING_SECONDS:
                self.ranges.add(self.end - self._begin, frame.time - self._begin)
            if frame.time > self.end - _MISSING_SECONDS:  # or else the time is wrong
                self.end = frame.time
        self.end += frame.samples / frame.sample_rate
        return frame


def _without_padding(blocks: Iterator[np.ndarray], n_frames: int) -> Iterator[np.ndarray]:
    """The blocks without what a coder has added to fill its last frame, which the length of the whole leaves out."""
    n, held = 0, list[np.ndarray]()
    for block in blocks:
        rest = max(n_frames - n, 0)
        n += len(block)
        held.append(block[rest:])
        if n > n_frames + _MOST_PADDING:  # then it is the length that is wrong
            yield from held
            held.clear()
        elif rest:
            yield block[:rest]
