"""``audiovq evaluate probe``: who speaks, in which language and which phones, from the codes of held-out recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from audiovq.errors import AudioVQError
from audiovq.evaluation.probe.heard import SECONDS, Heard, histogram, listen, main_voices, moments, stretches_of
from audiovq.evaluation.probe.linear import majority, probe, vote
from audiovq.evaluation.probe.phones import probe_phones
from audiovq.evaluation.probe.report import ProbeReport
from audiovq.evaluation.progress import Progress, silent

if TYPE_CHECKING:
    from audiovq.data.utterance import Utterance
    from audiovq.speech.codec import SpeechCodec

Features = Callable[[Heard], np.ndarray]
TARGETS = ("speaker", "language")
PARTS = ("train", "validation", "test")
PER_VOICE = 40
KINDS = ("voices", "phones")
"""What can be probed for: speaker and language, with the use of the codebooks; phones."""


def evaluate_probe(
    codec: SpeechCodec,
    splits: Mapping[str, Sequence[Utterance]],
    per_voice: int = PER_VOICE,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
    kinds: Sequence[str] = KINDS,
) -> ProbeReport:
    """Probe a codec's codes.

    Phones need the package pocketsphinx and English recordings with text; without them the report says so in their
    place, unless they are all that was asked for.

    Args:
        codec: the model.
        splits: utterances of "train" (the probe learns on them), "validation" (chooses its regularisation) and "test".
        per_voice: stretches of each voice in each split; 0 for all.
        kinds: of `KINDS`.

    Raises:
        AudioVQError: for data with fewer than two voices of enough training speech, or for other kinds.
    """
    if not kinds or set(kinds) - set(KINDS):
        raise AudioVQError(f"the probe asks for {' and '.join(KINDS)}, not for {', '.join(kinds) or 'nothing'}")
    report = ProbeReport({"name": "probe", **(about or {})}, [])
    if "voices" in kinds:
        report.protocol |= {"seconds": SECONDS, "per_voice": per_voice}
        report.figures |= _voices(codec, splits, per_voice, progress)
    if "phones" in kinds:
        try:
            found = probe_phones(codec, splits, progress)
            if found is None:
                raise AudioVQError("phones need English recordings with text in train and test")
            report.figures["phones"], report.arrays = found
        except AudioVQError as error:
            if "voices" not in kinds:
                raise
            report.figures["phones"] = {"left_out": str(error)}
    return report


def _voices(
    codec: SpeechCodec, splits: Mapping[str, Sequence[Utterance]], per_voice: int, progress: Progress
) -> dict[str, Any]:
    """Figures of the probes for speaker and language."""
    voices = main_voices(splits["train"])
    if len(voices) < 2:
        raise AudioVQError("the probe needs at least two voices with more than 5 minutes of training speech")
    heard = {
        part: listen(codec, stretches_of(splits[part], voices, per_voice), progress, f"coding, {part}")
        for part in PARTS
    }
    if not all(heard.values()):
        raise AudioVQError("the probe needs recordings of the same voices in train, validation and test")
    rows = []
    wanted = representations(codec)
    for done, (name, kind, features) in enumerate(wanted):
        progress("probing", done, len(wanted))
        x = {part: np.stack([features(one) for one in heard[part]]) for part in PARTS}
        found: dict[str, Any] = {"representation": name, "features": kind}
        for target in TARGETS:
            found[target] = asdict(probe(*((x[part], [getattr(one, target) for one in heard[part]]) for part in PARTS)))
        rows.append(found)
    rows += frame_rows(codec, heard)
    labels = {target: {part: [getattr(one, target) for one in heard[part]] for part in PARTS} for target in TARGETS}
    return {
        "majority": {target: majority(labels[target]["train"], labels[target]["test"]) for target in TARGETS},
        "classes": {target: len(set(labels[target]["train"])) for target in TARGETS},
        "stretches": {part: len(heard[part]) for part in PARTS},
        "probes": rows,
        "codebooks": codebook_use(codec, [one for part in PARTS for one in heard[part]]),
    }


def frame_rows(codec: SpeechCodec, heard: dict[str, list[Heard]]) -> list[dict[str, Any]]:
    """What single codes tell, book by book."""
    rows = []
    for k in range(codec.n_codebooks):
        found: dict[str, Any] = {"representation": f"book {k + 1}", "features": "single codes"}
        for target in TARGETS:
            train, test = (
                ([one.codes[k] for one in heard[part]], [getattr(one, target) for one in heard[part]])
                for part in ("train", "test")
            )
            found[target] = asdict(vote(train, test, codec.codebook_size))
        rows.append(found)
    return rows


def representations(codec: SpeechCodec) -> list[tuple[str, str, Features]]:
    """What is probed: a name, what a stretch becomes, and the function that makes it."""

    def book(k: int) -> Features:
        return lambda one: histogram(one.codes[k], codec.codebook_size)

    def books(k: int) -> Features:
        return lambda one: one.quantized[k]

    rows: list[tuple[str, str, Features]] = []
    rows += [(f"book {k + 1}", "histogram", book(k)) for k in range(codec.n_codebooks)]
    cumulated = [k for k in (1, 2, 3, 4, 6, 8) if k < codec.n_codebooks] + [codec.n_codebooks]
    rows += [(f"books 1-{k}" if k > 1 else "book 1", "moments", books(k)) for k in cumulated]
    rows.append(("latents, unquantized", "moments", lambda one: moments(one.latents)))
    rows.append(("log mel spectrum", "moments", lambda one: one.mel))
    return rows


def codebook_use(codec: SpeechCodec, heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """For each book: entropy in bits, perplexity, share of codes used, counts in falling order."""
    found = []
    for k in range(codec.n_codebooks):
        counts = np.bincount(np.concatenate([one.codes[k] for one in heard]), minlength=codec.codebook_size)
        share = counts[counts > 0] / counts.sum()
        entropy = float(-(share * np.log2(share)).sum())
        found.append(
            {
                "book": k + 1,
                "entropy_bits": entropy,
                "perplexity": 2**entropy,
                "used": float((counts > 0).mean()),
                "counts": sorted(counts.tolist(), reverse=True),
            }
        )
    return found
