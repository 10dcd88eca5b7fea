"""What somebody meets who has not read the documentation: help, typing errors, and the next step in every message."""

from __future__ import annotations

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
