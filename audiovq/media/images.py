"""Image files with Pillow, and videos: GIF and animated WebP with Pillow, MP4 with PyAV (extra ``video``)."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError, need
from audiovq.io import Guard, Place, describe, errors_about, is_path, open_input, open_output
from audiovq.media.containers import CONTAINER_SUFFIXES, HEAD_BYTES, container_of, images_of, open_container, reason_of

#: File name endings of images that can be read and written, and Pillow's names of their formats.
IMAGE_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 1 << 26  # 8192 x 8192


def read_image(source: Place) -> np.ndarray:
    """Read an image file as RGB, (H, W, 3) uint8.

    Transparency is composed over white, 16-bit and CMYK images are converted to 8-bit RGB, and the EXIF orientation is
    applied.

    Raises:
        AudioVQError: for a file that is no image, is truncated or damaged, or has more than `MAX_PIXELS`.
    """
    with errors_about(describe(source)), open_input(source) as stream, open_image(stream) as image:
        return to_rgb(image)


def open_image(stream: Any) -> Any:
    """Open a stream as a Pillow image, not yet decoded; `AudioVQError` for one that is no image or too large."""
    from PIL import Image, UnidentifiedImageError

    if not (hasattr(stream, "seekable") and stream.seekable()):
        stream = io.BytesIO(stream.read())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream)
    except UnidentifiedImageError:
        raise AudioVQError("is not an image in a supported format (PNG, JPEG, WebP, GIF)") from None
    except Image.DecompressionBombError:
        raise AudioVQError(f"has more than {MAX_PIXELS} pixels; shrink it first") from None
    except Exception as error:
        raise damage(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise AudioVQError(f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS}; shrink it first")
    return image


def damage(error: Exception) -> AudioVQError:
    """What to raise for an exception of Pillow, whose readers raise any type for files that are damaged."""
    return AudioVQError(f"is damaged or truncated ({' '.join(str(error).split()) or type(error).__name__})")


def to_rgb(image: Any) -> np.ndarray:
    """Decode a Pillow image, with its EXIF orientation applied: (H, W, 3) uint8; `AudioVQError` when it is damaged."""
    from PIL import Image, ImageOps

    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":  # Pillow would clip these instead of scaling them
            values = np.asarray(image).astype(np.float64)
            top = 65535.0 if image.mode.startswith("I") else 1.0
            grey = np.clip(np.round(values / top * 255), 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except Exception as error:
        raise damage(error) from None


def check_image_target(target: Place) -> str:
    """Pillow's format name for the ending of a file name; PNG for standard output; `AudioVQError` for other endings."""
    if not is_path(target):
        return "PNG"
    suffix = "." + str(target).lower().rpartition(".")[2]
    if suffix not in IMAGE_SUFFIXES:
        raise AudioVQError(f"{describe(target)}: images are written as {', '.join(IMAGE_SUFFIXES)}")
    return IMAGE_SUFFIXES[suffix]


def write_image(target: Place, pixels: np.ndarray) -> None:
    """Write pixels (H, W, 3) uint8; PNG and WebP lossless, JPEG at quality 95.

    Raises:
        AudioVQError: for an unknown ending, a size that the format does not support, and a target that cannot be
            written.
    """
    from PIL import Image

    format_name = check_image_target(target)
    with io.BytesIO() as buffer:
        try:
            options: dict[str, Any] = {"quality": 95} if format_name == "JPEG" else {"lossless": True}
            Image.fromarray(pixels).save(buffer, format_name, **options)
        except (OSError, ValueError) as error:
            raise AudioVQError(f"{describe(target)}: cannot be written ({error}); try .png") from None
        with open_output(target) as stream:
            stream.write(buffer.getvalue())


#: File name endings of videos that can be written.
VIDEO_SUFFIXES = (".gif", ".mp4")
_DEFAULT_MILLISECONDS = 100  # per frame of a GIF without durations
MAX_FRAMES = 1 << 20
MAX_FRAME_PIXELS = 1 << 23  # 4096 x 2048: a packet of the container has 16 frames in memory
_MOST_REPEATS = 4  # of each frame on average, for a constant frame rate

Frames = Iterator[np.ndarray]


@contextmanager
def open_video(source: Place) -> Iterator[tuple[Fraction, Frames]]:
    """Open a video: frames per second, and an iterator over the frames (H, W, 3) uint8. An image is one frame.

    Frames of a GIF with different durations are repeated to give a constant frame rate; where that takes too many
    repeats, all get the mean duration. The total duration is kept.

    Raises:
        AudioVQError: for a file that is no video, and, while it is read, for damage.
    """
    with errors_about(describe(source)), ExitStack() as stack:
        stream = stack.enter_context(open_input(source))
        if is_path(source) and str(source).lower().endswith(CONTAINER_SUFFIXES):
            rate, frames = stack.enter_context(_open_av(stream))
        else:
            rate, frames = _open_animation(stack.enter_context(open_image(stream)))
        yield rate, frames


def _open_animation(image: Any) -> tuple[Fraction, Frames]:
    """The frames of an animation at a constant rate: one that is shown twice as long as others is repeated."""
    with _damage_reported():
        n_frames = min(getattr(image, "n_frames", 1), MAX_FRAMES)
    if n_frames > 1:
        _check_size(image)
    times = []
    for i in range(n_frames):
        with _damage_reported():
            image.seek(i)
            image.load()  # only then the duration of a WebP frame is known
        times.append(round(image.info.get("duration", 0)) or _DEFAULT_MILLISECONDS)
    step = math.gcd(*times)
    if sum(times) > _MOST_REPEATS * step * len(times):
        step, times = round(sum(times) / len(times)), [1] * len(times)
    else:
        times = [time // step for time in times]

    def frames() -> Frames:
        for i, n in enumerate(times):
            with _damage_reported():
                image.seek(i)
                page = image.copy()
            page = to_rgb(page)
            for _ in range(n):
                yield page

    return Fraction(1000, step), frames()


def _check_size(video: Any) -> None:
    """Raise `AudioVQError` when frames of PyAV's stream or Pillow's animation are too large."""
    size = f"{video.width}x{video.height}"
    if video.width * video.height > MAX_FRAME_PIXELS:
        raise AudioVQError(f"has frames of {size} pixels, more than {MAX_FRAME_PIXELS}; shrink it first")


@contextmanager
def _damage_reported() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise damage(error) from None


@contextmanager
def _open_av(stream: Any) -> Iterator[tuple[Fraction, Frames]]:
    name = container_of(stream.read(HEAD_BYTES))
    stream.seek(0)
    if name is None:
        raise AudioVQError("is not a video in a supported format (MP4, MOV, MKV, WebM)")
    with open_container(stream, *name) as container:
        video = images_of(container)
        if video is None:
            raise AudioVQError("has no video stream")
        video.thread_type = "SLICE"
        _check_size(video)
        rate = Fraction(video.average_rate or video.guessed_rate or 25).limit_denominator(1001)

        def frames() -> Frames:
            import av

            try:
                for frame in container.decode(video):
                    yield frame.to_ndarray(format="rgb24")
            except (av.FFmpegError, OSError, ValueError) as error:
                raise AudioVQError(f"is damaged or truncated ({reason_of(error)})") from None

        yield rate, frames()


def check_video_target(target: Place) -> str:
    """The ending of a file name; ``.gif`` for standard output.

    Raises:
        AudioVQError: for an ending that is not in `VIDEO_SUFFIXES`, or when PyAV is missing.
    """
    suffix = "." + str(target).lower().rpartition(".")[2] if is_path(target) else ".gif"
    if suffix not in VIDEO_SUFFIXES:
        raise AudioVQError(f"{describe(target)}: videos are written as {', '.join(VIDEO_SUFFIXES)}")
    if suffix == ".mp4":
        need("av", "MP4", "video")
    return suffix


@contextmanager
def create_video(target: Place, rate: Fraction, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """Create a video of ``size`` (H, W): yields a function that appends a frame (H, W, 3) uint8. An error leaves none.

    A GIF has durations in hundredths of a second and 256 colours per frame; an MP4 (H.264) has even sides: an odd one
    gets a repeated row or column.

    Raises:
        AudioVQError: see `check_video_target`.
    """
    from PIL import Image

    suffix = check_video_target(target)
    with open_output(target) as stream:
        if suffix == ".gif":
            pages: list[Any] = []
            yield lambda frame: pages.append(Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT))
            each = max(round(1000 / rate), 20)
            pages[0].save(stream, "GIF", save_all=True, append_images=pages[1:], duration=each, loop=0)
        else:
            guard = Guard(stream)
            with guard.reporting(), need("av", "MP4", "video").open(guard, "w", format="mp4") as container:
                yield from _append_to(container, rate, size)


def _append_to(container: Any, rate: Fraction, size: tuple[int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    from av import VideoFrame

    height, width = size
    video = container.add_stream("libx264", rate=rate, options={"crf": "16", "threads": "1"})
    video.width, video.height, video.pix_fmt = width + width % 2, height + height % 2, "yuv420p"

    def append(frame: np.ndarray) -> None:
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        container.mux(video.encode(VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))

    yield append
    container.mux(video.encode())
