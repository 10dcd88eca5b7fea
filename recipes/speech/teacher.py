"""Features of Whisper's encoder along the packed corpora, for the content codebook to learn from.

    python recipes/speech/teacher.py [--device cuda] [--corpus DIR]

Writes `teacher.bin` into `train` and `validation`, and `teacher.safetensors` (mean and directions) beside them. On a
CPU the encoder runs in CTranslate2 with int8 arithmetic; on a GPU an hour of speech takes seconds.

Codes that learn from such features keep more of the words and less of the voice (Zhang et al. 2024, SpeechTokenizer,
section 3.2, with HuBERT as teacher).

Much of the variance of Whisper's states is where in its window something is said, which no code can know. A part of
the corpus is therefore put through the encoder at several places of its window, and the directions are kept that come
out the same (see `invariant_directions`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress as Bars
from safetensors.torch import save
from torch import Tensor

from audiovq.data.packed import PackedCorpus
from audiovq.data.whisper import WhisperEncoder, whisper_folder
from audiovq.errors import AudioVQError
from audiovq.interfaces import Progress
from audiovq.io import atomic_write, cache_dir

Encoder = Callable[[Tensor], list[Tensor]]
"""Waveforms (B, T) -> states (B, T / 320, C) after each layer, of which the last are used: `WhisperEncoder` is one."""
DIM = 64
"""Directions that are kept."""
WINDOW = 1500
"""Frames of a window, 30 s."""
MARGIN = 100
"""Frames at either end of a window whose features lack context and are not taken."""
SHIFTS = (0, 350, 700)
"""Frames by which windows are shifted to see the same speech at other places."""
_RIDGE = 1e-3  # of the mean variance, added to every direction's own


@torch.no_grad()
def states(corpus: PackedCorpus, encoder: Encoder, first_frame: np.ndarray) -> Tensor:
    """Last states (B, WINDOW, C) of the windows that begin at these frames."""
    return encoder(corpus.crops(first_frame, WINDOW))[-1]


def invariant_directions(hearings: list[np.ndarray], dim: int = DIM) -> tuple[np.ndarray, np.ndarray]:
    """The mean (C,) of features, and the directions (C, dim) that depend least on their place in the window.

    They have the largest shares of their variance in common between hearings (a generalized eigenvalue problem, as of
    linear discriminant analysis with each frame as a class), surest first, and a variance of about one.

    Args:
        hearings: features (N, C) of the same N frames at different places of the window, two or more.
        dim: directions to keep.
    """
    from scipy.linalg import eigh

    mean = np.mean([rows.mean(axis=0, dtype=np.float64) for rows in hearings], axis=0)
    centred = [rows.astype(np.float64) - mean for rows in hearings]
    n = sum(map(len, centred))
    whole = sum(rows.T @ rows for rows in centred) / n
    total = np.sum(centred, axis=0)
    # Products of each hearing with each other one are those of the sum, less those with itself.
    common = (total.T @ total - n * whole) / (n * (len(centred) - 1))
    firm = whole + _RIDGE * np.trace(whole) / len(whole) * np.eye(len(whole))
    _, vectors = eigh(common, firm)
    return mean, vectors[:, -dim:][:, ::-1].copy()


def fit_directions(
    corpus: PackedCorpus, encoder: Encoder, n_windows: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`invariant_directions` of a random part of a corpus.

    Raises:
        AudioVQError: for a corpus shorter than a window and its shifts.
    """
    last = len(corpus.samples) // 320 - WINDOW - max(SHIFTS)
    if last < 1:
        raise AudioVQError("the corpus is too short to fit a teacher's features to: it needs a minute at least")
    starts = np.random.default_rng(seed).integers(0, last, n_windows)
    hearings: list[list[np.ndarray]] = [[] for _ in SHIFTS]
    common = slice(max(SHIFTS) + MARGIN, WINDOW - MARGIN)  # frames of the first window that all windows have
    for start in starts:
        for rows, shift in zip(hearings, SHIFTS, strict=True):
            features = states(corpus, encoder, np.array([start + shift]))[0]
            rows.append(features[common.start - shift : common.stop - shift].float().cpu().numpy())
    return invariant_directions([np.concatenate(rows) for rows in hearings])


def teacher_rows(
    corpus: PackedCorpus,
    encoder: Encoder,
    mean: np.ndarray,
    directions: np.ndarray,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Features of every frame of a corpus, (frames, DIM) float16 on the corpus's device."""
    device = corpus.samples.device
    total = len(corpus.samples) // 320
    centre = torch.from_numpy(mean).float().to(device)
    basis = torch.from_numpy(directions).float().to(device)
    rows = torch.zeros(total, directions.shape[1], dtype=torch.float16, device=device)
    step = WINDOW - 2 * MARGIN
    starts = np.minimum(np.arange(0, max(total - 2 * MARGIN, 1), step), max(total - WINDOW, 0))
    for i in range(0, len(starts), batch_size):
        some = starts[i : i + batch_size]
        for start, features in zip(some, states(corpus, encoder, some), strict=True):
            low = 0 if start == 0 else MARGIN
            high = WINDOW if start + WINDOW >= total else WINDOW - MARGIN
            rows[start + low : start + high] = ((features[low:high].float() - centre) @ basis).half()
        if progress is not None:
            progress(float(min(i + batch_size, len(starts))), float(len(starts)))
    return rows


def save_rows(folder: Path, rows: Tensor) -> None:
    """Put features beside a packed corpus, where `PackedCorpus.open` finds them."""
    with atomic_write(folder / "teacher.bin") as path:
        path.write_bytes(rows.cpu().numpy().tobytes())


class FastEncoder:
    """Whisper's encoder on a CPU, by CTranslate2 with int8 arithmetic; called as `WhisperEncoder` is.

    Args:
        folder: a model in CTranslate2's format.
        threads: threads of the encoder.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        from ctranslate2.models import Whisper

        self._log_mel = WhisperEncoder.load(folder).log_mel
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
    with Bars() as bars:
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
