"""What commands print: results on stdout, everything else on stderr. Light: imports nothing heavy."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import typer

from charlm.errors import one_line


def say(message: str) -> None:
    """Tell a person something that is not the result."""
    print("\n".join(map(one_line, message.split("\n"))), file=sys.stderr, flush=True)


def report_error(message: str, hint: str, exit_code: int) -> int:
    """Tell an error in one line, with what to do about it; return the exit code."""
    may_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = typer.style("error:", fg="red") if may_colour else "error:"
    with suppress(OSError):
        print(word, one_line(message), file=sys.stderr, flush=True)
        if hint:
            print("hint:", one_line(hint), file=sys.stderr, flush=True)
    return exit_code


def print_json(value: Any) -> None:
    """Print a result for programs, in one line."""
    print(json.dumps(value), flush=True)


# What a terminal would obey; the text goes unchanged into a pipe or a file.
ESCAPED = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\r\t"}


def write_texts(pieces: Iterator[tuple[int, str]], shown: str, seeds: list[int]) -> None:
    """Write the first text as it grows and the others, which grow beside it, when it is done."""
    others: list[list[str]] = [[] for _ in seeds]
    is_terminal = sys.stdout.isatty()

    def write(index: int, texts: Iterable[str]) -> None:
        if len(seeds) > 1:
            say(f"--- seed {seeds[index]}")
        last = "\n"
        for text in itertools.chain([shown], texts):
            sys.stdout.write(text.translate(ESCAPED) if is_terminal else text)
            sys.stdout.flush()
            last = text[-1:] or last
        # A text goes into a pipe as it is; on a terminal and between texts it ends its line.
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
    """Show a download on a terminal, in place."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:,.1f}" if total else ""
        print(f"\r{here / 1e6:,.1f}{share} MB", end="\n" if here == total else "", file=sys.stderr, flush=True)
