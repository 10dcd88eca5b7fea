"""The models that come with the package: whole, small, documented, and able to code speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from audiovq import SpeechCodec
from audiovq.bitstream import save_encoded
from audiovq.conversion.pitch import median_pitch, track_pitch
from audiovq.conversion.target import read_voices
from audiovq.errors import AudioVQError
from audiovq.hub import BUNDLED, DEFAULTS, bundled_models, codes_hash, save_weights
from audiovq.prior.speech import SpeechPrior

RECORDING = Path(__file__).resolve().parent.parent / "recipes" / "demo" / "speech.flac"
MODEL = BUNDLED / DEFAULTS["speech"]


def test_one_model_serves_all_commands():
    assert bundled_models() == [DEFAULTS["speech"]]


@pytest.mark.parametrize("name", bundled_models())
def test_each_is_small_and_its_card_names_its_hash(name):
    assert (BUNDLED / name / "model.safetensors").stat().st_size < 15_000_000
    assert codes_hash(BUNDLED / name).hex() in (BUNDLED / name / "README.md").read_text()


def semitones(ratio: float) -> float:
    """A ratio of frequencies as an interval."""
    return float(12 * np.log2(ratio))


def log_bands(samples: np.ndarray) -> np.ndarray:
    """Levels of 20 bands every 16 ms, in nepers."""
    spectrum = torch.stft(torch.from_numpy(samples), 512, 256, window=torch.hann_window(512), return_complex=True)
    power = spectrum.abs().square()[1:241].unflatten(0, (20, 12)).mean(1)
    return 0.5 * torch.log(power + 1e-5).numpy()


def test_more_bits_bring_the_decoded_speech_closer():
    codec = SpeechCodec.from_pretrained()
    samples, _ = sf.read(RECORDING, dtype="float32")
    reference = log_bands(samples)
    distance, error = [], []
    for n_codebooks in (1, 2, 4, 8):
        encoded = codec.encode([torch.from_numpy(samples)], n_codebooks=n_codebooks)
        decoded = codec.decode(encoded)[0, 0].numpy()
        distance.append(float(np.abs(log_bands(decoded) - reference).mean()))
        error.append(float(((decoded - samples) ** 2).mean() / (samples**2).mean()))
    assert distance[:3] == sorted(distance[:3], reverse=True)
    assert distance[3] < distance[0]
    # The waveform itself is coded by the last codebooks; with fewer of them phases are the harmonic source's.
    assert error[3] < 0.5 * min(error[:3])
    # The recording delayed by a syllable is this far away: what is decoded must be much closer than that.
    assert distance[0] < 0.5 * float(np.abs(np.roll(reference, 12, axis=1) - reference).mean())


if (MODEL / "entropy.safetensors").is_file():  # interim weights have none

    def test_its_entropy_model_is_its_own_and_shortens_real_speech(tmp_path):
        folder = MODEL
        assert (folder / "entropy.safetensors").stat().st_size < 3_000_000
        codec = SpeechCodec.from_pretrained()
        samples, _ = sf.read(RECORDING, dtype="float32")
        encoded = codec.encode([torch.from_numpy(samples)], n_codebooks=4)
        sizes = []
        for entropy_coding in (True, False):
            save_encoded(encoded, tmp_path / "a.avq", codec, entropy_coding)
            sizes.append((tmp_path / "a.avq").stat().st_size)
            assert torch.equal(codec.load(tmp_path / "a.avq").codes, encoded.codes)
        assert sizes[0] < 0.85 * sizes[1]


if (MODEL / "prior").is_dir():  # interim weights have none

    def test_the_prior_knows_speech_and_draws_it():
        source = SpeechPrior.from_pretrained()
        assert (MODEL / "prior" / "model.safetensors").stat().st_size < 15_000_000
        books = source.prior.drawn_codebooks
        first, again, other = (source.generate(1.0, seed=seed) for seed in (1, 1, 2))
        assert first.codes.shape == (1, books, 50)
        assert torch.equal(first.codes, again.codes)
        assert not torch.equal(first.codes, other.codes)
        # Real speech is likelier to it than the same frames in another order, and than chance.
        samples = sf.read(RECORDING, dtype="float32")[0][:64000]
        streams = source.streams(source.codec.encode([torch.from_numpy(samples)], n_codebooks=8))
        shuffled = streams[:, :, torch.randperm(streams.shape[2], generator=torch.Generator().manual_seed(0))]
        with torch.inference_mode():
            nats = [float(source.prior.nll(x)[:, 1:3].mean()) for x in (streams, shuffled)]
        assert nats[0] < nats[1] - 0.3
        assert nats[0] < np.log(1024) - 1
        # So are its samples, compared with noise.
        noise = torch.randint(0, 1024, first.codes.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            drawn, random = (
                float(source.prior.nll(torch.cat([first.pitch[:, None], codes], dim=1))[:, 1].mean())
                for codes in (first.codes, noise)
            )
        assert drawn < np.log(1024) - 0.5 < random


def test_conversion_takes_the_targets_register_and_keeps_the_timing():
    codec = SpeechCodec.from_pretrained()
    assert codec.conversion_codebooks == 2
    samples = sf.read(RECORDING, dtype="float32")[0][:48000]
    own = median_pitch(track_pitch(samples, 16000))
    voices = {name: voice.pitch for name, voice in read_voices(codec).items() if voice.pitch}
    target = max(voices, key=lambda name: abs(semitones(voices[name] / own)))
    converted = codec.convert([torch.from_numpy(samples)], target)[0, 0].numpy()
    assert len(converted) == len(samples)
    assert abs(semitones(median_pitch(track_pitch(converted, 16000)) / voices[target])) < 3
    levels = [log_bands(x).max(axis=0) for x in (samples, converted)]
    assert np.corrcoef(*levels)[0, 1] > 0.7


def test_codes_are_of_what_is_said_not_of_how_loud():
    samples = torch.from_numpy(sf.read(RECORDING, dtype="float32")[0])
    codec = SpeechCodec.from_pretrained()
    loud, quiet = (codec.encode(gain * samples) for gain in (1.0, 0.25))
    assert torch.equal(loud.codes, quiet.codes)
    assert torch.equal(loud.pitch, quiet.pitch)
    assert (loud.level - quiet.level == 24).all()


def test_what_is_not_bundled_is_one_clear_line(tmp_path):
    """Beside other weights: no entropy model, no prior, no speakers."""
    codec = SpeechCodec.from_pretrained()
    save_weights(codec, tmp_path, torch.int8)
    codec = SpeechCodec.from_pretrained(tmp_path)
    samples = torch.from_numpy(sf.read(RECORDING, dtype="float32")[0][:16000])
    codec.save(codec.encode(samples), tmp_path / "a.avq")
    assert torch.equal(codec.load(tmp_path / "a.avq").codes, codec.encode(samples).codes)
    for call, words in (
        (lambda: SpeechPrior.from_pretrained(tmp_path), "no prior in"),
        (lambda: codec.target_voice("tuxpaint-ro"), "model speech has none"),
        (lambda: codec.decode(codec.encode(samples), decoder="wavenet"), "no decoder 'wavenet'"),
    ):
        with pytest.raises(AudioVQError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_times_do_not_drift():
    """Clicks stay where they are to the last one, and the length is the source's."""
    codec = SpeechCodec.from_pretrained()
    target = next(iter(read_voices(codec)))
    rate, seconds = 44_100, 6
    samples = np.random.default_rng(0).normal(0, 1e-4, seconds * rate).astype(np.float32)
    width = rate // 1000
    for i in range(seconds):
        samples[i * rate + rate // 2 :][:width] += 0.5 * np.hanning(width)

    def places(signal: np.ndarray, signal_rate: int) -> np.ndarray:
        """Centres of energy of 0.1 s about each click, in ms."""
        begins = [round((i + 0.45) * signal_rate) for i in range(seconds)]
        power = np.stack([np.square(signal[begin:][: signal_rate // 10]) for begin in begins]).astype(float)
        return power @ np.arange(power.shape[1]) / power.sum(axis=1) / signal_rate * 1000

    encoded = codec.encode(samples, sample_rate=rate)
    for decoded in (codec.decode(encoded), codec.convert(samples, [target], sample_rate=rate)):
        found = np.asarray(decoded).reshape(-1)
        assert len(found) == seconds * codec.sample_rate
        assert np.abs(places(found, codec.sample_rate) - places(samples, rate)).max() < 5
