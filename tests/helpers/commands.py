"""Commands run by the tests, in this process or as their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.testing import CliRunner, Result

from charlm.cli.app import app

TEXT = '"I am cold," said the hare.\n"Then run," said the fox.\n' * 30
SMALL = [
    "--set", "model.hidden_size=24", "--set", "model.embedding_size=8", "--set", "train.batch_size=4",
    "--set", "train.block_size=16", "--set", "train.threads=1", "--set", "train.precision=fp32",
]  # fmt: skip
SHORT = [*SMALL, "--set", "train.steps=6", "--set", "train.evaluations=2"]


def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)


def spawn(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process of its own."""
    environment = os.environ | options.pop("env", {})
    command = [sys.executable, "-m", "charlm", *arguments]
    return subprocess.run(command, capture_output=True, env=environment, check=False, **options)


def answer(*arguments: str, stdin: str | bytes | None = None) -> Any:
    """Run a command that must succeed and parse what it prints."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what takes longer, as a failure of the test."""

    def end(number: int, frame: Any) -> None:
        raise AssertionError(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
