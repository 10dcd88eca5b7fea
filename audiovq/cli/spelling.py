"""Command lines as version 0.1.0 spelled them, understood for one more version."""

from __future__ import annotations

import shlex
import sys

from audiovq.errors import AudioVQError

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
