"""``audiovq generate speech`` on either engine: the same codes; ONNX Runtime without anything of PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from audiovq.cli import main
from audiovq.codec.codec import SpeechCodec
from audiovq.conversion.target import BundledVoice, write_voices
from audiovq.hub import save_weights
from audiovq.prior.speech import save_prior
from tests.codec.test_onnx import NOT_NEEDED, ROOT, run_without
from tests.codec.tiny import RATE, make_codec, speech_like
from tests.prior.conftest import BACKBONES
from tests.prior.test_speech import density, prior_for

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An exported codec with a prior that the compiled kernels can read, a prior of WaveNets, and a speaker."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_weights(make_codec(), folder)
    codec = SpeechCodec.from_pretrained(folder)
    heads = {"width": 24, "backbone": {**BACKBONES["transformer"], "n_heads": 6}}
    save_prior(prior_for(codec, **heads), folder / "prior", density()[0])
    save_prior(prior_for(codec, backbone=BACKBONES["wavenet"]), folder / "wavenets", density()[0])
    vector = np.random.default_rng(0).integers(0, 16, 8).tolist()
    write_voices(codec, [BundledVoice("anna", ["cs"], "female", 60.0, 210.0, vector, "CC0-1.0", "a test")], folder)
    assert main(["export", "onnx", str(folder), "--model", str(folder)]) == 0
    return folder


@pytest.fixture
def command(model, tmp_path, monkeypatch):
    """Arguments of a command that writes to a folder."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", speech_like(2.0), RATE)

    def arguments(output, *options):
        fixed = ["generate", "speech", "--model", str(model), "-o", output, "--seconds", "0.5", "-n", "2"]
        return [*fixed, "--format", "both", *options]

    return arguments


OPTIONS = (
    ["--seed", "3"],
    ["--prompt", "a.wav", "--codebooks", "2", "--temperature", "0.8", "--top-k", "9", "--top-p", "0.9"],
    ["--prompt", "a.avq", "--speaker", "random", "--language", "cs"],
    ["--speaker", "anna"],
    ["--speaker", "a.wav", "--temperature", "0"],
)


def test_both_engines_sample_the_same_codes(command, model, tmp_path):
    assert main(["encode", "a.wav", "--model", str(model)]) == 0
    for i, options in enumerate(OPTIONS):
        for engine in ("torch", "onnx"):
            assert main(command(f"{engine}-{i}", *options, "--engine", engine)) == 0
        for name in ("sample-01", "sample-02"):
            coded = [(tmp_path / f"{engine}-{i}" / f"{name}.avq").read_bytes() for engine in ("torch", "onnx")]
            samples = [soundfile.read(f"{engine}-{i}/{name}.wav")[0] for engine in ("torch", "onnx")]
            assert coded[0] == coded[1]
            assert np.abs(samples[0] - samples[1]).max() < 1e-3
            assert np.abs(samples[0]).max() > 1e-3


def test_all_options_work_without_pytorch_and_numba(command, model, tmp_path):
    steps = [command(str(i), *options) for i, options in enumerate(OPTIONS)]
    steps = [["encode", "a.wav", "--model", str(model)], *steps, command("again", *OPTIONS[0])]
    codes, messages = run_without(NOT_NEEDED, steps, tmp_path)
    assert codes == [0] * len(steps), messages
    for i, seconds in enumerate((0.5, 2.5, 2.5, 0.5, 0.5)):
        assert soundfile.info(f"{i}/sample-02.wav").frames == round(seconds * RATE)
        assert main(["decode", f"{i}/sample-02.avq", "-o", "b.wav", "-f", "--model", str(model)]) == 0
        assert np.array_equal(soundfile.read("b.wav")[0], soundfile.read(f"{i}/sample-02.wav")[0])
    for name in ("sample-01.wav", "sample-02.avq"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_default_engine_imports_no_pytorch(command, tmp_path):
    program = (
        "import json, sys; from audiovq.cli import main; code = main(json.loads(sys.argv[1])); "
        "print(json.dumps([code, 'torch' in sys.modules, 'numba' in sys.modules]))"
    )
    arguments = [sys.executable, "-c", program, json.dumps(command("out", "--prompt", "a.wav"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, False, True], done.stderr


def test_what_is_wrong_is_one_line(command, model, tmp_path, capfd):
    soundfile.write("empty.wav", np.zeros(0), RATE)
    for options, message in (
        (["--prior", str(model / "wavenets"), "--engine", "onnx"], "has no transformer and needs PyTorch"),
        (["--engine", "onnx", "--decoder", "wavenet"], "has no decoder 'wavenet'"),
        (["--engine", "tensorrt"], "--engine takes torch, onnx or auto, not 'tensorrt'"),
        (["--prior", "nowhere"], "no prior in nowhere"),
        (["--language", "xx"], "language 'xx' is not supported"),
        (["--codebooks", "9"], "has 1 to 4 codebooks, not 9"),
        (["--prompt", "empty.wav"], "empty.wav: "),
    ):
        capfd.readouterr()
        assert main(command("out", *options)) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert not list((tmp_path / "out").glob("*"))


def test_what_is_missing_is_named_with_its_extra(command, model, tmp_path):
    wavenets = ["--prior", str(model / "wavenets")]
    for missing, choices in (("torch", (["--engine", "torch"], wavenets)), ("numba", (["--engine", "torch"],))):
        steps = [command("out", *options) for options in choices]
        codes, messages = run_without([missing], steps, tmp_path)
        assert codes == [1] * len(steps)
        line = f"audiovq: the engine torch needs the package '{missing}': pip install 'audiovq[torch]'"
        assert messages.splitlines() == [line] * len(steps)
    assert not (tmp_path / "out").exists()


def test_priors_without_a_transformer_are_sampled_by_pytorch(command, model):
    assert main(command("out", "--prior", str(model / "wavenets"))) == 0
    assert soundfile.info("out/sample-01.wav").frames == RATE // 2
