"""Options that several commands share, values with commas, kinds of inputs, and refusing options that do not apply."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Context, Option

from audiovq.bitstream.container import media_of
from audiovq.bitstream.visual_layout import MEDIA_NAMES
from audiovq.errors import AudioVQError
from audiovq.io import errors_about, is_special
from audiovq.media.containers import CONTAINER_SUFFIXES, contents_of
from audiovq.media.images import IMAGE_SUFFIXES
from audiovq.media.samples import RawFormat
from audiovq.media.waveform import READABLE

Model = Annotated[str | None, Option(metavar="NAME|DIR", help="A bundled model or a folder; default: the bundled one.")]
Prior = Annotated[
    str | None,
    Option(
        metavar="DIR",
        help="The prior: a folder, or a training run (runs/NAME); default: the folder prior of the codec.",
    ),
]
Data = Annotated[str, Option(metavar="NAME|DIR,...", help="Corpora or folders, separated by commas.")]
Splits = Annotated[
    str, Option("--split", metavar="NAME,...", help="train, validation, test or unseen; several with commas.")
]
Split = Annotated[str, Option(metavar="NAME", help="train, validation, test or unseen.")]
FirstCodebooks = Annotated[
    int | None, Option("--codebooks", min=1, metavar="N", help="The first N codebooks; default: the prior's.")
]
Decoder = Annotated[str, Option(metavar="parallel|wavenet", help="Decoder of the model.")]
Temperature = Annotated[
    float | None, Option(min=0, metavar="T", help="Below 1: likelier and less varied samples; default: the prior's.")
]
TopK = Annotated[int, Option(min=0, metavar="K", help="Sample each code from the K likeliest; 0: from all.")]
TopP = Annotated[
    float | None,
    Option(
        metavar="P",
        help="Sample each code from the likeliest whose probabilities add up to P (at most 1); default: the prior's.",
    ),
]
Seed = Annotated[int, Option(min=0, metavar="N", help="Random seed; the same seed gives the same bytes.")]
Samples = Annotated[int, Option("-n", "--samples", min=1, metavar="N", help="Number of samples.")]
Threads = Annotated[
    int, Option(min=1, metavar="N", help="CPU threads; more than one rarely helps because packets are small.")
]
WaveNetSeed = Annotated[int, Option("--seed", min=0, metavar="N", help="Random seed of the WaveNet decoder.")]
Engine = Annotated[
    str,
    Option(
        metavar="torch|onnx|auto",
        help="Library that runs the networks: PyTorch, or ONNX Runtime, which starts sooner; auto: ONNX Runtime if "
        "the model was exported for it, as the bundled one is, else PyTorch.",
    ),
]
Force = Annotated[bool, Option("-f", "--force", help="Overwrite files that exist.")]


def _no_folder(path: Path | None) -> Path | None:
    if path is not None and path.is_dir():
        raise AudioVQError(f"{path} is a folder; name a file")
    return path


Json = Annotated[
    Path | None, Option("--json", metavar="FILE", callback=_no_folder, help="Write all figures to a file.")
]
Plot = Annotated[
    Path | None, Option("--plot", metavar="FILE", callback=_no_folder, help="Write a plot (.png, .svg, .pdf).")
]
Packet = Annotated[
    float | None,
    Option(
        "--packet",
        metavar="MS",
        help="Length of a packet in milliseconds; 80 suits lossy lines and calls, at a higher bit rate and longer "
        "computing time; default: the model's.",
    ),
]
Raw = Annotated[
    str | None,
    Option(
        "--raw", metavar="FORMAT", help="Audio without a header: s8, u8, s16le, s16be, s24le, s32le, f32le or f64le."
    ),
]
Rate = Annotated[int | None, Option("--rate", min=1, metavar="HZ", help="Sample rate of raw audio.")]
Channels = Annotated[
    int | None, Option("--channels", min=1, metavar="N", help="Channels of raw audio that is read; default: 1.")
]


def at_most(what: str, zero: str = "all") -> Any:
    """The option for a number of things, of which 0 stands for ``zero``."""
    return Option(min=0, metavar="N", help=f"{what}; 0: {zero}.")


def names(text: str) -> list[str]:
    """Values with commas between them; `AudioVQError` for none."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise AudioVQError(f"{text!r} has no value")
    return list(dict.fromkeys(found))


def numbers(text: str, option: str) -> list[float]:
    """Numbers with commas between them; `AudioVQError` for anything else."""
    try:
        return [float(name) for name in names(text)]
    except ValueError:
        raise AudioVQError(f"{option} takes numbers with commas between them, got {text!r}") from None


def integers(text: str, option: str) -> list[int]:
    """Whole numbers with commas between them; `AudioVQError` for anything else."""
    found = numbers(text, option)
    if any(number != int(number) for number in found):
        raise AudioVQError(f"{option} takes whole numbers with commas between them, got {text!r}")
    return [int(number) for number in found]


def check_seconds(seconds: float) -> None:
    """Raise `AudioVQError` for a length of samples that is not above 0 and at most a day."""
    if not 0 < seconds <= 86400:
        raise AudioVQError(f"--seconds is above 0 and at most a day, not {seconds:g}")


def raw_source(raw: str | None, rate: int | None, channels: int | None) -> RawFormat | None:
    """The format of raw audio that is read; None for audio with a header."""
    if raw is None:
        if rate is not None or channels is not None:
            raise AudioVQError("--rate and --channels describe raw audio; they need --raw")
        return None
    if rate is None:
        raise AudioVQError("--raw needs --rate: raw audio does not say its sample rate")
    return RawFormat(raw, rate, channels or 1)


def raw_target(raw: str | None, rate: int | None, channels: int | None) -> RawFormat | None:
    """The format of raw audio that is written; what is not given is as the audio has it."""
    return raw_source(raw, rate, channels) if raw is None else RawFormat(raw, rate or 0, channels or 0)


def unused(context: Context, names: tuple[str, ...], reason: str) -> str | None:
    """The message that parameters, as they are on the command line, have no effect here; None for none of them."""
    used = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            off = context.params.get(parameter.name) is False and parameter.secondary_opts
            used.append(max(parameter.secondary_opts if off else parameter.opts, key=len))
    return f"{' and '.join(used)} {'is' if len(used) == 1 else 'are'} {reason}" if used else None


def refuse(context: Context, names: tuple[str, ...], reason: str) -> None:
    """Raise `AudioVQError` when one of these parameters, which have no effect here, is on the command line."""
    if message := unused(context, names, reason):
        raise AudioVQError(message)


PICTURES = tuple(IMAGE_SUFFIXES)
CLIPS = (".gif", *CONTAINER_SUFFIXES)


def takes_visual(inputs: Sequence[str], sounds: Sequence[str]) -> bool:
    """Whether the inputs of `encode` are images and videos, by their names; a folder goes by its files.

    A video without images is sound; both kinds together, and .avq files, are an `AudioVQError`.
    """
    for name in inputs:
        if suffix_of(name) == ".avq" and os.path.isfile(name):
            raise AudioVQError(f"{name}: is an .avq file already; audiovq decode reads it")

    def sound(name: str) -> bool:
        suffix = suffix_of(name)
        with errors_about(name):
            return suffix in sounds or (suffix in CONTAINER_SUFFIXES and contents_of(name) == {"sound"})

    def visual(name: str) -> bool:
        return suffix_of(name) in PICTURES + CLIPS and not sound(name)

    return _all_or_none(inputs, visual, sound, ", or encode only the sound with --sound")


def check_file_name(output: str, many: bool, is_coded: bool) -> None:
    """Raise `AudioVQError` for a file where several inputs need a folder, and for coded data under a media suffix."""
    suffix = suffix_of(output)
    is_media = suffix in (*READABLE, *PICTURES, *CLIPS)
    if many and (os.path.exists(output) or is_media or suffix == ".avq"):
        raise AudioVQError(f"{output} is a file; several inputs need a folder")
    if is_media and is_coded and not is_special(output):
        raise AudioVQError(f"{output}: encode writes .avq files, not {suffix}")


def holds_visual(inputs: Sequence[str]) -> bool:
    """Whether the inputs of `decode` or `info` hold images and videos, not both, by the headers of the .avq files."""

    def visual(name: str) -> bool:
        return media_of(name) in MEDIA_NAMES

    return _all_or_none(inputs, visual, lambda name: suffix_of(name) == ".avq" and not visual(name))


def _all_or_none(
    inputs: Sequence[str], visual: Callable[[str], bool], sound: Callable[[str], bool], hint: str = ""
) -> bool:
    kinds: dict[bool, str] = {}  # the first file of each kind
    for name in inputs:
        if not os.path.isdir(name):
            kinds.setdefault(visual(name), name)
            continue
        for path in sorted(Path(name).rglob("*")):
            file = str(path)
            if path.name.startswith(".") or not path.is_file():  # hidden files are not encoded
                continue
            if visual(file):
                kinds.setdefault(True, file)
            elif sound(file):
                kinds.setdefault(False, file)
    if len(kinds) > 1:
        raise AudioVQError(
            f"{kinds[False]} is audio, {kinds[True]} is an image or a video; give them to separate calls{hint}"
        )
    return True in kinds


def suffix_of(name: str) -> str:
    return os.path.splitext(name)[1].lower()
