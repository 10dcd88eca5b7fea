"""Pitch in a prior: it is the first stream of a frame, in likelihoods, samples and speech."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile
import torch

from audiovq.cli import main
from audiovq.codec.codec import SpeechCodec
from audiovq.codec.signal import dequantize_level
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.interfaces import N_VALUES
from audiovq.prior import Condition, SamplingConfig, SpeakerDistribution, SpeechPrior
from audiovq.prior.kernels import CompiledStepper
from audiovq.prior.networks import Stepper
from audiovq.prior.speech import load_prior, rounded, save_prior
from tests.codec.tiny import make_codec, speech_like
from tests.prior.conftest import make_prior
from tests.prior.test_sampling import step_through


@pytest.fixture(scope="module")
def pitched():
    """Pitch of 70 values before three codebooks of 50: the larger alphabet is the pitch's."""
    prior = make_prior(pitch_values=70)
    prior.load_state_dict(rounded(prior))
    return prior


@pytest.fixture(scope="module")
def streams():
    generator = torch.Generator().manual_seed(3)
    codes = [torch.randint(0, size, (2, 1, 20), generator=generator) for size in (70, 50, 50, 50)]
    return torch.cat(codes, dim=1)


@torch.inference_mode()
def test_every_stream_has_its_probabilities(pitched, streams):
    logits, nats = pitched.logits(streams), pitched.nll(streams)
    assert logits.shape == (2, 4, 20, 70)
    assert torch.isinf(logits[:, 1:, :, 50:]).all()
    assert torch.isfinite(logits[:, 0]).all()
    probabilities = torch.log_softmax(logits, -1)
    assert torch.allclose(probabilities.gather(-1, streams[..., None])[..., 0], -nats, atol=1e-5)
    changed = streams.clone()
    changed[:, 0, 7] = (changed[:, 0, 7] + 1) % 70
    moved = pitched.nll(changed)
    assert torch.equal(moved[:, :, :7], nats[:, :, :7])
    assert not torch.allclose(moved[:, 1:, 7], nats[:, 1:, 7]), "codes follow the pitch of their frame"


@torch.inference_mode()
def test_cached_and_compiled_steps_equal_the_full_pass(pitched, streams):
    condition = Condition(torch.randn(2, 5), torch.tensor([0, -1]))
    offset = pitched.conditioner(2, condition)
    whole, _ = pitched.hidden(streams, condition)
    for stepper in (
        Stepper(pitched, offset, SamplingConfig(), 4),
        CompiledStepper(pitched.packed(), offset.numpy(), SamplingConfig(), 4),
    ):
        assert (whole - step_through(stepper, pitched, streams)).abs().max() < 1e-4 * whole.abs().max()


def test_samples_stay_in_their_alphabets_and_continue_prompts(pitched, streams):
    greedy = pitched.sample(15, 2, sampling=SamplingConfig(temperature=0))
    with torch.no_grad():
        assert torch.equal(pitched.logits(greedy).argmax(-1), greedy)
    drawn = pitched.sample(40, 3, seed=1, n_codebooks=2)
    assert drawn.shape == (3, 3, 40)
    assert drawn[:, 1:].max() < 50 <= drawn[:, 0].max() < 70
    fast, slow = (pitched.sample(20, 2, prompt=streams, seed=2, fast=fast) for fast in (True, False))
    assert torch.equal(fast[:, :, :20], streams)
    assert torch.equal(fast[:, :, :24], slow[:, :, :24])
    with pytest.raises(AudioVQError, match="3 codebooks"):
        pitched.sample(5, prompt=streams[:, :3])


# -- speech -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a codec and its prior."""
    folder = tmp_path_factory.mktemp("model")
    save_weights(make_codec(), folder)
    loaded = SpeechCodec.from_pretrained(folder)
    sizes = {"n_codebooks": 4, "codebook_size": 32, "speaker_dim": 8, "pitch_values": N_VALUES + 1}
    prior = make_prior(codec=loaded.model_hash.hex(), **sizes)
    rng = np.random.default_rng(0)
    names = [f"s{i % 5}" for i in range(40)]
    loudness = np.array([150.0 + 5 * (i % 5) for i in range(40)])
    vectors = rng.integers(4, 12, (5, 8))[np.arange(40) % 5] + rng.integers(-1, 2, (40, 8))
    speakers = SpeakerDistribution.fit(vectors, names, np.full(40, 10.0), 16, loudness=loudness)
    save_prior(prior, folder / "prior", speakers)
    return folder


@pytest.fixture(scope="module")
def source(model):
    return SpeechPrior.from_pretrained(model)


def test_generated_speech_has_pitch_and_the_level_of_its_speaker(source, tmp_path):
    encoded = source.generate(0.705, 3, seed=5, n_codebooks=3)
    assert encoded.codes.shape == (3, 3, 36)
    assert encoded.pitch.shape == (3, 36)
    assert encoded.level.shape == (3, 2)
    assert 0 <= encoded.pitch.min() <= encoded.pitch.max() <= N_VALUES
    for vector, levels in zip(encoded.speaker, encoded.level, strict=True):
        nearest = int(np.square(source.voices.means - vector.numpy()).sum(1).argmin())
        assert levels.tolist() == [150 + 5 * nearest] * 2
    waveform = source.codec.decode(encoded)
    assert waveform.shape == (3, 1, 11280)
    one = encoded.item(0)
    source.codec.save(one, tmp_path / "a.avq")
    loaded = source.codec.load(tmp_path / "a.avq")
    assert loaded.packet_frames == one.packet_frames == 30
    for name in ("codes", "speaker", "n_samples", "pitch", "level"):
        assert torch.equal(getattr(loaded, name), getattr(one, name))
    assert torch.equal(source.codec.decode(loaded), waveform[:1])


def test_a_prompt_keeps_its_pitch_level_and_speaker(source):
    prompt = source.codec.encode([0.1 * speech_like(1.5)], n_codebooks=3)
    encoded = source.generate(0.5, 2, prompt=prompt)
    assert encoded.codes.shape == (2, 3, 75 + 25)
    for name in ("codes", "pitch"):
        assert torch.equal(getattr(encoded, name)[0, ..., :75], getattr(prompt, name)[0])
    assert torch.equal(encoded.speaker, prompt.speaker.expand(2, -1))
    assert encoded.level.shape == (2, 4)
    assert torch.equal(encoded.level[0, :3], prompt.level[0])
    assert abs(dequantize_level(int(encoded.level[0, 3])) - dequantize_level(float(prompt.level.float().mean()))) < 6


def test_levels_of_speakers_are_stored(model, source):
    _, speakers = load_prior(model / "prior")
    assert np.array_equal(speakers.loudness, source.voices.loudness)
    assert sorted(speakers.loudness.tolist()) == [150, 155, 160, 165, 170]


def test_the_command_samples_continues_and_saves(model, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    soundfile.write("beginning.wav", speech_like(1.0), 16000)
    settings = ["--model", str(model), "-o", "out", "--seconds", "0.5", "-n", "1", "--format", "both"]
    assert main(["generate", "speech", *settings, "--prompt", "beginning.wav", "--language", "cs"]) == 0
    samples, rate = soundfile.read("out/sample-01.wav")
    assert (len(samples), rate) == (24000, 16000)
    assert main(["decode", "out/sample-01.avq", "-o", "again.wav", "--model", str(model)]) == 0
    assert np.array_equal(soundfile.read("again.wav")[0], samples)
    capfd.readouterr()
    assert main(["generate", "speech", *settings, "-f", "--language", "xx"]) == 1
    assert "xx" in capfd.readouterr().err


def test_training_can_learn_a_pitch_that_codes_follow():
    """Pitch counts up, codebook 1 repeats it, codebook 2 is codebook 1 of the frame before."""
    prior = make_prior(pitch_values=70, n_codebooks=2).train()
    track = (torch.arange(24) + torch.arange(8)[:, None]) % 50
    streams = torch.stack([track, track, (track - 1) % 50], dim=1)
    optimizer = torch.optim.AdamW(prior.parameters(), 1e-2)
    assert prior.nll(streams).mean() > math.log(10)
    for _ in range(120):
        loss = prior.nll(streams).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert prior.eval().nll(streams)[:, :, 1:].mean((0, 2)).max() < 0.2


@pytest.mark.parametrize("dim", [4, 12])
def test_vectors_of_codes_start_where_the_codebooks_are(dim):
    """As near to each other as in the codebook, where there is room for all of its dimensions; pitch stays."""
    prior = make_prior(pitch_values=70, embedding_dim=dim)
    tables = (
        torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([3.0, 1, 0.1])[:, None, None]
    )
    before = prior.embedding.vectors.detach().clone()
    prior.embedding.begin_from(tables)
    found = prior.embedding.vectors.detach()
    assert torch.equal(found[0], before[0])
    assert torch.equal(found[1:, 50:], before[1:, 50:])
    for table, vectors in zip(tables, found[1:, :50], strict=True):
        wanted = torch.pdist(table) / (table - table.mean(0)).std()
        distances = torch.pdist(vectors)
        assert (distances <= wanted + 1e-4).all() if dim < 8 else torch.allclose(distances, wanted, atol=1e-3)


def test_a_prior_that_starts_from_codebooks_learns_sooner_that_codes_last():
    """Codes stay for five frames and go on to a random one: what holds for one code holds for those near to it."""
    generator = torch.Generator().manual_seed(2)
    streams = torch.randint(0, 50, (8, 4, 6), generator=generator).repeat_interleave(5, 2)
    tables, nats = torch.randn(3, 50, 6, generator=generator), []
    for begin in (False, True):
        prior = make_prior(pitch_values=70)
        if begin:
            prior.begin_from(tables)
        optimizer = torch.optim.AdamW(prior.train().parameters(), 3e-3)
        for _ in range(15):
            loss = prior.nll(streams).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        nats.append(prior.eval().nll(streams)[:, 1].mean().item())
    assert nats[1] < nats[0]


def test_a_prompt_keeps_its_packets(source):
    """A prompt coded in other packets than the codec's: its levels stay with their packets."""
    prompt = source.codec.encode([0.1 * speech_like(1.2)], n_codebooks=3)
    prompt.level, prompt.packet_frames = torch.tensor([[150, 155, 160, 165, 170, 175]]), 10
    encoded = source.generate(0.5, prompt=prompt)
    assert encoded.packet_frames == 10
    assert encoded.level.shape == (1, 9)
    assert encoded.level[0, :6].tolist() == prompt.level[0].tolist()
    assert source.codec.decode(encoded).shape == (1, 1, 60 * 320 + 8000)
