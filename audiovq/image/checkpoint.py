"""Image models on disk and in the package."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from audiovq.errors import AudioVQError
from audiovq.weights import BUNDLED, load_weights

#: Folder of the bundled image models.
IMAGES = BUNDLED / "images"
DEFAULT_MODEL = "photo"


def bundled_image_models() -> list[str]:
    """Names of the image models that came with the package."""
    return sorted(path.parent.name for path in IMAGES.glob("*/config.json"))


def image_model_folder(name_or_dir: str | Path | None) -> Path:
    """The folder of a bundled image model or of one on disk.

    Raises:
        AudioVQError: when neither exists.
    """
    name_or_dir = DEFAULT_MODEL if name_or_dir is None else name_or_dir
    for folder in (IMAGES / str(name_or_dir), Path(name_or_dir)):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    known = ", ".join(bundled_image_models()) or "none"
    raise AudioVQError(
        f"no image model {str(name_or_dir)!r}: give a folder with config.json, or a bundled model ({known})"
    )


def codes_hash(folder: Path) -> bytes:
    """Which model wrote a file: first four bytes of a SHA-256 over the levels and all tensors but the decoder's."""
    from safetensors import deserialize

    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256(json.dumps([config["levels"], config["tile"]], sort_keys=True).encode())
    for name, tensor in sorted(deserialize((folder / "model.safetensors").read_bytes())):
        if not name.startswith(("decoder.", "likelihood.")):
            digest.update(f"{name} {tensor['dtype']} {tensor['shape']}".encode())
            digest.update(tensor["data"])
    return digest.digest()[:4]


def load_image_codec(name_or_dir: str | Path | None = None):
    """See `ImageCodec.from_pretrained`."""
    from audiovq.image.codec import ImageCodec

    folder = image_model_folder(name_or_dir)
    codec = load_weights(ImageCodec, folder)
    codec.model_hash, codec.folder = codes_hash(folder), folder
    return codec
