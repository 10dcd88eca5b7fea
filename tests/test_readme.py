"""The README's examples run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_python_examples_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(blocks) >= 3
    recording = Path("recipes/demo/speech.flac")
    (tmp_path / recording.parent).mkdir(parents=True)
    shutil.copy(ROOT / recording, tmp_path / recording)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["decoded"].shape[-1] == len(names["samples"])
