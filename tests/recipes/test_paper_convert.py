"""The scores of the paper's voice conversion: pairs of speakers, and rows for a run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("hydra")

from audiovq.data.packed import open_utterances
from audiovq.errors import AudioVQError
from audiovq.evaluation.protocol import Score
from audiovq.training.run import train
from recipes.paper import convert
from tests.training.test_paper import corpus, packed

__all__ = ["corpus"]


class Level:
    """A metric that needs no package: similar levels are similar speakers."""

    def embed(self, samples):
        level = float(np.abs(samples).mean())
        return np.array([np.cos(level), np.sin(level)])

    def score(self, pair):
        return Score(float(self.embed(pair.reference) @ self.embed(pair.degraded)))


def test_sources_and_targets_are_different_speakers(corpus):
    recordings = open_utterances(corpus, "train")
    pairs = convert.choose(recordings, 4, 1.0)
    assert len(pairs) == 4
    assert all(source.speaker != target.speaker for source, target in pairs)
    for few in (recordings[:1], []):
        with pytest.raises(AudioVQError, match="no two validation speakers"):
            convert.choose(few, 4, 1.0)
    with pytest.raises(AudioVQError, match="no two validation speakers"):
        convert.choose(recordings, 4, 10.0)


def test_a_run_is_measured(corpus, tmp_path, monkeypatch, capsys):
    folder = train(packed(corpus, tmp_path / "run", **{"training.max_steps": 1, "task.preview_items": 0}))
    for name in ("SpeakerCosine", "DifferentialWordErrorRate"):
        monkeypatch.setattr(convert, name, Level)
    results, audio = tmp_path / "results.json", tmp_path / "audio"
    options = [str(folder), "--items", "2", "--seconds", "0.5", "--json", str(results), "--audio", str(audio)]
    monkeypatch.setattr(sys, "argv", ["convert.py", *options])
    convert.main()
    systems = json.loads(results.read_text())["systems"]
    assert list(systems) == ["source", "decoded", "converted"]
    assert systems["source"]["source"] == pytest.approx(1.0)
    assert systems["converted"]["target"] <= 1
    assert len(list(audio.glob("*.wav"))) == 6
    assert "| converted |" in capsys.readouterr().out


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(AudioVQError, match="no finished run"):
        convert.open_run(tmp_path)
