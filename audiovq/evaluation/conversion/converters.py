"""What turns a source into a target's voice, and the rows that say what could be reached at best and at worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from audiovq.evaluation.conversion.pairs import ConversionPair

if TYPE_CHECKING:
    from audiovq.speech.codec import SpeechCodec
    from audiovq.speech.disguise import Pitch
    from audiovq.speech.target import TargetVoice
    from audiovq.speech.timbre import Timbre


class Converter(Protocol):
    """One way to convert.

    Attributes:
        name: unique in a report.
        family: "reference" or "converter".
        call: how it works, for the report.
        keeps_words: what comes out says what the source says, frame by frame.
    """

    name: str
    family: str
    call: str
    keeps_words: bool

    def convert(self, pair: ConversionPair) -> np.ndarray:
        """(T,) float32 at 16 kHz; as long as the source where it keeps words."""
        ...


class RealSpeech:
    """The ceiling: other recordings of the target itself."""

    name, family, keeps_words = "target, real speech", "reference", False
    call = "recordings of the target that no converter and no centroid had"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        real = pair.target.real
        # One of them for each pair, chosen by the pair's name, so that it stays the same in a smaller set.
        return real[sum(pair.id.encode()) % len(real)].load()


class Unconverted:
    """The floor: the source as it is."""

    name, family, keeps_words = "source, unconverted", "reference", True
    call = "the source as it was recorded"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        return pair.source.load()


class Reconstruction:
    """The source coded and decoded with its own voice: what the model loses before anything is converted."""

    family, keeps_words = "reference", True

    def __init__(self, codec: SpeechCodec, n_codebooks: int | None, decoder: str) -> None:
        self._codec, self._n_codebooks, self._decoder = codec, codec.check_n_codebooks(n_codebooks), decoder
        self.name = f"source, coded ({self._n_codebooks})"
        self.call = f"model {codec.name}, {self._n_codebooks} codebooks, {decoder} decoder, its own speaker vector"

    def convert(self, pair: ConversionPair) -> np.ndarray:
        import torch

        source = torch.from_numpy(pair.source.load())
        encoded = self._codec.encode([source], n_codebooks=self._n_codebooks)
        return self._codec.decode(encoded, decoder=self._decoder)[0, 0].numpy()


class ModelConverter:
    """A `SpeechCodec` with the target's speaker vector, made from the target's reference."""

    family, keeps_words = "converter", True

    def __init__(
        self, codec: SpeechCodec, n_codebooks: int | None, pitch: Pitch, decoder: str, timbre: Timbre = "auto"
    ) -> None:
        n_codebooks = codec.check_n_codebooks(n_codebooks or codec.conversion_codebooks)
        self._codec = codec
        self._options = {"n_codebooks": n_codebooks, "pitch": pitch, "decoder": decoder, "timbre": timbre}
        self.name = f"converted ({n_codebooks}, pitch {pitch}{', own timbre' * (timbre == 'keep')})"
        self.call = f"model {codec.name}, {n_codebooks} codebooks, {decoder} decoder, pitch {pitch}, timbre {timbre}"
        self._voices: dict[str, TargetVoice] = {}

    def convert(self, pair: ConversionPair) -> np.ndarray:
        import torch

        voice = pair.target
        if voice.speaker not in self._voices:
            self._voices[voice.speaker] = self._codec.target_voice(voice.reference.load())
        source = torch.from_numpy(pair.source.load())
        return self._codec.convert([source], self._voices[voice.speaker], **self._options)[0, 0].numpy()  # type: ignore[arg-type]
