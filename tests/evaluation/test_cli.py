from __future__ import annotations

import json

import pytest

from audiovq.cli import main
from tests.evaluation.test_pairs import folders  # noqa: F401


def test_two_folders(folders, tmp_path, capsys):  # noqa: F811
    target = tmp_path / "report.json"
    assert main(["evaluate", *map(str, folders), "--metrics", "mel", "--json", str(target)]) == 0
    assert "mel L1" in capsys.readouterr().out
    assert [system["name"] for system in json.loads(target.read_text())["systems"]] == ["deg"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "only-one"], "two folders"),
        (["evaluate", "nowhere", "nothing"], "no such folder: nowhere"),
        (["evaluate", "REF", "DEG", "--metrics", "pesk"], "no metric 'pesk'"),
        (["evaluate", "REF", "DEG", "--peers"], "--peers"),
        (["evaluate", "--align"], "--align"),
        (["evaluate", "--bitrates", "1,two"], "--bitrates"),
        (["evaluate", "--split", "best"], "no split 'best'"),
        (["evaluate", "split", "--data", "nowhere"], "no corpus 'nowhere'"),
        (["evaluate", "REF", "DEG", "--json", "REF"], "is a folder"),
    ],
)
def test_wrong_use_is_one_line(arguments, says, folders, capsys):  # noqa: F811
    named = {"REF": str(folders[0]), "DEG": str(folders[1])}
    assert main([named.get(argument, argument) for argument in arguments]) != 0
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_model_on_a_corpus(codec, tmp_path, capsys):
    from audiovq.data.shards import write_shards
    from audiovq.speech.checkpoint import save_codec
    from tests.evaluation.conftest import fake_utterances

    save_codec(codec, tmp_path / "model")
    utterances = fake_utterances("a", [3.5, 3.0, 6.0], "en", "some words")
    for utterance in utterances:
        utterance.source = utterance.licence = "made up"
        utterance.split = "validation"
    write_shards(utterances, tmp_path / "corpus")
    target = tmp_path / "report.json"
    common = ["--data", str(tmp_path / "corpus"), "--split", "validation", "--metrics", "mel", "--json", str(target)]
    assert main(["evaluate", "--model", str(tmp_path / "model"), "--bitrates", "0.5,1", *common]) == 0
    report = json.loads(target.read_text())
    assert [system["name"] for system in report["systems"]] == ["audiovq 0.5", "audiovq 1"]
    assert report["protocol"]["model"] == "tiny"
    assert report["systems"][1]["n"] == 2
    capsys.readouterr()
    assert main(["evaluate", "--model", str(tmp_path / "model"), "--bitrates", "3", *common]) == 1
    assert "no bit rate of 3 kb/s" in capsys.readouterr().err
