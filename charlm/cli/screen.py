"""The whole screen of a terminal, drawn anew in place, and what was on it before afterwards.

It knows nothing of what it shows. Only lines that differ are written, so that nothing flickers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from charlm.cli.layout import DEFAULT_WIDTH, screen_width
from charlm.cli.render import may_colour

# Returns lines, for at most so many columns and rows.
Draw = Callable[[int, int], Sequence[Text]]

LOOK_SECONDS = 0.2
# After what was drawn in some time, nothing is drawn for so many times as long.
REST = 200
# After so many drawings all lines are written, in case another program has written between them.
ALL_AFTER = 60
DEFAULT_HEIGHT = 24
# A smaller terminal has no room for a screen.
LEAST_WIDTH, LEAST_HEIGHT = 20, 8
# The second screen of a terminal, without a cursor and without a line break after the last column.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
# A terminal that has no second screen is cleared.
LEAVE = "\x1b[0m\x1b[H\x1b[2J\x1b[?7h\x1b[?25h\x1b[?1049l"


def may_draw(stream: TextIO) -> bool:
    """Return whether lines may be redrawn on a stream: it is a terminal, and neither CI nor a notebook reads it."""
    environment = os.environ
    is_of_ci = environment.get("CI", "").lower() not in ("", "0", "false")
    # A notebook gives the commands in its cells something like a terminal.
    is_of_notebook = "JPY_PARENT_PID" in environment or "inline" in environment.get("MPLBACKEND", "")
    is_capable = may_colour(stream) and environment.get("TERM", "") not in ("", "unknown") and sys.platform != "win32"
    if is_of_ci or is_of_notebook or not is_capable:
        return False
    width, height = size_of(stream)
    return width >= LEAST_WIDTH and height >= LEAST_HEIGHT and _is_in_foreground(stream)


def size_of(stream: TextIO) -> tuple[int, int]:
    """Return the columns and rows of a terminal."""
    rows = 0
    with suppress(OSError, ValueError):
        rows = int(os.environ.get("LINES") or 0)
    with suppress(OSError, ValueError):
        rows = rows or os.get_terminal_size(stream.fileno()).lines
    return screen_width(stream) or DEFAULT_WIDTH, rows or DEFAULT_HEIGHT


@contextmanager
def repeated(look: Callable[[], None], seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Call a function now, and in a thread every so many seconds until the context ends."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(seconds):
            look()

    look()
    thread = threading.Thread(target=work, name="charlm screen", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def shown(draw: Draw, moment: Callable[[], object], keep: Callable[[str], None]) -> Iterator[None]:
    """Show lines on standard error, in place of what is on the screen, until the context ends.

    A thread draws them. Ctrl-Z gives the screen back to the shell, as the end of the context does.

    Args:
        draw: returns the lines.
        moment: returns something that differs when the lines may differ; called often.
        keep: called with what others write to the terminal meanwhile.
    """
    out, error = sys.stdout, sys.stderr
    screen = _Screen(error, draw, moment)
    sys.stderr = cast(TextIO, _Kept(error, keep))
    if out.isatty():
        sys.stdout = cast(TextIO, _Kept(out, keep))
    try:
        with _stopping(screen.leave), repeated(screen.look):
            yield
    finally:
        screen.leave()
        sys.stdout, sys.stderr = out, error


class _Kept:
    """Takes the place of a standard stream, and passes on what is written to it; all else is that of the stream."""

    def __init__(self, stream: TextIO, keep: Callable[[str], None]) -> None:
        self._stream, self._keep = stream, keep
        self._line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Keep the lines that are complete now."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._keep(line)
        return len(text)


class _Screen:
    """Writes the lines that differ from those on the screen."""

    def __init__(self, stream: TextIO, draw: Draw, moment: Callable[[], object]) -> None:
        self._stream, self._draw, self._moment = stream, draw, moment
        self._console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        # A signal handler may come in between in the thread that holds it.
        self._lock = threading.RLock()
        self._is_entered = False
        self._size = (0, 0)
        self._lines: list[Text] = []
        self._seen: object = None
        self._rests_until = 0.0
        self._num_drawn = 0

    def look(self) -> None:
        """Draw the lines if they may have changed, if the terminal is this process's."""
        with self._lock:
            if not _is_in_foreground(self._stream):
                return
            seen, size, now = self._moment(), size_of(self._stream), time.monotonic()
            is_new = not self._is_entered or size != self._size
            if not is_new and (seen == self._seen or now < self._rests_until):
                return
            began = time.thread_time()
            lines = list(self._draw(*size))[: size[1]]
            if not self._is_entered:
                self._is_entered = True
                _echo(self._stream, False)
                self._write(ENTER)
            self._update(lines, size, is_new)
            self._seen, self._size = seen, size
            self._rests_until = now + REST * (time.thread_time() - began)

    def leave(self) -> None:
        """Give the screen back; the next look takes it again."""
        with self._lock:
            was_entered, self._is_entered = self._is_entered, False
            if was_entered and _is_in_foreground(self._stream):
                self._write(LEAVE)
                _echo(self._stream, True)

    def _update(self, lines: list[Text], size: tuple[int, int], is_new: bool) -> None:
        self._num_drawn += 1
        is_whole = is_new or self._num_drawn % ALL_AFTER == 0
        before = [] if is_whole else self._lines
        parts = ["\x1b[2J"] if is_new else []
        for row, line in enumerate(lines):
            if row >= len(before) or (line is not before[row] and line != before[row]):
                # After the last column there is nothing to erase, and the cursor is still in that column.
                rest = "\x1b[K" if line.cell_len < size[0] else ""
                parts.append(f"\x1b[{row + 1}H\x1b[0m{self._rendered(line)}{rest}")
        if len(lines) < size[1] and (is_whole or len(lines) < len(before)):
            parts.append(f"\x1b[{len(lines) + 1}H\x1b[J")
        self._write("".join(parts))
        self._lines = lines

    def _rendered(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return capture.get()

    def _write(self, text: str) -> None:
        # What another program writes begins at the cursor, and there it does not move the lines.
        self._stream.write(f"{text}\x1b[H" if self._is_entered else text)
        self._stream.flush()


@contextmanager
def _stopping(leave: Callable[[], None]) -> Iterator[None]:
    """Call a function before Ctrl-Z stops the process."""

    def stop(number: int, frame: FrameType | None) -> None:
        leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # The process is stopped here, until it continues.
        signal.signal(signal.SIGTSTP, stop)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _is_in_foreground(stream: TextIO) -> bool:
    """Return whether the terminal is this process's to draw on; a shell owns it while a job is in the background."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        # It is not the terminal that controls this process, and no job control applies.
        return True


def _echo(stream: TextIO, is_on: bool) -> None:
    """Show or hide what is typed."""
    import termios

    with suppress(OSError, ValueError, termios.error):
        number = stream.fileno()
        settings = termios.tcgetattr(number)
        settings[3] = settings[3] | termios.ECHO if is_on else settings[3] & ~termios.ECHO
        termios.tcsetattr(number, termios.TCSANOW, settings)
