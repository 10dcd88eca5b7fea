from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from audiovq.cli import main
from audiovq.cli.loading import updated
from audiovq.data.utterance import write_shards
from audiovq.evaluation.report import make_table
from audiovq.hub import save_weights
from audiovq.wavenet.sampler import save_wavenet
from tests.codec.tiny import make_codec
from tests.evaluation.conftest import fake_utterances
from tests.evaluation.test_files import folders  # noqa: F401
from tests.wavenet.tiny import make_wavenet


def test_two_folders(folders, tmp_path, capsys):  # noqa: F811
    target = tmp_path / "report.json"
    assert main(["evaluate", "files", *map(str, folders), "--metrics", "mel", "--json", str(target)]) == 0
    assert "mel L1" in capsys.readouterr().out
    assert [system["name"] for system in json.loads(target.read_text())["systems"]] == ["deg"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "only-one"], "two folders"),
        (["evaluate", "files", "only-one"], "Missing argument 'DEG_DIR'"),
        (["evaluate", "files", "nowhere", "nothing"], "no such folder: nowhere"),
        (["evaluate", "files", "REF", "DEG", "--metrics", "pesk"], "no metric 'pesk'"),
        (["evaluate", "files", "REF", "DEG", "--baselines"], "--baselines"),
        (["evaluate", "codec", "--align"], "--align"),
        (["evaluate", "codec", "--bitrates", "1,two"], "--bitrates"),
        (["evaluate", "codec", "--codebooks", "1.5"], "--codebooks takes whole numbers"),
        (["evaluate", "codec", "--codebooks", "1", "--bitrates", "1", "--data", "CORPUS"], "exclude each other"),
        (["evaluate", "codec", "--baselines-only", "--codebooks", "1"], "--baselines-only takes no"),
        (["evaluate", "codec", "--baselines-only", "--decoder", "wavenet"], "--baselines-only takes no"),
        (["evaluate", "codec", "--split", "best"], "unknown split 'best'"),
        (["evaluate", "codec", "--data", "nowhere"], "unknown corpus 'nowhere'"),
        (["evaluate", "files", "REF", "DEG", "--json", "REF"], "is a folder"),
        (["evaluate", "conversion", "--groups", "a", "--data", "b"], "--groups takes no --data"),
        (["evaluate", "conversion", "--metrics", "wer", "--plot", "x.png"], "--metrics must include speaker"),
        (["evaluate", "probe", "--metrics", "emotion"], "choose from speakers, phones"),
        (["evaluate", "generation", "--seconds", "0"], "--seconds is above 0"),
        (["evaluate", "generation", "--seconds", "nan"], "--seconds is above 0"),
    ],
)
def test_wrong_use_is_one_line(arguments, says, folders, corpus, capsys):  # noqa: F811
    named = {"REF": str(folders[0]), "DEG": str(folders[1]), "CORPUS": str(corpus)}
    assert main([named.get(argument, argument) for argument in arguments]) != 0
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.fixture
def corpus(tmp_path):
    """Two excerpts of validation speech, and one of a synthesised voice."""
    utterances = fake_utterances("a", [3.5, 3.0, 6.0], "en", "some words")
    utterances += fake_utterances("kokoro_speech/b", [3.5], "en", "some words")
    for utterance in utterances:
        utterance.id = utterance.id.replace("/", "-")
        utterance.source = utterance.licence = "made up"
        utterance.split = "validation"
    write_shards(utterances, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_a_model_on_a_corpus(codec, corpus, tmp_path, capsys):
    save_weights(codec, tmp_path / "model")
    target = tmp_path / "report.json"
    common = ["--data", str(corpus), "--split", "validation", "--metrics", "mel", "--json", str(target)]
    assert main(["evaluate", "codec", "--model", str(tmp_path / "model"), "--bitrates", "0.65,1.15,3", *common]) == 0
    report = json.loads(target.read_text())
    assert [system["name"] for system in report["systems"]] == 2 * [
        "audiovq 0.65",
        "audiovq 1.15",
    ]  # 3: too
    assert [system["split"] for system in report["systems"]] == 2 * ["validation"] + 2 * ["validation, synthetic"]
    assert [system["n_codebooks"] for system in report["systems"]] == 2 * [2, 4]
    assert report["protocol"]["model"] == "tiny"
    assert report["systems"][1]["n"] == 2
    capsys.readouterr()
    assert main(["evaluate", "codec", "--model", str(tmp_path / "model"), "--bitrates", "0.1", *common]) == 1
    assert "needs 0.4 kb/s or more" in capsys.readouterr().err
    assert main(["evaluate", "codec", "--model", str(tmp_path / "model"), "--codebooks", "5", *common]) == 1
    assert "codebooks" in capsys.readouterr().err


def test_two_decoders_on_the_same_excerpts(corpus, tmp_path, capsys):
    folder, target = tmp_path / "model", tmp_path / "report.json"
    save_weights(make_codec(), folder)
    common = ["--data", str(corpus), "--split", "validation", "--metrics", "mel", "--codebooks", "1,4"]
    command = ["evaluate", "codec", "--model", str(folder), *common, "--json", str(target), "--decoder", "wavenet"]
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no decoder 'wavenet'" in line
    assert not target.exists()
    wavenet = make_wavenet()
    save_wavenet(wavenet.state_dict(), wavenet.config, folder)
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "validation: paired differences" in printed
    assert "audiovq 1.15 wavenet – audiovq 1.15" in printed
    systems = json.loads(target.read_text())["systems"]
    names = ["audiovq 0.4", "audiovq 0.4 wavenet", "audiovq 1.15", "audiovq 1.15 wavenet"]
    assert [system["name"] for system in systems] == 2 * names
    for parallel, other in zip(systems[::2], systems[1::2], strict=True):
        assert parallel["compared_with"] is None
        assert other["compared_with"] == parallel["name"]
        assert other["file_kbps"] == parallel["file_kbps"]
        differences = [b["mel"] - a["mel"] for a, b in zip(parallel["items"], other["items"], strict=True)]
        assert other["difference"]["mel"]["mean"] == pytest.approx(sum(differences) / len(differences))
        assert all(differences)
    save_weights(make_codec(seed=1), folder)
    assert main([*command, "--metrics", "wer"]) == 1  # before Whisper is loaded
    assert "was trained on another codec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["REF", "DEG", "--align"], ["files", "REF", "DEG", "--align"]),
        (["--metrics", "mel", "REF", "DEG"], ["files", "--metrics", "mel", "REF", "DEG"]),
        (["split", "--peers"], ["codec", "--baselines"]),
        (["--split", "test,unseen", "--peers-only", "--picture=x.png"],
         ["codec", "--split", "test,unseen", "--baselines-only", "--plot=x.png"]),
        (["--model", "codec", "conversion", "--pairs", "4"], ["conversion", "--model", "codec", "--limit", "4"]),
        (["conversion", "--picture", "x.png"], ["conversion", "--plot", "x.png"]),
    ],
)  # fmt: skip
def test_old_spellings_of_evaluate(old, new, capsys):
    assert updated("evaluate", old) == new
    assert f"audiovq evaluate {' '.join(new)}" in capsys.readouterr().err
    assert updated("evaluate", new) == new
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["-o", "x", "--media", "image"], ["image", "-o", "x"]),
        (["--media=video", "-o", "x"], ["video", "-o", "x"]),
        (["-o", "x"], ["speech", "-o", "x"]),
    ],
)
def test_old_spellings_of_generate(old, new, capsys):
    assert updated("generate", old) == new
    assert f"audiovq generate {' '.join(new)}" in capsys.readouterr().err
    assert updated("generate", new) == new
    assert capsys.readouterr().err == ""


def test_an_old_spelling_works_with_a_hint(folders, capsys):  # noqa: F811
    assert main(["evaluate", *map(str, folders), "--metrics", "mel"]) == 0
    captured = capsys.readouterr()
    assert "mel L1" in captured.out
    assert captured.err.startswith("audiovq: hint: this is now spelled: audiovq evaluate files")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("verb", ["evaluate", "generate"])
def test_a_group_without_a_command_shows_its_help(verb, capsys):
    assert main([verb]) == 0
    captured = capsys.readouterr()
    assert "Commands:" in captured.out
    assert captured.err == ""


def test_the_title_of_a_narrow_table_is_one_line():
    title = "pairs: 62 items, 0.9 minutes, mean ± 95 % confidence"
    console = Console(width=80, file=io.StringIO())
    console.print(make_table(title, ["system"], [["mine"]]))
    assert console.file.getvalue().splitlines()[0].rstrip() == title
