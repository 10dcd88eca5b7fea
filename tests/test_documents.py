"""README and documentation: their examples run, their links lead somewhere, the citation names this version."""

from __future__ import annotations

import pkgutil
import re
import shutil
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


@pytest.mark.parametrize("name", ["README.md", "docs/compress.md", "docs/streaming.md", "docs/images.md"])
def test_python_examples_run(name, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)
    assert len(blocks) >= (3 if name == "README.md" else 1)
    recording = Path("recipes/demo/speech.flac")
    (tmp_path / recording.parent).mkdir(parents=True)
    shutil.copy(ROOT / recording, tmp_path / recording)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    if "samples" in names:
        assert names["decoded"].shape[-1] == len(names["samples"])


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
