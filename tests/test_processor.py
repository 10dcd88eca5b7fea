"""Where compiled kernels are kept."""

from __future__ import annotations

from audiovq.processor import cache_folder


def test_kernels_are_compiled_anew_when_any_of_their_files_changes(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    own, other = tmp_path / "own.py", tmp_path / "other.py"
    own.write_text("a")
    other.write_text("b")
    first = cache_folder((str(own), str(other)))
    assert first == cache_folder((str(own), str(other)))
    other.write_text("c")
    second = cache_folder((str(own), str(other)))
    assert None not in (first, second)
    assert first != second
