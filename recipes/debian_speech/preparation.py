"""From source files to a prepared corpus: splits, reserved files, doubles, cleaning, shards, a summary."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from audiovq.data.utterance import SAMPLE_RATE, read_native, resample, split_of, write_corpus
from audiovq.errors import AudioVQError
from recipes.corpus_summary import summarize, write_summary
from recipes.debian_packages import sha256_of
from recipes.debian_speech.cleaning import Measures, measure
from recipes.debian_speech.sources import SourceFile

log = logging.getLogger(__name__)

_ORDER = {"unseen": 0, "test": 1, "validation": 2, "train": 3}


@dataclass(frozen=True)
class Limits:
    """Lower limits of a recording's measures; see `recipes.debian_speech.cleaning.Measures`."""

    native_rate: int = 16000
    seconds: float = 0.3
    active: float = 0.2
    level_db: float = -50.0
    snr_db: float = 3.0
    high_db: float = -40.0
    voiced: float = 0.15


@dataclass
class Candidate:
    """A source file with its place in the corpus."""

    file: SourceFile
    sha256: str
    split: str


@dataclass
class Selection:
    """Candidates to keep, and how many files were left out for which reason."""

    candidates: list[Candidate] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def read_reserved(path: Path | None) -> frozenset[str]:
    """The sha256 sums (one a line) of files to leave out."""
    if path is None:
        return frozenset()
    try:
        return frozenset(line.split()[0].lower() for line in path.read_text().splitlines() if line.strip())
    except OSError as error:
        raise AudioVQError(f"cannot read the reserved files' sums: {error}") from None


def read_corrections(path: Path | None) -> dict[str, str | None]:
    """Utterance ids whose speaker is another than their name says, or (null) that are to be dropped.

    The file is JSON: ``{"speakers": {speaker: [id, ...]}, "drop": {reason: [id, ...]}}``.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AudioVQError(f"cannot read the corrections: {error}") from None
    corrections: dict[str, str | None] = {id: None for ids in content.get("drop", {}).values() for id in ids}
    for speaker, ids in content.get("speakers", {}).items():
        corrections.update(dict.fromkeys(ids, speaker))
    return corrections


def select(
    files: Iterable[SourceFile],
    reserved: frozenset[str] = frozenset(),
    corrections: dict[str, str | None] | None = None,
) -> Selection:
    """Assign splits; leave out reserved files, dropped ones and doubles.

    Of several files with the same bytes one is kept, in the strictest split that any of them has, so that nothing of
    a test file is in training under another name.
    """
    corrections = corrections or {}
    selection = Selection()
    by_sum: dict[str, list[Candidate]] = defaultdict(list)
    for file in files:
        if file.id in corrections and corrections[file.id] is None:
            selection.left_out["dropped by hand"] += 1
            continue
        file = replace(file, speaker=corrections.get(file.id) or file.speaker)
        digest = sha256_of(file.path)
        if digest in reserved:
            selection.left_out["reserved"] += 1
            continue
        by_sum[digest].append(Candidate(file, digest, "unseen" if file.unseen else split_of(file.path.name)))
    for candidates in by_sum.values():
        candidates.sort(key=lambda candidate: _ORDER[candidate.split])
        selection.candidates.append(candidates[0])
        selection.left_out["double"] += len(candidates) - 1
    selection.candidates.sort(key=lambda candidate: candidate.file.id)
    return selection


def fault(measures: Measures, seconds: float, rate: int, limits: Limits) -> str | None:
    """Why a recording is not kept, or None."""
    checks = {
        "recorded under 16 kHz": rate < limits.native_rate,
        "silent": measures.active < limits.active or measures.level_db < limits.level_db,
        "too short": seconds < limits.seconds,
        "narrow band": measures.high_db < limits.high_db,
        "noisy": measures.snr_db < limits.snr_db,
        "no voice": measures.voiced < limits.voiced,
    }
    return next((reason for reason, failed in checks.items() if failed), None)


def trim_phones(phones: Iterable[tuple[float, str]], measures: Measures) -> list[tuple[float, str]]:
    """End times and symbols of phones after a recording was cut to what ``measures`` say."""
    start, stop = measures.start / SAMPLE_RATE, measures.stop / SAMPLE_RATE
    trimmed, begin = [], 0.0
    for end, symbol in phones:
        if end > start and begin < stop:
            trimmed.append((round(min(end, stop) - start, 4), symbol))
        begin = end
    return trimmed


def prepare(
    selection: Selection,
    out: Path,
    limits: Limits | None = None,
    progress: Callable[[Iterable[Candidate]], Iterable[Candidate]] = iter,
) -> dict[str, Any]:
    """Decode, clean and write the selected files to ``out``; the summary, which is also written there as JSON."""
    limits = limits or Limits()
    left_out = Counter(selection.left_out)
    with write_corpus(out) as writer:
        for candidate in progress(selection.candidates):
            file = candidate.file
            try:
                native, rate = read_native(file.path)
            except AudioVQError as error:
                log.warning("%s", error)
                left_out["damaged"] += 1
                continue
            samples = resample(native, rate)
            measures = measure(samples)
            samples = samples[measures.start : measures.stop]
            reason = fault(measures, len(samples) / SAMPLE_RATE, rate, limits)
            if reason is not None:
                left_out[reason] += 1
                log.info("left out %s: %s", file.id, reason)
                continue
            peak = float(np.abs(samples).max())
            writer.add(
                samples * np.float32(0.99 / peak) if peak > 0.99 else samples,
                id=file.id,
                speaker=f"debian_speech/{file.speaker}",
                language=file.language,
                text=file.text,
                source=file.source,
                licence=file.licence,
                split=candidate.split,
                file=file.path.name,
                sha256=candidate.sha256,
                native_rate=rate,
                level_db=round(measures.level_db, 1),
                snr_db=round(measures.snr_db, 1),
                high_db=round(measures.high_db, 1),
                voiced=round(measures.voiced, 2),
                **({"phones": trim_phones(file.phones, measures)} if file.phones else {}),
            )
        summary = summarize(writer.lines) | {"left_out": dict(left_out.most_common())}
        write_summary(summary, writer.folder)
    return summary
