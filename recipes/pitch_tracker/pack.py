"""Packed corpora with pitch labels, for training: after `label.py`.

    python recipes/pitch_tracker/pack.py [CORPUS|FOLDER ...]

Writes `<cache>/packed/train` and `<cache>/packed/validation`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from audiovq.data import open_corpus
from audiovq.data.packed import pack, write_rows
from audiovq.io import cache_dir

corpora = sys.argv[1:] or ["debian_speech", "kokoro_speech"]
for split in ("train", "validation"):
    folder = cache_dir() / "packed" / split
    pack([u for corpus in corpora for u in open_corpus(corpus, split)], folder)
    ids, rows = [], []
    for corpus in corpora:
        with np.load(cache_dir() / "pitch" / f"{Path(corpus).name}.npz") as kept:
            ids += kept["ids"].tolist()
            rows += np.split(kept["labels"], kept["ends"][:-1])
    write_rows(folder, "pitch", ids, rows)
