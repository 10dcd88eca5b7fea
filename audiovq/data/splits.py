"""Which split a recording belongs to: decided by its file name, so that it never moves."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "validation", "test", "unseen")


def split_of(basename: str) -> str:
    """One file in 20 is test, one validation, the rest train.

    Args:
        basename: the source file's name with its extension and without its folder, so that neither where a corpus is
            unpacked nor how it is converted changes the split. Files of one name in several languages or folders
            stay together.
    """
    match int(hashlib.sha1(basename.encode(errors="surrogateescape")).hexdigest(), 16) % 20:
        case 0:
            return "test"
        case 1:
            return "validation"
        case _:
            return "train"
