"""Fifth stage: bundle the frame codec, the dynamics and the baseline without buttons for `audiovq evaluate video`
and `audiovq generate video`.

    python recipes/video/bundle.py [--frames RUN] [--dynamics RUN] [--blind RUN] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from safetensors.numpy import save

from audiovq.data.episodes import encode_frames, open_episodes
from audiovq.errors import AudioVQError
from audiovq.hub import bundled_folder, load_weights, save_weights
from audiovq.io import atomic_write, cache_dir
from audiovq.tensor_files import with_checksum
from audiovq.video import VideoModel
from audiovq.video.dynamics import LatentDynamics
from recipes.model_card import HEADS

MOST_BYTES = 4_000_000
CARD = """# doom: a world model in latent space

Predicts the next frames of a 3-D world from six frames and the pressed buttons, in latent space (van den Oord et al.
2017, section 4.3). {weights:.1f} million parameters; those of the dynamics are stored in 8 bits.

* **frames**: VQ-VAE of single 84x84 frames, {levels}; {steps[frames]} steps of `experiment=video_frames`.
* **dynamics**: six frames and five buttons (turn left, turn right, forward, left, right) -> codes of the next frame;
  {steps[dynamics]} steps of `experiment=video_dynamics`.
* **blind**: the baseline without buttons; {steps[blind]} steps of
  `experiment=video_dynamics task.blind=true name=video_blind`.
* **starts.safetensors**: codes of six frames of several validation episodes, the starts of `audiovq generate video`.
* **Data**: frames of ViZDoom's scenario my_way_home, recorded by `recipes/video/record.py`; test and validation
  episodes are not trained on.
* **Licence of the weights**: the textures of the scenario are Freedoom's (BSD-3-Clause); the weights have the licence
  of the package, Apache-2.0.
* **Hash in files**: `{hash}`.

## Figures

<!-- figures -->
Not measured yet.
<!-- end of figures -->

## Limitations

* The model knows one map: other videos are reconstructed with its walls.
* Unseen areas are blurred with `mean`, which has the smallest error; `likeliest` and `sample` are sharper, with larger
  errors.
* There is no memory beyond six frames: after turning away and back, a room looks different.
"""
N_STARTS = 8  # beginnings that generate goes on from, of the validation episodes


def bundle(parts: dict[str, Path], out: Path) -> None:
    """Copy the best of each run and the codes of some beginnings.

    Raises:
        AudioVQError: when they do not belong together, or are too large.
    """
    for name, source in parts.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "model.safetensors", "training.json"):
            shutil.copyfile(source / file, out / name / file)
        if name != "frames":
            save_weights(load_weights(LatentDynamics, source), out / name, torch.int8)
    models = [VideoModel.from_pretrained(out, name) for name in ("dynamics", "blind")]
    size = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    if size > MOST_BYTES:
        raise AudioVQError(f"{out} has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    n_context = models[0].dynamics.n_context
    episodes = open_episodes("vizdoom", "validation")
    chosen = [episodes[i] for i in np.linspace(0, len(episodes) - 1, N_STARTS).round().astype(int)]
    middles = [(e, len(e) // 2) for e in chosen]
    codes = np.stack([encode_frames(models[0].frames, e.frames[i : i + n_context]) for e, i in middles])
    actions = np.stack([e.actions[i : i + n_context - 1] for e, i in middles])
    height, width = chosen[0].frames.shape[1:3]
    starts = {"codes": codes.astype(np.int16), "actions": actions, "size": np.array([height, width])}
    with atomic_write(out / "starts.safetensors") as path:
        path.write_bytes(with_checksum(save(starts)))
    frames = models[0].frames
    facts = {
        "weights": sum(p.numel() for m in (frames, *(m.dynamics for m in models)) for p in m.parameters()) / 1e6,
        "levels": ", ".join(f"{k} x log2({n}) bits per {s}x{s} pixels" for k, n, s in frames.levels),
        "steps": {name: json.loads((out / name / "training.json").read_text())["step"] for name in parts},
        "hash": frames.model_hash.hex(),
    }
    with atomic_write(out / "README.md") as path:
        path.write_text(HEADS["doom"] + CARD.format(**facts))
    print(f"{out}: {facts['weights']:.1f} million weights, {size / 1e6:.1f} MB, {len(codes)} beginnings")


def main() -> None:
    runs = cache_dir() / "runs"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, default=runs / "video_frames")
    parser.add_argument("--dynamics", type=Path, default=runs / "video_dynamics")
    parser.add_argument("--blind", type=Path, default=runs / "video_blind")
    parser.add_argument("--out", type=Path, default=bundled_folder("video") / "doom")
    options = parser.parse_args()
    parts = {name: getattr(options, name) / "best" for name in ("frames", "dynamics", "blind")}
    try:
        bundle(parts, options.out)
    except (AudioVQError, FileNotFoundError) as error:
        raise SystemExit(f"bundle.py: {error}") from error


if __name__ == "__main__":
    main()
