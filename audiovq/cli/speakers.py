"""``audiovq speakers``: the speakers bundled with a model."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def speakers(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the speaker vectors.")] = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="A bundled model or a folder. Without it: the bundled one."),
    ] = None,
) -> None:
    """List the speakers bundled with a model, for ``audiovq convert --to NAME``."""
    from dataclasses import asdict

    from audiovq.cli.loading import Models
    from audiovq.cli.terminal import print_rows
    from audiovq.conversion.target import read_voices

    codec = Models().load(model)
    voices = list(read_voices(codec).values())
    if as_json:
        print(json.dumps([asdict(voice) for voice in voices], indent=2, ensure_ascii=False))
        return
    if not voices:
        print(f"no voices came with model {codec.name}; audiovq convert --to takes a recording of any voice")
        return
    rows = []
    for voice in voices:
        pitch = "" if voice.pitch is None else f"{voice.pitch:.0f} Hz"
        rows.append(
            [voice.name, " ".join(voice.languages), voice.sex or "", pitch, f"{voice.seconds:.0f} s", voice.licence]
        )
    print_rows(rows, right=(3, 4))
