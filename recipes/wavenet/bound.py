"""The bound of a WaveNet's targets: the recording's magnitudes on the phase of the parallel decoder's output.

    python recipes/wavenet/bound.py MODEL [--codebooks 2 4 8] [--windows 256 512 1024] [--items 6]

Validation recordings of 6 s: PESQ-WB, mel L1 and DNSMOS, as `audiovq evaluate` has them, of the parallel decoder and of
targets with each window.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiovq.codec.codec import SpeechCodec
from audiovq.data.packed import open_packed
from audiovq.evaluation.metrics import PESQ, MelDistance
from audiovq.evaluation.pretrained import DNSMOS
from audiovq.evaluation.protocol import Pair
from audiovq.training.crops import CropSampler
from audiovq.training.wavenet import on_phase_of

SECONDS = 6


def scores(metrics: Sequence[Any], decoded: Tensor, original: Tensor) -> str:
    """Means over a batch (B, T), as columns."""
    pairs = [Pair("", x.numpy(), y.numpy()) for x, y in zip(original, decoded, strict=True)]
    found = [[score.value for score in map(metric.score, pairs) if score is not None] for metric in metrics]
    return "  ".join(f"{np.mean(values):6.2f}" for values in found)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--codebooks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--windows", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--items", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = SpeechCodec.from_pretrained(options.model)
    _, validation = open_packed(None)
    crops = CropSampler(validation, round(SECONDS * codec.frame_rate), 100)
    original = crops.draw(options.items, np.random.default_rng(0), augmented=False).source
    metrics = [PESQ(), MelDistance(), DNSMOS()]
    print("                             PESQ-WB   mel  DNSMOS")
    print(f"{'recordings':28}{scores(metrics, original, original)}")
    for n in options.codebooks:
        parallel = codec.decode(codec.encode(original[:, None], n_codebooks=n))[:, 0]
        print(f"{f'{n} codebooks, parallel':28}{scores(metrics, parallel, original)}")
        for window in options.windows:
            target = on_phase_of(original, parallel, window)
            print(f"{f'{n} codebooks, window {window}':28}{scores(metrics, target, original)}", flush=True)


if __name__ == "__main__":
    main()
