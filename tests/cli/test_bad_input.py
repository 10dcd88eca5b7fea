"""Bad input: one clear line, a non-zero exit, no traceback, nothing half-written. What can be coded is coded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from audiovq.cli import VERBS, build_app
from tests.cli.test_coding import ROOT, files, process


def check_refusal(done, *words):
    assert done.code == 1
    assert done.out == ""
    assert len(done.lines) == 1
    assert done.err.startswith("audiovq: ")
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    for word in words:
        assert word in done.err


REFUSED = {
    "none.wav": (None, "no such file"),
    "empty.wav": (b"", "is empty"),
    "text.wav": (b"This is no music at all. " * 50, "is not audio"),
    "header.wav": (b"RIFF\x24\0\0\0WAVEfmt ", "is not audio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_audio(run, tmp_path, name):
    content, word = REFUSED[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = files(tmp_path)
    check_refusal(run("encode", name), name, word)
    check_refusal(run("encode", name, "-o", "deep/out.avq"), name, word)
    assert files(tmp_path) == before
    assert not Path("deep").exists()


def test_no_samples(run, wav):
    wav(seconds=0)
    check_refusal(run("encode", "a.wav"), "a.wav", "no audio samples")
    assert files(".") == ["a.wav"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 15999, 100_000])
def test_nan_and_infinity(run, value, where):
    samples = np.zeros(100_001, np.float32)
    samples[where] = value
    soundfile.write("a.wav", samples, 16000, subtype="FLOAT")
    check_refusal(run("encode", "a.wav"), f"{where / 16000:.3f} s", "NaN" if np.isnan(value) else "infinite")
    assert files(".") == ["a.wav"]


CODED = {
    "short": {"seconds": 0.01},
    "8-bit": {"subtype": "PCM_U8"},
    "24-bit": {"subtype": "PCM_24"},
    "float": {"subtype": "FLOAT"},
    "96 kHz": {"rate": 96000},
    "8 kHz": {"rate": 8000},
    "8 channels": {"channels": 8},
}


@pytest.mark.parametrize("name", CODED)
def test_what_can_be_coded_is_coded(run, wav, name):
    wav(**CODED[name])
    assert run("encode", "a.wav").code == 0
    assert run("decode", "a.avq", "-o", "b.wav").code == 0
    before, after = soundfile.info("a.wav"), soundfile.info("b.wav")
    assert (before.samplerate, before.channels, before.frames) == (after.samplerate, after.channels, after.frames)


def test_silence_is_coded(run):
    soundfile.write("a.wav", np.zeros(40000), 16000)
    assert run("encode", "a.wav").code == 0
    assert run("decode", "a.avq", "-o", "b.wav").code == 0
    assert soundfile.info("b.wav").frames == 40000


def test_samples_beyond_full_scale_are_mentioned(run):
    soundfile.write("a.wav", np.full(16000, 2.0), 16000, subtype="FLOAT")
    done = run("encode", "a.wav")
    assert done.code == 0
    assert done.lines[0] == "audiovq: a.wav: 16000 samples beyond full scale were clipped"


def test_rates_outside_the_format(run):
    for rate in (500, 999_999):
        soundfile.write("a.wav", np.zeros(4000), rate)
        check_refusal(run("encode", "a.wav"), "a.wav", "sample rate")


def test_more_channels_than_the_format_has(run):
    soundfile.write("a.wav", np.zeros((100, 300)), 16000)
    check_refusal(run("encode", "a.wav"), "300 channels", "--mono")
    assert run("encode", "a.wav", "--mono").code == 0


def test_bad_avq_files(run, wav, tmp_path):
    wav(seconds=2.0)
    assert run("encode", "a.wav").code == 0
    data = Path("a.avq").read_bytes()
    bad = {
        "none.avq": (None, "no such file"),
        "empty.avq": (b"", "is empty"),
        "text.avq": (b"hello", "not an .avq file"),
        "cut.avq": (data[:200], "cut off"),
        "header.avq": (data[:20], "cut off inside its header"),
        "end.avq": (data[:-8], "cut off"),
        "more.avq": (data + data, "behind its end"),
        "new.avq": (data[:3] + b"\x09" + data[4:], "version"),
    }
    for name, (content, word) in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for verb in ("decode", "info"):
            done = run(verb, name)
            assert (done.code, len(done.lines)) == (1, 1)
            assert name in done.err
            assert word in done.err
        assert not Path(name).with_suffix(".wav").exists()


def test_flips_and_truncations_through_the_command_line(run, wav):
    wav(seconds=2.0)
    assert run("encode", "a.wav").code == 0
    assert run("decode", "a.avq", "-o", "right.wav").code == 0
    data, right = Path("a.avq").read_bytes(), Path("right.wav").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(60):
        damaged = bytearray(data)
        if i % 3:
            damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        else:
            damaged = damaged[: int(rng.integers(len(data)))]
        Path("bad.avq").write_bytes(damaged)
        done = run("decode", "bad.avq", "-f")
        if done.code == 0:
            assert Path("bad.wav").read_bytes() == right
        else:
            check_refusal(done, "bad.avq")
            assert not Path("bad.wav").exists()
        # Where packets are damaged, the rest is decoded; a damaged header is refused.
        assert run("decode", "bad.avq", "-f", "--conceal", "-o", "c.wav").code in (0, 1)


def test_no_space_left(run, wav):
    wav()
    check_refusal(run("encode", "a.wav", "-o", "/dev/full"), "/dev/full", "no space left on device")
    assert run("encode", "a.wav").code == 0
    check_refusal(run("decode", "a.avq", "-o", "/dev/full"), "/dev/full", "no space left on device")
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "tests.cli.stand_in", "encode", os.path.abspath("a.wav"), "-o", "-"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert done.stderr == b"audiovq: standard output: cannot be written: no space left on device\n"


def test_a_full_disk_leaves_nothing(run, wav, tmp_path):
    """The size of files is limited, which the system reports as it does a full disk."""
    wav(seconds=60.0)
    assert run("encode", "a.wav").code == 0
    before = files(tmp_path)
    limited = "ulimit -f 100; trap '' XFSZ; exec \"$@\""
    for target in ("b.wav", "b.flac", "b.ogg"):
        command = ["/bin/bash", "-c", limited, "-", sys.executable, "-m", "tests.cli.stand_in"]
        paths = [str(tmp_path / "a.avq"), "-o", str(tmp_path / target)]
        done = subprocess.run([*command, "decode", *paths], capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [f"audiovq: {tmp_path / target}: cannot be written: file too large"]
        assert files(tmp_path) == before


def test_places_that_cannot_be_written(run, wav):
    wav()
    check_refusal(run("encode", "a.wav", "-o", "a.wav/x.avq"), "a.wav/x.avq")
    check_refusal(run("encode", "a.wav", "-o", "/proc/x.avq"), "/proc/x.avq")
    check_refusal(run("encode", "a.wav", "a.wav", "-o", "a.wav"), "a.wav")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["frobnicate"], "no command 'frobnicate'"),
        (["encode"], "Missing argument"),
        (["encode", "a.wav", "--frob"], "No such option"),
        (["encode", "a.wav", "--bitrate", "fast"], "--bitrate"),
        (["encode", "a.wav", "--threads", "0"], "--threads"),
        (["info"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, word):
    done = run(*arguments)
    assert (done.code, len(done.lines)) == (2, 1)
    assert word in done.err


def test_inputs_and_outputs_that_do_not_go_together(run, wav):
    wav("a.wav")
    wav("b.wav")
    Path("folder").mkdir()
    check_refusal(run("encode", "-", "a.wav"), "standard input")
    check_refusal(run("encode", "a.wav", "b.wav", "-o", "-"), "standard output")
    check_refusal(run("encode", "a.wav", "b.wav", "-o", "a.wav"), "is a file")
    check_refusal(run("encode", "folder"), "no suitable files")
    check_refusal(run("encode", "-", "-o", "folder"), "folder")
    check_refusal(run("decode", "a.wav", "-o", "b.xyz"), ".xyz")


def test_empty_standard_input():
    for verb in ("encode", "decode", "info"):
        done = process([verb, "-"])
        assert (done.returncode, done.stdout) == (1, b"")
        assert len(done.stderr.splitlines()) == 1
        assert b"empty" in done.stderr


def test_a_reader_that_goes_away_is_no_error_message(wav):
    data = wav(seconds=60.0).read_bytes()
    encoded = process(["encode", "-", "-o", "-"], data).stdout
    command = f"{sys.executable} -m tests.cli.stand_in decode - | head -c 100"
    done = subprocess.run(command, shell=True, input=encoded, capture_output=True, cwd=ROOT, timeout=60)
    assert len(done.stdout) == 100
    assert done.stderr == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupting_leaves_nothing(wav, tmp_path, number, code):
    data = wav(seconds=8.0).read_bytes()
    command = [sys.executable, "-m", "tests.cli.stand_in", "encode", "-", "-o", str(tmp_path / "b.avq")]

    def listen() -> None:
        """A shell's background jobs ignore interrupts, and hand that down to what they start."""
        signal.signal(number, signal.SIG_DFL)

    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=listen, **pipes) as running:
        running.stdin.write(data)
        running.stdin.flush()
        for _ in range(600):  # until the output has been begun
            if len(list(tmp_path.iterdir())) > 1:
                break
            time.sleep(0.05)
        assert len(list(tmp_path.iterdir())) == 2
        running.send_signal(number)
        try:
            running.wait(timeout=60)
        finally:
            running.kill()
        error = running.stderr.read()
    assert running.returncode == code
    assert error == b"audiovq: interrupted\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_an_unexpected_error_is_one_line_too(run, wav, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError("first\nsecond")

    wav()
    monkeypatch.setattr("audiovq.bitstream.speech_file.encode_file", fail)
    done = run("encode", "a.wav")
    assert (done.code, len(done.lines)) == (1, 1)
    assert "internal error: ZeroDivisionError: first second" in done.err


def test_the_end_of_some_file_is_no_interrupt(run, wav, monkeypatch):
    def fail(*arguments, **options):
        raise EOFError("Ran out of input")

    wav()
    monkeypatch.setattr("audiovq.bitstream.speech_file.encode_file", fail)
    done = run("encode", "a.wav")
    assert (done.code, len(done.lines)) == (1, 1)
    assert "EOFError: Ran out of input" in done.err


def test_missing_optional_packages_are_named(run, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'hydra'", name="hydra")

    monkeypatch.setattr("audiovq.cli.import_module", import_module)
    done = run("train")
    assert (done.code, done.lines) == (1, ["audiovq: train needs the package hydra: pip install 'audiovq[train]'"])


def test_packages_that_come_with_pytorch_are_not_named_alone(run, monkeypatch):
    """PIL is no name that pip knows."""
    Image.new("RGB", (16, 16)).save("a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    done = run("encode", "a.png")
    assert (done.code, done.lines) == (1, ["audiovq: encode needs the package PIL: pip install 'audiovq[torch]'"])


def test_a_current_folder_that_was_removed(run, wav, tmp_path, monkeypatch):
    source = wav("a.wav")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    check_refusal(run("encode", source, "-o", "b.avq"), "the current folder does not exist any more")


def test_help_and_version(run):
    for arguments in ([], ["--help"]):
        done = run(*arguments)
        assert done.code == 0
        assert all(verb in done.out for verb in VERBS)
    assert run("--version").out.startswith("audiovq ")
    for verb in ("encode", "decode", "info", "models"):
        assert verb in run(verb, "--help").out
        assert build_app(verb).registered_commands


def test_starting_up_imports_nothing_heavy():
    heavy = ("torch", "numpy", "librosa", "numba", "soundfile", "soxr", "rich", "matplotlib", "scipy")
    code = (
        f"import sys; from audiovq.cli import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_interrupt_that_a_callback_swallows_is_kept(run, wav, monkeypatch, tmp_path):
    """As ctypes does with the callbacks of numba's cache."""
    import ctypes

    from audiovq.bitstream import encode_file

    @ctypes.CFUNCTYPE(None)
    def callback():
        signal.raise_signal(signal.SIGINT)

    def work(*arguments, **options):
        callback()
        return encode_file(*arguments, **options)

    wav(seconds=3.0)
    monkeypatch.setattr("audiovq.bitstream.speech_file.encode_file", work)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        done = run("encode", "a.wav")
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.code, done.err) == (130, "audiovq: interrupted\n")
    assert files(tmp_path) == ["a.wav"]
    assert after is signal.default_int_handler
