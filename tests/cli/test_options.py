"""Options without effect on what is given are refused in one line, not ignored; raw audio; what comes from pipes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from audiovq.image import ImageCodec
from audiovq.media.samples import FORMATS, from_float, to_float
from tests.cli.test_bad_input import check_refusal
from tests.cli.test_coding import ROOT, files, process
from tests.media.test_audio_files import media


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A model for images, untrained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    level = {"stride": 4, "latent_dim": 6, "quantizer": {"codebook_size": 16}}
    ImageCodec([level], channels=16, residual=8, n_residual=1, name="tiny").eval().save(folder)
    return str(folder)


@pytest.fixture
def picture(run, images, tmp_path):
    """a.png, a.gif, a.avq of the picture and b.avq of the GIF."""
    frames = [Image.fromarray(np.full((9, 14, 3), 60 * i, np.uint8)) for i in range(3)]
    frames[1].save(tmp_path / "a.png")
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:], duration=50)
    assert run("encode", "a.png", "b.gif", "--model", images).code == 0
    return images


@pytest.mark.parametrize(
    "options",
    [["--bitrate", 2], ["--mono"], ["--no-entropy-coding"], ["--entropy-coding"], ["--rate", 16000], ["--channels", 2]],
)
@pytest.mark.parametrize("name", ["a.png", "b.gif"])
def test_options_of_speech_when_images_are_encoded(run, picture, options, name):
    before = files(".")
    check_refusal(run("encode", name, "-o", "new.avq", "--model", picture, *options), options[0], "images or videos")
    assert files(".") == before


@pytest.mark.parametrize(
    "options",
    [
        ["--decoder", "nonsense"],
        ["--decoder", "parallel"],
        ["--seed", 0],
        ["--conceal"],
        ["--raw", "s16le"],
    ],
)
@pytest.mark.parametrize("name", ["a.avq", "b.avq"])
def test_options_of_speech_when_images_are_decoded(run, picture, options, name):
    before = files(".")
    check_refusal(run("decode", name, "-o", "new.png", "--model", picture, *options), options[0], "images or videos")
    assert files(".") == before


def test_several_options_are_one_line(run, picture):
    done = run("encode", "a.png", "-o", "new.avq", "--bitrate", 77, "--mono")
    assert done.lines == ["audiovq: --bitrate and --mono are for audio; the inputs are images or videos"]


CONVERSIONS = [
    ("a.avq", "b.avq", ["--decoder", "parallel"]),
    ("a.avq", "b.avq", ["--seed", 3]),
    ("a.avq", "b.avq", ["--mono"]),
    ("a.avq", "b.avq", ["--codebooks", 2]),
    ("a.avq", "b.avq", ["--raw", "s16le"]),
    ("a.avq", "b.wav", ["--mono"]),
    ("a.avq", "b.wav", ["--raw", "s16le"]),
    ("a.wav", "b.avq", ["--decoder", "parallel"]),
    ("a.wav", "b.avq", ["--seed", 3]),
    ("a.wav", "b.wav", ["--rate", 16000]),
    ("a.wav", "b.wav", ["--channels", 1]),
]


@pytest.mark.parametrize(("source", "target", "options"), CONVERSIONS)
def test_conversion_options_without_effect(run, wav, source, target, options):
    wav("a.wav", 2.0)
    assert run("encode", "a.wav").code == 0
    before = files(".")
    check_refusal(run("convert", source, "--to", "a.avq", "-o", target, *options), options[0])
    assert files(".") == before


def test_options_that_say_what_happens_anyway(run, wav):
    wav("a.wav", 2.0)
    assert run("encode", "a.wav").code == 0
    keep = ["--pitch", "keep"]
    for source, target in (("a.avq", "b.avq"), ("a.avq", "c.wav"), ("a.wav", "d.avq")):
        done = run("convert", source, "--to", "a.avq", "-o", target, *keep)
        assert done.code == 0, done.err


def test_the_others_of_a_folder_are_converted(run, wav):
    wav("in/a.wav", 2.0)
    assert run("encode", "in/a.wav", "-o", "in/b.avq").code == 0
    done = run("convert", "in", "--to", "in/b.avq", "-o", "out", "--mono")
    assert done.code == 1
    assert done.lines[0].startswith("audiovq: in/b.avq: --mono is for audio")
    assert done.lines[-1] == "audiovq: 1 of 2 files failed"
    assert files("out") == ["a.wav"]


def test_the_rate_of_coded_files_alone_is_reported(run, wav):
    wav("in/a.wav", 2.0)
    assert run("encode", "in/a.wav", "-o", "in/b.avq").code == 0
    assert "kb/s" in run("convert", "in/b.avq", "--to", "in/b.avq", "-o", "c.avq").lines[-1]
    mixed = run("convert", "in", "--to", "in/b.avq", "-o", "out")
    assert (mixed.code, files("out")) == (0, ["a.wav", "b.avq"])
    assert "bytes" not in mixed.lines[-1]
    assert "kb/s" not in mixed.lines[-1]


def test_options_of_raw_audio_alone(run, wav):
    wav()
    for verb in ("encode", "decode"):
        check_refusal(run(verb, "a.wav", "-o", "x", "--rate", 16000), "need --raw")
    check_refusal(run("encode", "a.wav", "-o", "x.avq", "--raw", "s16le"), "--raw needs --rate")
    check_refusal(run("encode", "a.wav", "-o", "x.avq", "--raw", "s17", "--rate", 16000), "s16le")
    check_refusal(run("encode", "a.wav", "-o", "x.avq", "--raw", "s16le", "--rate", 16000), "not raw audio")


@pytest.mark.parametrize("name", FORMATS)
def test_raw_audio_there_and_back(run, wav, name):
    wav("a.wav", 2.0, 22050, 2)
    samples = soundfile.read("a.wav", dtype="float32")[0]
    quantized = to_float(from_float(samples, name), name).reshape(-1, 2)
    soundfile.write("b.wav", quantized, 22050, subtype="DOUBLE")
    assert run("encode", "b.wav").code == 0
    raw = ["--raw", name, "--rate", 22050, "--channels", 2]
    Path("a.raw").write_bytes(from_float(samples, name))
    assert run("encode", "a.raw", *raw).code == 0
    assert Path("a.avq").read_bytes() == Path("b.avq").read_bytes()
    assert run("decode", "a.avq", "-o", "right.wav").code == 0
    assert run("decode", "a.avq", "-o", "new.raw", "--raw", name).code == 0
    found = to_float(Path("new.raw").read_bytes(), name).reshape(-1, 2)
    expected = soundfile.read("right.wav", dtype="float32")[0]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < (0.01 if "8" in name else 4e-5)
    assert run("decode", "a.avq", "-f", *raw).code == 0
    assert Path("a.raw").read_bytes() == Path("new.raw").read_bytes()
    for wrong in (["--rate", 16000], ["--channels", 1]):
        check_refusal(run("decode", "a.avq", "-o", "c.raw", "--raw", name, *wrong), "the audio has", wrong[0])


def test_raw_audio_through_pipes(run, wav, tmp_path):
    wav("a.wav", 2.0)
    assert run("encode", "a.wav").code == 0
    data = from_float(soundfile.read("a.wav", dtype="float32")[0], "s16le")
    raw = ["--raw", "s16le", "--rate", "16000"]
    coded = process(["encode", "-", *raw], data)
    assert (coded.returncode, coded.stdout) == (0, Path("a.avq").read_bytes())
    assert run("decode", "a.avq", "-o", "b.raw", "--raw", "s16le").code == 0
    assert process(["decode", "-", "--raw", "s16le"], coded.stdout).stdout == Path("b.raw").read_bytes()
    odd = process(["encode", "-", *raw], data + b"x")
    assert (odd.returncode, odd.stdout) == (0, coded.stdout)
    assert b"1 of its bytes are left over" in odd.stderr.splitlines()[0]
    keep = ["--pitch", "keep"]
    spoken = process(["convert", "-", "-o", "-", "--to", tmp_path / "a.avq", *raw, *keep], data)
    assert spoken.returncode == 0, spoken.stderr
    assert run("convert", "a.wav", "--to", "a.avq", "-o", "c.wav", *keep).code == 0
    assert soundfile.read("c.wav", dtype="int16")[0].tobytes() == spoken.stdout
    Path("a.raw").write_bytes(data)
    assert run("convert", "a.raw", "--to", "a.avq", "-o", "d.wav", *raw, *keep).code == 0
    assert Path("d.wav").read_bytes() == Path("c.wav").read_bytes()
    assert run("convert", "a.avq", "--to", "a.avq", "-o", "e.pcm", "--raw", "u8").code == 0
    assert Path("e.pcm").stat().st_size == 32000
    # A folder is searched for raw audio alone.
    wav("in/x.wav")
    Path("in/y.raw").write_bytes(data)
    assert run("encode", "in", "-o", "out", *raw).code == 0
    assert files("out") == ["y.avq"]


def test_raw_audio_is_coded_while_it_arrives(tmp_path):
    data = np.random.default_rng(0).integers(-9000, 9000, 16000 * 8).astype("<i2").tobytes()
    command = [sys.executable, "-m", "tests.cli.stand_in", "encode", "-", "--raw", "s16le", "--rate", "16000"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as running:
        running.stdin.write(data[: len(data) // 2])
        running.stdin.flush()
        assert running.stdout.read(4) == b"AVQ\x02"
        rest, _ = running.communicate(data[len(data) // 2 :], timeout=60)
    assert len(rest) > 100


def test_the_sound_of_videos(run, images, tmp_path):
    Path("talk.mp4").write_bytes(media("mp4", "aac", images=True))
    Path("mute.mp4").write_bytes(media("mp4", None, images=True))
    Path("voice.webm").write_bytes(media("webm", "libopus", rate=48000))
    Path("memo.m4a").write_bytes(media("mp4", "aac"))
    done = run("encode", "talk.mp4", "mute.mp4", "--model", images)
    assert done.code == 0
    assert done.lines[0] == "audiovq: talk.mp4: warning: its sound track is not encoded; --sound encodes it"
    assert [line for line in done.lines if "--sound" in line] == done.lines[:1]
    assert ", video" in run("info", "talk.avq").out
    assert run("encode", "talk.mp4", "--sound", "-f").code == 0
    assert "16000 Hz, 1 channel" in run("info", "talk.avq").out
    check_refusal(run("encode", "mute.mp4", "--sound", "-o", "x.avq"), "mute.mp4: has no sound track")
    for name in ("voice.webm", "memo.m4a"):
        assert run("encode", name).code == 0
        assert "4.00" in run("info", Path(name).with_suffix(".avq")).out
    assert run("convert", "talk.mp4", "--to", "voice.webm", "-o", "b.wav").code == 0
    assert soundfile.info("b.wav").frames == 64000
    # Folders: by what is in the files.
    for folder, names in (("sounds", ["voice.webm", "memo.m4a"]), ("all", ["talk.mp4", "voice.webm", "memo.m4a"])):
        Path(folder).mkdir()
        for name in names:
            Path(folder, name).write_bytes(Path(name).read_bytes())
    assert run("encode", "sounds", "-o", "coded").code == 0
    assert files("coded") == ["memo.avq", "voice.avq"]
    check_refusal(run("encode", "all", "-o", "more"), "all/talk.mp4 is an image or a video")
    assert run("encode", "all", "-o", "more", "--sound").code == 0
    assert files("more") == ["memo.avq", "talk.avq", "voice.avq"]


def test_without_pyav_the_extra_is_named(run, images, monkeypatch):
    for name, data in (("talk.mp4", media("mp4", "aac", images=True)), ("voice.webm", media("webm", "libopus"))):
        Path(name).write_bytes(data)
    monkeypatch.setitem(sys.modules, "av", None)
    for arguments in (["talk.mp4"], ["voice.webm"], ["talk.mp4", "--sound"], ["voice.webm", "--sound"]):
        done = run("encode", *arguments, *([] if "--sound" in arguments else ["--model", images]))
        check_refusal(done, arguments[0], "needs the package 'av': pip install 'audiovq[video]'")


@pytest.mark.parametrize("name", ["a.avq", "b.avq"])
def test_images_from_standard_input(run, picture, tmp_path, monkeypatch, name):
    data = (tmp_path / name).read_bytes()

    def piped(*arguments, data=data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run(*arguments)

    assert piped("info", "-").out == run("info", name).out.replace(name, "standard input")
    done = piped("info", "-", data=data[:-4])
    assert (done.code, len(done.lines)) == (1, 1)
    target = "new.png" if name == "a.avq" else "new.gif"
    assert piped("decode", "-", "-o", target, "--model", picture).code == 0
    assert run("decode", name, "-o", f"other{target}", "--model", picture).code == 0
    assert Path(target).read_bytes() == Path(f"other{target}").read_bytes()


def test_images_to_standard_output(run, picture, tmp_path):
    for name, start in (("a.avq", b"\x89PNG"), ("b.avq", b"GIF8")):
        with open("out", "wb") as out, open(name, "rb") as source:
            command = [sys.executable, "-m", "audiovq", "decode", "-", "--model", picture]
            done = subprocess.run(command, stdin=source, stdout=out, env={"PYTHONPATH": str(ROOT)}, timeout=60)
        assert (done.returncode, Path("out").read_bytes()[:4]) == (0, start)


def test_a_pipe_that_begins_with_a_single_byte(run, wav, tmp_path):
    """What standard input is, is decided by enough of it, however slowly it comes."""
    wav("a.wav", 2.0)
    assert run("encode", "a.wav").code == 0
    script = "head -c 1 a.avq; sleep 0.5; tail -c +2 a.avq"
    for verb, more in (("info", ""), ("convert", f"--to {tmp_path}/a.avq -o -"), ("decode", "")):
        call = f"({script}) | (cd {ROOT}; {sys.executable} -m tests.cli.stand_in {verb} - {more})"
        done = subprocess.run(call, shell=True, capture_output=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout
