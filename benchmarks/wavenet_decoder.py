"""How fast the WaveNet decoder of ``experiment=wavenet`` decodes one stream, beside the parallel decoder.

    python benchmarks/wavenet_decoder.py [--seconds 8] [--rounds 3] [key=value ...]
    NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES=+sse4.2,+avx,+avx2,+fma python benchmarks/wavenet_decoder.py

Weights and codes are random, one thread. Times are of the process, not of the clock, so that other work on the machine
counts little; the best of the rounds. The second command is for a processor without AVX-512: sampling only, since
PyTorch chooses its instructions itself (ATEN_CPU_CAPABILITY=avx2 changes that).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def make_codec(settings: Sequence[str]) -> Any:
    """The codec and the WaveNet of the configuration, with random weights."""
    from omegaconf import OmegaConf

    from audiovq.codec.codec import SpeechCodec
    from audiovq.training.run import compose
    from audiovq.wavenet.model import WaveNetDecoder
    from audiovq.wavenet.sampler import WaveNetSampler, WaveNetStream

    config = compose(["experiment=wavenet", "model=codec", *settings])
    torch.manual_seed(0)
    codec = SpeechCodec(**OmegaConf.to_container(config.model)).eval()  # type: ignore[arg-type]
    decoder: Any = OmegaConf.to_container(config.task.decoder)
    backbone = codec.decoder.backbone
    sizes = (codec.encoder.latent_dim, backbone.channels[-1], codec.speaker_encoder.dim)
    wavenet = WaveNetDecoder(*sizes, codec.hop_length, backbone.rate, **decoder).eval()
    sampler = WaveNetSampler(wavenet)
    codec.add_decoder("wavenet", lambda owner, speaker, seed: WaveNetStream(owner, wavenet, sampler, speaker, seed))
    rate = wavenet.steps_per_frame * codec.frame_rate
    print(f"{wavenet.stack.macs_per_step * rate / 1e9:.2f} GMAC for a second in the recurrence, {rate:g} steps")
    return codec


def encoded(codec: Any, seconds: float) -> Any:
    """Random codes of one recording at a constant pitch."""
    from audiovq.interfaces import EncodedSpeech

    n_frames = round(seconds * codec.frame_rate)
    rng = np.random.default_rng(0)
    return EncodedSpeech(
        rng.integers(codec.codebook_size, size=(1, codec.n_codebooks, n_frames)),
        rng.integers(codec.n_speaker_levels, size=(1, codec.speaker_encoder.dim)),
        np.array([n_frames * codec.hop_length]),
        np.full((1, n_frames), 60),
        np.full((1, -(-n_frames // codec.packet_frames)), 40),
    )


def main() -> None:
    from audiovq.kernels.vectors import WIDTH

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("settings", nargs="*", help="changes of experiment=wavenet")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    codec = make_codec(options.settings)
    speech = encoded(codec, options.seconds)
    print(f"vectors of {WIDTH} floats; PyTorch: {torch.backends.cpu.get_cpu_capability()}")
    for decoder in codec.decoders:
        codec.decode(speech, decoder)  # compiles and warms up
        times = []
        for _ in range(options.rounds):
            start = time.process_time()
            codec.decode(speech, decoder)
            times.append(time.process_time() - start)
        print(f"{decoder:10} {options.seconds / min(times):7.1f} times real time")


if __name__ == "__main__":
    main()
