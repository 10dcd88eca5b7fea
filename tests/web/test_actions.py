"""What the page's buttons do, without a browser."""

from __future__ import annotations

import os
import tempfile
from io import BytesIO

import numpy as np
import pytest
import soundfile
import torch

from audiovq.bitstream import encode_file, load_encoded
from audiovq.errors import AudioVQError
from audiovq.web import actions
from tests.codec.tiny import make_codec


def recording(path, codec, max_seconds=60.0):
    return actions.read_recording(path, codec.sample_rate, max_seconds)


class TestRecording:
    def test_channels_are_mixed_and_resampled(self, audio):
        found = actions.read_recording(audio("two.flac", 1.5, 44100, 2), 16000, 60)
        assert (found.name, found.samples.shape, found.samples.dtype) == ("two.flac", (24000,), np.float32)
        assert found.pcm_bytes == 48000
        assert found.mp3_bytes == 12000

    def test_the_float_copy_is_exact(self, audio):
        found = actions.read_recording(audio(), 16000, 60)
        samples, rate = soundfile.read(found.wav(), dtype="float32")
        assert rate == 16000
        assert np.array_equal(samples, found.samples)

    @pytest.mark.parametrize("name", ["long.wav", "long.ogg"])
    def test_too_long(self, audio, name, tmp_path):
        with pytest.raises(AudioVQError, match=r"^long\.\w+: is longer than 1 s.*--max-seconds") as error:
            actions.read_recording(audio(name, 1.2), 16000, 1)
        assert str(tmp_path) not in str(error.value)

    def test_exactly_as_long_as_allowed(self, audio):
        assert actions.read_recording(audio(seconds=1.0), 16000, 1.0).seconds == 1.0

    def test_not_audio(self, tmp_path):
        (tmp_path / "notes.txt").write_text("no audio")
        with pytest.raises(AudioVQError, match=r"^notes\.txt: is not audio"):
            actions.read_recording(tmp_path / "notes.txt", 16000, 60)


class TestCompress:
    def test_files_are_those_of_the_command_line(self, audio, pitched, tmp_path):
        path = audio()
        versions = actions.compress(pitched, recording(path, pitched), [3, 1])
        assert [v.detail for v in versions] == ["1 codebook", "3 codebooks"]
        for version, n in zip(versions, (1, 3), strict=True):
            encode_file(path, tmp_path / "a.avq", pitched, n)
            assert version.avq == (tmp_path / "a.avq").read_bytes()
            assert version.kbps == pitched.bitrates[n - 1]

    def test_lengths_and_pitch(self, audio, pitched):
        source = recording(audio(seconds=1.31), pitched)
        (version,) = actions.compress(pitched, source, [2])
        assert version.samples.shape == source.samples.shape
        assert soundfile.info(BytesIO(version.wav)).frames == len(source.samples)
        coded = load_encoded(BytesIO(version.avq), pitched).pitch[0]
        assert version.f0.shape == coded.shape
        assert np.array_equal(version.f0 > 0, coded.numpy() > 0)
        assert version.f0[version.f0 > 0].min() >= 50

    def test_nothing_chosen(self, audio, codec):
        with pytest.raises(AudioVQError, match="choose at least one"):
            actions.compress(codec, recording(audio(), codec), [])

    def test_progress_ends_at_the_total(self, audio, codec):
        seen = []
        actions.compress(codec, recording(audio(), codec), [1, 2], lambda done, total: seen.append((done, total)))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert seen[-1] == (2, 2)


class TestConvert:
    def test_pitch_moves_and_nothing_else_is_left(self, audio, pitched, tmp_path, monkeypatch):
        source = recording(audio(seconds=2.0), pitched)
        folder = tmp_path / "temporary"
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        voice = actions.recorded_speaker(pitched, source)
        before = actions.convert(pitched, source, voice, "keep").f0
        after = actions.convert(pitched, source, voice, 3.0).f0
        voiced = (before > 0) & (before < 400)
        assert voiced.any()
        assert np.array_equal(after > 0, before > 0)
        assert np.allclose(after[voiced] / before[voiced], 2**0.25)
        assert np.array_equal(before, actions.tracked_f0(pitched, source))
        assert not os.listdir(folder)

    def test_the_target_is_in_the_file(self, audio, pitched):
        source = recording(audio(), pitched)
        voice = actions.bundled_speaker(pitched, "low")
        version = actions.convert(pitched, source, voice, "auto", 2)
        found = load_encoded(BytesIO(version.avq), pitched)
        assert np.array_equal(found.speaker[0].numpy(), voice.vector())
        assert found.codes.shape[1] == 2

    def test_names_never_open_files(self, audio, pitched):
        with pytest.raises(AudioVQError, match="no such file"):
            actions.bundled_speaker(pitched, str(audio()))

    def test_silence_is_no_target(self, audio, pitched, tmp_path):
        soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
        voice = actions.recorded_speaker(pitched, recording(tmp_path / "silence.wav", pitched))
        with pytest.raises(AudioVQError, match=r"^silence\.wav: holds silence"):
            actions.convert(pitched, recording(audio(), pitched), voice)


class TestGenerate:
    def test_samples_are_those_of_the_prior(self, prior):
        made = actions.generate(prior, 0.4, 2, seed=5)
        expected = prior.generate(0.4, 2, seed=5)
        assert [v.label for v in made] == ["Sample 1", "Sample 2"]
        for version, codes in zip(made, expected.codes, strict=True):
            assert torch.equal(load_encoded(BytesIO(version.avq), prior.codec).codes[0], codes)
            assert len(version.samples) == 6400

    def test_a_recording_goes_on(self, audio, prior):
        source = recording(audio(seconds=1.0), prior.codec)
        (made,) = actions.generate(prior, 0.4, 1, prompt=source)
        start = load_encoded(BytesIO(made.avq), prior.codec).codes[0, :, :50]
        n = prior.prior.drawn_codebooks
        assert torch.equal(start, prior.codec.encode([torch.from_numpy(source.samples)], n_codebooks=n).codes[0])
        assert len(made.samples) == 22400


class TestInspect:
    def test_a_recording(self, audio, pitched):
        found = actions.inspect(pitched, audio(seconds=1.3), 60, 3)
        assert (found.info.codebooks, found.info.frames, found.info.damage) == (3, 65, None)
        assert found.encoded.codes.shape == (1, 3, 65)
        assert len(found.version.samples) == 20800

    def test_a_file(self, audio, pitched, tmp_path):
        encode_file(audio("a.wav", 1.0, 44100, 2), tmp_path / "a.avq", pitched, 2)
        found = actions.inspect(pitched, tmp_path / "a.avq", 60)
        assert (found.name, found.info.sample_rate, found.info.channels) == ("a.avq", 44100, 2)
        assert torch.equal(found.encoded.codes, load_encoded(tmp_path / "a.avq", pitched).codes)

    def test_another_models_file(self, audio, codec, pitched, tmp_path):
        encode_file(audio(), tmp_path / "a.avq", make_codec(1), 2)
        found = actions.inspect(pitched, tmp_path / "a.avq", 60)
        assert found.info.model_hash == "00000000"
        assert found.version is None
        assert found.encoded is None

    def test_a_damaged_file(self, audio, pitched, tmp_path):
        encode_file(audio(), tmp_path / "a.avq", pitched, 2)
        data = bytearray((tmp_path / "a.avq").read_bytes())
        data[-30] ^= 1
        (tmp_path / "a.avq").write_bytes(data)
        found = actions.inspect(pitched, tmp_path / "a.avq", 60)
        assert found.info.damage
        assert found.version is None

    def test_a_file_that_is_too_long(self, audio, pitched, tmp_path):
        encode_file(audio(seconds=1.5), tmp_path / "a.avq", pitched, 1)
        with pytest.raises(AudioVQError, match=r"^a\.avq: is longer than 1 s"):
            actions.inspect(pitched, tmp_path / "a.avq", 1)
