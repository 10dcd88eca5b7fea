"""A speech codec with coded pitch, small and untrained: its properties hold for any weights."""

import numpy as np
import torch

from audiovq.codec.codec import SpeechCodec

RATE, HOP = 16000, 320
CONFIG = {
    "name": "tiny",
    "encoder": {
        "content": {
            "latent_dim": 8,
            "filterbank": {"n_filters": 16, "kernel_size": 320, "stride": 80},
            "channels": [16, 16],
            "strides": [2, 2],
            "kernel_sizes": [4, 4],
            "dilations": [[1], [1, 3]],
        },
        "detail": {
            "latent_dim": 8,
            "filterbank": {"n_filters": 16, "kernel_size": 320, "stride": 80},
            "channels": [16, 24],
            "strides": [2, 2],
            "kernel_sizes": [4, 4],
            "dilations": [[1], [1, 2]],
        },
    },
    "quantizer": {
        "n_codebooks": 4,
        "codebook_size": 32,
        "content": {"init_after": None},
        "detail": {"init_after": None},
    },
    "speaker_encoder": {"dim": 8, "levels": 16, "channels": 16, "n_filters": 16, "dilations": [1], "normalised": True},
    "decoder": {"channels": [24, 16], "upsample": [4], "dilations": [[1, 2], [1]], "direct_from": 3},
    "pitch": {"channels": 16, "dilations": [1, 2]},
    "packet_frames": 30,
    "default_n_codebooks": 3,
}


def make_codec(seed=0, **settings):
    """A codec whose random gains are large enough to be heard, and whose tracker finds pitch now and then."""
    torch.manual_seed(seed)
    codec = SpeechCodec(**{**CONFIG, **settings})
    for unit in codec.modules():
        if hasattr(unit, "film") and unit.film is not None:
            torch.nn.init.normal_(unit.film.weight, std=0.1)
    torch.nn.init.normal_(codec.decoder.gains.weight, std=0.05)
    torch.nn.init.normal_(codec.quantizer.predict.weight, std=0.1)
    torch.nn.init.normal_(codec.pitch.classify.weight, std=0.5)
    codec.pitch.classify.bias.data.zero_()
    codec.pitch.classify.bias.data[0] = 3.0
    return codec.eval()


def speech_like(seconds, seed=0):
    """A voice-like signal: harmonics of a gliding fundamental in bursts, over a little noise."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    time = np.arange(n) / RATE
    f0 = 150 * 2 ** (0.3 * np.sin(2 * np.pi * 0.7 * time + seed))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    tone = sum(np.cos(k * phase) / k for k in range(1, 20))
    bursts = (np.sin(2 * np.pi * 1.3 * time) > -0.3).astype(float)
    return (0.1 * tone * bursts + 0.003 * rng.standard_normal(n)).astype(np.float32)
