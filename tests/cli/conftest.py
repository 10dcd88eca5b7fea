"""Running the command line inside the test's process, with stand-in models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from audiovq import hub
from audiovq.cli import loading, main
from tests.cli import stand_in


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.err.splitlines()


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run a command in an empty folder: exit code and what was written."""
    monkeypatch.setattr(loading.Models, "load", stand_in.load)
    monkeypatch.setattr(hub, "bundled_hashes", stand_in.bundled_hashes)
    monkeypatch.setattr(hub, "bundled_models", stand_in.bundled_models)
    monkeypatch.setattr(loading, "facts", stand_in.facts)
    monkeypatch.setattr(loading, "bundled_clock", stand_in.bundled_clock)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def wav(tmp_path):
    """Make a file of noise in the current folder."""

    def make(name="a.wav", seconds=1.0, rate=16000, channels=1, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))
        soundfile.write(path, samples, rate, **options)
        return path

    return make
