"""Lines at the bottom of a terminal that are drawn anew in place. It knows nothing of what they show.

Rich erases all lines before it draws them. Here only the lines that differ are written, over the old ones, so that
nothing flickers. The cursor waits below the lines: whatever ends the process, the shell continues there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from charlm.cli.layout import DEFAULT_WIDTH, screen_width
from charlm.cli.render import may_colour

# Returns lines, for at most so many columns and rows.
Draw = Callable[[int, int], Sequence[Text]]

LOOKS_PER_SECOND = 4
DEFAULT_HEIGHT = 24
# Fewer columns or rows are no room for a screen.
LEAST_WIDTH, LEAST_HEIGHT = 20, 6
SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"
# Rich takes a segment with a control type for one without a width; it writes the text.
CONTROL = [(ControlType.ERASE_IN_LINE, 0)]
ERASE_LINE_END, ERASE_BELOW = Segment("\x1b[K", None, CONTROL), Segment("\x1b[J", None, CONTROL)


def may_draw(stream: TextIO) -> bool:
    """Return whether lines may be redrawn on a stream: it is a terminal, and neither CI nor a notebook reads it."""
    environment = os.environ
    is_watched = environment.get("CI", "").lower() in ("", "0", "false") and "JPY_PARENT_PID" not in environment
    is_capable = may_colour(stream) and environment.get("TERM", "") not in ("", "unknown") and sys.platform != "win32"
    if not (is_watched and is_capable and _is_in_foreground(stream)):
        return False
    width, height = _size(stream)
    return width >= LEAST_WIDTH and height >= LEAST_HEIGHT


def _size(stream: TextIO) -> tuple[int, int]:
    """Return the columns and rows of a terminal."""
    rows = 0
    with suppress(OSError, ValueError):
        rows = int(os.environ.get("LINES") or 0)
    with suppress(OSError, ValueError):
        rows = rows or os.get_terminal_size(stream.fileno()).lines
    return screen_width(stream) or DEFAULT_WIDTH, rows or DEFAULT_HEIGHT


def _is_in_foreground(stream: TextIO) -> bool:
    """Return whether the terminal is this process's to draw on; a shell owns it while a job is in the background."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        # It is not the terminal that controls this process, and no job control applies.
        return True


class _LockedConsole(Console):
    """A console on which what one thread prints is on the screen before another thread prints."""

    def __init__(self, **options: Any) -> None:
        self._turn = threading.RLock()
        super().__init__(**options)

    def __enter__(self) -> Self:
        self._turn.acquire()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self._turn.release()


class _Changes:
    """What is written to turn the old lines into the new ones, from the first column of the first old line on."""

    def __init__(self, old: Sequence[Text], new: Sequence[Text]) -> None:
        self._old, self._new = old, new

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the new lines, without those that are there already."""
        for row, line in enumerate(self._new):
            if row >= len(self._old) or self._old[row] != line:
                yield from line.render(console)
                yield ERASE_LINE_END
            yield Segment.line()
        # Also what somebody has typed there.
        yield ERASE_BELOW


class Screen(Live):
    """Draws lines whenever they change, and prints other lines above them. Afterwards the lines are gone."""

    def __init__(self, draw: Draw, moment: Callable[[], object]) -> None:
        """Prepare a screen on standard error.

        Args:
            draw: returns the lines.
            moment: returns something that differs when the lines may differ; called often.
        """
        stream = sys.stderr
        self._stream, self._draw, self._moment = stream, draw, moment
        console = _LockedConsole(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        super().__init__(
            console=console,
            refresh_per_second=LOOKS_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),
            transient=True,
        )
        self._seen: object = None
        self._old_size = (0, 0)
        self._old: list[Text] = []
        self._new: list[Text] = []

    def start(self, refresh: bool = False) -> None:
        """Draw the lines for the first time. The cursor stays, because a signal may end the process at once."""
        super().start(refresh=True)
        self.console.show_cursor(True)

    def stop(self) -> None:
        """Erase the lines."""
        if self.is_started:
            self._draw = lambda columns, rows: []
            self._seen = None
            super().stop()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hide the cursor, and what is typed, until the context ends. The caller handles the signals that may end it."""
        with _quiet(self._stream, self._forget):
            yield

    def refresh(self) -> None:
        """Draw the lines if they may have changed."""
        size = _size(self._stream)
        seen = (self._moment(), size)
        if seen == self._seen or not _is_in_foreground(self._stream):
            return
        self._seen = seen
        width, height = size
        # The last row is for the cursor; a full row would move it to the next one.
        self._new = list(self._draw(width - 1, height - 1))[: height - 1]
        if self._new != self._old or size != self._old_size:
            self.console.print(Control())

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Add to what is printed what moves the cursor to the first line before, and draws the lines after."""
        width, height = _size(self._stream)
        # A terminal that became narrower has broken the lines.
        rows = sum(max(1, -(-line.cell_len // width)) for line in self._old)
        up = min(rows, height - 1)
        is_kept = self._old_size == (width, height) and all(isinstance(each, Control) for each in renderables)
        first = f"\r\x1b[{up}A" if up else "\r"
        start = _Start(first if is_kept else f"{first}\x1b[J")
        changes = _Changes(self._old if is_kept else [], self._new)
        self._old, self._old_size = self._new, (width, height)
        return [start, *renderables, changes]

    def _forget(self) -> None:
        """Draw all lines anew, below what a shell has printed meanwhile."""
        self._old, self._seen = [], None


class _Start:
    """Moves the cursor to the first of the old lines."""

    def __init__(self, sequence: str) -> None:
        self._sequence = sequence

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the escape sequence."""
        yield Segment(self._sequence, None, CONTROL)


@contextmanager
def _quiet(stream: TextIO, forget: Callable[[], None]) -> Iterator[None]:
    """Hide the cursor and what is typed; both are back while the process is stopped by Ctrl-Z.

    Args:
        stream: a terminal.
        forget: called when the process continues.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTSTP) if is_main else None

    def stop(number: int, frame: FrameType | None) -> None:
        _set_quiet(stream, False)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # The process is stopped here, until it continues.
        signal.signal(signal.SIGTSTP, stop)
        _set_quiet(stream, True)
        forget()

    if before is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, stop)
    _set_quiet(stream, True)
    try:
        yield
    finally:
        _set_quiet(stream, False)
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, before)


def _set_quiet(stream: TextIO, is_quiet: bool) -> None:
    """Hide or show the cursor and what is typed."""
    import termios

    # The shell stops a job in the background that changes its terminal.
    if not _is_in_foreground(stream):
        return
    with suppress(OSError, ValueError, termios.error):
        number = stream.fileno()
        os.write(number, HIDE_CURSOR if is_quiet else SHOW_CURSOR)
        settings = termios.tcgetattr(number)
        settings[3] = settings[3] & ~termios.ECHO if is_quiet else settings[3] | termios.ECHO
        termios.tcsetattr(number, termios.TCSANOW, settings)
