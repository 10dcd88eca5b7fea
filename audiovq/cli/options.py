"""Options that several commands share, and values with commas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audiovq.errors import AudioVQError

Model = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR", help="A bundled model or a folder; default: the bundled one.", show_default=False),
]
Prior = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="The prior; default: the folder prior of the codec.", show_default=False),
]
Data = Annotated[str, typer.Option(metavar="NAME|DIR,...", help="Corpora or folders, separated by commas.")]
Splits = Annotated[str, typer.Option("--split", help="train, validation, test or unseen; several with commas.")]
Split = Annotated[str, typer.Option(help="train, validation, test or unseen.")]
FirstCodebooks = Annotated[
    int | None,
    typer.Option(
        "--codebooks", min=1, metavar="N", help="The first N codebooks; default: the prior's own.", show_default=False
    ),
]
Decoder = Annotated[str, typer.Option(metavar="parallel|wavenet", help="Decoder of the model.")]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, help="Under 1: likelier and less varied; default: the prior's own.", show_default=False),
]
TopK = Annotated[int, typer.Option(min=0, help="Only the k likeliest codes each time; 0: all.")]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Only the likeliest codes that together reach p, up to 1; default: the prior's own.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed: the same one gives the same bytes.")]
Samples = Annotated[int, typer.Option("-n", "--samples", min=1, help="Number of samples.")]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite files that exist.")]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write all figures to a file.", show_default=False)
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Write a plot (.png, .svg, .pdf).", show_default=False)
]


def names(text: str) -> list[str]:
    """Values with commas between them.

    Raises:
        AudioVQError: for none.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise AudioVQError(f"{text!r} names nothing")
    return list(dict.fromkeys(found))


def numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between them.

    Raises:
        AudioVQError: for anything else.
    """
    try:
        return [float(name) for name in names(text)]
    except ValueError:
        raise AudioVQError(f"{option} takes numbers with commas between them, got {text!r}") from None


def integers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        AudioVQError: for anything else.
    """
    found = numbers(text, option)
    if any(number != int(number) for number in found):
        raise AudioVQError(f"{option} takes whole numbers with commas between them, got {text!r}")
    return [int(number) for number in found]


def check_outputs(*paths: Path | None) -> None:
    """Refuse folders as files to write.

    Raises:
        AudioVQError: for a folder.
    """
    for path in paths:
        if path is not None and path.is_dir():
            raise AudioVQError(f"{path} is a folder; name a file")
