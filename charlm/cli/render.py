"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import typer

from charlm.cli.layout import Column, screen_width, table_lines, wrapped
from charlm.errors import as_given, one_line


def say(message: str) -> None:
    """Print a message, which is not part of the result, on stderr. On a terminal it is wrapped at spaces."""
    width = screen_width(sys.stderr)
    lines = [line for part in message.split("\n") for line in wrapped(one_line(part), width)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def tell_next(path: Path, command: str = "sample") -> None:
    """Name the command that uses a model that was made."""
    say(f"more of it: charlm {command} --model {one_line(shlex.quote(str(path)))}")


def may_colour(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with colours, and the user wants them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def can_show(text: str) -> bool:
    """Return whether standard output can show a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def report_error(message: str, hint: str, exit_code: int) -> int:
    """Print an error in one line, and a hint in another; return the exit code. On a terminal both are wrapped."""
    word = typer.style("error:", fg="red") if may_colour(sys.stderr) else "error:"
    with suppress(OSError):
        width = screen_width(sys.stderr)
        first, *others = wrapped(f"error: {one_line(message)}", width)
        print(word + first.removeprefix("error:"), *others, sep="\n", file=sys.stderr, flush=True)
        if hint:
            print(*wrapped(f"hint: {one_line(hint)}", width), sep="\n", file=sys.stderr, flush=True)
    return exit_code


def print_json(value: Any) -> None:
    """Print a result in one line, for programs."""
    print(json_text(value), flush=True)


def json_text(value: Any) -> str:
    """Return a value as JSON in one line.

    Characters that a console cannot show, or might obey, are escaped. For a console without Unicode everything beyond
    ASCII is: the escapes of the console itself would not be JSON.
    """
    is_unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    # A path may hold what the locale could not read.
    text = as_given(json.dumps(value, ensure_ascii=not is_unicode))
    if not text.isprintable():
        # A wide space is not printable in the sense of Python, but harmless.
        text = "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else json.dumps(c)[1:-1] for c in text)
    return text


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of a result."""
    print("\n".join(lines), flush=True)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], has_header: bool = True) -> None:
    """Print a table: laid out for the width of a terminal; in a pipe or file it is complete, and a row is a line."""
    print_lines(table_lines(columns, rows, screen_width(sys.stdout), has_header))


# Control characters that a terminal would obey. A pipe or file gets the text unchanged.
ESCAPED = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\r\t"}
# A carriage return alone lets a line overwrite the one before.
LONE_RETURN = re.compile("\r(?!\n)")
PART_OF_A_LINE = re.compile(r"[^\r\n]+")
UNDERLINED = "\x1b[4m\\g<0>\x1b[24m"
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

    def write(self, text: str, is_underlined: bool = False) -> None:
        """Write some more of the text, underlined if the terminal can do that."""
        if self._is_terminal:
            text = self._waiting + text
            # Whether a carriage return stands alone is known only when the next character is.
            self._waiting = "\r" if text.endswith("\r") else ""
            text = escaped(text.removesuffix(self._waiting))
        underlines = is_underlined and may_colour(sys.stdout)
        sys.stdout.write(PART_OF_A_LINE.sub(UNDERLINED, text) if underlines else text)
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
