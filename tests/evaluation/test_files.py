from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiovq.errors import AudioVQError
from audiovq.evaluation.codec import evaluate_files, match_files
from audiovq.evaluation.metrics import make_metrics
from tests.evaluation.conftest import noisy, voice


def write(path, samples, sample_rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate)
    return path


@pytest.fixture
def folders(tmp_path):
    """Two recordings; the second side has other extensions, one louder noise than the other."""
    for number, (name, level) in enumerate((("anna/one", 0.001), ("bert/two", 0.05))):
        samples = voice(2.0, seed=number)
        write(tmp_path / "ref" / f"{name}.wav", samples)
        write(tmp_path / "deg" / f"{name}.flac", noisy(samples, level))
    return tmp_path / "ref", tmp_path / "deg"


def mel(report) -> list[float]:
    return [item["mel"] for item in report.systems[-1].items]


def test_pairs_meet_by_name_whatever_the_extension(folders):
    report = evaluate_files(*folders, make_metrics(["mel"]))
    result = report.systems[-1]
    assert [item["id"] for item in result.items] == ["anna/one", "bert/two"]
    assert mel(report)[0] < mel(report)[1]
    assert set(result.by_speaker) == {"anna", "bert"}
    assert result.kbps is None


def test_rates_and_channels_are_brought_together(tmp_path):
    samples = voice(2.0)
    write(tmp_path / "ref" / "a.wav", samples)
    import soxr

    stereo = np.stack([soxr.resample(samples, 16000, 48000)] * 2, axis=1)
    write(tmp_path / "deg" / "a.wav", stereo, 48000)
    assert mel(evaluate_files(tmp_path / "ref", tmp_path / "deg", make_metrics(["mel"])))[0] < 0.15


def test_channels_of_opposite_phase_are_not_averaged_to_silence(tmp_path):
    samples = voice(2.0)
    write(tmp_path / "ref" / "a.wav", samples)
    write(tmp_path / "deg" / "a.wav", np.stack([samples, -samples], axis=1))
    assert mel(evaluate_files(tmp_path / "ref", tmp_path / "deg", make_metrics(["mel"])))[0] < 0.01


def test_align_takes_a_common_delay_out(folders):
    reference, degraded = folders
    for path in degraded.rglob("*.flac"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, np.concatenate([np.zeros(800), samples]), rate)
    metrics = make_metrics(["mel"])
    late, aligned = (evaluate_files(reference, degraded, metrics, align=align) for align in (False, True))
    assert aligned.systems[-1].delay_ms == pytest.approx(50, abs=1)
    assert sum(mel(aligned)) < 0.8 * sum(mel(late))


def test_what_is_wrong_is_said(folders, tmp_path):
    reference, degraded = folders
    with pytest.raises(AudioVQError, match=r"no such folder.*nowhere"):
        match_files(reference, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioVQError, match=r"no recordings.*empty"):
        match_files(tmp_path / "empty", degraded)
    extra = write(degraded / "bert" / "three.wav", voice(1.0))
    with pytest.raises(AudioVQError, match=r"no partner.*three.wav"):
        match_files(reference, degraded)
    extra.rename(degraded / "bert" / "two.wav")
    with pytest.raises(AudioVQError, match=r"extension"):
        match_files(reference, degraded)


def test_recordings_of_other_things_are_refused(folders):
    reference, degraded = folders
    write(degraded / "bert" / "two.flac", voice(3.0))
    with pytest.raises(AudioVQError, match=r"bert/two.*2.00 s and 3.00 s"):
        evaluate_files(reference, degraded, make_metrics(["mel"]))


def test_text_named_wav_is_one_line(folders):
    reference, degraded = folders
    (reference / "anna" / "one.wav").write_text("not sound")
    with pytest.raises(AudioVQError, match=r"cannot decode .*one.wav"):
        evaluate_files(reference, degraded, make_metrics(["mel"]))


def test_there_is_no_plot_of_pairs(folders, tmp_path):
    pytest.importorskip("matplotlib")
    report = evaluate_files(*folders, make_metrics(["mel"]))
    with pytest.raises(AudioVQError, match=r"nothing was coded"):
        report.draw(tmp_path / "plot.png")
