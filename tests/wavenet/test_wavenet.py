"""The WaveNet decoder: causal, sampled as the network says, the same however packets arrive."""

import shutil

import numpy as np
import pytest
import soundfile
import torch

from audiovq.cli import main
from audiovq.codec.codec import SpeechCodec
from audiovq.errors import AudioVQError
from audiovq.hub import save_weights
from audiovq.wavenet.model import CodedFrames, WaveNetDecoder, band_temperatures
from audiovq.wavenet.sampler import Noise, WaveNetSampler, WaveNetStream, save_wavenet
from tests.codec.tiny import HOP, make_codec, speech_like
from tests.wavenet.tiny import CONFIG, make_wavenet

FRAMES = 12


def coded_frames(n_frames=FRAMES, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(batch, *shape, generator=generator)

    return CodedFrames(
        noise(16, n_frames), noise(16, n_frames * 4), noise(8), 0.1 * noise(1, n_frames * HOP), noise(1, n_frames * HOP)
    )


@pytest.fixture(scope="module")
def wavenet():
    return make_wavenet()


@pytest.fixture(scope="module")
def sampler(wavenet):
    return WaveNetSampler(wavenet)


@torch.no_grad()
def test_an_output_depends_on_earlier_values_alone(wavenet):
    prepared = wavenet.prepare(coded_frames())
    values = 0.1 * torch.randn(1, 4, FRAMES * 80)
    before = wavenet.outputs(values, prepared)
    values[..., 500] += 0.1
    changed = (wavenet.outputs(values, prepared) != before).any(1)[0]
    assert not changed[:501].any()
    assert changed[501:560].any()


@torch.no_grad()
def test_a_likelihood_depends_on_earlier_values_and_on_lower_bands_of_its_step(wavenet):
    coded, values, step = coded_frames(), wavenet.output.on_grid(0.1 * torch.randn(1, 4, FRAMES * 80)), 40

    def nll(values):
        parameters, shift = wavenet.parameters_and_shift(wavenet.outputs(values, prepared), values)
        return wavenet.output.nll(parameters, values, shift, units)[0]

    prepared = wavenet.prepare(coded)
    units = wavenet.band_units(prepared.condition).repeat_interleave(wavenet.hold, dim=2)
    before = nll(values)
    for band in (0, 3):
        changed = values.clone()
        changed[:, band, step] = wavenet.output.on_grid(-changed[:, band, step] + 0.1)
        different = nll(changed) != before
        assert different[band:, step].all()
        assert not different[:, :step].any()
        assert not different[:band, step].any()


def test_losses_have_gradients_everywhere():
    wavenet = make_wavenet().train()
    loss = wavenet(0.1 * torch.randn(2, 1, FRAMES * HOP), coded_frames(batch=2)).mean()
    loss.backward()
    assert torch.isfinite(loss)
    unused = [name for name, p in wavenet.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused


@torch.no_grad()
def test_initially_the_most_likely_waveform_is_the_parallel_decoders():
    torch.manual_seed(0)
    wavenet = WaveNetDecoder(**CONFIG).eval()
    coded = coded_frames()
    bands = wavenet.prepare(coded).base
    inside = slice(100, -100)
    difference = (wavenet.join(bands) - coded.parallel)[0, 0, inside]
    assert difference.abs().max() < 0.01 * coded.parallel.abs().max()


@torch.no_grad()
def test_cached_sampling_equals_teacher_forcing(wavenet, sampler):
    prepared = wavenet.prepare(coded_frames(batch=2))
    values = wavenet.output.on_grid(0.1 * torch.randn(2, 4, FRAMES * 80))
    whole = wavenet.outputs(values, prepared)
    cached = sampler.outputs(prepared.condition, values, extra=prepared.extra)
    assert whole.std() > 0.1
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=0)


@torch.no_grad()
def test_samples_are_those_of_the_distribution_at_each_step(wavenet, sampler):
    """Given what was sampled before, PyTorch samples the same value from the same random numbers."""
    prepared = wavenet.prepare(coded_frames())
    noise = Noise(sampler, 3).at(0, FRAMES * 80)
    values = sampler.sample(prepared.condition, noise, temperature=0.8, extra=prepared.extra)
    parameters, shift = wavenet.parameters_and_shift(wavenet.outputs(values, prepared), values)
    units = wavenet.band_units(prepared.condition).repeat_interleave(wavenet.hold, dim=2)
    expected = wavenet.output.sample(parameters, noise, shift, units, 0.8)
    assert values.std() > 0.01
    # A random number at the border between two components may choose the other one.
    assert ((values - expected).abs() < 1e-3).float().mean() > 0.998


@torch.no_grad()
def test_samples_do_not_depend_on_pieces_or_on_the_batch(wavenet, sampler):
    prepared = wavenet.prepare(coded_frames(batch=3))
    noise = Noise(sampler, 1).at(0, FRAMES * 80).expand(3, -1, -1, -1)
    whole = sampler.sample(prepared.condition, noise, extra=prepared.extra)
    state, pieces = sampler.state(1), []
    for first, last in ((0, 4), (4, 5), (5, 48)):
        part = prepared.steps(first, last, wavenet.hold)
        steps = slice(first * wavenet.hold, last * wavenet.hold)
        pieces.append(sampler.sample(part.condition[1:2], noise[1:2, ..., steps], state, extra=part.extra[1:2]))
    assert torch.equal(torch.cat(pieces, dim=2), whole[1:2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_weights(make_codec(), folder, torch.float32)
    save_wavenet(make_wavenet().state_dict(), make_wavenet().config, folder)
    return folder


@pytest.fixture(scope="module")
def codec(folder):
    return SpeechCodec.from_pretrained(folder)


@pytest.fixture(scope="module")
def speech():
    return speech_like(2.3)


def test_streamed_equals_whole(codec, speech):
    assert codec.decoders == ["parallel", "wavenet"]
    encoded = codec.encode(speech)
    whole = codec.decode(encoded, "wavenet", seed=5)[0, 0].numpy()
    assert len(whole) == len(speech)
    encoder, packets = codec.encoder_stream(), []
    for start in range(0, len(speech), 1111):
        packets += encoder.push(speech[start : start + 1111])
    packets += encoder.finish()
    decoder = codec.decoder_stream(encoder.speaker, "wavenet", seed=5)
    pieces = [decoder.push(packet) for packet in packets]
    assert sum(len(piece) > 0 for piece in pieces) > 1
    pieces.append(decoder.finish(len(speech)))
    assert np.array_equal(np.concatenate(pieces), whole)
    assert np.array_equal(codec.decode(encoded, "wavenet", seed=5)[0, 0].numpy(), whole)
    assert not np.array_equal(codec.decode(encoded, "wavenet", seed=6)[0, 0].numpy(), whole)


def test_a_lost_packet_keeps_the_length(codec, speech):
    encoder = codec.encoder_stream()
    packets = encoder.push(speech) + encoder.finish()
    assert len(packets) > 2
    stream = codec.decoder_stream(encoder.speaker, "wavenet")
    pieces = [stream.push(packets[0]), stream.push(None, n_frames=packets[1].n_frames)]
    pieces += [stream.push(packet) for packet in packets[2:]]
    samples = np.concatenate([*pieces, stream.finish(len(speech))])
    assert len(samples) == len(speech)
    assert np.isfinite(samples).all()


def test_damaged_files_are_one_clear_error(folder, speech, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "wavenet" / "model.safetensors").write_bytes(b"nothing")
    codec = SpeechCodec.from_pretrained(tmp_path / "model")
    with pytest.raises(AudioVQError, match="cannot be loaded"):
        codec.decode(codec.encode(speech), "wavenet")


def test_a_batch_is_decoded_as_its_items(codec):
    items = [speech_like(0.9, 1), speech_like(1.4, 2)]
    batch = codec.decode(codec.encode(items), "wavenet")
    for i, item in enumerate(items):
        assert torch.equal(batch[i, :, : len(item)], codec.decode(codec.encode(item), "wavenet")[0])


@torch.no_grad()
def test_packets_leave_no_seams(speech):
    """Without the stack's outputs and without randomness, packet by packet equals all at once."""
    codec, wavenet = make_codec(), make_wavenet(temperature=0.0)
    wavenet.stack.project.weight.zero_()
    wavenet.stack.project.bias.zero_()
    encoded = codec.encode(speech)
    encoded.level = torch.full_like(encoded.level, int(encoded.level[0, 0]))
    sampler = WaveNetSampler(wavenet)
    codec.add_decoder("wavenet", lambda codec, speaker, seed: WaveNetStream(codec, wavenet, sampler, speaker, seed))
    samples = codec.decode(encoded, "wavenet")[0, 0]
    latents = codec.quantizer.decode(encoded.codes)
    vector = codec.speaker_encoder.decode(encoded.speaker)
    direct = torch.tensor([True])
    features = codec.decoder.features(latents, encoded.pitch, vector, direct)
    parallel = codec.decoder.synthesize(features, encoded.pitch, direct)
    coded = CodedFrames(latents, features, vector, parallel, codec.source(encoded.pitch))
    whole = wavenet.join(wavenet.prepare(coded).base)[0, 0, : len(speech)]
    whole = whole * (samples.norm() / whole.norm())
    assert len(speech) > 2 * codec.packet_frames * HOP
    torch.testing.assert_close(samples, whole, atol=1e-3 * float(whole.abs().max()), rtol=0)


def test_a_wavenet_of_another_model_is_refused(folder, speech, tmp_path):
    save_weights(make_codec(seed=1), tmp_path, torch.float32)
    (tmp_path / "wavenet").mkdir()
    for path in (folder / "wavenet").iterdir():
        (tmp_path / "wavenet" / path.name).write_bytes(path.read_bytes())
    codec = SpeechCodec.from_pretrained(tmp_path)
    with pytest.raises(AudioVQError, match="another codec or parallel decoder"):
        codec.decode(codec.encode(speech), "wavenet")


def test_temperatures():
    assert band_temperatures(0.5, 2) == [0.5, 0.5]
    assert band_temperatures([0.5, 1], 2) == [0.5, 1.0]
    for wrong in ([1.0], -1.0, [1.0, -1.0]):
        with pytest.raises(ValueError, match="temperature"):
            band_temperatures(wrong, 2)


def test_the_command_line_samples_by_the_seed(folder, speech, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", speech[:20000], 16000)
    assert main(["encode", "a.wav", "--model", str(folder)]) == 0

    def decoded(seed):
        options = ["-o", "out.wav", "--model", str(folder), "--decoder", "wavenet", "-f", "--seed", str(seed)]
        assert main(["decode", "a.avq", *options]) == 0
        return (tmp_path / "out.wav").read_bytes()

    first = decoded(1)
    assert decoded(1) == first
    assert decoded(2) != first
    assert soundfile.info("out.wav").frames == 20000
