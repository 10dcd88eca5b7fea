"""Last stage: judge the bundled model on the test episodes; ``results.json``, pictures, and the figures of README.md.

    python recipes/video/evaluate.py [--model NAME|DIR]

Runs `audiovq evaluate video`, draws ``filmstrip.png`` and ``rollout.gif`` beside this file, and puts the table between
the marks of README.md and of the model's card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from audiovq.data.episodes import open_episodes
from audiovq.errors import AudioVQError
from audiovq.evaluation.visual import N_WINDOWS, ROWS, evaluate_video
from audiovq.hub import model_folder
from audiovq.io import atomic_write
from audiovq.video import VideoModel

HERE = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"


def table(figures: dict) -> str:
    """The figures as Markdown."""
    lines = ["| 10 frames ahead | PSNR, dB | SSIM |", "|---|---|---|"]
    lines += [f"| {told} | {figures['psnr' + k]:.2f} | {figures['ssim' + k]:.3f} |" for k, told in ROWS.items()]
    curve = figures["psnr_by_frame"]
    lines += ["", "| PSNR of frame | " + " | ".join(str(i + 1) for i in range(10)) + " |", "|---" * 11 + "|"]
    for suffix, told in ROWS.items():
        lines.append(f"| {told} | " + " | ".join(f"{value:.1f}" for value in curve["dynamics" + suffix]) + " |")
    share = figures["action_direction_correct"]
    lines += [
        "",
        f"From {share:.1%} of {figures['starts']} starts, turning left and turning right shift the image in the "
        f"correct, opposite directions. Test episodes, {figures['windows']} windows, model {figures['model_hash']}.",
    ]
    return "\n".join(lines)


def insert(path: Path, text: str) -> None:
    """Put the text between the marks of a file that has them."""
    if not path.is_file() or _BEGIN not in (content := path.read_text()):
        return
    before, after = content.split(_BEGIN)[0], content.split(_END)[1]
    with atomic_write(path) as temporary:
        temporary.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the bundled one")
    parser.add_argument("--windows", type=int, default=N_WINDOWS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        model, blind = (VideoModel.from_pretrained(options.model, which) for which in ("dynamics", "blind"))
        about = {"data": "vizdoom", "model": model.frames.name, "model_hash": model.frames.model_hash.hex()}
        report = evaluate_video(model, blind, open_episodes("vizdoom", "test"), "test", options.windows, about)
    except AudioVQError as error:
        raise SystemExit(f"evaluate.py: {error}") from error
    report.write_json(HERE / "results.json")
    report.draw(HERE / "filmstrip.png")
    report.draw(HERE / "rollout.gif")
    text = table(json.loads((HERE / "results.json").read_text()))
    insert(HERE / "README.md", text)
    insert(model_folder(options.model, "video") / "README.md", text)
    print(text)


if __name__ == "__main__":
    main()
