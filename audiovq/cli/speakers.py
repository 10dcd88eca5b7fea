"""``audiovq speakers``: the voices that came with a model."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def speakers(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the speaker vectors.")] = False,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="Without it: the bundled model for conversion.")
    ] = None,
) -> None:
    """List the voices that came with a model: ``audiovq convert --to NAME`` speaks with them."""
    from dataclasses import asdict

    from audiovq.cli.loading import Models
    from audiovq.speech.checkpoint import conversion_model
    from audiovq.speech.voices import read_voices

    codec = Models().load(model or conversion_model())
    voices = list(read_voices(codec).values())
    if as_json:
        print(json.dumps([asdict(voice) for voice in voices], indent=2, ensure_ascii=False))
        return
    if not voices:
        print(f"no voices came with model {codec.name}; audiovq convert --to takes a recording of any voice")
        return
    width = max(len(voice.name) for voice in voices)
    for voice in voices:
        register = "" if voice.pitch is None else f"{voice.pitch:.0f} Hz"
        cells = [f"{voice.name:{width}}", f"{' '.join(voice.languages):6}", f"{voice.sex or '':6}", f"{register:>6}"]
        print("  ".join([*cells, f"{voice.seconds:4.0f} s", voice.licence]))
