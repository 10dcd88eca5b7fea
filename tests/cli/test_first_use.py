"""What somebody meets who has not read the documentation: help, typing errors, and the next step in every message."""

from __future__ import annotations

import sys

import pytest

from audiovq.cli import GROUPS, VERBS


@pytest.mark.parametrize("arguments", [(), *((group,) for group in GROUPS)])
def test_overviews_cut_no_line(run, arguments):
    done = run(*arguments, "--help")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.endswith("...")][1:] == []  # the first is usage


@pytest.mark.parametrize("arguments", [(), *((verb,) for verb in VERBS), ("generate", "speech"), ("evaluate", "files")])
def test_three_ways_to_ask_for_help(run, arguments):
    long = run(*arguments, "--help")
    assert (long.code, long.err) == (0, "")
    assert long.out.startswith(" ".join(["Usage: audiovq", *arguments]))
    assert run(*arguments, "-h").out == long.out
    assert run("help", *arguments).out == long.out


@pytest.mark.parametrize(("word", "meant"), [("enocde", "encode"), ("Decode", "decode"), ("tokenise", "tokenize")])
def test_a_verb_that_is_spelled_wrong(run, word, meant):
    done = run(word, "speech.wav")
    assert (done.code, done.err) == (2, f"audiovq: there is no command {word!r}; did you mean {meant}?\n")


def test_a_word_that_is_no_verb(run):
    done = run("xyzzy")
    assert done.code == 2
    assert all(verb in done.err for verb in VERBS)


def test_a_file_without_a_verb(run, wav):
    wav("a.wav")
    assert run("a.wav").err == "audiovq: there is no command 'a.wav'; did you mean audiovq encode a.wav?\n"
    assert run("encode", "a.wav").code == 0
    assert run("a.avq").err == "audiovq: there is no command 'a.avq'; did you mean audiovq decode a.avq?\n"


def test_a_medium_that_there_is_not(run):
    done = run("generate", "music", "-o", "x")
    assert (done.code, done.err) == (1, "audiovq: generate takes one of: speech, image, video (got: music)\n")


@pytest.mark.parametrize("name", ["a.flac", "a.wav"])
@pytest.mark.parametrize("verb", ["decode", "info"])
def test_a_recording_where_a_coded_file_belongs(run, wav, verb, name):
    wav(name)
    done = run(verb, name)
    assert (done.code, done.lines) == (1, [f"audiovq: {name}: this is not an .avq file; audiovq encode writes them"])


@pytest.mark.parametrize("arguments", [("encode",), ("convert", "a.wav"), ("info", "--jsn")])
def test_wrong_usage_names_the_help(run, arguments):
    done = run(*arguments)
    assert (done.code, len(done.lines)) == (2, 1)
    assert done.err.endswith(f"(see audiovq {arguments[0]} --help)\n")


@pytest.mark.parametrize("name", ["b.wav", "b.mp3", "b.png", "b.mp4"])
def test_coded_speech_is_not_named_as_a_recording(run, wav, tmp_path, name):
    wav("a.wav")
    done = run("encode", "a.wav", "-o", name)
    assert (done.code, done.lines) == (1, [f"audiovq: {name}: encode writes .avq files, not {name[1:]}"])
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("verb", "name"), [("encode", "all.avq"), ("encode", "all.wav"), ("decode", "all.flac")])
def test_several_inputs_do_not_make_a_folder_named_as_a_file(run, wav, tmp_path, verb, name):
    wav("in/a.wav")
    wav("in/b.wav")
    assert run("encode", "in").code == 0
    done = run(verb, "in", "-o", name)
    assert (done.code, done.lines) == (1, [f"audiovq: {name} is a file; several inputs need a folder"])
    assert not (tmp_path / name).exists()
    assert run(verb, "in", "-o", f"{name}/").code == 0  # unless the slash says so


def test_a_folder_of_recordings_with_a_picture(run, wav, tmp_path):
    wav("in/a.wav")
    (tmp_path / "in" / ".cover.png").touch()  # hidden: not encoded
    assert run("encode", "in", "-o", "hidden").code == 0
    (tmp_path / "in" / "cover.png").touch()
    done = run("encode", "in", "-o", "out")
    assert done.code == 1
    assert "in/a.wav is audio, in/cover.png is an image" in done.err
    assert "--sound" in done.err
    assert run("encode", "in", "-o", "out", "--sound").code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.avq"]


def test_a_container_without_its_reader(run, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    monkeypatch.setitem(sys.modules, "av", None)
    done = run("encode", "a.mp4")
    assert (done.code, len(done.lines)) == (1, 1)
    assert done.err.startswith("audiovq: a.mp4: is an MP4")
    assert "'audiovq[video]'" in done.err


def test_a_coded_file_where_a_recording_belongs(run, tmp_path):
    (tmp_path / "a.avq").write_bytes(b"AVQ")
    done = run("encode", "a.avq", "-o", "b.avq")
    assert (done.code, done.lines) == (1, ["audiovq: a.avq: is an .avq file already; audiovq decode reads it"])
