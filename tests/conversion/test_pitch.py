import numpy as np
import pytest
import torch

from audiovq.conversion.pitch import ENOUGH_VOICED, PitchMover, median_hz, move
from audiovq.errors import AudioVQError
from audiovq.interfaces import Packet
from tests.codec.tiny import make_codec, speech_like


def packet(pitch):
    return Packet(np.zeros((1, len(pitch)), np.int64), np.asarray(pitch), 100)


def test_moving_keeps_intervals_and_unvoiced_frames():
    assert move(np.array([0, 50, 54, 0, 60]), 2.0).tolist() == [0, 58, 62, 0, 68]


def test_the_scale_has_ends():
    assert move(np.array([3, 170]), -2.0).tolist() == [1, 162]


def test_auto_waits_for_voiced_speech_and_then_holds_the_interval():
    mover = PitchMover("auto", 200.0)
    assert mover.push([packet([0] * 50 + [49] * 10)]) == []  # 100 Hz
    moved = mover.push([packet([49] * ENOUGH_VOICED)])
    assert len(moved) == 2
    assert mover.semitones == pytest.approx(12.0)
    assert moved[0][0].pitch.max() == 97
    (row,) = mover.push([packet([90] * 20)])  # the source rises: so does the result
    assert row[0].pitch.tolist() == [138] * 20


def test_a_short_source_is_moved_at_its_end():
    mover = PitchMover("auto", 200.0)
    assert mover.push([packet([49] * 5)]) == []
    assert mover.finish()[0][0].pitch.tolist() == [97] * 5


@pytest.mark.parametrize("pitch", ["keep", "auto"])
def test_without_a_target_or_by_request_the_pitch_stays(pitch):
    mover = PitchMover(pitch, None)
    assert mover.push([packet([49] * 5)])[0][0].pitch.tolist() == [49] * 5


def test_unvoiced_speech_has_nothing_to_move():
    mover = PitchMover("auto", 200.0)
    mover.push([packet([0] * 100)])
    assert mover.finish()[0][0].pitch.tolist() == [0] * 100


@pytest.mark.parametrize("pitch", [25.0, "high", float("nan")])
def test_impossible_intervals_are_refused(pitch):
    with pytest.raises(AudioVQError):
        PitchMover(pitch, 100.0)


def test_the_median_is_of_voiced_frames():
    assert median_hz([np.array([0, 0, 49, 49, 97])]) == pytest.approx(100.0)
    assert median_hz([np.zeros(4, np.int64)]) is None


def test_convert_moves_to_the_targets_median_and_keeps_the_length():
    codec = make_codec()
    source, target = speech_like(2.0), speech_like(4.0, 3)
    converted = codec.convert(source, torch.from_numpy(target), pitch="auto")
    assert converted.shape == (1, 1, len(source))
    kept, up = (codec.convert(source, torch.from_numpy(target), pitch=pitch) for pitch in ("keep", 5.0))
    assert not torch.allclose(kept, up)
