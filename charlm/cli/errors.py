"""How every command meets its console: streams that take any text, errors in one line. Knows no command."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import typer
from typer.core import TyperGroup

from charlm.cli.render import report_error
from charlm.errors import CharlmError, UsageError


class _Forgiving:
    """A stream that may vanish: what can no longer be said is not said, and ends nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, if that can be done."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with suppress(OSError):
            self._stream.flush()


def _prepare_streams() -> None:
    """Read UTF-8 as it is, whatever the locale; show what the console cannot print as an escape instead of failing."""
    # Closed by the shell; what takes their place is open for as long as the process.
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
    # A closed terminal or a full disk under a log must not end a run that can go on.
    sys.stderr = cast(TextIO, _Forgiving(sys.stderr))


def _check_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        # torch, among others, ends the process without it.
        raise UsageError("the current folder no longer exists", "change to one that does") from error


class Commands(TyperGroup):
    """Tells every known error in one line with a hint, and ends quietly when nobody reads on."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line and run the command, also where not even the help can be written."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            sys.exit(report_error(f"nothing can be written: {error.strerror or error}", "", 1))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        _prepare_streams()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            _check_folder()
            return super().invoke(ctx)
        except CharlmError as error:
            raise typer.Exit(report_error(str(error), error.hint, error.exit_code)) from None
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} ({error.reason})"
            raise typer.Exit(report_error(f"standard input is not UTF-8: {byte}", "", 1)) from None
        except BrokenPipeError:
            # Whoever read the output has enough. Python must not find out again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (MemoryError, RuntimeError) as error:
            # torch has no error of its own for a system that gives no more memory.
            if isinstance(error, RuntimeError) and "allocate" not in str(error):
                raise
            hint = "smaller sizes or a smaller batch need less"
            raise typer.Exit(report_error("there is not enough memory", hint, 1)) from None
        except OSError as error:
            place = f"`{error.filename}`: " if error.filename else ""
            raise typer.Exit(report_error(f"{place}{error.strerror or error}", "", 1)) from None
