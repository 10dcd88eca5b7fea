"""Image files, read and written with Pillow."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.io import Place, describe, errors_about, is_path, open_input, open_output

#: File name endings of images that can be read and written.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
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
    """Open a stream as a Pillow image, not yet decoded.

    Raises:
        AudioVQError: for a file that is no image, and for one that is too large.
    """
    from PIL import Image, UnidentifiedImageError

    if not (hasattr(stream, "seekable") and stream.seekable()):
        stream = io.BytesIO(stream.read())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream)
    except UnidentifiedImageError:
        raise AudioVQError("is not an image that can be read (PNG, JPEG, WebP, GIF)") from None
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
    """Decode a Pillow image, with its EXIF orientation applied: (H, W, 3) uint8.

    Raises:
        AudioVQError: for a damaged one.
    """
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
    """Pillow's format name for the ending of a file name; PNG for standard output.

    Raises:
        AudioVQError: for another ending.
    """
    if not is_path(target):
        return "PNG"
    suffix = str(target).lower().rpartition(".")[2]
    try:
        return {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}[suffix]
    except KeyError:
        raise AudioVQError(f"{describe(target)}: images are written as {', '.join(IMAGE_SUFFIXES)}") from None


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
            Image.fromarray(pixels).save(buffer, format_name, **({"quality": 95} if format_name == "JPEG" else _EXACT))
        except (OSError, ValueError) as error:
            raise AudioVQError(f"{describe(target)}: cannot be written ({error}); try .png") from None
        with open_output(target) as stream:
            stream.write(buffer.getvalue())


_EXACT: dict[str, Any] = {"lossless": True}  # for WebP; PNG ignores it
