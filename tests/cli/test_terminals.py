"""Bars move on terminals alone: files, pipes and terminals that cannot move their cursor get plain lines."""

from __future__ import annotations

import io
import sys

import pytest

from audiovq.cli.evaluate import progress_bar
from audiovq.cli.jobs import Display


class Stderr(io.StringIO):
    """Standard error that says whether it is a terminal."""

    terminal = False

    def isatty(self):
        return self.terminal


@pytest.fixture
def written(monkeypatch):
    """Show bars and a line on a terminal or not, with these variables; what was written."""

    def call(terminal, **variables):
        for name in ("TERM", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        stream = Stderr()
        stream.terminal = terminal
        monkeypatch.setattr(sys, "stderr", stream)
        with Display(2) as display:
            for name in ("a.wav", "b.wav"):
                with display.file(name) as progress:
                    progress(1, 2)
            display.line("a line [that] stays")
        with progress_bar() as progress:
            progress("scoring", 1, 2)
        return stream.getvalue()

    return call


@pytest.mark.parametrize(
    ("terminal", "variables"),
    [
        (False, {}),
        (False, {"FORCE_COLOR": "1"}),
        (False, {"TTY_COMPATIBLE": "1"}),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}),
        (True, {"TERM": "dumb"}),
        (True, {"TERM": "unknown"}),
        (True, {"TERM": "dumb", "FORCE_COLOR": "1"}),
    ],
)
def test_plain_lines(written, terminal, variables):
    assert written(terminal, **variables) == "a line [that] stays\n"


def test_bars_on_a_terminal(written):
    text = written(True, TERM="xterm-256color")
    assert "a.wav" in text
    assert "scoring" in text
    assert "\x1b[2K" in text
    assert "\x1b[35m" in text
    assert "\x1b[35m" not in written(True, TERM="xterm-256color", NO_COLOR="1")
