"""Start a training run from a pack with nothing installed but Python and torch. Packs carry this file as ``run.py``.

Unpacks the code and the wheels that travelled along, and calls `audiovq.training.offline`. Standard library only.

Usage: python FOLDER/run.py --minutes 9 --out OUT [--work FOLDER] [KEY=VALUE ...]
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path


def unpack_code(folder: Path, work: Path) -> Path:
    """Unpack what is under ``site/`` and ``wheels/`` in the pieces to a folder for ``sys.path``; once for each pack."""
    pieces = json.loads((folder / "manifest.json").read_text())["pieces"]
    missing = [piece["name"] for piece in pieces if not (folder / piece["name"]).is_file()]
    if missing:
        sys.exit(f"{folder} is incomplete; missing pieces: {', '.join(missing)}")
    key = hashlib.sha256(json.dumps(pieces).encode()).hexdigest()[:16]
    site = work / f"site-{key}"
    if site.is_dir():
        return site
    partial = work / f"site-{key}.{os.getpid()}"
    partial.mkdir(parents=True)
    parts: dict[str, bytes] = {}
    for piece in pieces:
        with zipfile.ZipFile(folder / piece["name"]) as file:
            for name in file.namelist():
                if name.startswith(("site/", "wheels/")):
                    whole = name.split("@")[0]
                    parts[whole] = parts.get(whole, b"") + file.read(name)
    for name, data in parts.items():
        if name.startswith("wheels/"):
            zipfile.ZipFile(io.BytesIO(data)).extractall(partial)
        else:
            target = partial / name[len("site/") :]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    try:
        partial.rename(site)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return site


def main() -> int:
    """Unpack, then train."""
    begun = time.time()
    folder = Path(__file__).resolve().parent
    arguments = sys.argv[1:]
    work = folder / "unpacked"
    if "--work" in arguments[:-1]:
        work = Path(arguments[arguments.index("--work") + 1]).resolve()
    site = unpack_code(folder, work)
    sys.path.insert(0, str(site))
    os.environ["AUDIOVQ_CACHE"] = str(work / "cache")
    from audiovq.training.offline import main as train

    return train([str(folder), *arguments], begun)


if __name__ == "__main__":
    sys.exit(main())
