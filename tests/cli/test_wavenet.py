"""The WaveNet decoder through the command line: seeds and streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from audiovq.cli import main
from audiovq.hub import codes_hash, save_weights
from audiovq.prior.speech import save_prior
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.wavenet_files import save_wavenet
from tests.prior.conftest import make_prior
from tests.prior.test_speech import density
from tests.speech.test_wavenet import wavenet


@pytest.fixture
def call(codec, speech, tmp_path, monkeypatch):
    """Run a command with a tiny model that has a WaveNet; the bytes of the file it writes."""
    monkeypatch.chdir(tmp_path)
    save_weights(codec, "model", torch.float32)
    save_wavenet(wavenet("bands"), "model", codes_hash(Path("model")), torch.float32)
    hash = SpeechCodec.from_pretrained("model").model_hash.hex()
    prior = make_prior(n_codebooks=4, codebook_size=32, speaker_dim=6, codec=hash)
    save_prior(prior, "model/prior", density()[0])
    soundfile.write("a.wav", speech.numpy(), 16000)
    assert main(["encode", "a.wav", "--model", "model"]) == 0

    def run(verb, *arguments, output="out.wav", written="out.wav"):
        options = ["-o", output, "--model", "model", "--decoder", "wavenet", "-f"]
        assert main([verb, *map(str, arguments), *options]) == 0
        return Path(written).read_bytes()

    return run


def test_seeds(call):
    generate = {"output": "samples", "written": "samples/sample-01.wav"}
    for arguments, places in (
        (["decode", "a.avq"], {}),
        (["convert", "a.wav", "--to", "a.wav"], {}),
        (["convert", "a.avq", "--to", "a.avq"], {}),
        (["generate", "speech", "--seconds", "0.3", "-n", "1", "--speaker", "a.avq"], generate),
    ):
        first = call(*arguments, "--seed", 1, **places)
        assert call(*arguments, "--seed", 1, **places) == first
        assert call(*arguments, "--seed", 2, **places) != first
        assert len(first) > 5000


def test_the_seed_of_generate_reaches_the_decoder(call):
    """The same codes, drawn greedily, sound differently."""
    greedy = ["--seconds", "0.3", "-n", "1", "--speaker", "a.avq", "--temperature", "0", "--format", "both"]
    coded, sound = [], []
    for seed in (1, 2):
        sound.append(
            call("generate", "speech", *greedy, "--seed", seed, output="samples", written="samples/sample-01.wav")
        )
        coded.append(Path("samples/sample-01.avq").read_bytes())
    assert coded[0] == coded[1]
    assert sound[0] != sound[1]


def test_streams(call):
    one, two, five = (call("decode", "a.avq", "--streams", n) for n in (1, 2, 5))
    assert two == five
    assert len(one) == len(two)
