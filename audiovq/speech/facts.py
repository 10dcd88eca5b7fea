"""What a model's configuration says, read in a millisecond: for help texts and checks before the weights are loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from audiovq.errors import AudioVQError
from audiovq.interfaces import PITCH_AND_LEVEL_KBPS
from audiovq.speech.checkpoint import codes_hash, has_wavenet, model_folder


@dataclass(frozen=True)
class ModelFacts:
    """A model on disk.

    Attributes:
        folder: where it lies.
        name, sample_rate, hop_length, n_codebooks, codebook_size, default_n_codebooks: as of `SpeechCodec`.
        decoders: names of its decoders.
        n_speakers: of a model that knows its speakers by their numbers; 0 for others.
        side_kbps: nominal rate of pitch and level, kb/s; 0 for a model without.
    """

    folder: Path
    name: str
    sample_rate: int
    hop_length: int
    n_codebooks: int
    codebook_size: int
    default_n_codebooks: int
    decoders: tuple[str, ...]
    n_speakers: int
    side_kbps: float

    @property
    def model_hash(self) -> bytes:
        """As `SpeechCodec.model_hash`: reads the weights."""
        return codes_hash(self.folder)

    @property
    def bitrates(self) -> list[float]:
        """Nominal kb/s by the number of codebooks, ascending."""
        bits = (self.codebook_size - 1).bit_length()
        per_codebook = bits * self.sample_rate / self.hop_length / 1000
        return [self.side_kbps + k * per_codebook for k in range(1, self.n_codebooks + 1)]


def model_facts(name_or_dir: str | Path | None = None) -> ModelFacts:
    """The facts of a bundled model by name (default: the bundled speech model) or of a folder with a model.

    Raises:
        AudioVQError: when there is no such model, or its configuration is damaged.
    """
    folder = model_folder(name_or_dir)
    try:
        config = json.loads((folder / "config.json").read_text())
        encoder, quantizer = config["encoder"].get("detail", config["encoder"]), config["quantizer"]
        stride = (encoder.get("filterbank") or {}).get("stride", 1)
        return ModelFacts(
            folder=folder,
            name=config.get("name", "unnamed"),
            sample_rate=config.get("sample_rate", 16000),
            hop_length=stride * math.prod(encoder["strides"]),
            n_codebooks=quantizer["n_codebooks"],
            codebook_size=quantizer["codebook_size"],
            default_n_codebooks=config.get("default_n_codebooks", 4),
            decoders=("parallel",) * (config["decoder"] is not None) + ("wavenet",) * has_wavenet(folder),
            n_speakers=config["speaker_encoder"].get("n_speakers", 0),
            side_kbps=PITCH_AND_LEVEL_KBPS if "pitch" in config else 0.0,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AudioVQError(f"the model in {folder} cannot be loaded: its config.json is damaged ({error})") from error
