"""Metrics by speech recognisers: word errors by OpenAI's Whisper base, phone errors by hama."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

from audiovq.data.whisper import whisper_folder
from audiovq.errors import AudioVQError, need
from audiovq.evaluation.protocol import SAMPLE_RATE, Metric, Pair, remembered
from audiovq.evaluation.stats import Score

LANGUAGES = ("en", "es", "fr", "it", "ru")
"""Languages in which Whisper base makes few errors on good recordings."""
VERSION = 2
"""Version of the decoding settings, part of the keys of cached results."""
#: Zero to ten: recognisers write words where transcripts have figures.
_NUMBERS = {
    "en": "zero one two three four five six seven eight nine ten",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix",
    "it": "zero uno due tre quattro cinque sei sette otto nove dieci",
    "ru": "ноль один два три четыре пять шесть семь восемь девять десять",
}
_NO_REPEAT = 4  # tokens: on poor speech greedy decoding falls into loops, one of which outweighs all real errors
_TOKENS_PER_SECOND, _TOKENS = 12, 10  # no speech is faster


def words(text: str, language: str | None = None) -> list[str]:
    """Lower-case words without accents and punctuation; figures up to 10 are spelled out in a known language.

    Accents and apostrophes are inaudible: a transcript may omit them.
    """
    letters = unicodedata.normalize("NFKD", text.casefold().replace("'", "").replace("\u2019", ""))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    found = re.sub(r"[\W_]+", " ", letters).split()
    if language not in _NUMBERS:
        return found
    spelled = words(_NUMBERS[language])
    return [spelled[int(word)] if word.isdecimal() and int(word) < len(spelled) else word for word in found]


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The least number of substitutions, deletions and insertions between two sequences of words (Levenshtein)."""
    result = need("jiwer", "word error rate").process_words(" ".join(reference), " ".join(hypothesis))
    return result.substitutions + result.deletions + result.insertions


class Whisper:
    """Greedy recogniser in 8-bit integers on the CPU: the same audio always gives the same words.

    Attributes:
        read: (T,) at 16 kHz and an ISO 639 code -> words; results are remembered, as systems share their references.
    """

    def __init__(self) -> None:
        faster_whisper = need("faster_whisper", "word error rate")
        folder = whisper_folder()
        threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        try:
            self._model = faster_whisper.WhisperModel(
                str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise AudioVQError(f"Whisper cannot be loaded from {folder} ({error}): remove that folder") from error
        # Numbers are to be words, as in the transcripts: no token with a digit may be written.
        vocabulary = self._model.hf_tokenizer.get_vocab()
        self._digits = [number for token, number in vocabulary.items() if re.fullmatch(r"Ġ?[^<|]*\d[^|>]*", token)]
        self.read = remembered(lambda samples, language: self.read_scored(samples, language)[0])

    def read_scored(self, samples: np.ndarray, language: str) -> tuple[list[str], float | None]:
        """(T,) at 16 kHz and an ISO 639 code -> words, and the log-probability of all tokens per word, in nats.

        The log-probability is None without words.
        """
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(samples, dtype=np.float32),
            language=language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            suppress_tokens=[-1, *self._digits],
            no_repeat_ngram_size=_NO_REPEAT,
            max_new_tokens=min(_TOKENS + round(_TOKENS_PER_SECOND * len(samples) / SAMPLE_RATE), 400),
        )
        parts = list(segments)
        found = words(" ".join(part.text for part in parts), language)
        # A segment's average is over its tokens and the one that ends it.
        total = sum(part.avg_logprob * (len(part.tokens) + 1) for part in parts)
        return found, total / len(found) if found else None


@cache
def shared_whisper() -> Whisper:
    """One recogniser for all metrics."""
    return Whisper()


class WordErrorRate(Metric):
    """Errors per word of the text, in percent, pooled over all words (a long text weighs more).

    Without a transcript, Whisper's reading of the reference takes its place. Other languages than `LANGUAGES`, and
    pairs without a language, have no score.
    """

    name, label, higher_is_better, decimals, no_reference = "wer", "WER %", False, 1, True

    def __init__(self) -> None:
        need("jiwer", "word error rate")
        self._whisper = shared_whisper()

    def _expected(self, pair: Pair, language: str) -> list[str]:
        return words(pair.text, language) if pair.text is not None else self._whisper.read(pair.reference, language)

    def score(self, pair: Pair) -> Score | None:
        """None for another language, or a text without words."""
        if pair.language not in LANGUAGES:
            return None
        expected = self._expected(pair, pair.language)
        if not expected:
            return None
        errors = count_errors(expected, self._whisper.read(pair.degraded, pair.language))
        return Score(100.0 * errors / len(expected), weight=len(expected))


class DifferentialWordErrorRate(WordErrorRate):
    """As `WordErrorRate`, but always against Whisper's reading of the reference (dWER): what coding changed."""

    name, label, no_reference = "dwer", "dWER %", False

    def _expected(self, pair: Pair, language: str) -> list[str]:
        return self._whisper.read(pair.reference, language)


class PhoneErrorRate(Metric):
    """Errors per phone, in percent, against the recogniser's own reading of the reference, pooled over all phones.

    By the English phoneme recogniser of the package `hama` (CTC over IPA symbols, greedy): a second opinion on words by
    a model that no codec here is trained with. Other languages have no score.
    """

    name, label, higher_is_better, decimals = "phones", "PER %", False, 1

    def __init__(self) -> None:
        need("jiwer", "phone error rate")
        model = need("hama.asr", "phone error rate").ASRModel()
        self._read = remembered(lambda samples: model(samples, SAMPLE_RATE).phonemes)

    def score(self, pair: Pair) -> Score | None:
        """None for another language than English, or a reference without phones."""
        if pair.language != "en":
            return None
        expected, recognised = (self._read(x) for x in (pair.reference, pair.degraded))
        if not expected:
            return None
        return Score(100.0 * count_errors(expected, recognised) / len(expected), weight=len(expected))
