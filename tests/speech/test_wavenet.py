"""The WaveNet decoder: causal, cached as whole, streamed as whole, saved and held against its codec."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.hub import codes_hash, save_weights
from audiovq.interfaces import Packet
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.wavenet import WaveNetDecoder, WaveNetState, draw
from audiovq.speech.wavenet_files import save_wavenet
from audiovq.speech.wavenet_stream import draw_waveform

BACKBONE = {"channels": [12, 10], "upsample": [4], "dilations": [[1], [1]]}
STACK = {"channels": 12, "skip_channels": 10, "n_layers": 6, "dilation_cycle": 4}
MIXTURE = {"kind": "mixture", "n_mixtures": 3, "bits": 16}
KINDS = {
    "bands": {"output": MIXTURE, "n_bands": 4, "taps": 3, "band_gains": [0.7, 1.4, 1.6, 2.5]},
    "samples": {"output": MIXTURE, "samples_per_step": 4, "taps": 2},
    "both": {"output": MIXTURE, "n_bands": 2, "samples_per_step": 2},
    "full": {"output": MIXTURE, "taps": 16},
    "paper": {"output": {"kind": "mu_law", "bits": 8}},
    "draft": {"output": MIXTURE, "n_bands": 4, "taps": 3, "draft": {"kernel_size": 5}},
}


def wavenet(kind, latent_dim=8, speaker_dim=6, hop_length=320):
    """Untrained, with every weight moved away from its start."""
    torch.manual_seed(0)
    net = WaveNetDecoder(latent_dim, speaker_dim, hop_length, BACKBONE, STACK, **KINDS[kind]).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def draft_of(net, waveform):
    """A draft where one is read: the waveform, a little wrong."""
    return None if net.draft is None else 0.8 * waveform + 0.02 * torch.randn(waveform.shape)


def material(n_frames=3):
    torch.manual_seed(1)
    return 0.2 * torch.randn(2, 1, 320 * n_frames), torch.randn(2, 8, n_frames), torch.randn(2, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_values_become_the_waveform_again(kind):
    net, (waveform, _, _) = wavenet(kind), material(6)
    again = net.pqmf.synthesis(net.to_bands(net.to_values(waveform)))
    inner = slice(100, -100)
    error = (again - waveform)[..., inner].square().mean() / waveform.square().mean()
    assert error < (3e-4 if kind == "paper" else 1e-5)  # 8 bits


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_is_told_what_comes_after_it(kind):
    """A value's likelihood depends on itself and on values before it, in the order in which they are drawn."""
    net, (waveform, latents, speaker) = wavenet(kind), material()
    values, draft = net.to_values(waveform), draft_of(net, waveform)

    def nll(values):
        net.to_values = lambda _: values
        return net(waveform, latents, speaker, draft)

    before = nll(values)
    n, step = net.n_values, 40
    for i in {0, n - 1}:
        changed = values.clone()
        changed[:, i, step] = net.output.on_grid(-changed[:, i, step] + 0.1)
        different = (nll(changed) != before).any(0)
        assert different[i, step]
        assert not different[:, :step].any()
        assert not different[:i, step].any()
        if n > 1 and net.taps:
            assert bool(different[i + 1 :, step].all())  # those after it in its step do know it


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_step_by_step_is_the_whole_network(kind):
    """The cached path's outputs at each step equal those of teacher forcing on what was drawn."""
    net, (waveform, latents, speaker) = wavenet(kind), material(1 if KINDS[kind].get("n_bands", 1) == 1 else 3)
    seen = []
    advance = net.stack.advance

    def listen(x, projected, state, extra):
        out = advance(x, projected, state, extra)
        seen.append(out)
        return out

    condition = net.condition(latents, speaker)
    projected = net.stack.project_condition(condition)
    n_steps = waveform.shape[-1] // net.n_values
    uniform = torch.rand(2, net.output.n_uniform, net.n_values, n_steps).clamp(1e-6, 1 - 1e-6)
    net.stack.advance = listen
    extra = net.read_draft(draft_of(net, waveform), condition)[0] if net.draft is not None else None
    values = draw(net, condition, uniform, WaveNetState(net, 2), extra=extra).clone()
    cached = torch.cat(seen, dim=2)
    net.stack.advance = advance
    before = torch.nn.functional.pad(values, (1, -1))
    whole = advance(net.inputs(before), projected, net.stack.initial_state(2), extra)
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=0)
    assert torch.equal(net.output.on_grid(values), values)
    # What was drawn step by step is also what the parameters, shifts and units of teacher forcing give for this noise.
    parameters, shift = net.parameters_and_shift(whole, values)
    units = net.units(condition)
    known = {} if units is None else {"shift": shift, "unit": units.repeat_interleave(net.hold, dim=2)}
    again = net.output.sample(parameters, uniform, **known)
    assert ((again - values).abs() < 2e-3).float().mean() > 0.99


def test_bits_do_not_depend_on_how_the_values_are_scaled():
    """Bits of a sample: bands told with twice the gain have as many, when the network says the same of them."""
    net = wavenet("bands")
    nll = torch.rand(1, 4, 10)
    bits = net.bits_per_sample(nll)
    net.gains.mul_(2)
    torch.testing.assert_close(net.bits_per_sample(nll), bits - 1)


@pytest.fixture(params=["bands", "draft"])
def kind(request):
    return request.param


@pytest.fixture
def model(codec, tmp_path, kind):
    """A codec's folder with a WaveNet in it."""
    save_weights(codec, tmp_path / "model", torch.float32)
    save_wavenet(wavenet(kind), tmp_path / "model", codes_hash(tmp_path / "model"), torch.float32)
    return tmp_path / "model"


def test_saved_and_loaded_it_is_the_same(model, kind):
    loaded, _ = SpeechCodec.from_pretrained(model).wavenet()
    original = wavenet(kind)
    assert loaded.config == original.config
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), original.parameters(), strict=True))


def test_a_stream_gives_the_same_however_it_arrives(model, speech):
    codec = SpeechCodec.from_pretrained(model)
    encoded = codec.encode([speech])
    whole = codec.decode(encoded, decoder="wavenet")
    assert whole.shape == (1, 1, len(speech))
    assert whole.abs().max() > 0
    codes, speaker = encoded.codes[0].numpy(), encoded.speaker[0].numpy()
    for size in (1, 37, 1000):
        stream = codec.decoder_stream(speaker, "wavenet")
        pieces = [stream.push(Packet(codes[:, i : i + size])) for i in range(0, codes.shape[1], size)]
        pieces.append(stream.finish(len(speech)))
        assert np.array_equal(np.concatenate(pieces), whole[0, 0].numpy())
    codec.seed = 1
    assert not torch.equal(codec.decode(encoded, decoder="wavenet"), whole)


def test_a_stream_is_what_the_network_draws_in_one_go(model, speech):
    codec = SpeechCodec.from_pretrained(model)
    encoded = codec.encode([speech])
    wavenet, _ = codec.wavenet()
    with torch.inference_mode():
        speaker = codec.speaker_encoder.decode(encoded.speaker)
        latents = codec.quantizer.decode(encoded.codes)
        draft = codec.decoder(latents, speaker) if wavenet.draft is not None else None
        drawn = draw_waveform(wavenet, latents, speaker, draft=draft)
    streamed = codec.decode(encoded, decoder="wavenet")
    torch.testing.assert_close(streamed, drawn[..., : streamed.shape[-1]], atol=2e-3, rtol=0)


def test_a_lost_packet_keeps_the_length(model, speech):
    codec = SpeechCodec.from_pretrained(model)
    encoded = codec.encode([speech])
    codes = encoded.codes[0].numpy()
    stream = codec.decoder_stream(encoded.speaker[0].numpy(), "wavenet")
    pieces = [stream.push(Packet(codes[:, :50])), stream.push(None, n_frames=50), stream.push(Packet(codes[:, 100:]))]
    pieces.append(stream.finish(len(speech)))
    assert sum(map(len, pieces)) == len(speech)


def test_what_does_not_fit_is_one_clear_error(model, codec, tmp_path):
    with pytest.raises(AudioVQError, match="has no decoder 'wavenet'; it has: parallel"):
        codec.decoder_stream(np.zeros(6, np.int64), "wavenet")
    with torch.no_grad():
        codec.encoder.project[1].weight.add_(1.0)
    save_weights(codec, tmp_path / "other", torch.float32)
    shutil.copytree(model / "wavenet", tmp_path / "other" / "wavenet")
    with pytest.raises(AudioVQError, match="reads the codes of model"):
        SpeechCodec.from_pretrained(tmp_path / "other").decoder_stream(np.zeros(6, np.int64), "wavenet")
    (model / "wavenet" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AudioVQError, match="cannot be loaded"):
        SpeechCodec.from_pretrained(model).decoder_stream(np.zeros(6, np.int64), "wavenet")


def test_a_draft_of_another_decoder_is_refused(codec, tmp_path):
    """Retraining the parallel decoder keeps the codes, but not what a WaveNet on top of it was trained on."""
    save_weights(codec, tmp_path, torch.float32)
    save_wavenet(wavenet("draft"), tmp_path, codes_hash(tmp_path), torch.float32)
    SpeechCodec.from_pretrained(tmp_path).wavenet()
    with torch.no_grad():
        codec.decoder.entry.weight.add_(1e-3)
    save_weights(codec, tmp_path, torch.float32)
    with pytest.raises(AudioVQError, match="drafts of another parallel decoder"):
        SpeechCodec.from_pretrained(tmp_path).wavenet()


def test_a_draft_that_is_right_leaves_nothing():
    """With the whole share taken off, the values of the waveform itself are all zero."""
    net, (waveform, latents, speaker) = wavenet("draft"), material()
    torch.nn.init.zeros_(net.draft.share.weight)
    torch.nn.init.constant_(net.draft.share.bias, 30.0)
    extra, base = net.read_draft(waveform, net.condition(latents, speaker))
    assert extra.shape == (2, 12, waveform.shape[-1] // 4)
    torch.testing.assert_close(base, net.split_waveform(waveform))
    with pytest.raises(ValueError, match="reads a draft"):
        net(waveform, latents, speaker)
