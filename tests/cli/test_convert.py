"""Converting through the command line: audio and coded files, folders, pipes; targets of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.bitstream import load_encoded
from audiovq.bitstream.speech_reader import SpeechReader
from audiovq.conversion.target import BundledVoice, write_voices
from tests.cli.test_bad_input import check_refusal
from tests.cli.test_coding import files, process
from tests.evaluation.conftest import voice
from tests.fake_codec import FakeCodec

#: What makes converted audio the same, sample by sample, as coding it with the target's vector and decoding that.
AS_CODED = ("--pitch", "keep")


@pytest.fixture
def target(tmp_path):
    """A recording to convert to."""
    soundfile.write(tmp_path / "target.flac", voice(5.0, pitch=200.0), 22050)
    return tmp_path / "target.flac"


def speakers_of(path):
    with open(path, "rb") as stream:
        return SpeechReader(stream).header.speakers


def test_audio_to_audio(run, wav, target):
    wav("a.wav", 3.0, 44100, 2)
    done = run("convert", "a.wav", "--to", target, "-o", "b.flac")
    assert (done.code, done.out) == (0, "")
    assert done.lines[-1].startswith("b.flac (2 channels): 3.00 s of audio, ")
    assert done.lines[-1].endswith("times real time")
    assert "bytes" not in done.lines[-1]
    found = soundfile.info("b.flac")
    assert (found.samplerate, found.channels, found.frames) == (44100, 2, 132300)


def test_audio_to_coded_and_on(run, wav, target):
    wav("a.wav")
    assert run("convert", "a.wav", "--to", target, "-o", "b.avq", "--pitch", "keep").code == 0
    assert run("convert", "a.wav", "--to", target, "-o", "direct.wav", *AS_CODED).code == 0
    assert run("decode", "b.avq", "-o", "b.wav").code == 0
    assert Path("b.wav").read_bytes() == Path("direct.wav").read_bytes()
    assert run("encode", "a.wav").code == 0
    assert run("convert", "a.avq", "--to", "b.avq", "-o", "c.avq", "--pitch", "keep").code == 0
    assert Path("c.avq").read_bytes() == Path("b.avq").read_bytes()
    assert run("convert", "a.avq", "--to", target, "-o", "d.wav", "--pitch", "keep").code == 0
    assert Path("d.wav").read_bytes() == Path("b.wav").read_bytes()


def test_codebooks(run, wav, target):
    wav("a.wav")
    common = ("--to", target, *AS_CODED)
    assert run("encode", "a.wav").code == 0
    for n in ("1", "3"):
        assert run("convert", "a.wav", *common, "-o", f"{n}.wav", "--codebooks", n).code == 0
        assert run("convert", "a.avq", *common, "-o", f"coded{n}.wav", "--codebooks", n).code == 0
        assert Path(f"{n}.wav").read_bytes() == Path(f"coded{n}.wav").read_bytes()
    assert Path("1.wav").read_bytes() != Path("3.wav").read_bytes()
    check_refusal(run("convert", "a.avq", *common, "-o", "x.avq", "--codebooks", "2"), "a.avq", "--codebooks")


def test_folders_are_mirrored_and_coded_files_stay_coded(run, wav, target, tmp_path):
    wav("in/a.wav")
    wav("in/deep/b.flac")
    assert run("encode", "in/a.wav", "-o", "in/c.avq").code == 0
    done = run("convert", "in", "--to", target, "-o", "out")
    assert done.code == 0
    assert files("out") == ["a.wav", "c.avq", "deep/b.wav"]
    done = run("convert", "in", "--to", target, "-o", "out")
    assert (done.code, done.lines[-1]) == (1, "audiovq: 3 of 3 files failed")
    assert run("convert", "in", "--to", target, "-o", "out", "-f").code == 0


def test_several_targets_are_averaged(run, wav):
    wav("a.wav")
    assert run("encode", "a.wav").code == 0
    for name, level in (("x.wav", 1.0), ("y.wav", 0.2)):
        soundfile.write(name, level * voice(5.0) / np.abs(voice(5.0)).max(), 16000)
    for out, names in (("x", ["x.wav"]), ("y", ["y.wav"]), ("xy", ["x.wav", "y.wav"])):
        targets = [word for name in names for word in ("--to", name)]
        assert run("convert", "a.avq", *targets, "-o", f"{out}.avq").code == 0
    x, y, both = (speakers_of(f"{name}.avq")[0, 0] for name in ("x", "y", "xy"))
    assert y < both < x


def test_through_pipes(wav, target, tmp_path):
    data = wav(seconds=3.0).read_bytes()
    done = process(["convert", "-", "--to", target, "-o", "-"], data)
    assert done.returncode == 0
    assert done.stdout[:4] == b"RIFF"
    coded = process(["encode", "-", "-o", "-"], data).stdout
    swapped = process(["convert", "-", "--to", target, "-o", tmp_path / "c.avq"], coded)
    assert swapped.returncode == 0
    assert (tmp_path / "c.avq").read_bytes()[-20:-4] != b""
    assert len((tmp_path / "c.avq").read_bytes()) == len(coded)
    assert process(["convert", "-", "--to", target, "-o", "-"], coded).stdout[:4] == b"RIFF"
    done = process(["convert", "-", "--to", target, "-o", "-"], b"")
    assert done.returncode == 1
    assert b"empty" in done.stderr


def make_target(name, samples):
    soundfile.write(name, samples, 16000)
    return name


def test_bad_targets(run, wav):
    wav("a.wav")
    noise = 0.1 * np.random.default_rng(0).standard_normal(64000)
    before = files(".")
    refused = {
        "silence.wav": (np.zeros(64000), "silence"),
        "blink.wav": (voice(0.2), "several seconds"),
        "none.wav": (None, "no such file"),
        "nobody": (None, "neither a file nor a bundled speaker"),
    }
    for name, (samples, word) in refused.items():
        if samples is not None:
            make_target(name, samples)
        check_refusal(run("convert", "a.wav", "--to", name, "-o", "b.wav"), name, word)
    Path("text.wav").write_text("no audio at all")
    check_refusal(run("convert", "a.wav", "--to", "text.wav", "-o", "b.wav"), "text.wav", "not audio")
    check_refusal(run("convert", "a.wav", "--to", ".", "-o", "b.wav"), "folder")
    assert {"b.wav"}.isdisjoint(files("."))
    done = run("convert", "a.wav", "--to", make_target("noise.wav", noise), "-o", "b.wav")
    assert done.code == 0
    assert any("noise.wav: warning: it has hardly any voice" in line for line in done.lines)
    done = run("convert", "a.wav", "--to", make_target("short.wav", voice(1.5)), "-o", "b.wav", "-f")
    assert done.code == 0
    assert any("warning: only 1." in line for line in done.lines)
    assert set(before) < set(files("."))


def test_a_target_of_two_voices_is_warned_of(run, wav):
    """The stand-in tells voices by their loudness."""
    wav("a.wav")
    one = voice(10.0) / np.abs(voice(10.0)).max()
    common = ("convert", "a.wav", "-o", "b.wav", "-f", "--to")
    assert not any("more than one speaker" in line for line in run(*common, make_target("one.wav", one)).lines)
    both = np.concatenate([one, 0.1 * one])
    assert any("more than one speaker" in line for line in run(*common, make_target("two.wav", both)).lines)


def test_the_register_of_a_coded_target(run, target):
    soundfile.write("a.wav", voice(4.0), 16000)
    assert run("encode", target, "-o", "t.avq").code == 0
    for pitch in ("auto", "keep"):
        assert run("convert", "a.wav", "--to", "t.avq", "-o", f"{pitch}.wav", "--pitch", pitch).code == 0


def test_noise_and_silence_as_source(run, wav, target):
    wav("noise.wav", 4.0)
    soundfile.write("silence.wav", np.zeros(64000), 16000)
    for name, word in (("noise.wav", "hardly any voiced speech"), ("silence.wav", "nothing but silence")):
        done = run("convert", name, "--to", target, "-o", "b.wav", "-f")
        assert done.code == 0
        assert any(name in line and word in line for line in done.lines)
    soundfile.write("voice.wav", voice(4.0), 16000)
    assert len(run("convert", "voice.wav", "--to", target, "-o", "b.wav", "-f").lines) == 1


def test_files_of_another_model(run, wav, target):
    wav("a.wav")
    assert run("encode", "a.wav", "--model", "other").code == 0
    assert run("encode", "a.wav", "-o", "b.avq").code == 0
    assert run("convert", "a.avq", "--to", target, "-o", "c.avq").code == 0
    assert speakers_of("c.avq").shape == (1, 32)
    check_refusal(run("convert", "a.avq", "--to", "b.avq", "-o", "d.avq"), "b.avq", "was written by model")


def test_pitch_options(run, wav, target):
    soundfile.write("a.wav", voice(4.0), 16000)
    results = set()
    for pitch in ("keep", "auto", "-3", "4.5"):
        assert run("convert", "a.wav", "--to", target, "-o", "b.wav", "-f", f"--pitch={pitch}").code == 0
        results.add(Path("b.wav").read_bytes())
    assert len(results) == 4
    for pitch in ("high", "nan", "100"):
        check_refusal(run("convert", "a.wav", "--to", target, "-o", "c.wav", "--pitch", pitch), "--pitch", pitch)
    assert run("encode", "a.wav").code == 0
    assert run("convert", "a.avq", "--to", target, "-o", "moved.avq", "--pitch", "3").code == 0
    before, after = (load_encoded(name, FakeCodec()).pitch for name in ("a.avq", "moved.avq"))
    assert (after - before == 12).all()


def test_wrong_usage(run, wav, target):
    wav("a.wav")
    assert run("convert", "a.wav", "--to", target).code == 2
    assert run("convert", "a.wav", "-o", "b.wav").code == 2
    check_refusal(run("convert", "a.wav", "--to", target, "-o", "b.xyz"), ".xyz")
    check_refusal(run("convert", "a.wav", "--to", target, "-o", "b.wav", "--decoder", "none"), "none")


def test_damaged_files_are_not_advised_options_of_another_command(run, wav, target):
    wav("a.wav", 3.0)
    assert run("encode", "a.wav").code == 0
    damaged = bytearray(Path("a.avq").read_bytes())
    damaged[300] ^= 16
    Path("bad.avq").write_bytes(damaged)
    done = run("convert", "bad.avq", "--to", target, "-o", "b.wav")
    check_refusal(done, "0.80 s to 1.20 s is lost", "; audiovq decode --conceal makes audio of the rest")
    assert not Path("b.wav").exists()


def test_speakers(run, tmp_path, monkeypatch):
    assert "model fake has no bundled speakers" in run("speakers").out
    known = BundledVoice("anna", ["en"], None, 30.0, 201.4, list(range(16)) * 2, "CC0", "made up")
    codec = FakeCodec("fake")
    write_voices(codec, [known], tmp_path)
    codec.folder = tmp_path
    monkeypatch.setattr("audiovq.cli.loading.Models.load", lambda self, name: codec)
    monkeypatch.setattr("audiovq.cli.loading.facts", lambda name: codec)
    listed = run("speakers").out
    assert all(word in listed for word in ("anna", "en", "201 Hz", "30 s", "CC0"))
    assert json.loads(run("speakers", "--json").out)[0]["vector"] == known.vector
    soundfile.write("a.wav", voice(1.0), 16000)
    assert run("convert", "a.wav", "--to", "anna", "-o", "b.avq").code == 0
    assert speakers_of("b.avq")[0].tolist() == known.vector
