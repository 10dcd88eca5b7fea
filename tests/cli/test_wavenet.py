"""The WaveNet decoder through the command line: seeds, and what a model without one says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiovq.cli import main
from audiovq.codec.codec import SpeechCodec
from audiovq.hub import save_weights
from audiovq.interfaces import N_VALUES
from audiovq.prior.speech import SpeakerDistribution, save_prior
from audiovq.wavenet.sampler import save_wavenet
from tests.codec.tiny import make_codec, speech_like
from tests.prior.conftest import make_prior
from tests.wavenet.tiny import make_wavenet


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run a command with a tiny model that has a WaveNet; the bytes of the file it writes."""
    monkeypatch.chdir(tmp_path)
    save_weights(make_codec(), "model", torch.float32)
    wavenet = make_wavenet()
    save_wavenet(wavenet.state_dict(), wavenet.config, "model")
    hash = SpeechCodec.from_pretrained("model").model_hash.hex()
    sizes = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 8, "pitch_values": N_VALUES + 1}
    vectors = np.random.default_rng(0).integers(4, 12, (40, 8))
    names = [f"s{i % 5}" for i in range(40)]
    speakers = SpeakerDistribution.fit(vectors, names, np.full(40, 10.0), 16, loudness=np.full(40, 150.0))
    save_prior(make_prior(codec=hash, **sizes), "model/prior", speakers)
    soundfile.write("a.wav", speech_like(2.0), 16000)
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
    """The same codes, sampled greedily, are decoded to other samples."""
    greedy = ["--seconds", "0.3", "-n", "1", "--speaker", "a.avq", "--temperature", "0", "--format", "both"]
    coded, sound = [], []
    for seed in (1, 2):
        sound.append(
            call("generate", "speech", *greedy, "--seed", seed, output="samples", written="samples/sample-01.wav")
        )
        coded.append(Path("samples/sample-01.avq").read_bytes())
    assert coded[0] == coded[1]
    assert sound[0] != sound[1]


def test_a_model_without_one_is_one_line_with_the_remedy(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    save_weights(make_codec(), "model", torch.float32)
    soundfile.write("a.wav", speech_like(1.0), 16000)
    assert main(["encode", "a.wav", "--model", "model"]) == 0
    capfd.readouterr()
    assert main(["decode", "a.avq", "-o", "out.wav", "--model", "model", "--decoder", "wavenet"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "has no decoder 'wavenet'; it has: parallel" in line
    assert "audiovq train experiment=wavenet task.codec=MODEL" in line
    assert not Path("out.wav").exists()
