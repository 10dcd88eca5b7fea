"""Runs in which the encoder hears changed voices: exact when resumed, begun from other weights as far as they fit."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("hydra")

from audiovq.data.teacher import DIM
from audiovq.errors import AudioVQError
from audiovq.quantize import Quantized
from audiovq.speech.checkpoint import save_codec
from audiovq.speech.codec import SpeechCodec
from audiovq.training.run import compose, train
from audiovq.training.verifier import SpeakerVerifier
from audiovq.training.voice_codec import VoiceCodecTask, reverse_gradient
from audiovq.training.warm_start import warm_start
from tests.training.test_run import corpus, train_until, weights  # noqa: F401


def overrides(corpus, folder, **changes):  # noqa: F811
    settings = {
        "training.max_steps": 8,
        "training.decay_steps": 2,
        "training.batch_size": 4,
        "training.crop_seconds": 0.4,
        "training.other_seconds": 0.5,
        "training.validation_items": 4,
        "training.validate_every": 4,
        "training.checkpoint_every": 4,
        "training.log_every": 2,
        "training.accelerator": "cpu",
        "task.adversarial_start": 2,
        "task.adversarial_samples": 3200,
        "task.swap_share": 0.5,
        "task.swap_start": 1,
        "training.conversion_share": 0.5,
        "task.verifier": "null",
        "task.weights.identity": 0.5,
        "task.weights.content": 0.5,
        "task.weights.classifier": 0.1,
        "task.weights.voice": 0.1,
        "task.weights.melody": 0.1,
        "model.quantizer.init_after": 1,
        **changes,
    }
    return compose(
        ["experiment=tiny", "task=voice_codec", "perturbation=pitch_formant"]
        + [f"data.corpora=[{{name: {corpus}}}]", f"run_dir={folder}"]
        + [f"{key}={value}" for key, value in settings.items()]
    )


def test_a_resumed_run_equals_an_uninterrupted_one(corpus, tmp_path):  # noqa: F811
    train(overrides(corpus, tmp_path / "first"))
    torch.manual_seed(0)
    SpeakerVerifier(["high", "low"], dim=8, channels=8, dilations=[1]).save(tmp_path / "verifier")
    start = {"training.init_from": tmp_path / "first" / "latest", "task.verifier": tmp_path / "verifier"}
    start["training.virtual_voices"] = "{share: 0.5}"
    train(overrides(corpus, tmp_path / "whole", **start))
    interrupted = overrides(corpus, tmp_path / "parts", **start)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train_until(interrupted, 6)
    train(interrupted)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    state = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=False)["state_dict"]
    first = SpeakerVerifier.load(tmp_path / "verifier").state_dict()
    assert not torch.equal(state["judge.project.weight"], first["project.weight"])  # the judge went on learning


def tiny_codec(**quantizer) -> SpeechCodec:
    config = compose(["experiment=tiny"]).model
    from omegaconf import OmegaConf

    settings = OmegaConf.to_container(config)
    settings["quantizer"] |= quantizer
    return SpeechCodec(**settings)


def test_warm_start_takes_what_fits(tmp_path):
    torch.manual_seed(0)
    source = tiny_codec()
    source.quantizer.initialise(torch.randn(640, 16), 64.0)
    save_codec(source, tmp_path, torch.float32)
    torch.manual_seed(1)
    fewer = tiny_codec(n_codebooks=2)
    assert warm_start(fewer, tmp_path) == []
    assert torch.equal(fewer.encoder.project[1].weight, source.encoder.project[1].weight)
    assert torch.equal(fewer.quantizer.levels[1].codebook.vectors, source.quantizer.levels[1].codebook.vectors)
    assert fewer.quantizer.started()
    smaller = tiny_codec(codebook_size=32)
    assert warm_start(smaller, tmp_path) == ["quantizer"]
    assert torch.equal(smaller.encoder.project[1].weight, source.encoder.project[1].weight)
    assert not smaller.quantizer.started()
    with pytest.raises(AudioVQError, match="no model"):
        warm_start(smaller, tmp_path / "nowhere")


def test_warm_start_of_parts_takes_each_from_its_own_model(tmp_path):
    sources = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        sources.append(tiny_codec())
        sources[-1].quantizer.initialise(torch.randn(640, 16), 64.0)
        save_codec(sources[-1], tmp_path / str(seed), torch.float32)
    torch.manual_seed(2)
    own = tiny_codec()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    assert warm_start(own, {"encoder": tmp_path / "0", "quantizer": tmp_path / "0", "decoder": tmp_path / "1"}) == []
    for part, then in (
        ("encoder", sources[0].state_dict()),
        ("quantizer.levels.1.codebook.vectors", sources[0].state_dict()),
        ("decoder", sources[1].state_dict()),
        ("speaker_encoder", before),
    ):
        now = {name: tensor for name, tensor in own.state_dict().items() if f"{name}.".startswith(f"{part}.")}
        assert now
        assert all(torch.equal(tensor, then[name]) for name, tensor in now.items()), part
    with pytest.raises(AudioVQError, match="ears"):
        warm_start(own, {"ears": tmp_path / "0"})


def test_phase_of_moved_items_does_not_count():
    """An item whose waveform is delayed has the same loss when it is marked as moved as one without those terms."""
    settings = compose(["experiment=tiny", "task=voice_codec", "task.verifier=null"]).task
    from hydra.utils import instantiate

    task = instantiate(settings, _convert_="all")
    assert isinstance(task, VoiceCodecTask)
    torch.manual_seed(0)
    decoded, target = torch.randn(3, 1, 8000), torch.randn(3, 1, 8000)
    moved = torch.tensor([True, False, False])
    _, terms = task.reconstruction_loss(decoded, target, moved)
    changed = decoded.clone()
    changed[0] = -changed[0]  # another phase, the same magnitudes
    _, again = task.reconstruction_loss(changed, target, moved)
    for name, value in terms.items():
        torch.testing.assert_close(again[name], value)
    changed[1] = -changed[1]
    _, other = task.reconstruction_loss(changed, target, moved)
    assert not torch.isclose(other["waveform"], terms["waveform"])
    whole, _ = task.reconstruction_loss(decoded, target)
    none_moved, _ = task.reconstruction_loss(decoded, target, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(none_moved, whole)


def test_losses_that_weigh_nothing_are_left_out():
    settings = compose(["experiment=tiny", "task=voice_codec", "task.verifier=null"]).task
    from hydra.utils import instantiate

    task = instantiate(settings, _convert_="all")
    torch.manual_seed(0)
    decoded, target = torch.randn(2, 1, 8000), torch.randn(2, 1, 8000)
    _, terms = task.reconstruction_loss(decoded, target)
    task.weights |= dict.fromkeys(("complex", "magnitude", "waveform", "envelope"), 0.0)
    loss, left = task.reconstruction_loss(decoded, target)
    assert set(left) == {"mel"}
    torch.testing.assert_close(left["mel"], terms["mel"])
    torch.testing.assert_close(loss, task.weights["mel"] * terms["mel"])


def test_the_teacher_hears_conversions():
    """What is heard to be converted, and the conversion heard again, have to tell what the recording does."""
    settings = compose(["experiment=tiny", "task=voice_codec", "task.verifier=null", "task.weights.teacher=1.0"]).task
    from hydra.utils import instantiate

    torch.manual_seed(0)
    task = instantiate(settings, _convert_="all")
    task.melody_loss = None
    n, crop = 3, 6400
    partnered = torch.tensor([False, True, True])
    batch = {"waveform": torch.randn(n, 1, crop), "source": torch.randn(n, 1, crop), "taught": torch.zeros(n, 20, DIM)}
    batch |= {"partnered": partnered, "speaker": torch.arange(n)}
    batch["converted"] = torch.randn(2, 1, crop, requires_grad=True)
    latents = task.codec.encoder(torch.randn(n + 2, 1, crop))
    codes = torch.zeros(n + 2, 1, latents.shape[-1], dtype=torch.long)
    quantized = Quantized(latents, codes, latents.new_zeros(()), {})

    def terms() -> dict[str, torch.Tensor]:
        return task.more_losses(batch, quantized)[1]

    batch["taught"][0] = 1.0  # only the item that is not converted was heard by the teacher
    found = terms()
    assert float(found["teacher"].detach()) > 0
    assert float(found["teacher_converted"].detach()) == 0
    own = float(found["teacher"].detach())
    batch["taught"][1] = 1.0
    found = terms()
    assert float(found["teacher"].detach()) != own
    found["teacher_converted"].backward()
    reached = batch["converted"].grad.abs().amax(dim=(1, 2))
    assert float(reached[0]) > 0
    assert float(reached[1]) == 0


def test_reversed_gradient():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (reverse_gradient(x) * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-3.0, -4.0]
