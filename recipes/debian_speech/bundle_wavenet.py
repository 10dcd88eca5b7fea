"""Put a run's best WaveNet into the package, beside the speech model whose codes it reads.

audiovq train experiment=wavenet_debian && python recipes/debian_speech/bundle_wavenet.py [--run DIR] [--temperature T]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audiovq.files import cache_dir
from audiovq.speech.checkpoint import BUNDLED, DEFAULT_MODEL, codes_hash, load_wavenet, save_wavenet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=cache_dir() / "runs" / "wavenet", help="folder of the run")
    parser.add_argument("--weights", choices=("best", "latest"), default="best")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundled model that gets it")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the draws, as validation showed it best")
    options = parser.parse_args()
    folder = BUNDLED / options.model
    made_for = codes_hash(folder)
    wavenet = load_wavenet(options.run / options.weights, made_for)  # an error when the codec has moved on since
    wavenet.config["temperature"] = options.temperature
    save_wavenet(wavenet, folder, made_for)
    size = (folder / "wavenet" / "model.safetensors").stat().st_size
    print(f"{folder / 'wavenet'}: {size / 1e6:.1f} MB, reads the codes of {made_for.hex()}")


if __name__ == "__main__":
    main()
