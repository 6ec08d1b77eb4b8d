"""A line on a terminal that says what is done before a run starts, from the first moment on."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from typing import Self

from charlm.cli.layout import clock_text, screen_width
from charlm.cli.progress import bytes_done
from charlm.cli.render import say
from charlm.cli.screen import may_draw, repeated
from charlm.training.events import Event, Preparing

WHEELS = ("\u280b\u2819\u2839\u2838\u283c\u2834\u2826\u2827\u2807\u280f", "|/-\\")
TURN_SECONDS = 0.12
# Steps that take less time have no clock.
PATIENCE_SECONDS = 2.0

LOADING = Preparing("loading torch")


class Preparation:
    """Shows what is done now, until it is stopped: where it can be redrawn, in a line that is removed at the end.

    The cursor waits below the line: whatever ends the process, the shell continues there. A terminal that cannot be
    redrawn gets a line for each thing, a pipe or file gets none.
    """

    def __init__(self) -> None:
        self._stream = sys.stderr
        self._is_terminal, self._may_draw = self._stream.isatty(), may_draw(self._stream)
        self._lock = threading.Lock()
        self._running = ExitStack()
        self._what = self._details = ""
        self._since = 0.0
        self._is_drawn = False
        self._turn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def show(self, event: Event) -> None:
        """Show an event, if it is one of the preparations."""
        if not isinstance(event, Preparing):
            return
        if event.what != self._what:
            self._show(event.what)
        self._details = "" if event.here is None else bytes_done(event.here, event.total)

    def stop(self) -> None:
        """Remove the line."""
        self._running.close()
        self._what = self._details = ""
        with self._lock:
            if self._is_drawn:
                self._is_drawn = False
                # Also what was typed below it.
                self._write("\r\x1b[K\x1b[A\x1b[K")

    def _show(self, what: str) -> None:
        is_first = not self._what
        self._what, self._since = what, time.monotonic()
        if self._may_draw and is_first:
            self._running.enter_context(repeated(self._draw, TURN_SECONDS))
        elif self._is_terminal and not self._may_draw:
            say(what)

    def _draw(self) -> None:
        with self._lock:
            wheel = next((w for w in WHEELS if self._can_show(w)), WHEELS[-1])
            seconds = time.monotonic() - self._since
            clock = f", {clock_text(seconds)}" if seconds >= PATIENCE_SECONDS else ""
            details = f", {self._details}" if self._details else ""
            line = f"{wheel[self._turn % len(wheel)]} {self._what}{details}{clock}"[
                : (screen_width(self._stream) or 2) - 1
            ]
            self._write(f"{chr(27) + '[A' if self._is_drawn else ''}\r{line}\x1b[K\n")
            self._is_drawn = True
            self._turn += 1

    def _can_show(self, text: str) -> bool:
        try:
            text.encode(self._stream.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
