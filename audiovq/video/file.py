"""Clip files: GIF and animated WebP with Pillow, MP4 with PyAV (extra ``video``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.image.file import MAX_PIXELS, open_image, to_rgb
from audiovq.streams import Place, describe, errors_about, is_path, open_input, open_output

#: File name endings of clips.
CLIPS = (".gif", ".mp4")
_DEFAULT_MILLISECONDS = 100  # of a GIF that says nothing
MAX_FRAMES = 1 << 20
_MOST_REPEATS = 4  # of each frame on the average, to make an uneven GIF even

Frames = Iterator[np.ndarray]


def is_mp4(name: str) -> bool:
    """Whether a file name is that of a film which PyAV reads and writes."""
    return name.lower().endswith((".mp4", ".mov", ".mkv", ".webm"))


@contextmanager
def open_clip(source: Place) -> Iterator[tuple[Fraction, Frames]]:
    """Frames a second, and the frames (H, W, 3) uint8 one after the other. A picture is a clip of one frame.

    Frames of a GIF that stay for different times are repeated where that makes them even, and else shown evenly: the
    whole keeps its length.

    Raises:
        AudioVQError: for what is no clip, and, while it is read, for damage.
    """
    with errors_about(describe(source)), ExitStack() as stack:
        stream = stack.enter_context(open_input(source))
        if is_path(source) and is_mp4(str(source)):
            rate, frames = stack.enter_context(_open_film(stream))
        else:
            rate, frames = _open_pages(stack.enter_context(open_image(stream)))
        yield rate, frames


def _open_pages(image: Any) -> tuple[Fraction, Frames]:
    """The frames of an animation at an even rate: one that stays twice as long as others is given twice."""
    times = []
    for i in range(min(getattr(image, "n_frames", 1), MAX_FRAMES)):
        with _damage_told():
            image.seek(i)
            image.load()  # WebP knows how long a frame stays only then
        times.append(round(image.info.get("duration", 0)) or _DEFAULT_MILLISECONDS)
    step = math.gcd(*times)
    if sum(times) > _MOST_REPEATS * step * len(times):
        step, times = round(sum(times) / len(times)), [1] * len(times)
    else:
        times = [time // step for time in times]

    def frames() -> Frames:
        for i, n in enumerate(times):
            with _damage_told():
                image.seek(i)
            page = to_rgb(image.copy())
            for _ in range(n):
                yield page

    return Fraction(1000, step), frames()


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise AudioVQError(f"is damaged or cut off ({error})") from None


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise AudioVQError("MP4 needs the package av: pip install 'audiovq[video]'") from None
    return av


@contextmanager
def _open_film(stream: Any) -> Iterator[tuple[Fraction, Frames]]:
    av = _av()
    try:
        container = av.open(stream)
    except (OSError, ValueError) as error:
        raise AudioVQError(f"is not a film that can be read ({_told(error)})") from None
    with container:
        if not container.streams.video:
            raise AudioVQError("has no pictures")
        video = container.streams.video[0]
        video.thread_type = "SLICE"
        if video.width * video.height > MAX_PIXELS:
            raise AudioVQError(f"has {video.width}x{video.height} pixels, more than {MAX_PIXELS}; shrink it first")
        rate = Fraction(video.average_rate or video.guessed_rate or 25).limit_denominator(1001)

        def frames() -> Frames:
            try:
                for frame in container.decode(video):
                    yield frame.to_ndarray(format="rgb24")
            except (OSError, ValueError) as error:
                raise AudioVQError(f"is damaged or cut off ({_told(error)})") from None

        yield rate, frames()


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def check_clip_target(target: Place) -> str:
    """The ending that a name asks for; ``.gif`` for standard output.

    Raises:
        AudioVQError: for an ending that is no clip's, or when PyAV is missing.
    """
    name = str(target).lower() if is_path(target) else ".gif"
    for suffix in CLIPS:
        if name.endswith(suffix):
            if suffix == ".mp4":
                _av()
            return suffix
    raise AudioVQError(f"{describe(target)}: clips are written as {', '.join(CLIPS)}")


@contextmanager
def create_clip(target: Place, rate: Fraction, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that appends a frame (H, W, 3) uint8. Nothing is left of the target when the block fails.

    A GIF has times in hundredths of a second and 256 colours a frame; an MP4 (H.264) even sides: an odd one gets a
    repeated row or column.
    """
    suffix = check_clip_target(target)
    with open_output(target) as stream:
        if suffix == ".gif":
            pages: list[Any] = []
            yield lambda frame: pages.append(_page(frame))
            each = max(round(1000 / rate), 20)
            pages[0].save(stream, "GIF", save_all=True, append_images=pages[1:], duration=each, loop=0)
        else:
            with _av().open(stream, "w", format="mp4") as container:
                yield from _film(container, rate, size)


def _page(frame: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT)


def _film(container: Any, rate: Fraction, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    height, width = size
    video = container.add_stream("libx264", rate=rate, options={"crf": "16", "threads": "1"})
    video.width, video.height, video.pix_fmt = width + width % 2, height + height % 2, "yuv420p"

    def append(frame: np.ndarray) -> None:
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        container.mux(video.encode(_av().VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))

    yield append
    container.mux(video.encode())
