"""Metrics by pretrained models: predicted opinion, speaker similarity, word and phone errors of recognisers."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from audiovq.data.whisper import whisper_folder
from audiovq.errors import AudioVQError, need, with_pkg_resources
from audiovq.evaluation.protocol import SAMPLE_RATE, Metric, Pair, Score, remembered

SEGMENT = int(9.01 * SAMPLE_RATE)
"""Samples that DNSMOS rates at once."""


class DNSMOS(Metric):
    """DNSMOS P.835, overall quality 1 to 5 (Reddy, Gopal, Cutler, 2022), by the weights in the package `speechmos`.

    A recording is repeated to whole segments of 9.01 s, which are rated one by one and averaged. (The package's own
    function moves along by one second: five to ten times the work for the second decimal.) It is sensitive to noise
    and roughness, hardly to a wrong word or a missing upper band.
    """

    name, label, higher_is_better, decimals, no_reference = "dnsmos", "DNSMOS", True, 2, True

    def __init__(self) -> None:
        # The module speechmos.dnsmos itself imports librosa, requests and more that only its own driver uses.
        folder = Path(need("speechmos", "DNSMOS").__file__).parent / "dnsmos_models"
        onnxruntime = need("onnxruntime", "DNSMOS")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "sig_bak_ovr.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def score(self, pair: Pair) -> Score | None:
        """None for an empty recording."""
        samples = np.clip(pair.degraded, -1.0, 1.0).astype(np.float32)
        if not len(samples):
            return None
        segments = np.resize(samples, (-(-len(samples) // SEGMENT), SEGMENT))  # np.resize repeats
        rated = self._session.run(None, {"input_1": segments})[0]  # (segments, 3): signal, background, overall; raw
        # From the network's scale to the listeners': the polynomial published with it.
        overall = np.polyval([-0.06766283, 1.11546468, 0.04602535], rated[:, 2].astype(np.float64))
        return Score(float(overall.mean()))


class DistillMOS(Metric):
    """DistillMOS, overall quality 1 to 5 (Stahl and Gamper 2025), by the package `distillmos`.

    It rates windows of 7.68 s at most a second apart; shorter recordings are padded with zeros, which lowers their
    rating: use excerpts of 5 s and more.
    """

    name, label, higher_is_better, decimals, no_reference = "distillmos", "DistillMOS", True, 2, True

    def __init__(self) -> None:
        with _without_torchaudio():
            distillmos = need("distillmos", "DistillMOS")
        with redirect_stdout(StringIO()):  # it prints where its weights are
            self._model = distillmos.ConvTransformerSQAModel().eval()

    def score(self, pair: Pair) -> Score | None:
        """None for an empty recording."""
        import torch

        if not len(pair.degraded):
            return None
        with torch.inference_mode():
            samples = torch.from_numpy(np.clip(pair.degraded, -1.0, 1.0).astype(np.float32))
            return Score(float(self._model(samples[None])))


@contextmanager
def _without_torchaudio() -> Iterator[None]:
    """An empty module ``torchaudio`` during an import that only names it.

    distillmos reads files with it in its own command line alone, and many builds of torchaudio do not load beside the
    torch that is installed.
    """
    if "torchaudio" in sys.modules:
        yield
        return
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    try:
        yield
    finally:
        del sys.modules["torchaudio"]


def load_speaker_encoder() -> tuple[Any, Any]:
    """Resemblyzer's module and its encoder, on the CPU.

    Raises:
        AudioVQError: when it is not installed.
    """
    with with_pkg_resources():  # which its voice activity detector imports
        resemblyzer = need("resemblyzer", "speaker cosine")
    return resemblyzer, resemblyzer.VoiceEncoder("cpu", verbose=False)


class SpeakerCosine(Metric):
    """Cosine between the speaker embeddings of both sides (Wan et al. 2018, by the package `resemblyzer`).

    The level is normalised and long pauses are cut, as its authors do. Two similar speakers reach .83, a speaker and
    its own centroid .88 to .90.

    Attributes:
        embed: (T,) at 16 kHz -> unit vector (256,), None for a recording without speech; results are remembered.
    """

    name, label, higher_is_better, decimals = "speaker", "speaker", True, 3

    def __init__(self) -> None:
        self._resemblyzer, self._encoder = load_speaker_encoder()
        self.embed = remembered(self._embed)

    def _embed(self, samples: np.ndarray) -> np.ndarray | None:
        if not np.any(samples):
            return None
        voiced = self._resemblyzer.preprocess_wav(np.clip(samples, -1.0, 1.0))
        if not len(voiced):
            return None
        vector = self._encoder.embed_utterance(voiced)
        return vector if np.isfinite(vector).all() else None

    def score(self, pair: Pair) -> Score | None:
        """None for a reference without speech; 0 where only the degraded side has none."""
        reference = self.embed(pair.reference)
        if reference is None:
            return None
        degraded = self.embed(pair.degraded)
        return Score(0.0 if degraded is None else float(reference @ degraded))


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
