"""What commands print: results on stdout, everything else on stderr. rich is imported when a table is printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import typer

from charlm.errors import one_line

if TYPE_CHECKING:
    from rich.table import Column, Table

# Wider than any table.
UNLIMITED_WIDTH = 1 << 16


def say(message: str) -> None:
    """Print a message, which is not part of the result, on stderr."""
    print("\n".join(map(one_line, message.split("\n"))), file=sys.stderr, flush=True)


def may_colour(stream: TextIO) -> bool:
    """Say whether a stream is a terminal with colours, and the user wants them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def report_error(message: str, hint: str, exit_code: int) -> int:
    """Print an error in one line, and a hint in another; return the exit code."""
    word = typer.style("error:", fg="red") if may_colour(sys.stderr) else "error:"
    with suppress(OSError):
        print(word, one_line(message), file=sys.stderr, flush=True)
        if hint:
            print("hint:", one_line(hint), file=sys.stderr, flush=True)
    return exit_code


def print_json(value: Any) -> None:
    """Print a result in one line, for programs."""
    print(json.dumps(value), flush=True)


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
