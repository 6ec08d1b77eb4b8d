"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TextIO

import typer

from charlm.cli.layout import Column, screen_width, table_lines, wrapped
from charlm.errors import one_line


def say(message: str) -> None:
    """Print a message, which is not part of the result, on stderr. On a terminal it is wrapped at spaces."""
    width = screen_width(sys.stderr)
    lines = [line for part in message.split("\n") for line in wrapped(one_line(part), width)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def may_colour(stream: TextIO) -> bool:
    """Say whether a stream is a terminal with colours, and the user wants them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
    print(json.dumps(value), flush=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of a result."""
    print("\n".join(lines), flush=True)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], has_header: bool = True) -> None:
    """Print a table: laid out for the width of a terminal; in a pipe or file it is complete, and a row is a line."""
    print_lines(table_lines(columns, rows, screen_width(sys.stdout), has_header))


# Control characters that a terminal would obey. A pipe or file gets the text unchanged.
ESCAPED = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\r\t"}


def write_texts(pieces: Iterable[tuple[int, str]], seeds: list[int]) -> None:
    """Write several texts that grow at the same time: the first as it grows, the others when it is complete.

    Args:
        pieces: what each text grows by: its index and the piece.
        seeds: one for each text; with more than one, each text has its seed as a heading on stderr.
    """
    others: list[list[str]] = [[] for _ in seeds]
    is_terminal = sys.stdout.isatty()

    def write(index: int, texts: Iterable[str]) -> None:
        if len(seeds) > 1:
            say(f"--- seed {seeds[index]}")
        last = "\n"
        for text in texts:
            sys.stdout.write(text.translate(ESCAPED) if is_terminal else text)
            sys.stdout.flush()
            last = text[-1:] or last
        # A single text goes into a pipe unchanged. Otherwise its last line is ended.
        if last != "\n" and (len(seeds) > 1 or is_terminal):
            print(flush=True)

    def first() -> Iterator[str]:
        for index, grown in pieces:
            if index == 0:
                yield grown
            else:
                others[index].append(grown)

    write(0, first())
    for index in range(1, len(seeds)):
        write(index, others[index])


def show_download(here: int, total: int | None) -> None:
    """Show on a terminal how far a download is, in a line that is overwritten."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:,.1f}" if total else ""
        print(f"\r{here / 1e6:,.1f}{share} MB", end="\n" if here == total else "", file=sys.stderr, flush=True)
