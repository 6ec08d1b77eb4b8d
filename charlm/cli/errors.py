"""What every command does at its edges: it prepares the standard streams and reports errors in one line each."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import typer
from typer.core import TyperGroup

from charlm.cli.render import report_error
from charlm.errors import CharlmError, UsageError


class _Forgiving:
    """Takes the place of `sys.stderr`, and ignores that something cannot be written.

    A terminal can be closed, or the disk with a log can fill up, while a run continues. Messages are then lost, but the
    run must not end with an `OSError`. Everything except writing is left to the original stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or lose it."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what was not written yet."""
        with suppress(OSError):
            self._stream.flush()


def _prepare_streams() -> None:
    """Read UTF-8 under any locale, and escape characters that the console cannot print."""
    # A stream that the shell has closed is None. Its replacement stays open as long as the process runs.
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream, settings in (
        (sys.stdin, {"encoding": "utf-8", "newline": ""}),
        (sys.stdout, {"errors": "backslashreplace"}),
        (sys.stderr, {"errors": "backslashreplace"}),
    ):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(**settings)
    sys.stderr = cast(TextIO, _Forgiving(sys.stderr))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let the first Ctrl-C end the command, and another one the process, both without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while frame:
        # A module that is being loaded may take an exception for its own failure, and there is nothing to tidy up.
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


def _check_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        # Without a current folder torch, among others, aborts the process.
        raise UsageError("the current folder no longer exists", "change to one that does") from error


class Commands(TyperGroup):
    """Reports every expected error in one line with a hint, and ends quietly when the reader closes the pipe."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line and run the command; report it if not even the help can be written."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            sys.exit(report_error(f"nothing can be written: {error.strerror or error}", "", 1))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        _prepare_streams()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            _check_folder()
            return super().invoke(ctx)
        except CharlmError as error:
            raise typer.Exit(report_error(str(error), error.hint, error.exit_code)) from None
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} ({error.reason})"
            raise typer.Exit(report_error(f"standard input is not UTF-8: {byte}", "", 1)) from None
        except BrokenPipeError:
            # The reader closed the pipe. stdout becomes /dev/null, so that the flush at exit does not fail too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (MemoryError, RuntimeError) as error:
            # torch raises a plain RuntimeError when it cannot allocate memory.
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            hint = "smaller sizes or a smaller batch need less"
            raise typer.Exit(report_error("there is not enough memory", hint, 1)) from None
        except OSError as error:
            place = f"`{error.filename}`: " if error.filename else ""
            raise typer.Exit(report_error(f"{place}{error.strerror or error}", "", 1)) from None
