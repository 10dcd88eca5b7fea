"""The voices that come with a model: ``speakers.json`` beside its weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.errors import AudioVQError
from audiovq.io import atomic_write

if TYPE_CHECKING:
    from audiovq.conversion.target import TargetVoice
    from audiovq.hub import ModelFacts
    from audiovq.interfaces import Codec

SPEAKERS_FILE = "speakers.json"


@dataclass(frozen=True)
class BundledVoice:
    """A voice that can be named as a target.

    Attributes:
        name: unique within the model.
        languages: ISO 639 codes of what it was heard in.
        sex: "female", "male", or None where the source does not say.
        seconds: of speech that the vector was made from.
        pitch: median F0 in Hz, None where there was no voiced speech.
        vector: the quantized speaker vector, S values.
        licence: of the recordings.
        source: where they are from.
    """

    name: str
    languages: list[str]
    sex: str | None
    seconds: float
    pitch: float | None
    vector: list[int]
    licence: str
    source: str


def voice_entry(
    voice: TargetVoice, name: str, languages: list[str], sex: str | None, licence: str, source: str
) -> BundledVoice:
    """What was heard of a voice, as it is put beside a model; see `BundledVoice`.

    Raises:
        AudioVQError: when too little was heard to know the voice by.
    """
    return BundledVoice(
        name=name,
        languages=languages,
        sex=sex,
        seconds=round(voice.seconds, 1),
        pitch=None if voice.pitch is None else round(voice.pitch, 1),
        vector=voice.vector().tolist(),
        licence=licence,
        source=source,
    )


def write_voices(codec: Codec, voices: list[BundledVoice], folder: str | Path) -> Path:
    """Put voices beside the weights of the model they were made with."""
    path = Path(folder) / SPEAKERS_FILE
    # One line for each voice: a vector of 32 numbers is not to be read from top to bottom.
    rows = ",\n".join("  " + json.dumps(asdict(voice), ensure_ascii=False) for voice in voices)
    with atomic_write(path) as temporary:
        text = f'{{"model": "{codec.model_hash.hex()}", "speakers": [\n{rows}\n]}}\n'
        temporary.write_text(text, encoding="utf-8")
    return path


def find_voice(codec: Codec | ModelFacts, name: str) -> BundledVoice:
    """A voice that came with the model.

    Raises:
        AudioVQError: when there is none of this name.
    """
    known = read_voices(codec)
    if name in known:
        return known[name]
    if os.sep in name or Path(name).suffix:
        raise AudioVQError(f"{name}: no such file")
    close = get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    where = "`audiovq speakers` lists them" if known else f"model {codec.name} has none"
    raise AudioVQError(f"{name}: neither a file nor a bundled voice ({where}){hint}")


def read_voices(codec: Codec | ModelFacts) -> dict[str, BundledVoice]:
    """The voices of a model by name; none where it has no such file.

    Raises:
        AudioVQError: for a file that is damaged, or was made with other weights.
    """
    folder = codec.folder
    if folder is None or not (folder / SPEAKERS_FILE).is_file():
        return {}
    path = folder / SPEAKERS_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        voices = [BundledVoice(**voice) for voice in content["speakers"]]
        made_with = content["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise AudioVQError(f"{path} is damaged ({error})") from error
    if made_with != codec.model_hash.hex():
        raise AudioVQError(
            f"{path} was made with model {made_with}, not {codec.model_hash.hex()}; "
            "recipes/voice_conversion/make_speakers.py makes it anew"
        )
    return {voice.name: voice for voice in voices}
