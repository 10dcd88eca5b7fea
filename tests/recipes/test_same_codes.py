"""The recipes that sample speech: the same codes by several speakers, and samples to listen to."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("matplotlib")

from audiovq.codec.codec import SpeechCodec
from audiovq.conversion.target import BundledVoice, write_voices
from audiovq.data.utterance import write_shards
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.interfaces import N_VALUES
from audiovq.prior.speech import SpeakerDistribution, save_prior
from tests.codec.tiny import make_codec
from tests.evaluation.conftest import fake_utterances, voice
from tests.prior.conftest import make_prior

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes" / "speech_generation"))
import same_codes
import samples

PITCHES = {"low": 100.0, "middle": 150.0, "high": 220.0}


class FakeCosine:
    """Takes the shape of the long-term spectrum for the speaker."""

    def embed(self, waveform):
        if not np.any(waveform):
            return None
        spectrum = np.abs(np.fft.rfft(waveform, 1 << 18))[: 1 << 17].reshape(256, -1).mean(1)
        return spectrum / np.linalg.norm(spectrum)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A tiny model with a prior, three speakers, and a corpus that has recordings of two of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(same_codes, "SpeakerCosine", FakeCosine)
    save_weights(make_codec(), "model", torch.float32)
    codec = SpeechCodec.from_pretrained("model")
    rng = np.random.default_rng(0)
    sizes = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 8, "pitch_values": N_VALUES + 1}
    names, vectors = [f"s{i % 5}" for i in range(40)], rng.integers(4, 12, (40, 8))
    speakers = SpeakerDistribution.fit(vectors, names, np.full(40, 10.0), 16, loudness=np.full(40, 150.0))
    save_prior(make_prior(codec=codec.model_hash.hex(), **sizes), "model/prior", speakers)
    voices = [
        BundledVoice(name, ["en"], None, 60.0, pitch, vectors[i].tolist(), "made up", "made up")
        for i, (name, pitch) in enumerate(PITCHES.items())
    ]
    write_voices(codec, voices, "model")
    utterances = [u for name in ("low", "high") for u in fake_utterances(f"corpus/{name}", [6.0, 6.0], "en")]
    for utterance in utterances:
        utterance.id = utterance.id.replace("/", "-")
        utterance.source = utterance.licence = "made up"
        utterance.split = "train"
    write_shards(utterances, Path("corpus"))
    return "model"


def call(script, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--model", "model", "--seconds", "1.0", *arguments])
    script.main()


def test_the_bundled_speakers_say_the_same_codes(model, monkeypatch, capsys):
    call(same_codes, monkeypatch, "--out", "out", "--picture", "a.jpg", "--data", "corpus")
    spoken = {name: soundfile.read(f"out/{name}.wav")[0] for name in PITCHES}
    assert {len(waveform) for waveform in spoken.values()} == {16000}
    assert not np.array_equal(spoken["low"], spoken["high"])
    assert Path("a.jpg").read_bytes().startswith(b"\xff\xd8")
    printed = capsys.readouterr().out
    assert "codes by middle" in printed
    assert "recordings of low" in printed
    assert "recordings of middle" not in printed
    call(same_codes, monkeypatch, "--out", "again", "--picture", "a.jpg", "--data", "nowhere")
    assert "no similarities: unknown corpus 'nowhere'" in capsys.readouterr().out
    assert np.array_equal(soundfile.read("again/low.wav")[0], spoken["low"])


def test_random_speakers_say_them_where_they_are_asked_for(model, monkeypatch, capsys):
    options = ["--out", "out", "--picture", "a.png", "--speakers", "2", "--data", "corpus"]
    call(same_codes, monkeypatch, *options)
    assert sorted(path.name for path in Path("out").iterdir()) == ["speaker-1.wav", "speaker-2.wav"]
    assert "no similarities: corpus has no recordings" in capsys.readouterr().out
    with pytest.raises(AudioVQError, match="neither a file nor a bundled speaker"):
        call(same_codes, monkeypatch, "--speaker", "nobody")


def test_similarity_is_highest_to_recordings_of_the_same_speaker(monkeypatch):
    monkeypatch.setattr(same_codes, "SpeakerCosine", FakeCosine)
    recordings = {name: [voice(3.0, hz, seed) for seed in range(4)] for name, hz in PITCHES.items()}
    spoken = {name: voice(2.0, hz, seed=9) for name, hz in PITCHES.items()} | {"mute": np.zeros(16000, np.float32)}
    found = same_codes.similarities(spoken, recordings)
    for name in PITCHES:
        for row in (f"codes by {name}", f"recordings of {name}"):
            assert max(found[row], key=found[row].get) == name
    assert set(found["codes by mute"].values()) == {None}


def test_samples_are_written_with_their_picture(model, monkeypatch, capsys):
    call(samples, monkeypatch, "--out", "out", "--picture", "a.png", "--seconds", "2.5")
    written = sorted(Path("out").iterdir())
    assert [path.name for path in written] == [
        *(f"continued-{i}.wav" for i in (1, 2, 3)),
        *(f"random-voice-{i}.wav" for i in (1, 2, 3)),
        "voice-low.wav",
    ]
    assert {soundfile.info(path).frames for path in written} == {40000}
    assert Path("a.png").is_file()
