"""Small models that every test can use."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

# Tests see no data, runs or models of whoever runs them. Compiled kernels stay: their folder is named by their source.
if "AUDIOVQ_CACHE" not in os.environ:
    from audiovq.io import cache_dir

    _kernels, _folder = cache_dir() / "kernels", Path(tempfile.mkdtemp(prefix="audiovq-tests-"))
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    _kernels.mkdir(parents=True, exist_ok=True)
    (_folder / "kernels").symlink_to(_kernels)
    os.environ["AUDIOVQ_CACHE"] = str(_folder)

ALL = os.environ.get("AUDIOVQ_TEST_ALL") == "1"
"""Skipped tests fail, but for those marked ``external``: CI installs every extra."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("external") is None:
        _fail_if_all(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if report.skipped:
        _fail_if_all(report)
    return report


def _fail_if_all(report):
    if ALL:
        report.outcome = "failed"
        report.longrepr = f"AUDIOVQ_TEST_ALL=1 allows no skipping: {report.longrepr[-1]}"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def codec():
    """An untrained codec of 1 s packets, in evaluation mode."""
    from tests.codec.tiny import make_codec

    return make_codec(packet_frames=50, default_n_codebooks=2)


@pytest.fixture
def speech():
    """3.3 s of noise with speech-like bursts, (52901,) float32 at 16 kHz."""
    generator = torch.Generator().manual_seed(1)
    noise = 0.3 * torch.randn(52901, generator=generator)
    return noise * (0.5 + 0.5 * torch.sin(torch.arange(52901) / 900.0))
