"""The command line: ``audiovq VERB ...``, the module of a verb is imported only when that verb is called.

A verb's module, ``audiovq.cli.VERB`` or one in `_MODULES`, has a function ``VERB`` as typer takes it, and may have
``CONTEXT_SETTINGS``, a dictionary for typer's ``context_settings``. A verb of `GROUPS` has an application ``app`` with
sub-commands instead.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import wraps
from importlib import import_module
from signal import SIGINT
from typing import Annotated, Any

import typer
from typer import Option

from audiovq import __version__
from audiovq.cli.jobs import exit_code, is_interrupted, signals_as_interrupts
from audiovq.errors import AudioVQError

#: Verbs and their lines in the overview, which cuts what is longer than 66 characters.
VERBS = {
    "encode": "Encode speech, images or videos to small .avq files.",
    "decode": "Decode .avq files to speech, images or videos.",
    "convert": "Convert recordings or .avq files to another speaker.",
    "speakers": "List the speakers bundled with a model.",
    "generate": "Sample speech or images from a prior, or predict video.",
    "info": "Show what an .avq file contains and verify its checksums.",
    "models": "List the bundled models.",
    "serve": "Serve a web page with the speech commands on this machine.",
    "tokenize": "Write the codes of a corpus as shards for language models.",
    "evaluate": "Measure the quality of recordings, codecs and priors.",
    "export": "Export a speech model for ONNX Runtime.",
    "train": "Train a model: audiovq train experiment=NAME [KEY=VALUE ...].",
}
#: Modules of the verbs that share one.
_MODULES = {"speakers": "models", "export": "models", "serve": "models", "train": "models"}
_MODULES |= dict.fromkeys(("encode", "decode", "info"), "coding")
#: Verbs with sub-commands.
GROUPS = ("evaluate", "export", "generate")
#: Which optional dependencies a verb needs beyond the package's own.
_EXTRAS = {"evaluate": "eval", "train": "train", "serve": "web"}
#: Packages that come with the extra ``torch``.
_WITH_TORCH = ("numba", "llvmlite", "librosa", "scipy", "PIL")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """What cannot be written as escapes; bytes of file names that are not UTF-8 as those bytes."""
    assert isinstance(error, UnicodeEncodeError)
    escaped = [
        f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("ascii", "backslashreplace").decode()
        for c in error.object[error.start : error.end]
    ]
    return "".join(escaped), error.end


codecs.register_error("audiovq.escape", _escape)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"audiovq {__version__}")
        raise typer.Exit


def build_app(verb: str | None = None) -> typer.Typer:
    """The application with ``verb`` in full; of the others it knows the names and a line of help."""
    inherited = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(name="audiovq", add_completion=False, rich_markup_mode=None, context_settings=inherited)

    @app.callback()
    def audiovq(
        version: Annotated[
            bool, Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
        ] = False,
    ) -> None:
        """Encode, decode, convert and generate speech, and code images and videos, with vector-quantized autoencoders.

        First steps: `audiovq encode speech.wav` writes speech.avq, `audiovq decode speech.avq -o decoded.wav` decodes
        it, and `audiovq COMMAND --help` lists the options of a command.
        """

    for name, line in VERBS.items():
        if name == verb:
            module = import_module(f"audiovq.cli.{_MODULES.get(name, name)}")
            if name in GROUPS:
                for command in module.app.registered_commands:
                    command.callback = _without_eof(command.callback)
                app.add_typer(module.app, name=name, short_help=line)
                continue
            settings = getattr(module, "CONTEXT_SETTINGS", None)
            app.command(name, short_help=line, context_settings=settings)(_without_eof(getattr(module, name)))
        else:
            app.command(name, help=line)(_elsewhere)
    return app


def _without_eof(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with other errors for `EOFError`, which typer takes for the user's end of a prompt."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except EOFError as error:
            raise RuntimeError(f"EOFError: {error}") from error

    return call


def _elsewhere() -> None:
    raise AssertionError("a verb that was not loaded cannot run")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    It is 0, 1 for failures, 2 for wrong usage, 130 when interrupted, 143 when terminated. An error is one line on
    stderr.
    """
    _open_standard_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        arguments = ["--help"]
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        return _fail(_no_verb(verb), 2)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # something else in their place, as in tests
            stream.reconfigure(errors="audiovq.escape")  # type: ignore[union-attr]
    # Training has handlers of its own, which end a run after the step at hand and save its state.
    with nullcontext() if verb == "train" else signals_as_interrupts():
        return _run(verb, arguments)


def _open_standard_streams() -> None:
    """Open those that the caller has closed: a file would get their number, and messages would go into it.

    What is read from standard input or written to standard output is an error then, what is written to standard error
    goes nowhere.
    """
    for number, (name, reads) in enumerate({"stdin": True, "stdout": False, "stderr": False}.items()):
        if getattr(sys, name) is None:
            with suppress(OSError):
                os.fstat(number)
                continue
            wrong_way = reads or name == "stderr"
            nowhere = os.open(os.devnull, os.O_WRONLY if wrong_way else os.O_RDONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if reads else "w", closefd=False))  # noqa: SIM115


def _no_verb(word: str) -> str:
    """The message about a word that is no verb, with the one that may be meant."""
    from difflib import get_close_matches

    close = get_close_matches(word.lower(), VERBS, 1)
    if close:
        return f"there is no command {word!r}; did you mean {close[0]}?"
    if os.path.exists(word):
        verb = "decode" if word.lower().endswith(".avq") else "encode"
        return f"there is no command {word!r}; did you mean audiovq {verb} {word}?"
    return f"there is no command {word!r}; the commands are {', '.join(VERBS)}"


def _run(verb: str | None, arguments: list[str]) -> int:
    try:
        if verb in ("evaluate", "generate"):
            from audiovq.cli.loading import updated

            place = arguments.index(verb) + 1
            arguments = arguments[:place] + updated(verb, arguments[place:])
        elif verb in GROUPS and arguments[-1] == verb:
            arguments = [*arguments, "--help"]
        result = build_app(verb)(arguments, prog_name="audiovq", standalone_mode=False)
        sys.stdout.flush()
        if result == 128 + SIGINT:  # so some versions of typer report an interrupt, others raise
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except AudioVQError as error:
        try:
            sys.stdout.flush()
        except OSError:  # the interpreter would meet it again when it ends
            _silence_stdout()
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", exit_code())
    except BrokenPipeError:
        _silence_stdout()
        return 1
    except SystemExit as error:
        # typer leaves this way when nobody reads our output any more.
        _silence_stdout()
        return error.code if isinstance(error.code, int) else 1
    except ModuleNotFoundError as error:
        if os.environ.get("AUDIOVQ_TRACEBACK"):
            raise
        return _fail(_missing(verb, error))
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own errors, whose module changes between its versions
            path = getattr(getattr(error, "ctx", None), "command_path", None) or f"audiovq {verb or ''}".strip()
            return _fail(f"{error.format_message()} (see {path} --help)", 2)
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """One line about an error that no message was made for; with ``AUDIOVQ_TRACEBACK`` the error itself."""
    if os.environ.get("AUDIOVQ_TRACEBACK"):
        raise error
    _silence_stdout()
    if isinstance(error, OSError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return _fail("the current folder does not exist any more: change to one that does")
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}")
    what = " ".join(str(error).split()) or "no message"
    return _fail(f"internal error: {type(error).__name__}: {what} (AUDIOVQ_TRACEBACK=1 shows where)")


def _missing(verb: str | None, error: ModuleNotFoundError) -> str:
    if error.name == f"audiovq.cli.{_MODULES.get(verb or '', verb)}":
        return f"this installation has no {verb}"
    extra = _EXTRAS.get(verb or "", "torch" if error.name in _WITH_TORCH else None)
    if error.name == "torch":
        use = " for images and videos" if verb in ("encode", "decode", "generate", "info") else ""
        return f"{verb} needs PyTorch{use}, which is not installed: pip install 'audiovq[{extra or 'torch'}]'"
    install = f"pip install 'audiovq[{extra}]'" if extra else f"pip install {error.name}"
    return f"{verb} needs the package {error.name}: {install}"


def _fail(message: str, code: int = 1) -> int:
    if is_interrupted():  # what fails then fails for that reason: signals reach the processes of a pool, too
        message, code = "interrupted", exit_code()
    with suppress(OSError):
        print("audiovq:", " ".join(message.splitlines()), file=sys.stderr)
    return code


def _silence_stdout() -> None:
    """Let what is left in the buffer of standard output go nowhere: the interpreter flushes it when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def __getattr__(name: str) -> Any:
    if name == "app":
        return build_app()
    raise AttributeError(f"module 'audiovq.cli' has no attribute {name!r}")
