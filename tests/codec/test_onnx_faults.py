"""Damaged, missing and foreign files of an exported model, and faults of the runtime: one line that says what to do."""

import copy
import json
import multiprocessing
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

from audiovq import hub
from audiovq.cli import main
from audiovq.cli.loading import engine_for
from audiovq.codec import onnx_codec
from audiovq.codec.onnx_codec import OnnxCodec
from audiovq.conversion.target import BundledVoice, write_voices
from audiovq.errors import AudioVQError
from audiovq.io import read_json
from tests.bitstream.entropy_models import random_model
from tests.codec.test_onnx import NETWORKS, decode, encode, exported, joined, run_without
from tests.codec.tiny import RATE, make_codec, speech_like

runtime = pytest.importorskip("onnxruntime")

FILES = ("config.json", "model.safetensors", "codebooks.safetensors", *(f"{network}.onnx" for network in NETWORKS))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Folders of two models of the same shape."""
    folders = [tmp_path_factory.mktemp("models") / name for name in ("one", "other")]
    exported(folders[0], torch.int8)
    hub.save_weights(make_codec(1), folders[1], torch.int8)
    assert main(["export", "onnx", str(folders[1]), "--model", str(folders[1])]) == 0
    return folders


@pytest.fixture
def folder(originals, tmp_path):
    return shutil.copytree(originals[0], tmp_path / "my model")


@pytest.fixture
def codec(originals):
    return OnnxCodec.from_pretrained(originals[0])


def refusal(folder):
    with pytest.raises(AudioVQError, match="cannot be loaded") as error:
        OnnxCodec(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Change one bit in the middle, where it often harms no syntax."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, flip, replace_by_folder, lambda path: path.unlink()])
def test_damaged_and_missing_files(folder, name, damage):
    damage(folder / name)
    message = refusal(folder)
    assert name in message
    assert f"audiovq export onnx '{folder}' --model '{folder}' -f" in message


@pytest.mark.parametrize("name", FILES[1:])
def test_files_of_another_export(originals, folder, name):
    """They fit in every shape: nothing but their hashes tells that codes would be wrong."""
    shutil.copy(originals[1] / name, folder / name)
    assert name in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"version": 2}', '{"version": 3}', "\xff", "[" * 100_000])
def test_damaged_descriptions(folder, text):
    (folder / "onnx.json").write_text(text, encoding="latin-1")
    assert "audiovq export onnx" in refusal(folder)


@pytest.mark.parametrize("entry", ["files", "shape", "codebooks", "networks", "name", "packet_frames"])
def test_descriptions_without_an_entry(folder, entry):
    found = json.loads((folder / "onnx.json").read_text())
    del found[entry], found["sha256"]
    (folder / "onnx.json").write_text(json.dumps(found))
    assert f"has no entry '{entry}'" in refusal(folder)


@pytest.mark.parametrize("entry", ["files", "shape", "codebooks", "networks"])
@pytest.mark.parametrize("value", [7, [], "x"])
def test_descriptions_with_an_entry_of_another_kind(folder, entry, value):
    found = read_json(folder / "onnx.json")
    (folder / "onnx.json").write_text(json.dumps(found | {entry: value}))
    refusal(folder)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", '"n_codebooks": 4', '"n_codebooks": 3'),
        ("config.json", '"sample_rate": 16000', '"sample_rate": 16001'),
        ("speakers.json", "[7, 2,", "[7, 3,"),
        ("speakers.json", "204.2", "304.2"),
    ],
)
def test_an_altered_digit_is_refused_by_both_engines(folder, tmp_path, capfd, engine, name, old, new):
    codec = OnnxCodec(folder)
    write_voices(codec, [BundledVoice("anna", ["en"], None, 9.0, 204.2, [7, 2, 14, 0], "CC0", "made up")], folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    soundfile.write(tmp_path / "a.wav", speech_like(0.5), RATE)
    options = ["-o", str(tmp_path / "b.wav"), "--model", str(folder), "--engine", engine]
    assert main(["convert", str(tmp_path / "a.wav"), "--to", "anna", *options]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert name in line
    assert not (tmp_path / "b.wav").exists()


@pytest.mark.parametrize("name", [b"caf\xe9", "M\u00fasica \u97f3".encode()])
def test_folders_with_names_in_any_encoding(folder, codec, tmp_path, name):
    renamed = folder.rename(tmp_path / os.fsdecode(name))
    speech = speech_like(0.3)
    rows = [joined(encode(one, speech)[1]) for one in (codec, OnnxCodec(renamed))]
    assert np.array_equal(*rows)


def test_a_bundled_model_is_to_be_installed_again(folder, monkeypatch):
    monkeypatch.setattr(onnx_codec, "BUNDLED", folder.parent)
    cut(folder / "encoder.onnx")
    assert refusal(folder).endswith("install audiovq again")


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("verb", ["encode", "convert", "speakers"])
def test_commands_with_damaged_weights(folder, tmp_path, capfd, damage, verb):
    damage(folder / "model.safetensors")
    soundfile.write(tmp_path / "a.wav", speech_like(0.5), RATE)
    rest = {"encode": ["-o", "b.avq"], "convert": ["--to", "anna", "-o", "b.wav"], "speakers": []}[verb]
    (folder / "speakers.json").write_text('{"model": "00000000", "speakers": []}')
    sources = [] if verb == "speakers" else [str(tmp_path / "a.wav")]
    assert main([verb, *sources, *rest, "--model", str(folder)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"the model in {folder} cannot be loaded" in line


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_commands_with_a_damaged_entropy_model(folder, tmp_path, capfd, verb, engine):
    entropy = random_model(OnnxCodec(folder)).save(folder)
    soundfile.write(tmp_path / "a.wav", speech_like(0.5), RATE)
    assert main(["encode", str(tmp_path / "a.wav"), "--model", str(folder)]) == 0
    flip(entropy)
    capfd.readouterr()
    source, target = ("a.wav", tmp_path / "b.avq") if verb == "encode" else ("a.avq", tmp_path / "b.wav")
    options = ["-o", str(target), "--model", str(folder), "--engine", engine]
    assert main([verb, str(tmp_path / source), *options]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{entropy} is damaged" in line
    assert not target.exists()


def test_weights_with_an_altered_byte_are_refused_by_pytorch(folder, tmp_path, capfd):
    flip(folder / "model.safetensors")
    soundfile.write(tmp_path / "a.wav", speech_like(0.5), RATE)
    assert main(["encode", str(tmp_path / "a.wav"), "--model", str(folder), "--engine", "torch"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert f"the model in {folder} cannot be loaded: its checksum does not match" in line


def test_without_pytorch_and_without_graphs(folder, tmp_path):
    (folder / "onnx.json").unlink()
    soundfile.write(tmp_path / "a.wav", speech_like(0.5), RATE)
    codes, messages = run_without(("torch",), [["encode", "a.wav", "--model", str(folder)]], tmp_path)
    assert codes == [1]
    (line,) = messages.splitlines()
    assert "has no ONNX networks: audiovq export onnx" in line
    assert "pip install 'audiovq[onnx]'" in line


def test_what_cannot_be_computed_is_one_line(codec, capfd):
    speech = speech_like(0.3)
    packets = encode(codec, speech)[1]
    with pytest.raises(AudioVQError, match=r"decoder\.onnx cannot be computed: ") as error:
        decode(codec, np.zeros(3, np.int64), packets, len(speech))
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_decoders_that_only_the_other_engine_has():
    assert engine_for("auto", "wavenet") == engine_for("torch", "wavenet") == "torch"
    assert engine_for("auto", "parallel") == "auto"
    with pytest.raises(AudioVQError, match="no decoder 'wavenet': leave out --engine onnx"):
        engine_for("onnx", "wavenet")


def test_no_more_threads_than_cores(originals, monkeypatch):
    monkeypatch.setattr(onnx_codec, "n_cores", lambda: 2)
    speech = speech_like(0.3)
    codec = OnnxCodec.from_pretrained(originals[0], threads=100_000)
    rows = joined(encode(codec, speech)[1])
    (session, *_) = codec.engine._sessions.values()
    assert session.get_session_options().intra_op_num_threads == 2
    assert np.array_equal(rows, joined(encode(OnnxCodec.from_pretrained(originals[0]), speech)[1]))


def test_copies_have_the_same_codes(codec):
    speech = speech_like(0.3)
    rows = joined(encode(codec, speech)[1])
    for other in (copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        assert np.array_equal(joined(encode(other, speech)[1]), rows)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are not forked elsewhere")
def test_forked_processes_have_the_same_codes(originals, monkeypatch):
    """The runtime's threads do not survive a fork."""
    monkeypatch.setattr(onnx_codec, "n_cores", lambda: 2)
    codec, speech = OnnxCodec.from_pretrained(originals[0], threads=2), speech_like(0.3)
    rows = joined(encode(codec, speech)[1])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=lambda: results.put(joined(encode(codec, speech)[1])), daemon=True)
    child.start()
    try:
        assert np.array_equal(results.get(timeout=120), rows)
    finally:
        child.kill()
