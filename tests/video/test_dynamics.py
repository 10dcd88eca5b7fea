"""Dynamics: what may and what may not be read, kept features, and rollouts that repeat themselves."""

from __future__ import annotations

import pytest
import torch

from audiovq.errors import AudioVQError
from audiovq.image import ImageCodec
from audiovq.video import LatentDynamics, VideoModel, roll_out

LEVEL = {"stride": 4, "latent_dim": 8, "quantizer": {"codebook_size": 16}}


def make_dynamics(n_actions: int = 5, **settings) -> LatentDynamics:
    torch.manual_seed(0)
    sizes = {"stem": 8, "fine": 16, "coarse": 16, "n_fine": 1, "n_coarse": 1, "condition": 8}
    dynamics = LatentDynamics(16, 8, n_actions=n_actions, **{**sizes, **settings}).eval()
    with torch.no_grad():  # untrained, actions would matter too little to change a draw
        for block in (*dynamics.coarse, *dynamics.fine):
            block.film.weight.mul_(30)
        dynamics.motion.weight.mul_(30)
        dynamics.head[2].weight.mul_(30)
    return dynamics


def make_inputs(n_frames: int = 4, edge: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(16, (2, 1, 6, edge, edge), generator=random)
    return codes, torch.randint(2, (2, 5 + n_frames, 5), generator=random)


def test_shapes_at_even_and_odd_sizes():
    dynamics = make_dynamics()
    for edge in (4, 5):
        codes, actions = make_inputs(3, edge)
        assert dynamics.logits(dynamics.embed(codes), actions[:, :6]).shape == (2, 16, edge, edge)
        found = roll_out(dynamics, codes, actions)
        assert found.codes.shape == (2, 1, 3, edge, edge)
        assert found.latents.shape == (2, 8, 3, edge, edge)


def test_codes_that_are_open_are_not_read():
    """The next frame's latents reach the logits only where they are known."""
    dynamics = make_dynamics()
    codes, actions = make_inputs()
    features = dynamics.features(dynamics.embed(codes))
    given = torch.randn(2, 8, 5, 5, requires_grad=True)
    known = torch.zeros(2, 1, 5, 5)
    known[:, :, 1, 3] = 1
    dynamics(features, actions[:, :6], given, known).square().sum().backward()
    reached = given.grad.abs().sum((0, 1)) > 0
    assert reached.nonzero().tolist() == [[1, 3]]


def test_every_context_frame_and_action_is_read():
    dynamics = make_dynamics()
    codes, actions = make_inputs()
    latents = dynamics.embed(codes).requires_grad_()
    held = actions[:, :6].float().requires_grad_()
    dynamics.logits(latents, held).square().sum().backward()
    assert (latents.grad.abs().sum((0, 1, 3, 4)) > 0).all()
    assert (held.grad.abs().sum((0, 2)) > 0).all()


@pytest.mark.parametrize("mode", ["mean", "likeliest", "sample"])
def test_no_frame_depends_on_later_actions(mode):
    dynamics = make_dynamics()
    codes, actions = make_inputs(6)
    first = roll_out(dynamics, codes, actions, mode, n_steps=3)
    changed = actions.clone()
    changed[:, 8:] = 1 - changed[:, 8:]  # the action from frame 8 to frame 9, which is the fourth predicted
    second = roll_out(dynamics, codes, changed, mode, n_steps=3)
    torch.testing.assert_close(first.latents[:, :, :3], second.latents[:, :, :3], rtol=0, atol=0)
    assert not torch.equal(first.latents[:, :, 3:], second.latents[:, :, 3:])


@pytest.mark.parametrize("mode", ["mean", "likeliest"])
def test_kept_features_equal_the_whole_pass(mode):
    dynamics = make_dynamics()
    codes, actions = make_inputs(5)
    found = roll_out(dynamics, codes, actions, mode)
    latents = dynamics.embed(codes)
    for i in range(5):
        logits = dynamics.logits(latents[:, :, -6:], actions[:, i : i + 6])
        new = dynamics.expected(logits) if mode == "mean" else dynamics.embed(logits.argmax(1)[:, None])
        # What rounding makes of it differs between processors, and feeds on itself from frame to frame.
        torch.testing.assert_close(found.latents[:, :, i], new, rtol=1e-4, atol=1e-4)
        latents = torch.cat([latents, new[:, :, None]], 2)


def test_the_blind_twin_ignores_actions_and_the_other_does_not():
    codes, actions = make_inputs()
    for n_actions, same in ((0, True), (5, False)):
        dynamics = make_dynamics(n_actions)
        first, second = (roll_out(dynamics, codes, a).latents for a in (actions, 1 - actions))
        assert torch.equal(first, second) is same


def test_drawing_repeats_with_its_seed_and_varies_without():
    dynamics = make_dynamics()
    codes, actions = make_inputs()
    draw = [roll_out(dynamics, codes, actions, "sample", seed=seed).codes for seed in (3, 3, 4)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_at_temperature_zero_one_pass_draws_the_likeliest():
    dynamics = make_dynamics()
    codes, actions = make_inputs()
    drawn = roll_out(dynamics, codes, actions, "sample", n_steps=1, temperature=0)
    assert torch.equal(drawn.codes, roll_out(dynamics, codes, actions, "likeliest").codes)


def test_wrong_input_is_refused():
    dynamics = make_dynamics()
    codes, actions = make_inputs()
    with pytest.raises(AudioVQError, match="6 frames with 5 buttons"):
        dynamics.logits(dynamics.embed(codes[:, :, :5]), actions[:, :6])
    with pytest.raises(AudioVQError, match="at least 6 actions"):
        roll_out(dynamics, codes, actions[:, :5])
    with pytest.raises(AudioVQError, match="unknown mode 'guess'"):
        roll_out(dynamics, codes, actions, "guess")


def test_a_model_comes_back_from_its_folder(tmp_path):
    torch.manual_seed(0)
    codec = ImageCodec([LEVEL], channels=16, residual=8, n_residual=1).eval()
    codec.save(tmp_path / "m" / "frames")
    codec = ImageCodec.from_pretrained(tmp_path / "m" / "frames")
    dynamics = make_dynamics(codec=codec.model_hash.hex())
    VideoModel(codec, dynamics).save(tmp_path / "n")
    model = VideoModel.from_pretrained(tmp_path / "n")
    video, (_, actions) = torch.rand(2, 3, 6, 20, 20), make_inputs()
    frames, rollout = model.predict(video, actions)
    assert frames.shape == (2, 3, 4, 20, 20)
    assert rollout.codes.shape == (2, 1, 4, 5, 5)
    pixels = (video * 255).byte()
    assert torch.equal(model.encode(pixels), model.encode(pixels.float() / 255))
    conv = torch.nn.Conv3d(3, 2, 3)
    (conv(frames).sum() + torch.nn.Embedding(16, 2)(rollout.codes).sum()).backward()  # no inference tensors
    assert conv.weight.grad.abs().sum() > 0
    with pytest.raises(AudioVQError, match=r"encodes video \(B, 3, T, H, W\), got shape \(3, 6, 20, 20\)"):
        model.encode(video[0])
    with pytest.raises(AudioVQError, match="trained on codes of model"):
        VideoModel(codec, make_dynamics(codec="01234567"))
    with pytest.raises(AudioVQError, match="no video model"):
        VideoModel.from_pretrained(tmp_path)
