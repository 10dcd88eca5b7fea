"""Features of Whisper's encoder along the packed corpora, for the content codebook to learn from.

    python recipes/speech/teacher.py [--device cuda] [--corpus DIR]

Writes `teacher.bin` into `train` and `validation`, and `teacher.safetensors` (mean and directions) beside them. On a
CPU the encoder runs in CTranslate2 with int8 arithmetic; on a GPU an hour of speech takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import save
from torch import Tensor

from audiovq.data.packed import PackedCorpus
from audiovq.data.whisper import whisper_folder
from audiovq.io import atomic_write, cache_dir
from audiovq.training.whisper import WhisperEncoder, fit_directions, save_rows, teacher_rows


class FastEncoder:
    """Whisper's encoder on a CPU, by CTranslate2 with int8 arithmetic; called as `WhisperEncoder` is.

    Args:
        folder: a model in CTranslate2's format.
        threads: threads of the encoder.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        from ctranslate2.models import Whisper

        self._log_mel = WhisperEncoder.load(folder, 0).log_mel
        self._model = Whisper(str(folder), device="cpu", compute_type="int8", intra_threads=threads)

    def __call__(self, waveform: Tensor) -> list[Tensor]:
        """The last states (B, T / 320, C), normalized, of waveforms (B, T)."""
        from ctranslate2 import StorageView

        mel = np.ascontiguousarray(self._log_mel(waveform).numpy())
        return [torch.from_numpy(np.array(self._model.encode(StorageView.from_array(mel))))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=cache_dir() / "packed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=1, help="windows of 30 s at once")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = whisper_folder("a teacher of content codes")
    encoder: FastEncoder | WhisperEncoder = (
        FastEncoder(folder, arguments.threads)
        if arguments.device == "cpu"
        else WhisperEncoder.load(folder).to(arguments.device)
    )
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
