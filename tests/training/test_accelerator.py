"""What a training step does otherwise on an accelerator than on the CPU: the same, without making the host wait.

Tensors on torch's device "meta" have no values: a step there fails wherever the host needs one.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from audiovq import devices
from audiovq.codec.decoder import frame_cycles, harmonic_source, instantaneous_frequency
from audiovq.codec.encoder import pitch_to_hz
from audiovq.data.whisper import WhisperEncoder
from audiovq.quantize import VectorQuantizer
from audiovq.quantize.codebook import EMACodebook, GradientCodebook
from audiovq.quantize.functional import count_codes, exact_products, nearest
from audiovq.training.crops import SpectralAugmentation
from audiovq.training.offline import build
from audiovq.training.task import Place
from tests.training.tiny_codec import task_config, write_packed


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed"))


def tiny_listener(width=64):
    shapes = {"conv1/weight": (width, 80, 3), "conv1/bias": (width,), "conv2/weight": (width, width, 3)}
    shapes |= {"conv2/bias": (width,), "position_encodings/encodings": (1500, width)}
    for layer in range(2):
        attention, ffn = f"layer_{layer}/self_attention", f"layer_{layer}/ffn"
        shapes |= {f"{attention}/linear_0/weight": (3 * width, width), f"{attention}/linear_0/bias": (3 * width,)}
        shapes |= {f"{attention}/linear_1/weight": (width, width), f"{attention}/linear_1/bias": (width,)}
        shapes |= {f"{ffn}/linear_0/weight": (4 * width, width), f"{ffn}/linear_0/bias": (4 * width,)}
        shapes |= {f"{ffn}/linear_1/weight": (width, 4 * width), f"{ffn}/linear_1/bias": (width,)}
        for part in (attention, ffn):
            shapes |= {f"{part}/layer_norm/gamma": (width,), f"{part}/layer_norm/beta": (width,)}
    return WhisperEncoder({f"encoder/{name}": 0.1 * torch.randn(shape) for name, shape in shapes.items()})


def test_the_host_never_waits_for_values(corpus, monkeypatch):
    task = build(task_config(corpus, sampler={"formant_share": 0.5, "degraded_share": 0.5}))
    task.listener.append(tiny_listener())
    task.listener_items, task.listener_layers, task.weights["listener"] = 2, 2, 1.0
    for module in (task, task.listener[0], task.train_crops.corpus, task.train_crops.augment):
        module.to("meta")
    task.device = torch.device("meta")
    trained = [p for p in (*task.model.parameters(), *task.teacher.parameters()) if p.requires_grad]
    for name, parameters in {"model": trained, "discriminator": list(task.discriminator.parameters())}.items():
        task.optimizers[name] = torch.optim.AdamW(parameters, foreach=True, capturable=False)
    for quantizer in (task.model.quantizer.content, task.model.quantizer.detail):
        quantizer.start.over = True
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    for step in range(4):
        torch.manual_seed(step)
        logged = task.training_step(Place(step, step / 4, 1.0))
        assert {value.device.type for value in logged.values()} == {"meta"}
    assert {"listener", "complex", "adversarial"} <= logged.keys()
    with pytest.raises(RuntimeError):  # the device would notice
        bool(logged["mel"] > 0)


def test_unconverted_items_have_one_stretch_for_both_speakers(corpus):
    task = build(task_config(corpus, sampler={"formant_share": 0.5}))
    seen = set()
    for seed in range(5):
        batch = task.train_crops.draw(8, np.random.default_rng(seed))
        for converted, a, b in zip(batch.converted.tolist(), batch.source_other, batch.target_other, strict=True):
            seen.add(converted)
            assert torch.equal(a, b) != converted
    assert seen == {True, False}


def test_number_of_codebooks_in_use_is_what_the_codes_say(corpus):
    quantizer = build(task_config(corpus)).model.quantizer.train()
    for step in range(6):
        quantized = quantizer(torch.randn(8, 16, 40))
        assert torch.equal(quantized.n_codebooks, (quantized.codes[:, :, 0] >= 0).sum(1)), step
    assert quantized.n_codebooks.max() > 1
    quantized = quantizer.eval()(torch.randn(3, 16, 40), 2)
    assert quantized.n_codebooks.tolist() == [2, 2, 2]


def test_a_loaded_quantizer_that_has_not_started_waits_again():
    def quantizer():
        return VectorQuantizer(4, 16, init_after=2, init_batches=1).train()

    early, late = quantizer(), quantizer()
    for _ in range(4):
        late(torch.randn(2, 4, 30))
    assert (late(torch.randn(2, 4, 30)).codes >= 0).all()
    late.load_state_dict(early.state_dict())
    assert (late(torch.randn(2, 4, 30)).codes == -1).all()


@pytest.mark.parametrize("kind", [EMACodebook, GradientCodebook])
@pytest.mark.parametrize("n_items", [1, 40])
def test_restart_without_looking(kind, n_items):
    torch.manual_seed(0)
    codebook = kind(64, 3)
    codebook.counts.copy_(torch.arange(64) % 2 * 10.0)  # every other code is dead
    x, before = torch.randn(n_items, 3, 20), codebook.vectors.detach().clone()
    restarts = int(codebook._restart_unseen(x))
    assert restarts == min(32, n_items * 20)
    vectors = codebook.vectors.detach()
    changed = (vectors != before).any(1)
    assert changed.sum() == restarts
    assert not changed[1::2].any()
    rows = {tuple(row) for row in x.movedim(1, 2).reshape(-1, 3).tolist()}
    placed = [tuple(row) for row in vectors[changed].tolist()]
    assert set(placed) <= rows
    assert len(set(placed)) == restarts
    assert (codebook.counts[changed] == 5.0).all()
    if kind is EMACodebook:
        codebook.refresh()
        torch.testing.assert_close(codebook.vectors[changed], vectors[changed], rtol=1e-3, atol=1e-4)


def test_counts_do_not_need_bincount():
    codes = torch.randint(0, 50, (7, 33))
    ones = torch.ones_like(codes).flatten()
    assert torch.equal(
        torch.zeros(64, dtype=torch.int64).scatter_add_(0, codes.flatten(), ones), count_codes(codes, 64)
    )
    assert count_codes(codes.to("meta"), 64).shape == (64,)


def test_overlap_add_is_the_inverse_transform():
    augment = SpectralAugmentation()
    spectrum = torch.stft(torch.randn(3, 5000), 512, 128, window=augment.window, return_complex=True)
    changed = spectrum * torch.rand(3, 257, 1)
    torch.testing.assert_close(augment.overlap_add(changed, 5000), augment.inverse(changed, 5000), rtol=1e-4, atol=1e-5)


def test_harmonic_source_in_float32_within_frames():
    codes = torch.randint(1, 170, (4, 300)) * (torch.rand(4, 300) > 0.2)
    codes[:, 100:200] = 150  # long voiced stretches: phases add up
    f0 = pitch_to_hz(codes)
    padded = torch.nn.functional.pad(f0, (1, 1))
    exact = instantaneous_frequency(padded, 320).sum(-1) / 16000
    torch.testing.assert_close(frame_cycles(padded, 320, 16000), exact, rtol=1e-12, atol=1e-12)
    fast, slow = (harmonic_source(f0, 320, 16000, exact) for exact in (False, True))
    assert (fast - slow).square().mean() < 1e-6 * slow.square().mean()


def test_nearest_codes_ignore_the_allowed_precision():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
        nearest(torch.randn(1, 4, 5), torch.randn(16, 4))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def fails(function, **_):
        def call(*_, **__):
            raise RuntimeError("no compiler\nand more lines")

        return call

    lines = []
    monkeypatch.setattr(torch, "compile", fails)
    double = devices.compiled(lambda x: 2 * x, "doubling", lines.append)
    assert [double(2), double(3)] == [4, 6]
    assert lines == ["doubling cannot be compiled and runs as it is: no compiler"]
    monkeypatch.setattr(torch, "compile", lambda _, **__: lambda x: 3 * x)
    assert devices.compiled(lambda x: 2 * x, "tripling", lines.append)(2) == 6


def test_lowered_listener_hears_the_same():
    torch.manual_seed(0)
    listener, waveform = tiny_listener(), torch.randn(2, 3200)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = listener(waveform)[-1]
        after = listener.lower(torch.bfloat16)(waveform)[-1]
    assert listener.encoder__conv1__weight.dtype == torch.bfloat16
    assert listener.mel.dtype == torch.float32
    torch.testing.assert_close(after.float(), before.float(), rtol=0.05, atol=0.05 * float(before.float().std()))
