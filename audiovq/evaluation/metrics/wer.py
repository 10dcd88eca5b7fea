"""Which words survive."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from audiovq.evaluation.metrics.base import Metric
from audiovq.evaluation.metrics.whisper import LANGUAGES, Whisper
from audiovq.evaluation.metrics.words import words
from audiovq.evaluation.pair import Pair
from audiovq.evaluation.statistics import Score


def word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Fewest substitutions, deletions and insertions that turn one into the other (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != heard))
    return row[-1]


@cache
def shared_whisper() -> Whisper:
    return Whisper()


class WordErrorRate(Metric):
    """Errors per word of the text, in percent, pooled over all words (a long text weighs more).

    Where nobody wrote down what is said, Whisper's own reading of the reference takes the text's place. Languages:
    English, Spanish, French, Italian, Russian; other pairs, and pairs that do not say their language, have no score.
    """

    name, label, higher_is_better, decimals, judges_alone = "wer", "WER %", False, 1, True

    def __init__(self) -> None:
        self._whisper = shared_whisper()

    def _wanted(self, pair: Pair, language: str) -> list[str]:
        return words(pair.text, language) if pair.text is not None else self._whisper.read(pair.reference, language)

    def score(self, pair: Pair) -> Score | None:
        """None for another language, or where nothing is said."""
        if pair.language not in LANGUAGES:
            return None
        wanted = self._wanted(pair, pair.language)
        if not wanted:
            return None
        heard = self._whisper.read(pair.degraded, pair.language)
        return Score(100.0 * word_errors(wanted, heard) / len(wanted), weight=len(wanted))


class DifferentialWordErrorRate(WordErrorRate):
    """As `WordErrorRate`, but always against Whisper's reading of the reference (FocalCodec's dWER).

    It tells what coding changed, without what Whisper mishears anyway.
    """

    name, label, judges_alone = "dwer", "dWER %", False

    def _wanted(self, pair: Pair, language: str) -> list[str]:
        return self._whisper.read(pair.reference, language)
