"""The measures of conversion on signals whose answers are known, and the protocol on a corpus made up for it."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest

from audiovq.cli import main
from audiovq.data.utterance import write_shards
from audiovq.errors import AudioVQError
from audiovq.evaluation.conversion import (
    CHOICES,
    MEASURES,
    Judge,
    ScoreCache,
    chosen_metrics,
    cosines,
    evaluate_conversion,
    evaluate_groups,
    nearest,
    unit,
)
from audiovq.evaluation.metrics import f0_correlation, make_metrics, median_distance, track_f0
from audiovq.evaluation.pairs import PAIRS_FILE, WorldConverter, group_pairs, read_pairs, spread
from audiovq.evaluation.plots import draw_matrices
from audiovq.evaluation.protocol import fingerprint
from audiovq.hub import save_weights
from recipes.voice_conversion.make_pairs import build_pairs
from tests.conversion.test_f0 import buzz
from tests.evaluation.conftest import FakeUtterance, voice

GLIDE = 150 * 2 ** (0.3 * np.sin(np.linspace(0, 15, 32000)))


def test_a_moved_melody_correlates_fully():
    source = track_f0(buzz(GLIDE, 2.0))
    assert f0_correlation(source, track_f0(buzz(1.5 * GLIDE, 2.0))) == pytest.approx(1, abs=0.01)
    assert f0_correlation(source, track_f0(buzz(22500 / GLIDE, 2.0))) == pytest.approx(-1, abs=0.01)
    assert abs(f0_correlation(source, track_f0(buzz(150 * 2 ** np.linspace(0, 0.5, 32000), 2.0)))) < 0.5


def test_a_melody_that_cannot_be_compared():
    flat, still = np.full(200, 150.0), np.zeros(200)
    assert f0_correlation(flat, track_f0(buzz(GLIDE, 2.0))) is None
    assert f0_correlation(still, still) is None


def test_register_distance_is_in_semitones():
    assert median_distance(track_f0(buzz(200.0)), 100.0) == pytest.approx(12, abs=0.05)
    assert median_distance(track_f0(buzz(100.0)), 200.0) == pytest.approx(12, abs=0.05)
    assert median_distance(np.zeros(100), 200.0) is None
    assert median_distance(track_f0(buzz(100.0)), None) is None


def test_the_nearest_voice():
    centroids = {"a": unit(np.array([1.0, 0.1])), "b": unit(np.array([0.0, 2.0]))}
    found = cosines(unit(np.array([0.2, 0.9])), centroids)
    assert nearest(found) == "b"
    assert found["b"] == pytest.approx(0.976, abs=0.001)
    assert set(cosines(None, centroids).values()) == {0.0}


def test_what_is_measured_can_be_chosen_metrics():
    assert chosen_metrics(None) == list(CHOICES)
    assert chosen_metrics(["f0_correlation", "f0_correlation"]) == ["f0_correlation"]
    with pytest.raises(AudioVQError, match="no metric 'pesq' of conversion"):
        chosen_metrics(["pesq"])
    assert [name for group in CHOICES.values() for name in group] == list(MEASURES)


def test_judgements_are_made_once(tmp_path):
    made = []
    for _ in range(2):
        assert ScoreCache(tmp_path).get("a", "key", lambda: made.append(1) or [0.5, None]) == [0.5, None]
    assert len(made) == 1
    (tmp_path / "a" / "key.json").write_text("{")
    assert ScoreCache(tmp_path).get("a", "key", lambda: 2) == 2
    assert ScoreCache(tmp_path).get("b", "key", lambda: 3) == 3
    assert fingerprint(np.zeros(3), 1) != fingerprint(np.zeros(3), 2) != fingerprint(np.ones(3), 2)


def made_up_corpus():
    """Three main voices with an unseen one; 80 s of each utterance, so that few make five minutes."""
    pitches = {"x/low": 100.0, "x/middle": 160.0, "x/high": 240.0}
    utterances = []
    for speaker, hz in pitches.items():
        counts = {"train": (70, 5.0), "validation": (4, 4.0), "test": (8, 4.0)}
        utterances += [made_up(speaker, split, i, hz, s) for split, (n, s) in counts.items() for i in range(n)]
    return utterances + [made_up("x/other", "unseen", i, 130.0, 6.0) for i in range(30)]


def made_up(speaker, split, i, hz, seconds):
    name = f"{speaker.replace('/', '-')}-{split}-{i:02d}"
    utterance = FakeUtterance(name, speaker, "xx", None, voice(seconds, pitch=hz, seed=i % 3))
    utterance.split, utterance.source, utterance.licence = split, "made up", "CC0"
    return utterance


@pytest.fixture(scope="module")
def corpus():
    return made_up_corpus()


def splits_of(utterances, ids):
    split = {utterance.id: utterance.split for utterance in utterances}
    return {split[id] for id in ids}


def test_pairs_keep_what_converts_apart_from_what_judges(corpus):
    plan = build_pairs(corpus)
    assert build_pairs(corpus[::-1]) == plan
    seen = [voice for voice in plan["speakers"].values() if voice["kind"] == "seen"]
    assert len(seen) == 3
    for one in seen:
        assert splits_of(corpus, one["reference"]) == {"train"}
        assert splits_of(corpus, [id for ids in one["judge"] for id in ids]) == {"validation"}
        assert splits_of(corpus, [id for ids in one["real"] for id in ids]) == {"test"}
    other = plan["speakers"]["x/other"]
    parts = [other["reference"], *other["judge"], *other["real"]]
    assert len({id for ids in parts for id in ids}) == sum(len(ids) for ids in parts)
    assert splits_of(corpus, [id for ids in plan["sources"].values() for id in ids]) == {"test"}
    assert all(not id.startswith(target.removeprefix("x/")) for id, target in plan["pairs"])
    assert sum(target == "x/other" for _, target in plan["pairs"]) == 3


def test_the_committed_pairs():
    plan = json.loads(PAIRS_FILE.read_text())
    kinds = [plan["speakers"][target]["kind"] for _, target in plan["pairs"]]
    assert (kinds.count("seen"), kinds.count("unseen")) == (60, 30)
    assert len(set(map(tuple, plan["pairs"]))) == 90
    targets = [target for _, target in plan["pairs"]]
    assert {targets.count(name) for name, one in plan["speakers"].items() if one["kind"] == "seen"} == {4}
    assert all(id.split("/")[0] != target.rpartition("/")[2] for id, target in plan["pairs"])


def test_a_corpus_without_the_recordings(corpus):
    with pytest.raises(AudioVQError, match="the corpus has no recording"):
        read_pairs(corpus)


def test_spread_takes_enough_from_all_over(corpus):
    spoken = [u for u in corpus if u.speaker == "x/low" and u.split == "train"]
    taken = spread(spoken, 50.0)
    assert 50 <= sum(u.seconds for u in taken) < 56
    assert taken[0].id < spoken[10].id
    assert taken[-1].id > spoken[-10].id
    assert spread(spoken, 1e6) == spoken


class Copy:
    """Gives the target's own recording, or the source, cut to the source's length."""

    family, call = "converter", "for tests"

    def __init__(self, name, keeps_words):
        self.name, self.keeps_words = name, keeps_words

    def convert(self, pair):
        return pair.source.load() if self.keeps_words else pair.target.real[0].load()


@pytest.fixture
def pairs(corpus, tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(build_pairs(corpus)))
    return read_pairs(corpus, path)


def test_the_protocol(pairs, tmp_path):
    ways = [Copy("target", False), Copy("source", True)]
    report = evaluate_conversion(pairs, ways, ["f0_correlation", "median_f0"], cache=ScoreCache(tmp_path / "cache"))
    assert [(s.name, s.split) for s in report.systems] == [
        ("target", "seen"),
        ("source", "seen"),
        ("target", "unseen"),
        ("source", "unseen"),
    ]
    target, source = report.systems[:2]
    assert target.overall.metrics["median_f0"].mean < 1 < 4 < source.overall.metrics["median_f0"].mean
    assert target.overall.metrics["f0_correlation"] is None
    assert source.overall.metrics["f0_correlation"].mean == pytest.approx(1)
    assert report.protocol["pairs"] == {"seen": len(pairs.pairs) - 3, "unseen": 3}
    assert report.metric_names == ["f0_correlation", "median_f0"]
    assert len(report.tables()) == 2
    report.write_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["similarity"] == {}
    with pytest.raises(AudioVQError, match="must include speaker"):
        report.draw(tmp_path / "x.png")


def test_fewer_pairs(pairs):
    assert len(pairs.limited(4).pairs) == 4
    assert {pair.kind for pair in pairs.limited(6).pairs} == {"seen", "unseen"}
    assert pairs.limited(0) is pairs


class Loud(Copy):
    def convert(self, pair):
        return np.full(10, np.nan, np.float32) if self.name == "nan" else np.zeros(10, np.float32)


@pytest.mark.parametrize(("name", "says"), [("nan", "NaN"), ("short", "10 samples came out of")])
def test_converters_that_do_not_fit(pairs, tmp_path, name, says):
    with pytest.raises(AudioVQError, match=says):
        evaluate_conversion(pairs, [Loud(name, True)], ["f0_correlation"], cache=ScoreCache(tmp_path / "cache"))


def test_voices_are_found_by_ear(pairs, tmp_path):
    if find_spec("webrtcvad") is None:
        pytest.skip("resemblyzer is not installed")
    judge = Judge(pairs.speakers, ["speaker"], ScoreCache(tmp_path / "cache"))
    judge.prepare()
    pair = pairs.pairs[0]
    scores = judge.score(pair, pair.target.real[0].load(), False)
    assert scores["target"].value > scores["source"].value
    assert scores["closer"].value == scores["identified"].value == 100
    scores = judge.score(pair, pair.source.load(), True)
    assert scores["closer"].value == scores["identified"].value == 0
    assert set(judge.similarities) == set(pairs.speakers)


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    matrix = {"x/a": {"x/a": 0.9, "x/b": 0.5, "x/c": 0.6}, "x/b": {"x/a": 0.4, "x/b": 0.8, "x/c": 0.6}}
    draw_matrices({"one": matrix, "two": matrix}, tmp_path / "m.png")
    assert (tmp_path / "m.png").stat().st_size > 10_000
    with pytest.raises(AudioVQError, match="cannot draw"):
        draw_matrices({"one": matrix}, tmp_path / "m.xyz")


def test_the_command_line(codec, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AUDIOVQ_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pairs.json").write_text(json.dumps(build_pairs(corpus)))
    monkeypatch.setattr("audiovq.evaluation.pairs.PAIRS_FILE", tmp_path / "pairs.json")
    monkeypatch.setattr(read_pairs, "__defaults__", (tmp_path / "pairs.json",))
    save_weights(codec, tmp_path / "model")
    write_shards(corpus, tmp_path / "corpus")
    common = ["evaluate", "conversion", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "corpus")]
    target = tmp_path / "report.json"
    done = main(
        [*common, "--metrics", "f0_correlation,median_f0", "--limit", "3", "--codebooks", "1,2", "--json", str(target)]
    )
    assert done == 0
    assert "log-F0 r" in capsys.readouterr().out
    names = [system["name"] for system in json.loads(target.read_text())["systems"] if system["split"] == "seen"]
    assert names == [
        "target, real speech",
        "source, unconverted",
        "source, coded (1)",
        "converted (1, pitch auto)",
        "source, coded (2)",
        "converted (2, pitch auto)",
    ]
    for extra, says in (
        (["--metrics", "pesq"], "no metric"),
        (["--pitch", "up"], "--pitch"),
        (["--align"], "No such option: --align"),
    ):
        assert main([*common, *extra]) in (1, 2)
        assert says in capsys.readouterr().err


def grouped(group, split, speakers):
    """The same sentence by several speakers: the same F0, more or less of a band."""
    utterances = []
    for k, speaker in enumerate(speakers):
        utterance = made_up(speaker, split, int(group[1:]), 120.0 + 3 * int(group[1:]), 4.0)
        utterance.samples = utterance.samples * np.float32(1 + k)
        utterance.group, utterance.id = group, f"{group}-{k}"
        utterances.append(utterance)
    return utterances


@pytest.fixture
def groups():
    utterances = grouped("g0", "train", ["x/a", "x/b", "x/c"]) + grouped("g1", "test", ["x/a", "x/b", "x/c"])
    utterances += grouped("g2", "test", ["x/a", "x/b"]) + grouped("g3", "unseen", ["x/new", "x/other"])
    return utterances + grouped("g4", "unseen", ["x/new", "x/other"])


def test_pairs_of_groups(groups):
    found = group_pairs(groups[::-1])
    assert {pair.id for pair in found.pairs if pair.kind == "seen"} == {
        *("g1-0 to g1-1", "g1-1 to g1-2", "g1-2 to g1-0"),
        *("g2-0 to g2-1", "g2-1 to g2-0"),
    }
    assert sum(pair.kind == "unseen" for pair in found.pairs) == 4
    for pair in found.pairs:
        (source,), (truth,) = pair.source.utterances, pair.truth.utterances
        assert source.group == truth.group
        assert source.speaker != truth.speaker == pair.target.speaker
        assert all(u.speaker == truth.speaker and u.group != truth.group for u in pair.target.reference.utterances)
        assert {source.split, truth.split} <= {"test", "unseen"}
        if pair.kind == "seen":
            assert {u.split for u in pair.target.reference.utterances} == {"train"}
    with pytest.raises(AudioVQError, match="no group"):
        group_pairs(groups[:3])


class Truth(Copy):
    """Gives the true result, a semitone higher where asked."""

    def convert(self, pair):
        if self.name == "true":
            return pair.truth.load()
        return voice(4.0, pitch=2 ** (1 / 12) * (120.0 + 3 * int(pair.id[1])), seed=int(pair.id[1]) % 3)


def test_groups_are_scored_against_the_true_result(groups, tmp_path):
    converters = [Truth("true", True), Truth("higher", True)]
    report = evaluate_groups(group_pairs(groups), converters, make_metrics(["mel", "f0", "voicing"]))
    assert [(s.name, s.split) for s in report.systems] == [
        ("true", "seen"),
        ("higher", "seen"),
        ("true", "unseen"),
        ("higher", "unseen"),
    ]
    true, higher = (system.overall.metrics for system in report.systems[:2])
    assert true["mel"].mean == true["f0"].mean == true["voicing"].mean == 0
    assert higher["f0"].mean == pytest.approx(1, abs=0.15)
    assert higher["mel"].mean > 0.1
    report.write_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["protocol"]["pairs"] == {"seen": 5, "unseen": 4}


def test_groups_by_the_command_line(codec, groups, tmp_path, capsys):
    save_weights(codec, tmp_path / "model")
    write_shards(groups, tmp_path / "corpus")
    common = ["evaluate", "conversion", "--model", str(tmp_path / "model"), "--groups", str(tmp_path / "corpus")]
    target = tmp_path / "report.json"
    assert main([*common, "--metrics", "mel,level", "--limit", "3", "--codebooks", "1", "--json", str(target)]) == 0
    names = [system["name"] for system in json.loads(target.read_text())["systems"] if system["split"] == "seen"]
    assert names == ["source, unconverted", "true result, coded (1)", "converted (1, pitch keep)"]
    assert "level dB" in capsys.readouterr().out
    assert main([*common, "--metrics", "median_f0"]) == 1
    assert "no metric 'median_f0'" in capsys.readouterr().err


def test_the_plainest_converter(pairs):
    if find_spec("pyworld") is None:
        pytest.skip("pyworld is not installed")
    pair = next(pair for pair in pairs.pairs if pair.id.startswith("low") and pair.target.speaker == "x/high")
    source, converted = pair.source.load(), WorldConverter().convert(pair)
    assert converted.shape == source.shape
    assert median_distance(track_f0(converted), 240.0) < 2 < 10 < median_distance(track_f0(source), 240.0)
    assert f0_correlation(track_f0(source), track_f0(converted)) > 0.8
