"""The line that says how far long work is: on a terminal only, after a while, and gone at the end."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import pytest

from charlm.cli import progress
from charlm.cli.progress import ProgressLine, show_text_progress
from tests.helpers.terminal import Terminal


def shown(stream: io.StringIO, patience: float, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a stream gets from work that reports three times, the second time as before."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
    monkeypatch.setenv("COLUMNS", str(columns))
    with ProgressLine() as line:
        line.about("of the text read")(1, 3)
        line.about("of the text read")(1, 3)
        line.about("of it")(4, 4)
    return stream.getvalue()


def test_a_terminal_shows_the_share_and_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line overwrites the one before, and spaces overwrite the last one; no escape sequence is used."""
    found = shown(Terminal(), 0, 80, monkeypatch)
    assert found == f"\r33% of the text read\r{'100% of it':20}\r{'':10}\r"


def test_a_narrow_terminal_shows_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line never fills the last column, where a terminal would begin a new line."""
    found = shown(Terminal(), 0, 12, monkeypatch)
    assert found == f"\r33% of the \r{'100% of it':11}\r{'':10}\r"


def test_neither_short_work_nor_a_pipe_shows_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before the patience is over, and nothing into a file."""
    assert shown(Terminal(), 1e9, 80, monkeypatch) == shown(io.StringIO(), 0, 80, monkeypatch) == ""


def test_an_error_removes_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed after an error or Ctrl-C begins in an empty line."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0)
    with suppress(KeyboardInterrupt), ProgressLine() as line:
        line.about("of it")(1, 2)
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith(f"\r{'':9}\r")


def test_a_text_that_is_read_is_shown_until_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of a known size, else the size so far; whatever ends the reading, the line is removed."""
    for stream, expected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        show_text_progress("reading", 500_000_000, 2_000_000_000)
        show_text_progress("reading", 2_000_000_000, 2_000_000_000)
        with suppress(KeyboardInterrupt), show_text_progress:
            show_text_progress("downloading", 7_000_000, None)
            raise KeyboardInterrupt
        lines = [
            "reading the text, 25% of 2,000 MB",
            "reading the text, 100% of 2,000 MB",
            "downloading the text, 7 MB",
        ]
        assert [line.strip() for line in stream.getvalue().split("\r") if line.strip()] == lines * expected
        assert stream.getvalue().endswith("\r") is expected
