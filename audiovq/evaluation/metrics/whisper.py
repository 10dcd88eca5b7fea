"""Speech to words, by OpenAI's Whisper base."""

from __future__ import annotations

import hashlib
import os
import re

import numpy as np

from audiovq.data.whisper import whisper_folder
from audiovq.errors import AudioVQError
from audiovq.evaluation.metrics.words import words
from audiovq.optional import need

LANGUAGES = ("en", "es", "fr", "it", "ru")
"""Where Whisper base hears nearly every word of good recordings."""

VERSION = 2
"""Of how it reads, for what is remembered on disk."""
_NO_REPEAT = 4  # tokens: from poor speech a greedy reader falls into loops, and one of them outweighs all real errors
_TOKENS_PER_SECOND, _TOKENS = 12, 10  # more is never said


class Whisper:
    """Reads speech in 8-bit integers on the CPU, greedily: the same audio always gives the same words."""

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
        # Numbers are wanted as words, as the transcripts have them: no token with a digit in it may be written.
        vocabulary = self._model.hf_tokenizer.get_vocab()
        self._digits = [number for token, number in vocabulary.items() if re.fullmatch(r"Ġ?[^<|]*\d[^|>]*", token)]
        self._heard: dict[bytes, list[str]] = {}

    def read(self, samples: np.ndarray, language: str) -> list[str]:
        """The words of (T,) at 16 kHz. What was read before is remembered: all systems share their references."""
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        key = hashlib.sha256(language.encode() + samples.tobytes()).digest()
        if key not in self._heard:
            segments, _ = self._model.transcribe(
                samples,
                language=language,
                beam_size=1,
                temperature=0.0,
                condition_on_previous_text=False,
                without_timestamps=True,
                suppress_tokens=[-1, *self._digits],
                no_repeat_ngram_size=_NO_REPEAT,
                max_new_tokens=min(_TOKENS + round(_TOKENS_PER_SECOND * len(samples) / 16000), 400),
            )
            self._heard[key] = words(" ".join(segment.text for segment in segments), language)
        return self._heard[key]
