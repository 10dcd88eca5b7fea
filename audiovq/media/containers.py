"""Sound and video files that PyAV reads (extra ``video``): MP4, M4A, WebM, Matroska, AAC and others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from audiovq.errors import AudioVQError
from audiovq.io import is_path, is_special

HEAD_BYTES = 192
#: File name endings of containers that may hold both sound and images.
CONTAINER_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
_STARTS = {
    b"\x1a\x45\xdf\xa3": ("matroska", "a WebM or Matroska file"),
    b"\x30\x26\xb2\x75": ("asf", "a Windows Media file"),
    b"OggS": ("ogg", "an Ogg file"),
    b"#!AMR": ("amr", "an AMR file"),
    b"ID3": ("aac", "an AAC file"),
    b"\xff\xf1": ("aac", "an AAC file"),
    b"\xff\xf9": ("aac", "an AAC file"),
    b"ADIF": ("aac", "an AAC file"),
    b"\x0b\x77": ("ac3", "an AC-3 file"),
    b"wvpk": ("wv", "a WavPack file"),
    b"MAC ": ("ape", "a Monkey's Audio file"),
    b"TTA1": ("tta", "a True Audio file"),
    b"DSD ": ("dsf", "a DSD file"),
    b"FLV\x01": ("flv", "a Flash video"),
    b"caff": ("caf", "a CAF file"),
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def container_of(head: bytes) -> tuple[str, str] | None:
    """FFmpeg's name of a container, and a name for messages, from its first `HEAD_BYTES`; None for others.

    FFmpeg itself would guess, also from text: playlists would make it open other files and addresses.
    """
    if head[4:8] in _BOXES:
        return "mov", "an MP4, M4A or 3GP file"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi", "an AVI file"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav", "a WAV of a rare coding"
    if head[:1] == head[188:189] == b"G":
        return "mpegts", "an MPEG transport stream"
    return next((names for start, names in _STARTS.items() if head.startswith(start)), None)


@contextmanager
def open_container(stream: Any, name: str, label: str) -> Iterator[Any]:
    """PyAV's container of a binary file that can seek.

    Args:
        stream: the file.
        name, label: from `container_of`.

    Raises:
        AudioVQError: when PyAV is missing, or for a damaged file.
    """
    av = _av(label)
    try:
        # Titles and the like may be in any encoding.
        container = av.open(stream, format=name, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioVQError(f"is {label} that cannot be read ({reason_of(error)})") from None
    with container:
        yield container


def reason_of(error: Exception) -> str:
    """What FFmpeg says of an error, in one line."""
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return f"{reason[:1].lower()}{reason[1:]}"


def contents_of(source: str | Path) -> set[str]:
    """Which of "images" and "sound" are in a file; none where it is not a container or cannot be read.

    A cover does not count as images.

    Raises:
        AudioVQError: when PyAV is missing.
    """
    if not is_path(source) or is_special(source) or not os.path.isfile(source):
        return set()
    with open(source, "rb") as stream:
        name = container_of(stream.read(HEAD_BYTES))
        stream.seek(0)
        if name is None:
            return set()
        _av(name[1])
        with suppress(AudioVQError), open_container(stream, *name) as container:
            streams = {"sound": bool(container.streams.audio), "images": images_of(container) is not None}
            return {name for name, is_there in streams.items() if is_there}
    return set()


def images_of(container: Any) -> Any:
    """The first stream of moving images; None where there is none."""
    cover = _av("a video").stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def _av(label: str) -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise AudioVQError(f"is {label}, which needs the package av: pip install 'audiovq[video]'") from None
    return av
