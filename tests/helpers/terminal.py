"""A stream that claims to be a terminal, and commands whose output goes to a real one."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def watched_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, rows: int) -> Terminal:
    """Put a terminal that can be redrawn in place of standard error; a fixture cannot, because pytest replaces it."""
    for name in ("CI", "NO_COLOR", "JPY_PARENT_PID", "MPLBACKEND", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(rows)}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def on_a_terminal(*arguments: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """Run a command with its output on a terminal and its input from a pipe, and return what the terminal gets."""
    keyboard, screen = pty.openpty()
    command = [sys.executable, "-m", "charlm", *arguments]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"} | (env or {})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=screen, stderr=screen, env=environment) as process:
        os.close(screen)
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        shown = b""
        # Linux reports the end of a terminal as an error.
        with suppress(OSError):
            while chunk := os.read(keyboard, 65536):
                shown += chunk
    os.close(keyboard)
    return shown
