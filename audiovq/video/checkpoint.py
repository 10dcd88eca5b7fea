"""Video models on disk and in the package."""

from __future__ import annotations

from pathlib import Path

from audiovq.errors import AudioVQError
from audiovq.weights import BUNDLED

#: Folder of the bundled video models; each has the folders ``frames`` and ``dynamics``, and ``blind`` to compare with.
VIDEOS = BUNDLED / "videos"
DEFAULT_MODEL = "doom"


def bundled_video_models() -> list[str]:
    """Names of the video models that came with the package."""
    return sorted(path.parent.parent.name for path in VIDEOS.glob("*/dynamics/config.json"))


def video_folder(name_or_dir: str | Path | None) -> Path:
    """The folder of a bundled video model or of one on disk.

    Raises:
        AudioVQError: when neither exists.
    """
    name_or_dir = DEFAULT_MODEL if name_or_dir is None else name_or_dir
    for folder in (VIDEOS / str(name_or_dir), Path(name_or_dir)):
        if (folder / "frames" / "config.json").is_file() and (folder / "dynamics" / "config.json").is_file():
            return folder
    known = ", ".join(bundled_video_models()) or "none"
    raise AudioVQError(
        f"no video model {str(name_or_dir)!r}: give a folder with frames/ and dynamics/, or a bundled model ({known})"
    )
