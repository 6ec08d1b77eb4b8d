"""Ctrl-C ends a command at any moment without a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Runs the command line in a process like one from a terminal, with its argument as the command.
BEGIN = """
import atexit, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt = lambda *_: signal.raise_signal(signal.SIGINT)
from charlm.__main__ import main
"""


def run(program: str, *arguments: str) -> tuple[int, str, str]:
    """Run a program that calls the command line; return its exit code and what it prints."""
    command = [sys.executable, "-c", BEGIN + program + "\nmain()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_ctrl_c_after_the_end_of_a_command_prints_nothing() -> None:
    """The exit hooks run to their end, and the exit code is that of the command."""
    program = "atexit.register(print, 'tidied', flush=True); atexit.register(interrupt)"
    code, out, err = run(program, "--version")
    assert (code, out.splitlines()[1:], err) == (0, ["tidied"], "")
    code, out, err = run(program, "sample", "-m", "missing")
    assert (code, out) == (1, "tidied\n")
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_ctrl_c_while_the_command_ends_exits_with_130() -> None:
    """An interrupt that no command catches any more is caught, too."""
    program = """
import charlm.cli.app
def end():
    raise KeyboardInterrupt
charlm.cli.app.app = end
"""
    assert run(program) == (130, "", "")


@pytest.mark.parametrize("after", ["raise", "raise ImportError('broken')", "pass"])
def test_ctrl_c_while_a_module_loads_ends_the_process(after: str, tmp_path: Path) -> None:
    """Whatever the module does with the interrupt, the command does not take it for a broken module."""
    loads = f"import signal\ntry:\n    signal.raise_signal(signal.SIGINT)\nexcept BaseException:\n    {after}\n"
    (tmp_path / "torch.py").write_text(loads, encoding="utf-8")
    assert run(f"sys.path.insert(0, {str(tmp_path)!r})", "train", "-c", "hello") == (130, "", "")


def test_one_ctrl_c_ends_a_command_and_tidies_up() -> None:
    """The exit code is 130, and nothing is printed."""
    program = """
def print_json(value):
    try:
        interrupt()
    finally:
        print("tidied", flush=True)
import charlm.cli.corpora
charlm.cli.corpora.print_json = print_json
"""
    assert run(program, "corpora", "--json") == (130, "tidied\n", "")


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    """It ends even a command that takes long to tidy up, without a traceback."""
    program = """
def print_json(value):
    try:
        interrupt()
    finally:
        interrupt()
        print("tidied", flush=True)
import charlm.cli.corpora
charlm.cli.corpora.print_json = print_json
"""
    assert run(program, "corpora", "--json") == (-signal.SIGINT, "", "")
