from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics import METRICS, OPTIONAL, LevelDifference, MelDistance, log_mel, make_metrics
from audiovq.evaluation.protocol import Pair
from tests.evaluation.conftest import noisy, voice

PACKAGES = {
    "pesq": "pesq",
    "stoi": "pystoi",
    "mel": "librosa",
    "level": "numpy",
    "dnsmos": "speechmos",
    "distillmos": "distillmos",
    "speaker": "webrtcvad",
    "phones": "hama",
    "f0": "parselmouth",
    "voicing": "parselmouth",
}
SPEECH = Path(__file__).resolve().parents[2] / "recipes" / "demo" / "speech.flac"


def made(name: str):
    """The metric, skipped where its package is not installed."""
    from importlib.util import find_spec

    if find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    return make_metrics([name])[0]


def value(metric, reference: np.ndarray, degraded: np.ndarray) -> float:
    return metric.score(Pair("a", reference, degraded)).value


@pytest.mark.parametrize(
    ("name", "best"),
    [("pesq", 4.644), ("stoi", 1.0), ("mel", 0.0), ("speaker", 1.0), ("level", 0.0), ("f0", 0.0), ("voicing", 0.0)],
)
def test_equal_recordings_get_the_best_value(name, best, clean):
    assert value(made(name), clean, clean.copy()) == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("name", ["pesq", "stoi", "mel", "speaker", "voicing"])
def test_more_noise_is_worse(name, clean):
    metric = made(name)
    values = [value(metric, clean, noisy(clean, level)) for level in (0.001, 0.01, 0.1)]
    assert values == sorted(values, reverse=metric.higher_is_better)
    assert len(set(values)) == 3


@pytest.mark.parametrize("name", ["dnsmos", "distillmos"])
def test_noise_is_rated_without_a_reference(name, clean):
    metric = made(name)
    if name == "distillmos":  # it takes the made-up voice for noise
        clean = soundfile.read(SPEECH, dtype="float32")[0]
    loud_noise = noisy(np.zeros_like(clean), 0.2)
    assert value(metric, clean, clean) > value(metric, clean, loud_noise) + 0.1
    assert value(metric, clean, clean) == value(metric, loud_noise, clean)


@pytest.mark.parametrize("name", ["pesq", "stoi", "speaker", "level", "f0", "voicing"])
def test_a_silent_reference_has_no_score(name, clean):
    silence = np.zeros_like(clean)
    assert made(name).score(Pair("a", silence, clean)) is None


@pytest.mark.parametrize(("name", "at_most"), [("pesq", 1.05), ("stoi", 0.05), ("speaker", 0.1), ("level", -60)])
def test_a_codec_that_loses_everything_is_rated_not_left_out(name, at_most, clean):
    assert value(made(name), clean, np.zeros_like(clean)) <= at_most


@pytest.mark.parametrize("name", list(PACKAGES))
@pytest.mark.parametrize("n_samples", [0, 1, 160, 2000])
def test_clips_too_short_to_judge_do_not_crash(name, n_samples):
    samples = voice(1.0)[:n_samples]
    score = made(name).score(Pair("a", samples, samples, language="en"))
    assert score is None or np.isfinite(score.value)


def test_mel_distance_is_symmetric_and_in_nepers(clean):
    other = noisy(clean, 0.01)
    metric = MelDistance()
    assert value(metric, clean, other) == pytest.approx(value(metric, other, clean))
    loud = noisy(clean, 0.1)  # far above the floor everywhere, so that a gain moves every band by its logarithm
    assert value(metric, loud, 2 * loud) == pytest.approx(np.log(2), rel=1e-3)


def test_log_mel_has_its_shape_and_floor():
    assert log_mel(np.zeros(16000, np.float32)).shape == (80, 63)
    assert log_mel(np.zeros(16000, np.float32)).max() == pytest.approx(np.log(1e-5))


def test_speaker_cosine_tells_voices_apart():
    metric = made("speaker")
    low, again, high = voice(4, 100, seed=1), voice(4, 100, seed=2), voice(4, 260, seed=3)
    assert value(metric, low, again) > value(metric, low, high) + 0.02


def test_unknown_names_are_refused():
    with pytest.raises(AudioVQError, match=r"no metric 'pesk'.*pesq"):
        make_metrics(["mel", "pesk"])


def test_every_metric_says_what_it_is():
    for name in METRICS:
        assert METRICS[name].name == name
        assert METRICS[name].label


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("pesq", "pesq"),
        ("stoi", "pystoi"),
        ("dnsmos", "speechmos"),
        ("speaker", "resemblyzer"),
        ("wer", "faster_whisper"),
        ("wer", "jiwer"),
        ("phones", "hama.asr"),
        ("phones", "jiwer"),
        ("distillmos", "distillmos"),
        ("f0", "parselmouth"),
        ("voicing", "parselmouth"),
    ],
)
def test_a_missing_package_is_one_line_that_names_the_extra(name, package, monkeypatch):
    import sys

    from audiovq.evaluation.pretrained import shared_whisper

    shared_whisper.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AudioVQError, match=r"audiovq\[eval\]") as caught:
        make_metrics([name])
    assert package in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_new_judges_are_left_out_with_a_warning_where_they_are_missing(monkeypatch, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "hama.asr", None)
    monkeypatch.setitem(sys.modules, "distillmos", None)
    with caplog.at_level(logging.WARNING):
        metrics = make_metrics(None, ["mel", *OPTIONAL])
    assert [metric.name for metric in metrics] == ["mel"]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split()[0] for message in messages] == list(OPTIONAL)
    assert all("audiovq[eval]" in message for message in messages)


def test_level_is_in_decibels(clean):
    metric = LevelDifference()
    assert value(metric, clean, 2 * clean) == pytest.approx(6.02, abs=0.01)
    assert value(metric, 2 * clean, clean) == pytest.approx(-6.02, abs=0.01)


def test_f0_error_is_in_semitones_and_voicing_error_in_percent():
    time = np.arange(32000) / 16000
    low, high = (np.sign(np.sin(2 * np.pi * hz * time)).astype(np.float32) * 0.3 for hz in (120, 150))
    assert value(made("f0"), low, high) == pytest.approx(12 * np.log2(150 / 120), abs=0.02)
    assert value(made("voicing"), low, high) == 0
    half = np.where(time < 1, low, 0.01 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)
    assert value(made("voicing"), low, half) == pytest.approx(50, abs=3)


def test_phone_errors_of_speech_grow_with_noise():
    metric = made("phones")
    speech, _ = soundfile.read(SPEECH, dtype="float32")
    rates = []
    for level in (0.0, 0.01, 0.05):
        score = metric.score(Pair("a", speech, noisy(speech, level), language="en"))
        rates.append(score.value)
        assert score.weight > 30
    assert rates[0] == 0 < rates[1] < rates[2]
    assert metric.score(Pair("a", speech, speech, language="fr")) is None


def test_distillmos_needs_no_torchaudio_and_prints_nothing(monkeypatch, capsys):
    import sys

    before = sys.modules.get("torchaudio")
    monkeypatch.delitem(sys.modules, "distillmos", raising=False)
    made("distillmos")
    assert sys.modules.get("torchaudio") is before
    assert capsys.readouterr().out == ""


def test_samples_that_are_not_numbers_are_refused(clean):
    broken = clean.copy()
    broken[100] = np.nan
    with pytest.raises(AudioVQError, match=r"utterance/7.*degraded"):
        Pair("utterance/7", clean, broken)
