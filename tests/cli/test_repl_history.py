"""The lines of earlier starts of the prompt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from charlm.cli.repl_history import MAX_BYTES_PER_LINE, MAX_LINES, FileHistory

PATH = Path("cache", "history")


def load() -> list[str]:
    """Return the lines that a new start finds, the oldest first."""
    return [*FileHistory(PATH).load_history_strings()][::-1]


def test_lines_are_there_at_the_next_start() -> None:
    """Lines of several starts come back in their order, whatever characters they hold."""
    lines = ["bad", "def f():\n\treturn '\u56fd'", "\ud800 \x1b[31m", '"']
    for line in lines:
        FileHistory(PATH).store_string(line)
    assert load() == lines


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_only_the_user_can_read_the_history() -> None:
    """The file is private from the first moment."""
    FileHistory(PATH).store_string("a secret")
    assert PATH.stat().st_mode & 0o777 == 0o600


def test_the_history_has_a_bound() -> None:
    """Of too many lines the last are kept, and a very long line is not written."""
    PATH.parent.mkdir()
    PATH.write_text("".join(f"{json.dumps(str(number))}\n" for number in range(MAX_LINES)), encoding="utf-8")
    FileHistory(PATH).store_string("x" * MAX_BYTES_PER_LINE)
    FileHistory(PATH).store_string("last")
    assert load() == [*map(str, range(1, MAX_LINES)), "last"]


def test_a_damaged_line_is_skipped() -> None:
    """Lines that are no string in JSON do not hide the others."""
    PATH.parent.mkdir()
    PATH.write_bytes(b'"a"\n\xff\n[1]\n' + b"[" * 100_000 + b'\n"b"\n"cut')
    assert load() == ["a", "b"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "file as folder"])
def test_a_history_that_cannot_be_written_is_no_error(kind: str) -> None:
    """Nothing is read, nothing is written, and nothing blocks."""
    if kind == "file as folder":
        PATH.parent.write_bytes(b"")
    else:
        PATH.parent.mkdir()
        Path("other").write_bytes(b"")
        {"folder": PATH.mkdir, "pipe": lambda: os.mkfifo(PATH), "link": lambda: PATH.symlink_to("../other")}[kind]()
    FileHistory(PATH).store_string("a")
    assert load() == []
    assert kind == "file as folder" or Path("other").read_bytes() == b""
