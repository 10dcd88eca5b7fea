"""Probes find what is there, and do not find what is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from audiovq.errors import AudioVQError
from audiovq.evaluation import probe
from audiovq.evaluation.probe import code_majority, evaluate_probe, linear_probe, majority
from tests.codec.tiny import CONFIG, make_codec
from tests.data.conftest import make_utterance, voice


def parts(tell: float, n: int = 120):
    """Three splits of 12 features, of which two tell the class as far as asked."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(3):
        labels = rng.integers(0, 3, n)
        x = rng.normal(size=(n, 12))
        x[:, 0] += tell * (labels == 1)
        x[:, 1] += tell * (labels == 2)
        found.append((x, [f"c{label}" for label in labels]))
    return found


def test_a_probe_finds_what_is_there():
    assert linear_probe(*parts(6.0)).mean > 0.95
    nothing = linear_probe(*parts(0.0))
    assert 0.2 < nothing.mean < 0.48
    assert nothing.n == 120


def test_votes_of_single_codes():
    """Codes 0 to 3 belong to one class, 4 to 7 to the other; half of all frames are code 8, which both use."""
    rng = np.random.default_rng(0)

    def part(n):
        labels = ["a", "b"] * n
        own = [rng.integers(0, 4, 50) + 4 * (label == "b") for label in labels]
        return [np.concatenate([codes, np.full(50, 8)]) for codes in own], labels

    assert code_majority(part(5), part(5), 9).mean == pytest.approx(0.75)


def test_the_largest_class_is_that_of_training():
    assert majority(["a", "a", "b"], ["b", "b", "a", "b"]) == 0.25


@pytest.fixture(scope="module")
def codec():
    return make_codec(quantizer={**CONFIG["quantizer"], "n_codebooks": 2}, default_n_codebooks=1)


def splits(voices=("low", "high")):
    pitch = {"low": 90.0, "high": 260.0}
    return {
        part: [
            make_utterance(voice(3.1, pitch=pitch[name], seed=10 * i + j), f"{name}-{part}-{j}", name, part)
            for name in voices
            for j in range(4)
        ]
        for i, part in enumerate(("train", "validation", "test"))
    }


def test_a_report_of_codes(codec, monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "MAIN_MINUTES", 0.1)
    report = evaluate_probe(codec, splits())
    path = tmp_path / "probe.json"
    report.write_json(path)
    found = json.loads(path.read_text())
    assert found["classes"] == {"speaker": 2, "language": 1}
    assert found["majority"]["speaker"] == 0.5
    names = [(row["representation"], row["features"]) for row in found["probes"]]
    assert names[:4] == [
        ("codebook 1", "histogram"),
        ("codebook 2", "histogram"),
        ("codebook 1", "moments"),
        ("codebooks 1-2", "moments"),
    ]
    by_name = dict(zip(names, found["probes"], strict=True))
    assert by_name["latents, unquantized", "moments"]["speaker"]["mean"] == 1.0
    for codebook in found["codebooks"]:
        assert sum(codebook["counts"]) == 3 * 8 * 155
        assert 1 <= codebook["perplexity"] <= 32
    assert "with text" in found["phones"]["left_out"]
    assert len(report.tables()) == 3
    report.draw(tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 10_000


def test_one_voice_is_not_enough(codec, monkeypatch):
    monkeypatch.setattr(probe, "MAIN_MINUTES", 0.1)
    with pytest.raises(AudioVQError, match="two speakers"):
        evaluate_probe(codec, splits(("low",)))
