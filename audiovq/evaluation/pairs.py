"""Two folders with recordings of the same names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.align import common_delay, shift
from audiovq.evaluation.metrics import Metric, describe
from audiovq.evaluation.pair import SAMPLE_RATE, Pair
from audiovq.evaluation.progress import Progress, silent
from audiovq.evaluation.report import Report, judge_reference, score_pair, summarise

EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64")
LENGTHS_DIFFER = 0.25
"""Seconds; more is not the same recording."""
ALIGN_ON = 50
"""Recordings that the common delay is found with."""


def _recordings(folder: Path) -> dict[str, Path]:
    """Audio files by their place in the folder without the extension."""
    if not folder.is_dir():
        raise AudioVQError(f"no such folder: {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise AudioVQError(f"{found[key]} and {path} differ in their extension alone: keep one of them")
            found[key] = path
    return found


def match_files(reference_dir: str | Path, degraded_dir: str | Path) -> list[tuple[str, Path, Path]]:
    """(name, reference, degraded) for each recording of the reference folder.

    Raises:
        AudioVQError: for a folder that is missing or has no recordings, or a recording with no partner on either side.
    """
    references, degraded = _recordings(Path(reference_dir)), _recordings(Path(degraded_dir))
    if not references:
        raise AudioVQError(f"no recordings ({', '.join(EXTENSIONS)}) in {reference_dir}")
    for have, other, folder in ((references, degraded, degraded_dir), (degraded, references, reference_dir)):
        alone = sorted(have.keys() - other.keys())
        if alone:
            raise AudioVQError(f"{len(alone)} recordings have no partner in {folder}, the first: {have[alone[0]]}")
    return [(key, references[key], degraded[key]) for key in references]


def _load(path: Path) -> np.ndarray:
    import soundfile
    import soxr

    try:
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioVQError(f"{path} cannot be read as audio: {error}") from error
    mono = samples.mean(axis=1)
    return mono if sample_rate == SAMPLE_RATE else soxr.resample(mono, sample_rate, SAMPLE_RATE, quality="HQ")


def _load_both(name: str, reference: Path, degraded: Path) -> tuple[np.ndarray, np.ndarray]:
    a, b = _load(reference), _load(degraded)
    if not len(a):
        raise AudioVQError(f"{reference} has no samples")
    if abs(len(a) - len(b)) > LENGTHS_DIFFER * SAMPLE_RATE:
        lengths = f"{len(a) / SAMPLE_RATE:.2f} s and {len(b) / SAMPLE_RATE:.2f} s"
        raise AudioVQError(f"{name}: the recordings last {lengths}; they must be of the same thing")
    return a, b


def _text_of(recording: Path) -> str | None:
    text = recording.with_suffix(".txt")
    return text.read_text(encoding="utf-8") if text.is_file() else None


def evaluate_pairs(
    reference_dir: str | Path,
    degraded_dir: str | Path,
    metrics: Sequence[Metric],
    align: bool = False,
    language: str | None = None,
    progress: Progress = silent,
) -> Report:
    """Score every recording of one folder against that of the same relative name (any extension) in the other.

    Channels are averaged and rates brought to 16 kHz. The degraded side is cut or filled with zeros to the reference's
    length. The first folder inside, where there is one, is taken for the speaker's name, and a ``.txt`` beside a
    reference for its text.

    Args:
        reference_dir, degraded_dir: the folders.
        metrics: from `make_metrics`.
        align: find one delay for all recordings of the degraded side, and take it out.
        language: of all recordings; word error rates need it.
        progress: told how far it is.

    Raises:
        AudioVQError: see `match_files`; for a file that cannot be read, and recordings whose lengths differ by more
            than a quarter of a second.
    """
    files = match_files(reference_dir, degraded_dir)
    delay = 0
    if align:
        sample = [_load_both(*file) for file in files[:ALIGN_ON]]
        delay = common_delay([a for a, _ in sample], [b for _, b in sample])

    def pairs(what: str) -> Iterator[Pair]:
        for done, (name, reference, degraded) in enumerate(files):
            progress(what, done, len(files))
            a, b = _load_both(name, reference, degraded)
            speaker = name.split("/")[0] if "/" in name else None
            yield Pair(name, a, shift(b, delay, len(a)), speaker, language, _text_of(reference))

    result = summarise(
        [score_pair(pair, metrics) for pair in pairs("scoring")],
        name=Path(degraded_dir).name or str(degraded_dir),
        family="pairs",
        call=str(degraded_dir),
        split=None,
        kbps=None,
        file_kbps=None,
        delay_ms=1000 * delay / SAMPLE_RATE,
    )
    protocol = {
        "name": "pairs",
        "reference": str(reference_dir),
        "degraded": str(degraded_dir),
        "align": align,
        "metrics": describe(metrics),
    }
    alone = any(metric.judges_alone for metric in metrics)
    return Report(protocol, [*([judge_reference(pairs("reference"), metrics)] if alone else []), result])
