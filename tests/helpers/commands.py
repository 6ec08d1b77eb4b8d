"""Helpers that run commands, in this process or in one of their own, and check refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from charlm.cli.app import app
from charlm.cli.slips import options_of
from charlm.settings.config import GROUPS
from charlm.settings.config_file import MAX_PROBLEMS
from charlm.settings.names import all_settings

HARE_AND_FOX = '"I am cold," said the hare.\n"Then run," said the fox.\n' * 30
SMALL = [
    "--set", "model.hidden_size=24", "--set", "model.embedding_size=8", "--set", "train.batch_size=4",
    "--set", "train.block_size=16", "--set", "train.threads=1", "--set", "train.precision=fp32",
]  # fmt: skip
SHORT = [*SMALL, "--set", "train.steps=6", "--set", "train.evaluations=2"]
ONE_STEP = [*SMALL, "--set", "model.hidden_size=8", "--set", "train.steps=1", "--sample-length", "3"]
# The options of each command.
OPTIONS = {name: set(options_of(command)) for name, command in get_command(app).commands.items()}  # type: ignore[attr-defined]
MAX_MEMORY = 3 << 30
# The most bytes that a hostile file may make a command write before it is stopped: a device has no end, a disk has.
MAX_WRITTEN = 256 << 20


def call(*arguments: str, stdin: str | bytes | None = None) -> Result:
    """Run a command in this process; if it fails with a hint, check that the hint can be followed."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    for line in result.stderr.splitlines():
        if line.startswith("hint: "):
            assert_can_be_followed(line, arguments[0])
    return result


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


def answers(*arguments: str, stdin: str | bytes | None = None) -> list[Any]:
    """Run a command that must succeed and parse each line that it prints."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.split("\n")[:-1]]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail the test if the block takes more than so many seconds."""

    def end(number: int, frame: Any) -> None:
        raise AssertionError(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_can_be_followed(text: str, command: str) -> None:
    """Check that every option in a text belongs to the command, or to the one that is named in the same backquotes."""
    for part in re.findall("`[^`]*`|[^`]+", text):
        part = re.sub("^`torchrun .*? -m ", "`", part)
        named = re.match("`charlm ([a-z-]+)", part)
        owner = named[1] if named else command
        if owner in OPTIONS:
            # After `--` there are only texts.
            given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", part.split(" -- ")[0]))
            assert given <= OPTIONS[owner], f"`charlm {owner}` has no {given - OPTIONS[owner]}: {text}"
    given = set(re.findall(r"--set ([a-z_.]+)", text))
    assert given <= all_settings().keys() | GROUPS.keys(), text


def assert_refused(result: Result) -> str:
    """Check that a command has failed with a line for each mistake, and perhaps a hint, and return the first line."""
    assert result.exit_code in (1, 2), (result.exit_code, result.stderr[-300:], result.stdout[:100])
    return _error_line(result.stderr)


def assert_refused_in_own_process(*arguments: str, seconds: float = 20) -> str:
    """Check the same of a command in its own process, which has little memory and little time."""
    resource = pytest.importorskip("resource")

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN, MAX_WRITTEN))

    try:
        done = spawn(*arguments, timeout=seconds, stdin=subprocess.DEVNULL, preexec_fn=confine)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it takes more than {seconds} seconds") from None
    errors = done.stderr.decode()
    assert done.returncode in (1, 2), (done.returncode, errors[-300:])
    line = _error_line(errors)
    assert "File too large" not in line  # the limit, not charlm, ended it
    return line


def _error_line(errors: str) -> str:
    # The lines of str.splitlines() would hide what other programs take for the end of one.
    lines = errors.removesuffix("\n").split("\n")
    first = next((index for index, line in enumerate(lines) if line.startswith("error: ")), None)
    assert first is not None, errors[-300:]
    mistakes = lines[first : len(lines) - lines[-1].startswith("hint: ")]
    assert len(mistakes) <= 1 + MAX_PROBLEMS
    for line in mistakes:
        assert line.startswith("error: "), lines[first:]
        assert line.isprintable(), repr(line)
        assert len(line) < 4096, f"a line of {len(line):,} characters"
    return mistakes[0]
