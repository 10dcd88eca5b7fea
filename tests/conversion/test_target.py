"""Target voices: recordings averaged, bad ones told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from audiovq.conversion.files import Conversion
from audiovq.conversion.pitch import PitchMover, doubts, heard_seconds, median_hz
from audiovq.conversion.target import BundledVoice, TargetVoice, read_voices, separation, target_voice, write_voices
from audiovq.errors import AudioVQError
from tests.conversion.test_f0 import buzz
from tests.evaluation.conftest import voice

RATE = 16000


def vector_of(codec, *recordings, block=None):
    target = TargetVoice(codec)
    for recording in recordings:
        for i in range(0, len(recording), block or max(len(recording), 1)):
            target.add(recording[i : i + (block or len(recording))])
        target.finish_recording()
    return target.vector()


def test_a_short_recording_has_the_vector_that_a_file_of_it_has(codec):
    samples = voice(0.9)
    assert np.array_equal(vector_of(codec, samples), codec.encode([torch.from_numpy(samples)]).speaker[0].numpy())


def test_the_vector_does_not_depend_on_how_the_recording_arrives(codec):
    samples = voice(13.0)
    assert np.array_equal(vector_of(codec, samples), vector_of(codec, samples, block=777))


def test_several_are_averaged_before_rounding(codec):
    a, b = voice(3.0), voice(3.0, pitch=230.0, seed=5)
    levels = [codec.speaker_levels(x) for x in (a, b)]
    weights = [heard_seconds(x, RATE) for x in (a, b)]
    between = np.average(levels, axis=0, weights=weights)
    found = vector_of(codec, a, b)
    assert np.abs(found - between).max() <= 0.5 + 1e-5
    assert not np.array_equal(found, vector_of(codec, a))


def test_vectors_of_files_are_averaged_too(codec):
    target = TargetVoice(codec)
    target.add_vector(np.array([0, 4, 8, 12, 15, 1]))
    target.add_vector(np.array([2, 6, 8, 14, 15, 3]))
    assert target.vector().tolist() == [1, 5, 8, 13, 15, 2]


@pytest.mark.parametrize(
    ("samples", "says"),
    [(np.zeros(RATE * 4, np.float32), "silence"), (voice(0.2), "several seconds"), (np.zeros(0), "silence")],
)
def test_silence_and_snippets_are_refused(codec, samples, says):
    with pytest.raises(AudioVQError, match=says):
        vector_of(codec, samples)


def warnings_for(codec, *recordings):
    target = TargetVoice(codec)
    for recording in recordings:
        target.add(recording)
        target.finish_recording()
    return " ".join(target.warnings())


def test_little_speech_and_noise_are_warned_of(codec):
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    assert "several seconds" in warnings_for(codec, voice(1.5))
    assert "noise" in warnings_for(codec, noise)
    assert "music" in warnings_for(codec, buzz(220.0, 4.0))
    assert warnings_for(codec, voice(8.0)) == ""


def test_two_groups_are_told_from_one():
    draw = np.random.default_rng(0)
    one = [draw.normal(size=6) for _ in range(10)]
    two = [draw.normal(size=6) + 6 * (i % 2) for i in range(10)]
    assert separation(two) > 20 > separation(one)
    assert separation(two[:3]) == 0
    assert separation([np.zeros(6)] * 8) == 0


def test_doubts():
    assert doubts(voice(4.0), RATE) is None
    assert doubts(np.zeros(RATE, np.float32), RATE) is not None
    assert doubts(voice(0.4), RATE) is None


def chords(n_samples, seed=0):
    """Four decaying notes at once, others every half second."""
    t, x = np.arange(n_samples) / RATE, np.zeros(n_samples)
    for begin, root in zip(range(0, n_samples, RATE // 2), np.resize([220.0, 174.6, 196.0, 164.8], 99), strict=False):
        for pitch in root * np.array([0.5, 1, 1.26, 1.5]):
            x[begin:] += np.sin(2 * np.pi * pitch * t[: n_samples - begin]) * np.exp(-t[: n_samples - begin])
    return x


@pytest.mark.parametrize("background", [chords, lambda n: np.random.default_rng(0).standard_normal(n)])
def test_a_background_of_music_or_noise_is_warned_of(codec, background):
    """Speech has pauses; noise and music fill them."""
    speech = voice(8.0) * (np.arange(8 * RATE) % RATE < 0.8 * RATE)
    other = background(len(speech))
    other *= np.sqrt(np.mean(speech**2) / np.mean(other**2))
    assert warnings_for(codec, speech, speech) == ""
    assert warnings_for(codec, (speech + 10**-1.5 * other).astype(np.float32)) == ""
    mixed = (speech + 10**-0.5 * other).astype(np.float32)
    assert "in the background, " in warnings_for(codec, mixed)
    assert "in the background, " in (doubts(mixed, RATE) or "")


def test_remarks_name_a_recording_only_among_others(codec, tmp_path):
    speech = voice(4.0)
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for path in paths:
        soundfile.write(path, np.stack([speech, -speech], axis=1), RATE)
    (warning,) = target_voice(codec, paths[:1]).warnings()
    assert warning.startswith("its channels cancel each other")
    assert [w.partition(": ")[0] for w in target_voice(codec, paths).warnings()[:2]] == paths


def test_a_conversion_warns_of_a_source_that_opens_with_noise():
    noise = 0.1 * np.random.default_rng(0).standard_normal((12 * RATE, 1)).astype(np.float32)
    for source, warned in ((noise, True), (voice(12.0)[:, None], False)):
        conversion = Conversion(np.zeros(8), PitchMover("keep", None))
        for i in range(0, len(source), 5000):
            conversion.observe(source[i : i + 5000], RATE)
        assert ("noise" in " ".join(conversion.remarks())) == warned


VOICE = BundledVoice("anna", ["en", "fr"], "female", 12.5, 210.0, [1, 2, 3, 4, 5, 6, 7, 8], "CC0", "made up")


def test_voices_beside_a_model(codec, tmp_path):
    assert read_voices(codec) == {}
    write_voices(codec, [VOICE], tmp_path)
    codec.folder = tmp_path
    assert read_voices(codec) == {"anna": VOICE}
    found = codec.target_voice("anna")
    assert found.vector().tolist() == VOICE.vector
    assert found.pitch == pytest.approx(210.0)
    with pytest.raises(AudioVQError, match="did you mean anna"):
        codec.target_voice("ana")
    with pytest.raises(AudioVQError, match="no such file"):
        codec.target_voice("ana.wav")


def test_voices_of_other_weights_are_refused(codec, tmp_path):
    path = write_voices(codec, [VOICE], tmp_path)
    codec.folder, codec.model_hash = tmp_path, b"abcd"
    with pytest.raises(AudioVQError, match="was made with model"):
        read_voices(codec)
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(AudioVQError, match="damaged"):
            read_voices(codec)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("vector", []),
        ("vector", "abc"),
        ("vector", [1.5] * 8),
        ("vector", [[1] * 8]),
        ("vector", [-1] * 8),
        ("vector", None),
        ("pitch", "high"),
        ("pitch", float("nan")),
        ("pitch", -3.0),
        ("pitch", [200.0]),
        ("name", None),
    ],
)
def test_voices_with_values_of_no_speaker(codec, tmp_path, entry, value):
    write_voices(codec, [replace(VOICE, **{entry: value})], tmp_path)
    codec.folder = tmp_path
    with pytest.raises(AudioVQError, match=r"speakers\.json is damaged"):
        read_voices(codec)


def test_voices_with_values_that_the_model_does_not_have(codec, tmp_path):
    write_voices(codec, [replace(VOICE, vector=[codec.n_speaker_levels] * len(VOICE.vector))], tmp_path)
    codec.folder = tmp_path
    with pytest.raises(AudioVQError, match=r"values that model .* does not know"):
        codec.target_voice("anna")


@pytest.mark.parametrize("pitch", ["auto", "keep", 2.0])
def test_converting_waveforms(codec, pitch):
    a, b = torch.from_numpy(voice(2.0)), torch.from_numpy(voice(1.3, seed=1))
    converted = codec.convert([a, b], torch.from_numpy(voice(3.0, pitch=220.0)), pitch=pitch)
    assert converted.shape == (2, 1, len(a))
    assert not converted[1, 0, len(b) :].any()
    assert torch.isfinite(converted).all()


def test_converting_is_coding_with_another_vector(codec):
    source, target = torch.from_numpy(voice(2.0)), codec.target_voice(voice(3.0, pitch=220.0))
    converted = codec.convert([source], target, n_codebooks=1, pitch="keep")
    encoded = codec.encode([source], n_codebooks=1)
    assert torch.equal(converted, codec.decode(encoded, speaker=torch.from_numpy(target.vector())[None]))
    assert not torch.equal(converted, codec.decode(encoded))


def test_the_median_pitch_of_a_coded_target(codec, tmp_path):
    codec.save(codec.encode([torch.from_numpy(voice(5.0))]), tmp_path / "a.avq")
    coded, loaded = codec.target_voice(tmp_path / "a.avq"), codec.load(tmp_path / "a.avq")
    assert coded.vector().tolist() == loaded.speaker[0].tolist()
    assert coded.pitch == pytest.approx(median_hz([loaded.pitch[0, :150].numpy()]))
