"""How far long work is, in a line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Self

from charlm.cli.layout import screen_width

# Work that takes less time shows nothing.
PATIENCE_SECONDS = 2.0
# Of a terminal that does not say how wide it is.
USUAL_WIDTH = 80


class ProgressLine:
    """A line on stderr that says how far work is. Only a terminal shows it, and it is removed at the end.

    Args:
        patience: work that takes less time than so many seconds shows nothing; None for the usual number.
    """

    def __init__(self, patience: float | None = None) -> None:
        self._patience = PATIENCE_SECONDS if patience is None else patience
        self._started = time.monotonic()
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the line, so that something else can be printed."""
        if self._shown:
            self._write("")
            self._write("")

    def about(self, what: str) -> Callable[[int, int], None]:
        """Return a listener that shows which share of something is done, as in `34% of the text`."""
        return partial(self.show, what)

    def show(self, what: str, done: int, total: int) -> None:
        """Show which share of something is done."""
        if sys.stderr.isatty() and time.monotonic() - self._started >= self._patience:
            line = f"{done / max(total, 1):.0%} {what}"[: (screen_width(sys.stderr) or USUAL_WIDTH) - 1]
            if line != self._shown:
                self._write(line)

    def _write(self, line: str) -> None:
        """Overwrite the line; spaces do it on every terminal."""
        print(f"\r{line:<{len(self._shown)}}", end="", file=sys.stderr, flush=True)
        self._shown = line


def bytes_done(here: int, total: int | None) -> str:
    """Return how much of a text is downloaded or read, as in `34% of 2,048 MB`."""
    size = f"{(total or here) / 1e6:,.0f} MB"
    return f"{here / total:.0%} of {size}" if total else size


class _TextLine(ProgressLine):
    """Shows how far a text is downloaded or read, from the first moment on. What is printed next takes its place."""

    def __call__(self, what: str, here: int, total: int | None) -> None:
        if not sys.stderr.isatty():
            return
        line = f"{what} the text, {bytes_done(here, total)}"[: (screen_width(sys.stderr) or USUAL_WIDTH) - 1]
        if line != self._shown:
            self._write(line)
        if here == total:
            self.remove()


show_text_progress = _TextLine()
