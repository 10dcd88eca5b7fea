"""Choose a trained WaveNet's temperatures: one for each sub-band, on validation recordings.

    python recipes/wavenet/temperature.py MODEL [--codebooks 4 8] [--items 8] [--write]

Each band is varied alone, from the highest to the lowest, with the best values so far for the others. The measure is
the distance of `SpectralLoss`, mel and magnitude, between sampled and original recordings: temperatures that are too
low lose the noise of speech, and those that are too high add some. ``--write`` puts the choice into the model's folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from audiovq.io import read_json
from audiovq.tensor_files import write_json
from audiovq.training.wavenet import WaveNetDecoderTask, sample_waveform
from audiovq.wavenet.model import band_temperatures
from audiovq.wavenet.sampler import load_wavenet

CHOICES = (0.2, 0.4, 0.6, 0.8, 1.0)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--codebooks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wavenet = load_wavenet(options.model)
    sizes = ("latent_dim", "feature_dim", "speaker_dim", "hop_length", "rate")
    decoder = {name: value for name, value in wavenet.config.items() if name not in sizes}
    task = WaveNetDecoderTask(decoder, str(options.model), validation_items=options.items)
    batch = task.validation_crops.draw(options.items, np.random.default_rng(0), augmented=False)
    coded = [task.code(batch, np.full(options.items, n)) for n in options.codebooks]

    def distance(temperature: list[float]) -> float:
        wavenet.temperature = temperature
        scores = [task.scores(sample_waveform(wavenet, one)[:, 0], batch.source) for one in coded]
        return float(np.mean([score["mel"] + 4 * score["magnitude"] for score in scores]))

    best = band_temperatures(wavenet.config["temperature"], wavenet.n_values)
    lowest = distance(best)
    print(best, f"{lowest:.4f}", flush=True)
    for band in reversed(range(wavenet.n_values)):
        for choice in CHOICES:
            tried = [*best[:band], choice, *best[band + 1 :]]
            if (value := distance(tried)) < lowest:
                best, lowest = tried, value
        print(best, f"{lowest:.4f}", flush=True)
    if options.write:
        path = options.model / "wavenet" / "config.json"
        write_json(path, read_json(path) | {"temperature": best})


if __name__ == "__main__":
    main()
