"""``audiovq export``: models for other runtimes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from audiovq.cli.options import Force, Model
from audiovq.errors import AudioVQError

app = typer.Typer(rich_markup_mode=None)


@app.callback()
def export() -> None:
    """Write models for other runtimes; see `audiovq export RUNTIME --help` for the options."""


@app.command(short_help="Write a speech model for ONNX Runtime.")
def onnx(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write.", show_default=False)],
    model: Model = None,
    force: Force = False,
) -> None:
    """Write a speech model for ONNX Runtime: encoder, pitch tracker, speaker encoder and decoder as .onnx files.

    Beside them are the codebooks (codebooks.safetensors) and onnx.json, which describes inputs, outputs and sizes.
    `audiovq encode --engine onnx --model DIR` uses the folder and needs no PyTorch; so do decode and convert. In the
    folder onnx of a model's folder it serves --model with that folder. -f overwrites an earlier export.
    """
    from audiovq.hub import ONNX_DESCRIPTION, model_folder

    if (folder / ONNX_DESCRIPTION).exists() and not force:
        raise AudioVQError(f"{folder} exists; -f overwrites it")
    source = model_folder(model)

    from audiovq.codec.codec import SpeechCodec
    from audiovq.codec.onnx_export import export_onnx

    export_onnx(SpeechCodec.from_pretrained(source), folder, source)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(list(folder.iterdir()))} files, {size / 1e6:.1f} MB", file=sys.stderr)
