"""README and documentation: their examples run, their links lead somewhere, the citation names this version."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import audiovq

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
DOCUMENTS += [path for folder in ("docs", "recipes", "audiovq/pretrained") for path in (ROOT / folder).rglob("*.md")]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a Markdown page."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def examples(name: str) -> list[str]:
    """The Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the recording that the examples read."""
    recording = Path("recipes/demo/speech.flac")
    (tmp_path / recording.parent).mkdir(parents=True)
    shutil.copy(ROOT / recording, tmp_path / recording)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/compress.md", "docs/streaming.md", "docs/images.md", "docs/conversion.md", "docs/onnx.md"],
)
def test_python_examples_run(name, clone):
    blocks = examples(name)
    assert len(blocks) >= (3 if name == "README.md" else 1)
    names: dict = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    if name not in ("docs/images.md", "docs/conversion.md"):
        assert names["decoded"].shape[-1] == len(names["samples"])


def test_examples_with_the_onnx_codec_need_no_pytorch(clone):
    pages = ("README.md", "docs/compress.md", "docs/streaming.md", "docs/conversion.md", "docs/onnx.md")
    blocks = [[block for block in examples(page) if "OnnxCodec" in block] for page in pages]
    blocks.append([block for block in examples("docs/generation.md") if "SpeechSampler" in block])
    assert all(blocks)
    program = "import sys; sys.modules['torch'] = None\n" + "\n".join(block for page in blocks for block in page)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=clone)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target, anchor in LINK.findall(text):
        file = path.parent / target if target else path
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_paths_of_the_package_exist(path):
    text = path.read_text()
    for name in sorted(set(re.findall(r"`(audiovq(?:\.\w+)+)`", text)) | set(re.findall(r"^::: (\S+)", text, re.M))):
        pkgutil.resolve_name(name)
    for name in sorted(set(re.findall(r"`((?:audiovq|configs|recipes|tests|benchmarks)/[\w./-]+)`", text))):
        assert (ROOT / name).exists(), name


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {audiovq.__version__}" in lines
    assert f'version = "{audiovq.__version__}"' in (ROOT / "pyproject.toml").read_text()
