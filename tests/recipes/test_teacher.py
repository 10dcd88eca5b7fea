import numpy as np
import torch

from audiovq.data.packed import FRAME, PackedCorpus
from audiovq.data.whisper import WhisperEncoder
from recipes.speech.teacher import MARGIN, WINDOW, invariant_directions, teacher_rows


def tiny_encoder(width=64, layers=1):
    """Whisper's architecture with one head and random weights."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    tensors = {
        "encoder/conv1/weight": random(width, 80, 3),
        "encoder/conv1/bias": torch.zeros(width),
        "encoder/conv2/weight": random(width, width, 3),
        "encoder/conv2/bias": torch.zeros(width),
        "encoder/position_encodings/encodings": random(1500, width),
    }
    for i in range(layers):
        layer = f"encoder/layer_{i}"
        for part, rows in (("self_attention/linear_0", 3 * width), ("self_attention/linear_1", width)):
            tensors |= {f"{layer}/{part}/weight": random(rows, width), f"{layer}/{part}/bias": torch.zeros(rows)}
        for part, rows, columns in (("ffn/linear_0", 4 * width, width), ("ffn/linear_1", width, 4 * width)):
            tensors |= {f"{layer}/{part}/weight": random(rows, columns), f"{layer}/{part}/bias": torch.zeros(rows)}
        for part in ("self_attention/layer_norm", "ffn/layer_norm"):
            tensors |= {f"{layer}/{part}/gamma": torch.ones(width), f"{layer}/{part}/beta": torch.zeros(width)}
    return WhisperEncoder(tensors)


def corpus(seconds):
    rng = np.random.default_rng(0)
    samples = torch.from_numpy((rng.standard_normal(seconds * 16000) * 3000).astype(np.int16))
    frames = np.array([len(samples) // FRAME])
    zero = np.zeros(1, np.int64)
    return PackedCorpus(samples, ["a"], ["en"], ["x/s"], zero, frames, zero, zero - 1)


def test_directions_keep_what_hearings_share():
    rng = np.random.default_rng(0)
    shared, width = rng.standard_normal((4000, 3)), 10
    mix = rng.standard_normal((3, width))
    place = [rng.standard_normal((4000, 1)) * 5 @ rng.standard_normal((1, width)) for _ in range(3)]
    hearings = [shared @ mix + p for p in place]
    mean, directions = invariant_directions(hearings, 3)
    a, b = ((rows - mean) @ directions for rows in hearings[:2])
    correlation = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]
    assert min(correlation) > 0.8
    assert np.allclose(a.var(axis=0), 1, atol=0.5)


def test_every_frame_of_a_corpus_has_features_and_windows_do_not_matter():
    encoder, speech = tiny_encoder(), corpus(70)
    mean, directions = np.zeros(64), np.eye(64)[:, :8]
    rows = teacher_rows(speech, encoder, mean, directions)
    assert rows.shape == (70 * 50, 8)
    assert (rows.float().abs().sum(1) > 0).all()
    assert torch.allclose(rows, teacher_rows(speech, encoder, mean, directions, batch_size=3), atol=2e-3)
    first = encoder(speech.crops(np.array([0]), WINDOW))[-1][0, : WINDOW - MARGIN, :8]
    assert torch.allclose(rows[: WINDOW - MARGIN].float(), first, atol=1e-2, rtol=1e-3)


def test_whisper_is_differentiable():
    waveform = torch.randn(2, 6400, requires_grad=True)
    states = tiny_encoder()(waveform)
    assert states[-1].shape == (2, 20, 64)
    states[-1].square().sum().backward()
    assert waveform.grad.abs().sum() > 0
