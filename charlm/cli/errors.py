"""What every command does at its edges: it prepares the standard streams and reports errors in one line each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

import typer
from typer.core import TyperGroup

from charlm.cli.processes import may_report, printed_once
from charlm.cli.progress import show_text_progress
from charlm.cli.render import report_error
from charlm.cli.slips import CommandLineError, command_that_works, options_of, usage_error
from charlm.cli.texts import hint_at_encoding
from charlm.cli.unquoted import with_all_corpora
from charlm.errors import CharlmError, ConfigError, UnknownCharacterError, UsageError, undecodable_byte

# Where the arguments of the command are kept while it runs.
ARGUMENTS = "charlm.arguments"


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
    """Read and write UTF-8 under any locale, with line ends as they are; escape what a console cannot print."""
    # A stream that the shell has closed is None. Its replacement stays open as long as the process runs.
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    unchanged = {"encoding": "utf-8", "newline": ""}
    for stream, settings in (
        (sys.stdin, unchanged),
        # What goes into a file or a pipe is read by programs. Only a console has an encoding of its own.
        (sys.stdout, {"errors": "backslashreplace"} | ({} if sys.stdout.isatty() else unchanged)),
        (sys.stderr, {"errors": "backslashreplace"} | ({} if sys.stderr.isatty() else unchanged)),
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

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse what stands before the command."""
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except CommandLineError as error:
            if not given:
                raise
            raise self._refused(usage_error(error, self.commands, given)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, and all texts that were meant for its `--corpus`; keep them for the hint of an error."""
        ctx.meta[ARGUMENTS] = list(args)
        name, command, rest = super().resolve_command(ctx, args)
        if command and "--corpus" in options_of(command):
            takes_settings = any(parameter.param_type_name == "argument" for parameter in command.params)
            rest = with_all_corpora(rest, takes_settings)
            ctx.meta[ARGUMENTS] = [args[0], *rest]
        return name, command, rest

    def _refused(self, error: CharlmError, arguments: Sequence[str] = ()) -> typer.Exit:
        """Report an error, with the hint that fits the command line; of several processes, the first to fail does."""
        if not may_report():
            return typer.Exit(error.exit_code)
        hint = error.hint
        if arguments and arguments[0] in self.commands:
            name, *rest = arguments
            if isinstance(error, ConfigError) and len(error.mistakes) == 1:
                hint = command_that_works(name, self.commands[name], rest) or hint
            if isinstance(error, UnknownCharacterError) and not hint and "--unknown" in options_of(self.commands[name]):
                hint = "`--unknown skip` drops such characters, `--unknown replace=C` replaces each with C"
        for mistake in error.mistakes[:-1]:
            report_error(mistake, "", error.exit_code)
        return typer.Exit(report_error(error.mistakes[-1], hint, error.exit_code))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        _prepare_streams()
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            _check_folder()
            with printed_once(), show_text_progress:
                return super().invoke(ctx)
        except CommandLineError as error:
            raise self._refused(usage_error(error, self.commands, ctx.meta.get(ARGUMENTS) or [""])) from None
        except UnicodeDecodeError as error:
            message = f"standard input is not UTF-8: {undecodable_byte(error)}"
            raise typer.Exit(report_error(message, hint_at_encoding(error), 1)) from None
        except BrokenPipeError:
            # The reader closed the pipe. stdout becomes /dev/null, so that the flush at exit does not fail too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if (expected := expected_error(error)) is None:
                raise
            raise self._refused(expected, ctx.meta.get(ARGUMENTS, ())) from None


def expected_error(error: Exception) -> CharlmError | None:
    """Return the error to report for an exception that is no fault of charlm; None for any other exception."""
    if isinstance(error, CharlmError):
        return error
    # torch raises a plain RuntimeError when it cannot allocate memory.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error)):
        return CharlmError("there is not enough memory", "smaller sizes or a smaller batch need less")
    if isinstance(error, OSError):
        place = f"`{error.filename}`: " if error.filename else ""
        return CharlmError(f"{place}{error.strerror or error}")
    return None
