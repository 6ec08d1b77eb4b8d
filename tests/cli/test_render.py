"""Tables are plain text of any width in a pipe, wrapped on a terminal, and aligned by the width of characters."""

from __future__ import annotations

import sys

import pytest
from rich.cells import cell_len

from charlm.cli.compare import markdown_table
from charlm.cli.layout import Column
from charlm.cli.render import print_json, print_table, report_error, say
from charlm.cli.train import print_dry_run
from charlm.errors import one_line

LONG = "a text of many words, " * 10


def printed(capsys: pytest.CaptureFixture[str], *rows: tuple[str, str]) -> list[str]:
    """Print a table of a number and a text, and return its lines."""
    print_table([Column("number", is_number=True), Column("text", least=20)], rows)
    return capsys.readouterr().out.splitlines()


def test_a_row_in_a_pipe_is_one_line_of_any_length(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither 80 columns nor a narrow terminal elsewhere cut a table that goes into a pipe."""
    assert printed(capsys, ("1", LONG), ("1,000", "b")) == ["number  text", f"     1  {LONG.rstrip()}", " 1,000  b"]


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"])
def test_a_table_has_no_colours_and_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Square brackets, colons and numbers come out unchanged, also when colour is asked for."""
    monkeypatch.setenv(name, "1")
    assert printed(capsys, ("7", "[bold]x[/bold] :smile: 12"))[1] == "     7  [bold]x[/bold] :smile: 12"


def test_a_table_on_a_terminal_is_wrapped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts take several lines, below one another, and lose no word."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    lines = printed(capsys, ("1", LONG))
    assert len(lines) > 3
    assert all(len(line) <= 40 for line in lines)
    assert [line[:8] for line in lines] == ["number  ", "     1  ", *[" " * 8] * (len(lines) - 2)]
    assert " ".join(line[8:] for line in lines[1:]) == LONG.rstrip()


def test_numbers_are_not_cut_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal too narrow for a number gets the whole number."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "5")
    assert "100,000,000" in "\n".join(printed(capsys, ("100,000,000", "b")))


def test_columns_are_aligned_by_the_width_of_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Chinese characters, which are two cells wide, leave the next column where it is."""
    print_table([Column("name"), Column("text")], [("的狐狸", "x"), ("fox", "x")])
    lines = capsys.readouterr().out.splitlines()
    assert {cell_len(line) for line in lines[1:]} == {9}
    columns = [Column("run"), Column("n", is_number=True)]
    table_of_markdown = markdown_table(columns, [["的狐狸", "1"], ["fox", "22"]]).splitlines()
    assert {cell_len(line) for line in table_of_markdown} == {15}
    assert table_of_markdown[1] == "| ------ | -: |"


def test_messages_on_a_terminal_break_at_spaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message, an error and a hint lose no word, have lines that fit, and are one line each in a pipe."""
    message, command = "something is wrong with this, and it takes some words to say", "`charlm eval -m runs/a b`"
    say(message)
    report_error(message, f"try {command} for it", 1)
    assert capsys.readouterr().err.splitlines() == [message, f"error: {message}", f"hint: try {command} for it"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    say(message)
    report_error(message, f"try {command} for it", 1)
    shown = capsys.readouterr().err
    assert all(len(line) <= 30 for line in shown.splitlines())
    assert " ".join(shown.split()) == f"{message} error: {message} hint: try {command} for it"
    assert command in shown


def test_names_that_the_locale_cannot_read_are_shown_as_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Under an ASCII locale Python escapes the bytes of an argument; messages and JSON have its characters again."""
    path = "runs/狐狸".encode().decode("ascii", "surrogateescape")
    say(path)
    print_json({"run": path})
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == ("runs/狐狸\n", '{"run": "runs/狐狸"}\n')
    assert one_line("\udce5") == "\\udce5"


def test_a_dry_run_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the settings stays a comment of them, and its words stay whole."""
    expected = {"parameters": 36440, "model_bytes": 145760, "kept_models": 3, "memory_bytes": 388e6, "seconds": 5.0}
    expected |= {"steps": 1702, "epochs": 851.0, "characters_per_second": 15319.0}

    def shown() -> str:
        print_dry_run("seed: 1\n", {}, "cpu x 1, fp32", "64 units are predicted to be best", expected, as_json=False)
        return capsys.readouterr().out

    in_a_pipe = shown()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    first, *others = (narrow := shown()).splitlines()
    assert first == "seed: 1"
    assert all(line.startswith("# ") and len(line) <= 40 for line in others)
    assert narrow.replace("\n#   ", " ") == in_a_pipe
