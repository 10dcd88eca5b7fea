"""Columns on standard output."""

from __future__ import annotations

from audiovq.cli.jobs import print_fields, print_rows


def test_columns_line_up_and_text_is_taken_as_it_is(capsys):
    print_rows([["a", "1"], ["[red]long[/red]", "10"], [":smile:", ""]], right=(1,))
    assert capsys.readouterr().out.splitlines() == ["a                 1", "[red]long[/red]  10", ":smile:"]


def test_fields_are_not_folded(capsys):
    print_fields({"file": "x" * 500, "size": "3 bytes"})
    assert capsys.readouterr().out.splitlines() == ["file  " + "x" * 500, "size  3 bytes"]
