"""`import charlm` changes nothing in a program until a function is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import charlm

# The state of a process that a library could change.
SNAPSHOT = """
import os, signal, sys, threading

def snapshot():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return dict(os.environ), handlers, threading.active_count(), sys.getswitchinterval(), sys.stdout, sys.stderr

"""


def run_in_child(program: str) -> str:
    """Run a program in a new process and return its output."""
    done = subprocess.run([sys.executable, "-c", SNAPSHOT + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_charlm_exports_few_names() -> None:
    """`from charlm import *` brings `load`, `train` and the version."""
    assert charlm.__all__ == ["__version__", "load", "train"]
    assert dir(charlm) == charlm.__all__
    assert all(callable(getattr(charlm, name)) for name in ("load", "train"))
    with pytest.raises(AttributeError, match="no attribute `trian`"):
        charlm.trian  # noqa: B018


def test_importing_charlm_changes_nothing() -> None:
    """Environment, signals, threads and output stay the same, and neither torch nor NumPy is loaded."""
    program = (
        "before = snapshot()\nimport charlm\nassert snapshot() == before\n"
        "assert not {'torch', 'numpy', 'typer', 'ctypes'} & set(sys.modules)"
    )
    assert run_in_child(program) == ""


def test_training_in_a_program_changes_nothing(text: str) -> None:
    """`charlm.train` prints nothing and leaves signals, environment, memory and threads alone, and so do its modules.

    Torch and NumPy may change something when they load. Torch's compiler, which takes more than a second, is not
    loaded, whatever the optimiser.
    """
    program = f"""
import ctypes, numpy, torch
torch.set_num_threads(3)
before, seen = snapshot(), []
import charlm.training.run, charlm.training.trainer
assert snapshot() == before
ctypes.CDLL = None
for optimizer in ("muon", "adamw", "adam", "rmsprop", "adagrad", "sgd"):
    charlm.train({text!r}, steps=3, hidden_size=8, threads=1, precision="fp32", optimizer=optimizer,
                 on_event=lambda event: seen.append(snapshot() == before))
assert seen and all(seen) and snapshot() == before
assert torch.get_num_threads() == 3
assert "torch._dynamo" not in sys.modules
"""
    assert run_in_child(program) == ""


def test_the_command_limits_threads_before_torch_is_loaded() -> None:
    """The command `charlm` sets the limits that `import charlm` does not set."""
    program = """
import charlm.cli.app
from charlm.__main__ import main
charlm.cli.app.app = lambda: print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
    os.environ.pop(name, None)
main()
"""
    assert run_in_child(program) == "10000 False\n"


def test_a_name_that_charlm_lacks_is_an_attribute_error() -> None:
    """An unknown attribute of `charlm` raises an `AttributeError`, like in any module."""
    with pytest.raises(AttributeError, match="tarin"):
        charlm.tarin  # noqa: B018
    assert {"train", "__version__"} <= set(dir(charlm))


def test_the_package_is_typed() -> None:
    """The package has the marker file for type checkers."""
    assert (Path(charlm.__file__).parent / "py.typed").is_file()
