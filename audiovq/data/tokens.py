"""Shards of codes read back: what `audiovq tokenize` wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiovq.data.token_files import CodesModel, TokenizedUtterance, read_shard
from audiovq.data.token_plan import FORMAT, MANIFEST, PROGRESS, VERSION
from audiovq.errors import AudioVQError
from audiovq.interfaces import Codec


class TokenShards:
    """The items of a folder of shards, read one after the other; nothing of them stays in memory.

    Args:
        folder: with a ``manifest.json``.
        model: a codec, or the hash of its codes (bytes or hexadecimal), which the shards must be of; None: any.

    Attributes:
        manifest: as it was written.
        model: whose codes they are.
        files: the shards, in their order.

    Raises:
        AudioVQError: when there are no shards or they are not complete, and for shards of another model.
    """

    def __init__(self, folder: str | Path, model: Codec | bytes | str | None = None) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = _read_manifest(self.folder)
        self.container: str = self.manifest["container"]
        self.model = CodesModel(**self.manifest["model"])
        self.files = [self.folder / shard["file"] for shard in self.manifest["shards"]]
        if model is not None:
            self._expect(model)
        for path, shard in zip(self.files, self.manifest["shards"], strict=True):
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                state = "is not what the manifest tells" if path.is_file() else "is missing"
                raise AudioVQError(f"{path} {state}: call audiovq tokenize again")

    def _expect(self, model: Codec | bytes | str) -> None:
        wanted = model.model_hash if isinstance(model, Codec) else model
        wanted = wanted if isinstance(wanted, str) else wanted.hex()
        if wanted != self.model.codes_hash:
            name = f"{model.name} ({wanted})" if isinstance(model, Codec) else wanted
            raise AudioVQError(
                f"{self.folder} holds codes of model {self.model.name} ({self.model.codes_hash}), not of {name}: "
                "tokenize the recordings with that model, or name the model of the shards"
            )

    def __len__(self) -> int:
        return int(self.manifest["items"])

    def __iter__(self) -> Iterator[TokenizedUtterance]:
        for index in range(len(self.files)):
            yield from self.read(index)

    def read(self, index: int) -> Iterator[TokenizedUtterance]:
        """The items of shard ``index``.

        Raises:
            AudioVQError: when it is damaged, or of another model than the manifest.
        """
        yield from read_shard(self.files[index], self.container, self.model.codes_hash)

    def verify(self) -> None:
        """Read every byte.

        Raises:
            AudioVQError: for the first shard whose bytes are not those that were written.
        """
        for path, shard in zip(self.files, self.manifest["shards"], strict=True):
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != shard["sha256"]:
                raise AudioVQError(f"{path} is damaged: delete it and call audiovq tokenize again")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / PROGRESS).is_dir():
            raise AudioVQError(f"the shards in {folder} are not finished: call audiovq tokenize again") from None
        raise AudioVQError(f"no shards of codes in {folder}: make them with audiovq tokenize") from None
    except (OSError, ValueError) as error:
        raise AudioVQError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise AudioVQError(f"{path} is not a manifest of audiovq tokenize")
    if manifest["version"] != VERSION:
        raise AudioVQError(
            f"{path} is of version {manifest['version']}, this release reads {VERSION}: call audiovq tokenize again"
        )
    return manifest
