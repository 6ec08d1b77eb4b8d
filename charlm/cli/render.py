"""What commands print: results on stdout, everything else on stderr. rich is imported when a table is printed."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from charlm.errors import one_line

if TYPE_CHECKING:
    from rich.table import Column, Table

# Wider than any table.
UNLIMITED_WIDTH = 1 << 16


def say(message: str) -> None:
    """Print a message, which is not part of the result, on stderr."""
    print("\n".join(map(one_line, message.split("\n"))), file=sys.stderr, flush=True)


def report_error(message: str, hint: str, exit_code: int) -> int:
    """Print an error in one line, and a hint in another; return the exit code."""
    may_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = typer.style("error:", fg="red") if may_colour else "error:"
    with suppress(OSError):
        print(word, one_line(message), file=sys.stderr, flush=True)
        if hint:
            print("hint:", one_line(hint), file=sys.stderr, flush=True)
    return exit_code


def print_json(value: Any) -> None:
    """Print a result in one line, for programs.

    Only what no console can show, or might obey, is escaped. A console without Unicode gets everything escaped: its own
    escapes would not be JSON.
    """
    is_unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not is_unicode)
    if not text.isprintable():
        # A wide space is not printable in the sense of Python, but harmless.
        text = "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else json.dumps(c)[1:-1] for c in text)
    print(text, flush=True)


def plain_table(*columns: Column | str, has_header: bool = True) -> Table:
    """Make a table without lines and colours: its columns are two spaces apart."""
    from rich.table import Table

    return Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=has_header, header_style="")


def print_table(table: Table) -> None:
    """Print a table: on a terminal its texts are wrapped to the width, in a pipe or file every row is one line."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(width=UNLIMITED_WIDTH, color_system=None, markup=False, emoji=False, highlight=False)
    if sys.stdout.isatty():
        # Numbers are never cut: a table that is too wide for the terminal is wrapped by the terminal.
        least = Measurement.get(console, console.options, table).minimum
        console.width = max(Console().width, least)
    with console.capture() as capture:
        console.print(table)
    # rich fills every line with spaces.
    print("\n".join(map(str.rstrip, capture.get().splitlines())), flush=True)


# Control characters that a terminal would obey. A pipe or file gets the text unchanged.
ESCAPED = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\r\t"}
# A carriage return alone lets a line overwrite the one before.
LONE_RETURN = re.compile("\r(?!\n)")
# Stands in a line of its own between two texts in a pipe or file.
BOUNDARY = "---\n"


def escaped(text: str) -> str:
    """Return a text as a terminal may show it: without control characters that it would obey."""
    return LONE_RETURN.sub(r"\\r", text.translate(ESCAPED))


class TextWriter:
    """Writes texts on stdout, one after the other.

    Args:
        has_headings: whether each text has its seed as a heading, on stderr, if both streams are a terminal.
        separator: what alone stands between two texts; without one, the last line of a text is ended and a boundary
            follows.
        boundary: a line between two texts that have no headings.
    """

    def __init__(self, has_headings: bool = False, separator: str | None = None, boundary: str = BOUNDARY) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._has_headings = has_headings and separator is None and self._is_terminal and sys.stderr.isatty()
        self._separator = separator
        self._boundary = "" if self._has_headings else boundary
        self._is_first = True
        self._last = "\n"
        self._waiting = ""

    def start(self, seed: int) -> None:
        """Separate a text from the one before."""
        if not self._is_first and self._separator is None:
            self._end_line()
        if not self._is_first:
            self.write(self._boundary if self._separator is None else self._separator)
        if self._has_headings:
            say(f"--- seed {seed}")
        self._is_first, self._last = False, "\n"

    def write(self, text: str) -> None:
        """Write some more of the text."""
        if self._is_terminal:
            text = self._waiting + text
            # Whether a carriage return stands alone is known only when the next character is.
            self._waiting = "\r" if text.endswith("\r") else ""
            text = escaped(text.removesuffix(self._waiting))
        sys.stdout.write(text)
        sys.stdout.flush()
        self._last = text[-1:] or self._last

    def finish(self) -> None:
        """End the last line, unless the texts and a separator that ends no line are to be all that is written."""
        if self._separator is None or self._separator.endswith("\n") or self._is_terminal:
            self._end_line()

    def _end_line(self) -> None:
        if self._waiting:
            self._waiting = ""
            self.write(r"\r")
        if self._last not in "\n\r":
            self.write("\n")


def write_texts(pieces: Iterable[tuple[int, str]], seeds: list[int], writer: TextWriter | None = None) -> None:
    """Write several texts that grow at the same time: the first as it grows, the others when it is complete.

    Args:
        pieces: what each text grows by: its index and the piece.
        seeds: one for each text.
        writer: writes them after other texts; without one, these are all.
    """
    to = writer or TextWriter()
    others: list[list[str]] = [[] for _ in seeds]
    to.start(seeds[0])
    for index, grown in pieces:
        if index == 0:
            to.write(grown)
        else:
            others[index].append(grown)
    for seed, texts in zip(seeds[1:], others[1:], strict=True):
        to.start(seed)
        to.write("".join(texts))
    if writer is None:
        to.finish()


def show_download(here: int, total: int | None) -> None:
    """Show on a terminal how far a download is, in a line that is overwritten."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:,.1f}" if total else ""
        print(f"\r{here / 1e6:,.1f}{share} MB", end="\n" if here == total else "", file=sys.stderr, flush=True)
