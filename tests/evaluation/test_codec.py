from __future__ import annotations

import json

import numpy as np
import pytest

from audiovq.cli.loading import n_codebooks_for
from audiovq.errors import AudioVQError
from audiovq.evaluation.codec import AudioVQSystem, evaluate_codec
from audiovq.evaluation.metrics import make_metrics
from audiovq.evaluation.protocol import Coded, Metric, Score
from tests.evaluation.conftest import fake_utterances


class Rounding:
    """Keeps only so many bits of each sample, late by some samples."""

    family, call, n_codebooks = "rounding", "np.round", None

    def __init__(self, bits: int, late: int = 0):
        self.name, self.bits, self.late, self.exact = f"rounding {bits}", bits, late, late == 0

    def code(self, waveform: np.ndarray) -> Coded:
        scale = 2.0**self.bits
        rounded = (np.round(waveform * scale) / scale).astype(np.float32)
        n_bytes = len(waveform) * self.bits // 8
        return Coded(np.concatenate([np.zeros(self.late, np.float32), rounded]), n_bytes, n_bytes + 100)


class Loudness(Metric):
    """A metric that can judge a recording alone, and has no score for one speaker's stretches."""

    name, label, no_reference = "dnsmos", "loudness", True

    def score(self, pair):
        return None if pair.speaker == "mute" else Score(float(np.abs(pair.degraded).mean()))


@pytest.fixture(scope="module")
def splits():
    return {
        "test": fake_utterances("a", [6.0, 6.5], "en") + fake_utterances("b", [3.5], "fr"),
        "unseen": fake_utterances("mute", [4.0], "ca"),
    }


@pytest.fixture(scope="module")
def report(splits):
    metrics = [*make_metrics(["mel"]), Loudness()]
    return evaluate_codec(splits, [Rounding(12), Rounding(6), Rounding(8, late=160)], metrics, about={"data": ["fake"]})


def test_the_json_has_every_system_on_every_split(report, tmp_path):
    report.write_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text())
    names = ["reference", "rounding 12", "rounding 6", "rounding 8"]
    assert [(s["split"], s["name"]) for s in data["systems"]] == [(p, n) for p in ("test", "unseen") for n in names]
    assert data["protocol"]["data"] == ["fake"]
    assert data["protocol"]["metrics"]["mel"]["higher_is_better"] is False
    own = data["systems"][1]
    assert own["n"] == 3
    assert own["metrics"]["mel"]["n"] == 3
    assert own["by_speaker"]["a"]["n"] == 2
    assert set(own["by_language"]) == {"en", "fr"}
    assert [item["id"] for item in own["items"]] == ["a/en/0000", "a/en/0001", "b/fr/0000"]


def test_means_are_those_of_the_items(report):
    for system in report.systems:
        values = [item["mel"] for item in system.items if item.get("mel") is not None]
        if values:
            assert system.overall.metrics["mel"].mean == pytest.approx(np.mean(values))


def test_rates_come_from_sizes(report):
    twelve = report.systems[1]
    assert twelve.kbps == pytest.approx(12 * 16, rel=1e-3)
    assert twelve.file_kbps == pytest.approx(12 * 16 + 3 * 100 * 8 / 1000 / 16, rel=1e-3)


def test_a_late_system_is_brought_in_line(report):
    late = report.systems[3]
    assert late.delay_ms == pytest.approx(10, abs=1)
    fine, coarse = (report.systems[i].overall.metrics["mel"].mean for i in (1, 2))
    assert fine < late.overall.metrics["mel"].mean < coarse


def test_the_reference_is_judged_only_where_that_says_something(report):
    assert set(report.systems[0].overall.metrics) == {"dnsmos"}
    assert report.systems[0].kbps is None


def test_differences_to_the_recordings_are_paired(report):
    reference, coarse = report.systems[0], report.systems[2]
    differences = [b["dnsmos"] - a["dnsmos"] for a, b in zip(reference.items, coarse.items, strict=True)]
    excess = coarse.excess["dnsmos"]
    assert excess.mean == pytest.approx(np.mean(differences))
    assert excess.ci95 == pytest.approx(4.303 * np.std(differences, ddof=1) / np.sqrt(3), rel=1e-3)
    assert set(coarse.excess) == {"dnsmos"}
    assert reference.excess == {}


def test_the_table_has_the_recordings_in_parentheses_and_differences_below(report):
    table = report.tables()[0]
    column = next(column for column in table.columns if column.header == "DNSMOS below")
    cells = [str(cell) for cell in column.cells]
    assert cells[0].startswith("(")
    assert float(cells[2].split()[0]) == pytest.approx(-report.systems[2].excess["dnsmos"].mean, abs=0.006)


def test_synthesised_speech_is_reported_apart(splits):
    speech = splits["test"] + fake_utterances("kokoro_speech/c", [6.0, 6.0], "en")
    report = evaluate_codec({"test": speech}, [Rounding(8)], make_metrics(["mel"]))
    assert [(s.split, s.overall.n) for s in report.systems] == [("test", 3), ("test, synthetic", 2)]
    alone = evaluate_codec({"test": speech[-2:]}, [Rounding(8)], make_metrics(["mel"]))
    assert [system.split for system in alone.systems] == ["test, synthetic"]


def test_metrics_without_a_score_are_null_not_zero(report, tmp_path):
    unseen = next(s for s in report.systems if s.split == "unseen" and s.name == "rounding 6")
    assert unseen.overall.metrics["dnsmos"] is None
    assert unseen.items[0]["dnsmos"] is None
    assert unseen.overall.metrics["mel"] is not None


def test_the_table_has_a_row_for_each_system(report):
    tables = report.tables()
    assert len(tables) == 2
    assert [str(cell) for cell in tables[0].columns[0].cells] == [s.name for s in report.systems[:4]]


def test_an_empty_split_is_an_error():
    with pytest.raises(AudioVQError, match=r"'test'.*no utterances"):
        evaluate_codec({"test": []}, [Rounding(8)], [])


def test_our_codec_at_its_bit_rates(codec, splits):
    pytest.importorskip("audiovq.bitstream.speech_file")
    systems = [AudioVQSystem(codec, n) for n in (1, 4)]
    report = evaluate_codec({"test": splits["test"][-1:]}, systems, make_metrics(["mel"]))
    assert [system.name for system in report.systems] == ["audiovq 0.4", "audiovq 1.15"]
    for system, of_codes in zip(report.systems, (0.25, 1.0), strict=True):
        assert of_codes < system.kbps < of_codes + 0.5  # random pitch takes more than the nominal 0.15
        assert system.kbps < system.file_kbps < system.kbps + 0.3


def test_a_bit_rate_below_the_lowest_is_refused(codec):
    assert n_codebooks_for(codec, 0.65) == n_codebooks_for(codec, 0.8) == 2
    with pytest.raises(AudioVQError, match=r"needs 0.4 kb/s or more, not 0.1"):
        n_codebooks_for(codec, 0.1)


def test_the_plot_is_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    report.draw(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AudioVQError, match=r"plot.xyz"):
        report.draw(tmp_path / "plot.xyz")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]
