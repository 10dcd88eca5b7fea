"""A WaveNet for the tiny codec, untrained but with outputs that matter."""

import torch

from audiovq.wavenet.model import WaveNetDecoder

CONFIG = {
    "latent_dim": 16,
    "feature_dim": 16,
    "speaker_dim": 8,
    "hop_length": 320,
    "rate": 4,
    "condition": {"channels": 24, "dilations": [1]},
    "stack": {"channels": 20, "skip_channels": 16, "n_layers": 6, "dilation_cycle": 4, "kernel_size": 2},
    "taps": 2,
    "n_mixtures": 3,
    "kernel_size": 5,
}


def make_wavenet(seed=0, **config):
    torch.manual_seed(seed)
    wavenet = WaveNetDecoder(**{**CONFIG, **config}).eval()
    with torch.no_grad():
        n = wavenet.n_values * wavenet.output.n_parameters
        wavenet.stack.project.weight.normal_(0, 0.3)
        wavenet.stack.project.weight[n:] *= 0.05  # a prediction that stays bounded
        for layer in (wavenet.level, wavenet.share):
            layer.weight.normal_(0, 0.2)
    return wavenet
