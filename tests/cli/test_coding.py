from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fake_codec import FakeCodec
from tests.packets import side_size

ROOT = Path(__file__).parents[2]


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def process(arguments, stdin=b"", cwd=None, **options):
    command = [sys.executable, "-m", "tests.cli.stand_in", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, env=environment, timeout=120, **options)


def test_there_and_back(run, wav, tmp_path):
    wav("speech.wav", 3.0, 44100, 2)
    done = run("encode", "speech.wav")
    assert (done.code, done.out, len(done.lines)) == (0, "", 1)
    size = (tmp_path / "speech.avq").stat().st_size
    assert done.err.startswith("speech.avq (2 channels): 3.00 s of audio")
    assert f"{size:,} bytes, {size * 8 / 3000:.2f} kb/s" in done.err
    assert "times real time" in done.err
    done = run("decode", "speech.avq", "-o", "out.wav")
    assert (done.code, done.out, len(done.lines)) == (0, "", 1)
    found = soundfile.info("out.wav")
    assert (found.samplerate, found.channels, found.frames, found.subtype) == (44100, 2, 132300, "PCM_16")


def test_codebooks(run, wav):
    wav(seconds=2.0)
    assert run("encode", "a.wav", "-o", "rate.avq", "--bitrate", "1").code == 0
    assert run("encode", "a.wav", "-o", "codebooks.avq", "--codebooks", "2").code == 0
    assert Path("codebooks.avq").read_bytes() == Path("rate.avq").read_bytes()
    for options, reason in (
        (("--codebooks", "9"), "has 1 to 8 codebooks, not 9"),
        (("--codebooks", "2", "--bitrate", "1"), "exclude each other"),
    ):
        refused = run("encode", "a.wav", "-o", "no.avq", *options)
        assert (refused.code, len(refused.lines), Path("no.avq").exists()) == (1, 1, False)
        assert reason in refused.lines[0]


def test_bitrate(run, wav):
    wav(seconds=10.0)
    sizes = []
    for rate in ("0.5", "1", "2", "4"):
        assert run("encode", "a.wav", "-f", "--bitrate", rate).code == 0
        sizes.append(Path("a.avq").stat().st_size * 8 / 10_000)
    side = side_size(20) * 8 / 400  # pitch and level
    assert np.allclose(np.array(sizes) - side, [0.5, 1, 2, 4], atol=0.2)
    assert run("encode", "a.wav", "-o", "default.avq").code == 0
    assert Path("default.avq").stat().st_size * 8 / 10_000 == sizes[2]
    for rate, remark, place in (("2.2", "using 4 codebooks, 2 kb/s nominal", 2), ("64", "using 8 codebooks", 3)):
        done = run("encode", "a.wav", "-f", "--bitrate", rate)
        assert done.code == 0
        assert remark in done.err
        assert Path("a.avq").stat().st_size * 8 / 10_000 == sizes[place]
    for rate in ("0", "-1", "nan", "0.4"):
        refused = run("encode", "a.wav", "-f", "--bitrate", rate)
        assert refused.code == 1
        assert "needs 0.5 kb/s or more" in refused.lines[0]


def test_mono(run, wav):
    wav("b.wav", channels=8)
    assert run("encode", "b.wav", "--mono").code == 0
    assert run("decode", "b.avq", "-o", "m.wav").code == 0
    assert soundfile.info("m.wav").channels == 1


def test_folders_are_mirrored(run, wav, tmp_path):
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/deep/C.WAV", "in/.hidden.wav"):
        wav(name)
    (tmp_path / "in/note.txt").write_text("no audio")
    done = run("encode", "in", "-o", "out")
    assert done.code == 0
    assert files("out") == ["a.avq", "deep/C.avq", "deep/er/b.avq"]
    assert done.lines[-1].startswith("3 files in out: 3.00 s")
    assert run("decode", "out", "-o", "back").code == 0
    assert files("back") == ["a.wav", "deep/C.wav", "deep/er/b.wav"]
    assert run("encode", "in").code == 0
    assert files("in") == [
        ".hidden.wav",
        "a.avq",
        "a.wav",
        "deep/C.WAV",
        "deep/C.avq",
        "deep/er/b.avq",
        "deep/er/b.flac",
        "note.txt",
    ]


def test_many_files_into_a_folder(run, wav):
    wav("x/a.wav")
    wav("y/b.wav")
    assert run("encode", "x/a.wav", "y/b.wav", "-o", "out").code == 0
    assert files("out") == ["a.avq", "b.avq"]
    assert run("encode", "x/a.wav", "-o", "new/").code == 0
    assert files("new") == ["a.avq"]
    assert run("encode", "y/b.wav", "-o", "new").code == 0
    assert files("new") == ["a.avq", "b.avq"]


def test_relative_and_absolute_inputs_together(run, wav, tmp_path):
    wav("a.wav")
    done = run("encode", "a.wav", wav("x/b.wav"))
    assert done.code == 0
    assert done.lines[-1].startswith("2 files in .: 2.00 s")
    assert files(tmp_path) == ["a.avq", "a.wav", "x/b.avq", "x/b.wav"]


def test_the_others_are_done_when_one_fails(run, wav, tmp_path):
    for name in ("in/a.wav", "in/z.wav"):
        wav(name)
    (tmp_path / "in/m.wav").write_text("text")
    (tmp_path / "in/n.wav").write_bytes(b"")
    done = run("encode", "in", "none.wav", "-o", "out")
    assert done.code == 1
    assert files("out") == ["a.avq", "z.avq"]
    assert [line.split(": ")[1] for line in done.lines[:3]] == [
        "in/n.wav",
        "none.wav",
        "in/m.wav",
    ]  # what opening tells comes last
    assert done.lines[3].startswith("2 files in out")
    assert done.lines[4:] == ["audiovq: 3 of 5 files failed"]


def test_two_inputs_for_one_output(run, wav):
    wav("a.wav")
    wav("a.flac")
    wav("b.wav")
    done = run("encode", "a.wav", "b.wav", "a.flac", "b.wav", "-o", "out")
    assert done.code == 1
    assert done.lines[:2] == [
        "audiovq: a.wav: would become out/a.avq, as would a.flac; process them separately",
        "audiovq: a.flac: would become out/a.avq, as would a.wav; process them separately",
    ]
    assert done.lines[2].startswith("1 file in out: ")
    assert done.lines[3:] == ["audiovq: 2 of 3 files failed"]
    assert files("out") == ["b.avq"]


def test_summaries_tell_what_was_read_from_what_was_written(run, wav, tmp_path):
    wav()
    size = len(run("encode", "a.wav").err) and (tmp_path / "a.avq").stat().st_size
    done = run("decode", "a.avq", "-o", "b.wav")
    assert done.err.startswith(f"b.wav: 1.00 s of audio from {size:,} bytes ({size * 8 / 1000:.2f} kb/s), ")


def test_what_can_be_seen_at_once_is_told_before_a_model_is_loaded(run, wav, tmp_path, monkeypatch):
    wav()
    assert run("encode", "a.wav").code == 0
    monkeypatch.setattr("audiovq.cli.loading.Models.load", None)  # loading would fail
    for arguments, word in (
        (["encode", "a.wav"], "a.avq exists"),
        (["encode", "none.wav", "nor.wav"], "2 of 2 files failed"),
        (["encode", "a.wav", "-f", "--bitrate", "0.1"], "needs 0.5 kb/s or more"),
        (["encode", "a.wav", "-f", "--model", "nonsense"], "no model 'nonsense'"),
        (["decode", "none.avq"], "no such file"),
        (["decode", "a.avq", "-o", "c.wav", "--decoder", "wavenet"], "no decoder 'wavenet'; it has: parallel"),
        (["convert", "a.wav", "--to", "none.wav", "-o", "c.wav"], "none.wav: no such file"),
        (["convert", "a.wav", "--to", "nobody", "-o", "c.wav"], "neither a file nor a bundled speaker"),
        (["convert", "a.avq", "--to", "none.wav", "-o", "c.avq"], "none.wav: no such file"),
        (["convert", "a.wav", "--to", "a.wav", "-o", "c.wav", "--decoder", "x"], "no decoder 'x'"),
        (["convert", "a.wav", "--to", "a.wav", "-o", "a.avq"], "a.avq exists"),
    ):
        done = run(*arguments)
        assert (done.code, word in done.lines[-1]) == (1, True), done.err


def test_nothing_is_overwritten_without_force(run, wav):
    wav()
    Path("a.avq").write_text("precious")
    done = run("encode", "a.wav")
    assert (done.code, done.lines) == (1, ["audiovq: a.avq exists; -f overwrites it"])
    assert Path("a.avq").read_text() == "precious"
    assert run("encode", "a.wav", "-f").code == 0
    assert Path("a.avq").read_bytes().startswith(b"AVQ")
    done = run("decode", "a.avq")
    assert (done.code, done.lines) == (1, ["audiovq: a.wav exists; -f overwrites it"])


def test_input_is_never_the_output(run, wav):
    before = wav().read_bytes()
    Path("link.wav").symlink_to("a.wav")
    Path("link.avq").symlink_to("a.wav")
    for target in ("a.wav", "./a.wav", "link.wav"):
        done = run("convert", "a.wav", "--to", "a.wav", "-f", "-o", target)
        assert (done.code, done.lines) == (1, ["audiovq: a.wav: input and output are the same file"])
        assert run("encode", "a.wav", "-f", "-o", target).lines == [
            f"audiovq: {target}: encode writes .avq files, not .wav"
        ]
    done = run("encode", "a.wav", "-f", "-o", "link.avq")
    assert (done.code, done.lines) == (1, ["audiovq: a.wav: input and output are the same file"])
    assert Path("a.wav").read_bytes() == before


def test_a_link_stays_a_link(run, wav):
    wav()
    Path("real.avq").write_text("")
    Path("link.avq").symlink_to("real.avq")
    assert run("encode", "a.wav", "-f", "-o", "link.avq").code == 0
    assert Path("link.avq").is_symlink()
    assert Path("real.avq").read_bytes().startswith(b"AVQ")


def test_pipes_give_the_same_bytes(run, wav, tmp_path):
    path = wav("a.wav", 3.0, 22050, 2)
    assert run("encode", "a.wav").code == 0
    data = Path("a.avq").read_bytes()
    piped = process(["encode", "-", "-o", "-"], path.read_bytes())
    assert (piped.returncode, piped.stdout) == (0, data)
    assert piped.stderr.startswith(b"standard output (2 channels): 3.00 s")
    assert process(["encode", "-"], path.read_bytes()).stdout == data
    assert run("decode", "a.avq", "-o", "out.wav").code == 0
    expected = soundfile.read("out.wav", dtype="int16")[0]
    played = process(["decode", "-", "-o", "-"], data)
    assert played.returncode == 0
    (tmp_path / "piped.wav").write_bytes(played.stdout)
    assert np.array_equal(soundfile.read("piped.wav", dtype="int16")[0], expected)
    wav("b.flac", 1.0)
    assert process(["encode", "-", "-o", tmp_path / "b.avq"], Path("b.flac").read_bytes()).returncode == 0
    assert run("encode", "b.flac", "-o", "b2.avq").code == 0
    assert Path("b.avq").read_bytes() == Path("b2.avq").read_bytes()


def test_a_pipe_is_coded_while_it_runs(wav, tmp_path):
    data = wav("a.wav", 8.0).read_bytes()
    command = [sys.executable, "-m", "tests.cli.stand_in", "encode", "-", "-o", "-"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **options) as running:
        running.stdin.write(data[: len(data) // 2])
        running.stdin.flush()
        assert running.stdout.read(4) == b"AVQ\x02"
        rest, _ = running.communicate(data[len(data) // 2 :], timeout=60)
    assert len(rest) > 100


def test_special_files_are_written_in_place(run, wav):
    wav()
    assert run("encode", "a.wav", "-o", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


def test_info(run, wav):
    wav("a.wav", 3.0, 44100, 2)
    assert run("encode", "a.wav").code == 0
    done = run("info", "a.avq")
    assert done.code == 0
    assert "44100 Hz, 2 channels" in done.out
    assert "3.000 s, 132300 samples" in done.out
    found = json.loads(run("info", "a.avq", "--json").out)
    assert (found["model"], found["sample_rate"], found["samples"], found["codebooks"]) == ("fake", 44100, 132300, 4)
    assert (found["bytes"], found["damage"]) == (Path("a.avq").stat().st_size, None)
    damaged = bytearray(Path("a.avq").read_bytes())
    damaged[150] ^= 1
    Path("a.avq").write_bytes(damaged)
    done = run("info", "a.avq", "--json")
    assert (done.code, len(done.lines)) == (1, 1)
    assert json.loads(done.out)["damage"] == "0.00 s to 0.40 s is lost"
    assert json.loads(done.out)["lost_seconds"] == [[0.0, 0.4]]
    done = run("info", "a.avq")
    assert done.lines == ["audiovq: a.avq: 0.00 s to 0.40 s is lost"]
    assert "is lost" not in done.out
    assert "length    3.000 s, 132300 samples" in done.out
    assert f"size      {len(damaged)} bytes" in done.out


def test_info_of_several_files(run, wav):
    wav()
    for name in ("a", "folder/b"):
        assert run("encode", "a.wav", "-o", f"{name}.avq").code == 0
    Path("c.avq").write_bytes(b"no such file")
    done = run("info", "a.avq", "folder", "c.avq")
    assert (done.code, done.out.count("intact: all checksums match")) == (1, 2)
    assert done.lines[0].startswith("audiovq: c.avq: ")
    assert done.lines[1:] == ["audiovq: 1 of 3 files failed"]
    assert [f["file"] for f in json.loads(run("info", "folder", "a.avq", "--json").out)] == ["folder/b.avq", "a.avq"]


def test_models_are_found_by_what_the_file_says(run, wav):
    wav()
    for name in ("other", "unbundled"):
        assert run("encode", "a.wav", "--model", name, "-o", f"{name}.avq").code == 0
    assert run("decode", "other.avq", "-o", "b.wav").code == 0
    done = run("decode", "other.avq", "--model", "fake", "-o", "c.wav")
    ours, theirs = FakeCodec("fake").model_hash.hex(), FakeCodec("other").model_hash.hex()
    message = (
        f"audiovq: other.avq: was written by model {theirs}, not by fake ({ours}); name the right one with --model"
    )
    assert (done.code, done.lines) == (1, [message])
    done = run("decode", "unbundled.avq", "-o", "c.wav")
    assert (done.code, len(done.lines)) == (1, 1)
    assert FakeCodec("unbundled").model_hash.hex() in done.err
    assert ours in done.err
    assert run("decode", "unbundled.avq", "--model", "unbundled", "-o", "c.wav").code == 0
    done = run("encode", "a.wav", "--model", "nonsense", "-o", "x.avq")
    assert (done.code, done.lines) == (1, ["audiovq: no model 'nonsense'"])
    done = run("decode", "other.avq", "--decoder", "wavenet", "-o", "d.wav")
    assert (done.code, len(done.lines)) == (1, 1)
    assert not Path("d.wav").exists()


def test_concealing(run, wav):
    wav(seconds=3.0)
    assert run("encode", "a.wav").code == 0
    damaged = bytearray(Path("a.avq").read_bytes())
    damaged[300] ^= 16
    Path("bad.avq").write_bytes(damaged)
    done = run("decode", "bad.avq")
    assert done.code == 1
    assert done.lines == ["audiovq: bad.avq: it is damaged: 0.80 s to 1.20 s is lost; --conceal decodes the rest"]
    assert not Path("bad.wav").exists()
    done = run("decode", "bad.avq", "--conceal")
    assert done.code == 0
    assert done.lines[0] == "audiovq: bad.avq: warning: 0.80 s to 1.20 s is lost; it was concealed"
    assert soundfile.info("bad.wav").frames == 48000


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_decoding_to_other_formats(run, wav, suffix):
    wav()
    assert run("encode", "a.wav").code == 0
    assert run("decode", "a.avq", "-o", f"b.{suffix}").code == 0
    assert soundfile.info(f"b.{suffix}").frames == 16000


def test_names_as_long_as_the_file_system_takes(run, wav, tmp_path):
    for letters in (240, 245, 251):
        name = "n" * letters
        wav(f"{name}.wav")
        assert run("encode", f"{name}.wav").code == 0
        assert run("decode", f"{name}.avq", "-f").code == 0
        assert files(tmp_path) == [f"{name}.avq", f"{name}.wav"]
        for file in tmp_path.iterdir():
            file.unlink()
    wav("a.wav")
    done = run("encode", "a.wav", "-o", "n" * 252 + ".avq")
    assert (done.code, len(done.lines), "n.avq: cannot be written: file name too long" in done.err) == (1, 1, True)
    done = run("encode", "a.wav", "-o", "a.wav/b.avq")
    assert (done.code, done.lines) == (
        1,
        ["audiovq: a.wav/b.avq: cannot be written: a folder of its path is a file"],
    )
    assert files(tmp_path) == ["a.wav"]


def test_packets_of_another_length(run, wav):
    wav(seconds=1.0)
    assert run("encode", "a.wav", "--packet", 80).code == 0
    assert json.loads(run("info", "a.avq", "--json").out)["packet_frames"] == 4
    assert run("decode", "a.avq", "-o", "b.wav").code == 0
    assert soundfile.info("b.wav").frames == 16000
    assert run("convert", "a.wav", "--to", "a.wav", "--packet", 80, "-o", "c.avq").code == 0
    assert json.loads(run("info", "c.avq", "--json").out)["packet_frames"] == 4


@pytest.mark.parametrize("ms", [0, 10, 70, 420, -80, "nan", "inf", "-inf"])
def test_packets_that_the_model_does_not_have(run, wav, ms):
    wav(seconds=1.0)
    done = run("encode", "a.wav", "--packet", ms)
    assert (done.code, done.lines) == (
        1,
        [f"audiovq: packets of model fake last 20 to 400 ms in steps of 20, not {ms}"],
    )
    assert not Path("a.avq").exists()


def test_many_lost_packets_are_few_lines(run, wav):
    wav(seconds=4.0)
    assert run("encode", "a.wav", "--packet", 20).code == 0
    data = Path("a.avq").read_bytes()
    damaged = bytearray(data)
    for i in range(200, len(data) - 200, 300):
        damaged[i] ^= 1
    Path("bad.avq").write_bytes(damaged)
    done = run("decode", "bad.avq", "--conceal")
    assert done.code == 0
    assert len(done.lines) == 7
    assert done.lines[5].endswith("more places like these; audiovq info lists them")
