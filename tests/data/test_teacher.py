"""Features of a teacher: each utterance's are found again along a speaker's tape, and in crops."""

from __future__ import annotations

import numpy as np
import pytest

from audiovq.data import teacher
from audiovq.data.crops import CropDataset
from audiovq.data.tape import Tape
from audiovq.data.teacher import DIM, HOP, TeacherFeatures, teacher_features, windows
from audiovq.errors import AudioVQError

SECONDS = (1.5, 0.81, 40.0, 2.0, 29.0)


class Recording:
    """As much of an utterance as is asked for: samples that tell where they are from."""

    def __init__(self, number: int, seconds: float) -> None:
        self.id, self.speaker, self.number = f"u{number}", f"s{number % 2}", number
        self.n_samples, self.seconds = round(16000 * seconds), seconds

    def load(self, start=0, n_samples=None):
        rest = np.full(self.n_samples, 1.0 + self.number, np.float32)[start:]
        return rest if n_samples is None else rest[:n_samples]


@pytest.fixture
def recordings():
    return [Recording(i, seconds) for i, seconds in enumerate(SECONDS)]


@pytest.fixture
def hearing(monkeypatch):
    """A teacher that hears which recording a sample is from, and how far into it."""

    def hear(utterances, lead=0):
        for group in windows(utterances, lead):
            for u, start, length, _ in group:
                n = -(-length // HOP)
                rows = np.zeros((n, teacher.WIDTH), np.float16)
                rows[:, 0], rows[:, 1] = u.number + 1, start // HOP + np.arange(n)
                yield u.id, rows

    monkeypatch.setattr(teacher, "_hear", hear)
    monkeypatch.setattr(teacher, "components", lambda hearings: (np.zeros(teacher.WIDTH), np.eye(teacher.WIDTH, DIM)))


@pytest.mark.parametrize("lead", [0, 13 * 16000])
def test_windows_hold_every_sample_once_and_apart(recordings, lead):
    heard = {u.id: 0 for u in recordings}
    for group in windows(recordings, lead):
        end = lead
        for u, start, length, place in group:
            assert place % HOP == 0
            assert place >= end
            assert start == heard[u.id]
            heard[u.id] += length
            end = place + length + 4000
        assert place + length <= 30 * 16000
    assert heard == {u.id: u.n_samples for u in recordings}


def test_a_tape_finds_the_features_of_each_place(recordings, hearing):
    features = teacher_features(recordings)
    tape = Tape(recordings[:2])
    rows = features.reader(tape).read(1000, tape.n_samples)
    assert rows.shape == (tape.n_samples // HOP, DIM)
    middles = (1000 + HOP // 2 + HOP * np.arange(len(rows))) % tape.n_samples
    of_second = middles >= recordings[0].n_samples
    assert np.array_equal(rows[:, 0], np.where(of_second, 2, 1))
    inside = np.where(of_second, middles - recordings[0].n_samples, middles)
    assert np.array_equal(rows[:, 1], inside // HOP)


def test_long_recordings_are_heard_in_parts(recordings, hearing):
    rows = teacher_features(recordings).reader(Tape([recordings[2]])).read(0, recordings[2].n_samples)
    assert np.array_equal(rows[:, 1], np.arange(2000))


def test_what_was_heard_is_kept(recordings, hearing, monkeypatch):
    first = teacher_features(recordings)
    monkeypatch.setattr(teacher, "_hear", None)
    again = teacher_features(recordings)
    place = Tape(recordings[:1])
    assert np.array_equal(first.reader(place).read(0, 16000), again.reader(place).read(0, 16000))
    with pytest.raises(AudioVQError, match="has not heard u1"):
        TeacherFeatures({"u0": np.zeros((75, DIM))}).reader(Tape(recordings[:2]))


def test_components_are_what_does_not_depend_on_the_place():
    draw = np.random.default_rng(0)
    width, n = 80, 4000
    said = draw.standard_normal((n, width)) * np.r_[np.full(DIM, 0.3), np.zeros(width - DIM)]
    places = [draw.standard_normal((n, width)) * np.r_[np.full(DIM, 0.03), np.full(width - DIM, 5.0)] for _ in range(3)]
    turned = np.linalg.qr(draw.standard_normal((width, width)))[0]
    hearings = [((said + place) @ turned + 5).astype(np.float16) for place in places]
    mean, basis = teacher.components(hearings)
    found = [(rows - mean) @ basis for rows in hearings]
    assert found[0].shape == (n, DIM)
    assert np.abs(found[0].mean(axis=0)).max() < 0.1
    variances = found[0].var(axis=0)
    assert 0.5 < variances.min() < variances.max() < 1.1
    agreement = [np.corrcoef(a, b)[0, 1] for a, b in zip(found[0].T, found[1].T, strict=True)]
    assert min(agreement) > 0.9


def test_another_split_is_seen_by_the_same_components(recordings, monkeypatch):
    draw = np.random.default_rng(0)
    states = {
        u.id: draw.standard_normal((-(-u.n_samples // HOP), teacher.WIDTH)).astype(np.float16) for u in recordings
    }
    monkeypatch.setattr(teacher, "_hear", lambda utterances, lead: ((u.id, states[u.id]) for u in utterances))
    first, second = recordings[2:], recordings[:2]
    whole = teacher_features(first)
    apart = teacher_features([*second, first[1]], fitted_on=first)
    tape = Tape([first[1]])
    assert np.array_equal(whole.reader(tape).read(0, 16000), apart.reader(tape).read(0, 16000))
    alone = teacher_features([*second, first[1]])
    assert not np.allclose(whole.reader(tape).read(0, 16000), alone.reader(tape).read(0, 16000), atol=0.1)


def test_crops_bring_what_was_taught(recordings, hearing):
    crops = CropDataset(recordings, 16000, 8000, seed=1, teacher=teacher_features(recordings))
    seen = set()
    for i in range(20):
        item = crops[i]
        assert item["taught"].shape == (50, DIM)
        number = item["waveform"][0, ::HOP].round()  # of whose recording each sample is, but for the fades at joints
        assert (number == item["taught"][:, 0]).float().mean() > 0.9
        seen |= set(item["taught"][:, 0].tolist())
    assert len(seen) > 2
