"""Features of Whisper's encoder along the packed corpora, for the content codebook to learn from.

    python recipes/speech/teacher.py [--device cuda] [--corpus DIR]

Writes `teacher.bin` into `train` and `validation`, and `teacher.safetensors` (mean and directions) beside them. On one
CPU core some 20 seconds of speech a second; on a GPU an hour takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors.torch import save

from audiovq.data.packed import PackedCorpus
from audiovq.data.whisper import whisper_folder
from audiovq.io import atomic_write, cache_dir
from audiovq.training.recogniser import fit_directions, save_rows, teacher_rows
from audiovq.training.whisper import WhisperEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=cache_dir() / "packed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=1, help="windows of 30 s at once")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = WhisperEncoder.load(whisper_folder("a teacher of content codes")).to(arguments.device)
    train = PackedCorpus.open(arguments.corpus / "train").to(arguments.device)
    mean, directions = fit_directions(train, encoder)
    with atomic_write(arguments.corpus / "teacher.safetensors") as path:
        path.write_bytes(save({"mean": torch.from_numpy(mean), "directions": torch.from_numpy(directions)}))
    with Progress() as bars:
        for split in ("train", "validation"):
            corpus = train if split == "train" else PackedCorpus.open(arguments.corpus / split).to(arguments.device)
            task = bars.add_task(split)
            rows = teacher_rows(
                corpus,
                encoder,
                mean,
                directions,
                arguments.batch_size,
                lambda done, total, task=task: bars.update(task, completed=done, total=total),
            )
            save_rows(arguments.corpus / split, rows)


if __name__ == "__main__":
    main()
