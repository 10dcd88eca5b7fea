"""``audiovq generate speech``: files, seeds, prompts, and what is wrong told in one line."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiovq.cli import main
from audiovq.codec.codec import SpeechCodec
from audiovq.hub import save_weights
from audiovq.prior.speech import save_prior
from tests.prior.test_speech import density, prior_for


@pytest.fixture
def model(codec, tmp_path, monkeypatch):
    save_weights(codec, tmp_path / "model")
    loaded = SpeechCodec.from_pretrained(tmp_path / "model")
    save_prior(prior_for(loaded), tmp_path / "model" / "prior", density()[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


@pytest.fixture
def generate(model, capfd):
    def call(*arguments):
        capfd.readouterr()
        code = main(
            ["generate", "speech", "--model", str(model), "-o", "out", "--seconds", "0.5", *map(str, arguments)]
        )
        return code, capfd.readouterr().err

    return call


def test_the_same_seed_gives_the_same_bytes(generate, tmp_path):
    assert generate("-n", 3)[0] == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(first) == ["sample-01.wav", "sample-02.wav", "sample-03.wav"]
    assert len(set(first.values())) == 3
    samples, rate = soundfile.read(tmp_path / "out" / "sample-01.wav")
    assert (len(samples), rate) == (8000, 16000)
    assert generate("-n", 2, "-f")[0] == 0
    assert all((tmp_path / "out" / name).read_bytes() == first[name] for name in list(first)[:2])
    assert generate("-n", 2, "-f", "--seed", 1)[0] == 0
    assert (tmp_path / "out" / "sample-01.wav").read_bytes() != first["sample-01.wav"]


def test_coded_files_decode_to_the_same_samples(generate, model, tmp_path):
    assert generate("-n", 1, "--format", "both", "--codebooks", 2)[0] == 0
    folder = tmp_path / "out"
    assert main(["decode", str(folder / "sample-01.avq"), "-o", "again.wav", "--model", str(model)]) == 0
    assert np.array_equal(soundfile.read("again.wav")[0], soundfile.read(folder / "sample-01.wav")[0])


def test_a_prompt_and_a_voice_from_recordings(generate, speech, tmp_path):
    soundfile.write("beginning.wav", speech[:16000].numpy(), 16000)
    assert generate("-n", 1, "--prompt", "beginning.wav")[0] == 0
    assert len(soundfile.read(tmp_path / "out" / "sample-01.wav")[0]) == 16000 + 8000
    plain = (tmp_path / "out" / "sample-01.wav").read_bytes()
    assert generate("-n", 1, "-f", "--prompt", "beginning.wav", "--speaker", "random")[0] == 0
    assert (tmp_path / "out" / "sample-01.wav").read_bytes() != plain
    soundfile.write("voice.wav", speech.numpy(), 16000)
    assert generate("-n", 1, "-f", "--speaker", "voice.wav")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--speaker", "nobody"], "nobody"),
        (["--prompt", "missing.wav"], "missing.wav"),
        (["--language", "xx"], "xx"),
        (["--codebooks", "9"], "codebooks"),
        (["--format", "mp3"], "mp3"),
        (["--seconds", "0"], "seconds"),
        (["--prior", "nowhere"], "nowhere"),
        (["--top-p", "0"], "top-p"),
        (["--temperature", "inf"], "temperature"),
        (["--label", "3"], "--label"),
        (["--actions", "attack"], "--actions"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(generate, tmp_path, arguments, message):
    code, err = generate(*arguments)
    assert code == (2 if message in ("--label", "--actions") else 1)
    assert err.startswith("audiovq: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_files_that_exist_are_kept_without_force(generate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sample-02.wav").write_bytes(b"mine")
    code, err = generate("-n", 2)
    assert code == 1
    assert "sample-02.wav exists; -f overwrites it" in err
    assert (tmp_path / "out" / "sample-02.wav").read_bytes() == b"mine"
    assert not (tmp_path / "out" / "sample-01.wav").exists()


@pytest.mark.parametrize("name", ["a.wav", "a.avq"])
def test_samples_make_no_folder_named_as_a_file(generate, tmp_path, name):
    assert generate("-n", 1, "-o", name) == (1, f"audiovq: {name} is a file; samples need a folder\n")
    assert not (tmp_path / name).exists()
