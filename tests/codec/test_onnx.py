"""The codec on ONNX Runtime: the codes and samples of PyTorch, and nothing of PyTorch in the process."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiovq import hub
from audiovq.bitstream import decode_file, encode_file
from audiovq.cli import main
from audiovq.codec.codec import SpeechCodec
from audiovq.codec.onnx_codec import OnnxCodec
from audiovq.codec.onnx_export import export_onnx
from audiovq.errors import AudioVQError
from tests.codec.tiny import RATE, make_codec, speech_like

runtime = pytest.importorskip("onnxruntime")

NETWORKS = ("encoder", "pitch", "speaker", "decoder")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder, its export among its files."""
    return exported(tmp_path_factory.mktemp("models") / "tiny")


def exported(folder, dtype=None):
    hub.save_weights(make_codec(), folder, dtype)
    assert main(["export", "onnx", str(folder), "--model", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def codecs(folder):
    """The same model on PyTorch and on ONNX Runtime."""
    return SpeechCodec.from_pretrained(folder), OnnxCodec.from_pretrained(folder)


@pytest.fixture(scope="module")
def speech():
    return speech_like(2.33)


@pytest.fixture(scope="module")
def wav(speech, tmp_path_factory):
    path = tmp_path_factory.mktemp("speech") / "a.wav"
    soundfile.write(path, speech, RATE)
    return path


def encode(codec, samples, n_codebooks=None, packet_frames=None, block=10**9):
    """Speaker vector and packets."""
    stream, packets = codec.encoder_stream(n_codebooks, packet_frames), []
    for i in range(0, len(samples), block):
        packets += stream.push(samples[i : i + block])
    packets += stream.finish()
    return stream.speaker, packets


def decode(codec, speaker, packets, n_samples, lost=()):
    stream = codec.decoder_stream(speaker)
    pieces = [stream.push(None, p.n_frames) if i in lost else stream.push(p) for i, p in enumerate(packets)]
    return np.concatenate([*pieces, stream.finish(n_samples)])


def joined(packets):
    """Rows of codes, pitch and level of each frame."""
    rows = [np.vstack([p.codes, p.pitch, np.full(p.n_frames, p.level)]) for p in packets]
    return np.concatenate(rows, axis=1)


@pytest.mark.parametrize(("n_codebooks", "packet_frames"), [(4, None), (1, None), (3, 4)])
def test_both_engines_have_the_same_codes_and_samples(codecs, speech, n_codebooks, packet_frames):
    torch_codec, onnx_codec = codecs
    speaker, packets = encode(torch_codec, speech, n_codebooks, packet_frames)
    other_speaker, other_packets = encode(onnx_codec, speech, n_codebooks, packet_frames)
    assert np.array_equal(speaker, other_speaker)
    rows = joined(packets)
    assert (rows[-2] > 0).any()
    assert (rows == joined(other_packets)).all(axis=0).mean() >= 0.999
    for lost in ((), {1}):
        decoded = [decode(codec, speaker, packets, len(speech), lost) for codec in codecs]
        assert np.abs(decoded[0]).max() > 0.05
        assert np.abs(decoded[0] - decoded[1]).max() < 1e-3


@pytest.mark.parametrize("n_samples", [1, 319, 320, 3201])
def test_recordings_of_any_length(codecs, speech, n_samples):
    coded = [encode(codec, speech[:n_samples]) for codec in codecs]
    assert np.array_equal(coded[0][0], coded[1][0])
    assert np.array_equal(joined(coded[0][1]), joined(coded[1][1]))
    assert decode(codecs[1], *coded[1], n_samples).shape == (n_samples,)


def test_both_engines_are_alike_with_a_bounded_look_ahead(codecs, speech):
    speaker, found = np.arange(8), []
    for codec in codecs:
        encoder, decoder = codec.encoder_stream(4, 4, speaker, 4), codec.decoder_stream(speaker, lookahead=2)
        packets = encoder.push(speech) + encoder.finish()
        found.append((joined(packets), packets, decoder))
    (rows, packets, decoder), (other_rows, _, other_decoder) = found
    assert (rows[-2] > 0).any()
    assert (rows == other_rows).all(axis=0).mean() >= 0.98
    decoded = [
        np.concatenate([*(stream.push(packet) for packet in packets), stream.finish(len(speech))])
        for stream in (decoder, other_decoder)
    ]
    assert np.abs(decoded[0]).max() > 0.05
    assert np.abs(decoded[0] - decoded[1]).max() < 1e-3


def test_streamed_equals_whole(codecs, speech):
    speaker, whole = encode(codecs[1], speech)
    streamed_speaker, streamed = encode(codecs[1], speech, block=777)
    assert np.array_equal(speaker, streamed_speaker)
    assert np.array_equal(joined(whole), joined(streamed))


def test_speaker_vectors_before_rounding_are_alike(codecs, speech):
    levels = [codec.speaker_levels(speech[:12345]) for codec in codecs]
    assert np.abs(levels[0] - levels[1]).max() < 1e-3


def test_files_of_one_engine_are_read_by_the_other(codecs, wav, tmp_path):
    torch_codec, onnx_codec = codecs
    encode_file(wav, tmp_path / "torch.avq", torch_codec)
    encode_file(wav, tmp_path / "onnx.avq", onnx_codec)
    assert (tmp_path / "torch.avq").read_bytes() == (tmp_path / "onnx.avq").read_bytes()
    for name, codec in (("torch", torch_codec), ("onnx", onnx_codec)):
        decode_file(tmp_path / "torch.avq", tmp_path / f"{name}.wav", codec)
    samples = [soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("torch", "onnx")]
    assert np.abs(samples[0] - samples[1]).max() < 1e-3


def test_both_are_described_alike(codecs):
    names = ("name", "model_hash", "sample_rate", "hop_length", "frame_rate", "packet_frames", "n_codebooks")
    names += ("codebook_size", "default_n_codebooks", "conversion_codebooks", "bitrates", "speaker_bits", "folder")
    for name in (*names, "n_speaker_levels", "decoders"):
        assert getattr(codecs[0], name) == getattr(codecs[1], name), name


@pytest.mark.parametrize("network", NETWORKS)
def test_the_description_is_that_of_the_files(folder, network):
    """Names, types and dimensions; those that are variable have their names in both."""
    entry = json.loads((folder / "onnx.json").read_text())["networks"][network]
    session = runtime.InferenceSession(folder / entry["file"], providers=["CPUExecutionProvider"])
    kinds = {"float32": "tensor(float)", "int64": "tensor(int64)", "bool": "tensor(bool)"}
    for given, described in ((session.get_inputs(), entry["inputs"]), (session.get_outputs(), entry["outputs"])):
        assert [tensor.name for tensor in given] == list(described)
        for tensor in given:
            assert tensor.type == kinds[described[tensor.name]["type"]]
            dimensions = described[tensor.name]["dimensions"]
            assert len(tensor.shape) == len(dimensions)
            for found, said in zip(tensor.shape, dimensions, strict=True):
                # Where the runtime cannot tell an output's size, it has a name.
                assert (
                    found == said
                    if isinstance(found, int)
                    else isinstance(said, str) or tensor.name not in entry["inputs"]
                )


def test_networks_take_batches(folder, codecs):
    session = runtime.InferenceSession(folder / "pitch.onnx", providers=["CPUExecutionProvider"])
    waveform = np.stack([speech_like(1.0, seed) for seed in range(3)])[:, None]
    together = session.run(None, {"waveform": waveform})[0]
    alone = [session.run(None, {"waveform": item[None]})[0][0] for item in waveform]
    assert together.shape == (3, 50, 177)
    assert np.abs(together - np.stack(alone)).max() < 1e-4


NOT_NEEDED = ("torch", "numba", "llvmlite", "librosa", "scipy", "PIL", "matplotlib", "onnx")


def run_without(packages, steps, cwd):
    """Exit codes of commands in a process in which packages are not installed, and their messages."""
    program = (
        "import json, sys; "
        "packages, steps = json.loads(sys.argv[1]); sys.modules.update(dict.fromkeys(packages)); "
        "from audiovq.cli import main; print(json.dumps([main(step) for step in steps]))"
    )
    arguments = [sys.executable, "-c", program, json.dumps([packages, steps])]
    done = subprocess.run(
        arguments, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_coding_and_conversion_need_little_more_than_onnx_runtime(wav, tmp_path):
    voice = ["--to", str(wav)]
    steps = [
        ["encode", str(wav), "-o", "a.avq"],
        ["decode", "a.avq", "-o", "b.wav"],
        ["info", "a.avq"],
        ["convert", str(wav), *voice, "-o", "c.wav"],
        ["convert", "a.avq", *voice, "--pitch", "+2", "-o", "d.avq"],
        ["models"],
        ["speakers"],
    ]
    codes, messages = run_without(NOT_NEEDED, steps, tmp_path)
    assert codes == [0] * len(steps), messages
    for name in ("b.wav", "c.wav"):
        assert soundfile.info(tmp_path / name).frames == soundfile.info(wav).frames


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (["encode", "{wav}", "-o", "a.avq", "--engine", "torch"], "the engine torch needs the package 'torch'"),
        (["encode", "a.png", "-o", "a.avq"], "encode needs PyTorch for images and videos"),
        (["generate", "image", "-o", "samples"], "generate needs PyTorch for images and videos"),
        (["generate", "speech", "-o", "samples", "--engine", "torch"], "the engine torch needs the package 'torch'"),
        (["tokenize", "{folder}", "-o", "tokens"], "tokenize needs PyTorch"),
        (["export", "onnx", "exported"], "export needs PyTorch"),
        (["train", "experiment=speech"], "train needs PyTorch"),
    ],
)
def test_what_needs_pytorch_says_so(step, message, wav, tmp_path):
    from PIL import Image

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    codes, messages = run_without(("torch",), [[part.format(wav=wav, folder=wav.parent) for part in step]], tmp_path)
    assert codes == [1]
    assert message in messages
    assert f"pip install 'audiovq[{'train' if step[0] == 'train' else 'torch'}]'" in messages
    assert len(messages.splitlines()) == 1
    assert not any((tmp_path / name).exists() for name in ("a.avq", "exported", "samples", "tokens"))


def test_the_interface_for_tensors_says_that_it_needs_pytorch():
    program = "import sys; sys.modules['torch'] = None; import audiovq; audiovq.SpeechCodec"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: audiovq.SpeechCodec needs PyTorch: pip install 'audiovq[torch]'; audiovq.OnnxCodec does not"
    )


def test_conversion_on_either_engine(folder, wav, tmp_path):
    target = tmp_path / "target.wav"
    soundfile.write(target, speech_like(4.0, 3), RATE)
    for engine in ("torch", "onnx"):
        output = ("--to", str(target), "-o", str(tmp_path / f"{engine}.wav"))
        assert main(["convert", str(wav), *output, "--model", str(folder), "--engine", engine]) == 0
    samples = [soundfile.read(tmp_path / f"{engine}.wav")[0] for engine in ("torch", "onnx")]
    assert np.abs(samples[0] - samples[1]).max() < 1e-3


def test_an_export_is_a_model_by_itself(folder, wav, tmp_path):
    alone = tmp_path / "exported"
    assert main(["export", "onnx", str(alone), "--model", str(folder)]) == 0
    assert hub.codes_hash(alone) == hub.codes_hash(folder)
    out = ("-o", str(tmp_path / "a.avq"), "-f", "--model", str(alone))
    assert main(["encode", str(wav), *out, "--engine", "onnx"]) == 0
    assert main(["encode", str(wav), *out, "--engine", "torch"]) == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32])
def test_graphs_take_their_weights_from_the_file_beside_them(dtype, speech, tmp_path):
    folder = exported(tmp_path / "model", dtype)
    torch_codec, onnx_codec = SpeechCodec.from_pretrained(folder), OnnxCodec.from_pretrained(folder)
    coded = [encode(codec, speech) for codec in (torch_codec, onnx_codec)]
    assert np.array_equal(joined(coded[0][1]), joined(coded[1][1]))
    added = sum((folder / f"{network}.onnx").stat().st_size for network in NETWORKS)
    held = sum(tensor.numel() * 4 for tensor in torch_codec.state_dict().values())
    assert added < held / 2


def test_without_a_folder_the_weights_of_the_codec_are_written(speech, tmp_path):
    codec = make_codec()
    export_onnx(codec, tmp_path / "exported")
    coded = [encode(codec, speech), encode(OnnxCodec(tmp_path / "exported"), speech)]
    assert np.array_equal(joined(coded[0][1]), joined(coded[1][1]))


def test_an_earlier_export_is_replaced_with_force_alone(folder, tmp_path, capfd):
    arguments = ["export", "onnx", str(tmp_path / "x"), "--model", str(folder)]
    assert main(arguments) == 0
    before = (tmp_path / "x" / "encoder.onnx").stat().st_mtime_ns
    assert main(arguments) == 1
    assert "exists; -f overwrites it" in capfd.readouterr().err
    assert (tmp_path / "x" / "encoder.onnx").stat().st_mtime_ns == before
    assert main([*arguments, "-f"]) == 0
    assert (tmp_path / "x" / "encoder.onnx").stat().st_mtime_ns != before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_folders_with_other_files_are_left_alone(folder, tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", "onnx", str(tmp_path), "--model", str(folder), "-f"]) == 1
    assert "holds something else" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_of_other_weights_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    hub.save_weights(make_codec(1), tmp_path / "moved")
    with pytest.raises(AudioVQError, match="not of the weights beside them"):
        OnnxCodec.from_pretrained(tmp_path / "moved")


@pytest.mark.parametrize("damaged", ["onnx.json", "codebooks.safetensors", "decoder.onnx", "model.safetensors"])
def test_damage_is_one_line(speech, damaged, tmp_path):
    path = exported(tmp_path / "broken", torch.int8) / damaged
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioVQError, match="cannot be loaded") as error:
        decode(OnnxCodec.from_pretrained(tmp_path / "broken"), *encode(make_codec(), speech), len(speech))
    assert "\n" not in str(error.value)


def test_models_that_were_not_exported_and_engines_that_do_not_exist(folder, wav, tmp_path, capfd):
    hub.save_weights(make_codec(), tmp_path / "plain")
    arguments = ["encode", str(wav), "-o", str(tmp_path / "a.avq"), "--model", str(tmp_path / "plain"), "--engine"]
    assert main([*arguments, "onnx"]) == 1
    assert "audiovq export onnx" in capfd.readouterr().err
    assert main([*arguments, "tensorrt"]) == 1
    assert "--engine takes torch, onnx or auto" in capfd.readouterr().err
    assert not (tmp_path / "a.avq").exists()
    assert main([*arguments, "auto"]) == 0


def test_without_onnx_runtime_the_message_names_the_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AudioVQError, match=r"pip install onnxruntime$"):
        OnnxCodec.from_pretrained(folder)


def test_the_example_of_the_documentation_runs(folder, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "onnx.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    recording = Path("recipes/demo/speech.flac")
    (tmp_path / recording.parent).mkdir(parents=True)
    shutil.copy(ROOT / recording, tmp_path / recording)
    shutil.copytree(folder, tmp_path / "exported")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "docs/onnx.md", "exec"), names)
    assert len(names["decoded"]) == len(names["samples"])
    decoded, _ = soundfile.read("decoded.wav")
    assert np.abs(decoded - names["decoded"]).max() < 1e-3
