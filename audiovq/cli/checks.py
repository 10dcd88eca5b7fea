"""What can be seen to be wrong in a moment, before a model is loaded for seconds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.errors import AudioVQError

if TYPE_CHECKING:
    from audiovq.hub import ModelFacts


def facts(name_or_dir: str | None) -> ModelFacts:
    """What the configuration of a bundled model (None: the default one) or of a model in a folder says.

    Raises:
        AudioVQError: when there is no such model.
    """
    from audiovq.hub import model_facts

    return model_facts(name_or_dir)


def check_decoder(decoder: str, models: list[str | None]) -> None:
    """See that one of these models has the decoder.

    Raises:
        AudioVQError: when none has it.
    """
    found = [facts(model) for model in models]
    if found and all(decoder not in model.decoders for model in found):
        from audiovq.hub import missing_decoder

        raise missing_decoder(found[0].name, decoder, found[0].decoders)


def check_voice(name: str, model: ModelFacts | None) -> None:
    """See that a voice is there: a recording, an .avq file, or, of a model, the name of a bundled voice.

    Raises:
        AudioVQError: when it is not.
    """
    from audiovq.io import check_input

    if os.path.isdir(name):
        raise AudioVQError(f"{name}: is a folder; name the target's recordings one by one")
    if os.path.exists(name):
        check_input(name)
    elif os.sep in name or Path(name).suffix:
        raise AudioVQError(f"{name}: no such file")
    elif model is not None:
        from audiovq.conversion.voices import find_voice

        find_voice(model, name)


def bitrate_help() -> str:
    """The help of ``--bitrate``: which ones the bundled model has."""
    ending = "without it the model's default."
    try:
        model = facts(None)
    except AudioVQError:
        return f"kb/s for each channel; {ending}"
    offers = ", ".join(f"{rate:g}" for rate in model.bitrates)
    default = model.bitrates[model.default_n_codebooks - 1]
    return f"kb/s for each channel. The bundled model has {offers}; {ending[:-1]}, {default:g}."
