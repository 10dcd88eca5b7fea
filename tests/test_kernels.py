"""The cache of compiled kernels: one for all sources, never fatal."""

from __future__ import annotations

import logging
import pickle
import resource

import numpy as np
import pytest

from audiovq.kernels import cache_folder, compiled


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


def double(x):
    return 2 * x


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of compiled kernels, empty."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kernel():
    """`double`, as a process finds it that starts anew."""
    return compiled((__file__,), double)


def n_loaded(dispatcher):
    return sum(dispatcher.stats.cache_hits.values())


DAMAGE = {
    "emptied": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "shorter by a byte": lambda data: data[:-1],
    "longer by a byte": lambda data: data + b"\0",
    "one bit": lambda data: data[:200] + bytes([data[200] ^ 4]) + data[201:],
    "other bytes": lambda data: np.random.default_rng(0).bytes(len(data)),
    "another pickle": lambda data: pickle.dumps(("0.60.0", {})),
    "deleted": lambda data: None,
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_kernel_is_compiled_anew(cache, suffix, damage):
    assert kernel()(21) == 42
    (path,) = cache.rglob(f"*{suffix}")
    content = DAMAGE[damage](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    mended = kernel()
    assert (mended(21), n_loaded(mended)) == (42, 0)
    again = kernel()
    assert (again(21), n_loaded(again)) == (42, 1)


def test_a_folder_in_the_place_of_a_file_of_the_cache(cache, caplog):
    assert kernel()(21) == 42
    (path,) = cache.rglob("*.nbi")
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert kernel()(21) == 42
    assert "compiled anew at each start" in caplog.text


def test_kernels_of_another_processor_stay_beside_those_of_this_one(cache):
    first = kernel()
    first._cache._cache_file.save(("a signature", "another processor"), b"machine code that is not for this one")
    assert (first(21), n_loaded(first)) == (42, 0)
    second = kernel()
    assert (second(21), n_loaded(second)) == (42, 1)
    assert len(list(cache.rglob("*.nbc"))) == 2


def test_a_full_disk_costs_one_remark(cache, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kernels = [kernel(), compiled((__file__,), lambda x: 3 * x)]
    with caplog.at_level(logging.WARNING):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            found = [dispatcher(7) for dispatcher in kernels]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found == [14, 21]
    assert len(caplog.records) == 1
    assert "file too large" in caplog.text
    assert not list(cache.rglob("*.nb?"))


@pytest.mark.parametrize("variable", ["AUDIOVQ_CACHE", "NUMBA_CACHE_DIR"])
def test_a_cache_that_cannot_be_made_costs_one_remark(cache, tmp_path, monkeypatch, caplog, variable):
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "deeper"))
    with caplog.at_level(logging.WARNING):
        assert [kernel()(7) for _ in range(3)] == [14] * 3
    assert len(caplog.records) == 1
