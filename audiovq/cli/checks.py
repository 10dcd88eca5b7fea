"""Checks of the command line before work begins: paths, spelling, samples."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.errors import AudioVQError
from audiovq.io import errors_about

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
        from audiovq.conversion.target import find_voice

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


PROTOCOLS = ("files", "codec", "conversion", "generation", "probe", "image", "video")
MEDIA = ("speech", "image", "video")
_RENAMED = {
    "--peers": "--baselines",
    "--peers-only": "--baselines-only",
    "--picture": "--plot",
    "--pairs": "--limit",
}
_FLAGS = ("--peers", "--peers-only", "--baselines", "--baselines-only", "--align", "--world")


def updated(verb: str, arguments: list[str]) -> list[str]:
    """The arguments of ``audiovq evaluate`` or ``generate`` in today's spelling; a hint on stderr where they change.

    Without any they ask for help.

    Raises:
        AudioVQError: for arguments that were wrong in the old spelling, too.
    """
    if not arguments:
        return ["--help"]
    new = (_evaluate if verb == "evaluate" else _generate)(arguments)
    if new != arguments:
        print(f"audiovq: hint: this is now spelled: audiovq {verb} {shlex.join(new)}", file=sys.stderr)
    return new


def _evaluate(arguments: list[str]) -> list[str]:
    new = [_RENAMED.get(name, name) + sign + value for name, sign, value in (a.partition("=") for a in arguments)]
    if new[0] in (*PROTOCOLS, "-h", "--help"):
        return new
    words = [
        (i, word)
        for i, word in enumerate(new)
        if not word.startswith("-") and not (i and new[i - 1].startswith("-") and new[i - 1] not in _FLAGS)
    ]
    if len(words) > 1:
        return ["files", *new]
    if not words:
        return ["codec", *new]
    place, word = words[0]
    if word not in (*PROTOCOLS, "split"):
        raise AudioVQError(f"evaluate takes two folders, or one of: {', '.join(PROTOCOLS)} (got: {word})")
    return ["codec" if word == "split" else word, *new[:place], *new[place + 1 :]]


def _generate(arguments: list[str]) -> list[str]:
    if arguments[0] in (*MEDIA, "-h", "--help"):
        return arguments
    if not arguments[0].startswith("-"):
        raise AudioVQError(f"generate takes one of: {', '.join(MEDIA)} (got: {arguments[0]})")
    new, medium = [], "speech"
    rest = iter(arguments)
    for argument in rest:
        name, sign, value = argument.partition("=")
        if name == "--media":
            medium = value if sign else next(rest, "")
        else:
            new.append(argument)
    if medium not in MEDIA:
        raise AudioVQError(f"--media is one of {', '.join(MEDIA)}, not {medium!r}")
    return [medium, *new]


def plan_samples(folder: Path, n: int, suffixes: tuple[str, str], format: str, force: bool) -> list[list[Path]]:
    """The files of each sample.

    Args:
        folder: of all of them.
        n: samples.
        suffixes: of a decoded sample, and ``.avq``.
        format: one of the suffixes without its dot, or "both".
        force: overwrite.

    Raises:
        AudioVQError: for another format, and for files that are in the way.
    """
    formats = {suffix[1:]: (suffix,) for suffix in suffixes} | {"both": suffixes}
    if format not in formats:
        raise AudioVQError(f"--format is {', '.join(formats)}, not {format!r}")
    if folder.exists() and not folder.is_dir():
        raise AudioVQError(f"{folder} is a file; samples need a folder")
    digits = max(2, len(str(n)))
    targets = [[folder / f"sample-{i:0{digits}d}{suffix}" for suffix in formats[format]] for i in range(1, n + 1)]
    for path in (path for paths in targets for path in paths):
        if path.is_dir():
            raise AudioVQError(f"{path}: is a folder")
        if path.exists() and not force:
            raise AudioVQError(f"{path} exists; -f overwrites it")
    return targets


def check_folder(folder: Path) -> None:
    """Make the folder and check that files can be written, before minutes of sampling.

    Raises:
        AudioVQError: when they cannot.
    """
    with errors_about(str(folder), "written"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
