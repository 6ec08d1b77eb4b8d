"""Several processes that work together as torchrun would start them, and what they return."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """Return what torchrun tells a process."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    others = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": "0"}
    return {name: str(value) for name, value in values.items()} | others | {"OMP_NUM_THREADS": "1"}


def in_ranks(size: int, function: Callable[[], Any], folder: Path) -> list[Any]:
    """Call a function of a module in several processes; return what it returned in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module, name = function.__module__, function.__name__
    program = f"import pickle, sys; from {module} import {name}; pickle.dump({name}(), open(sys.argv[1], 'wb'))"
    files = [folder / f"rank-{rank}.pickle" for rank in range(size)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(file)],
            env=os.environ | environment(rank, size, port) | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        for rank, file in enumerate(files)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * size
    return [pickle.loads(file.read_bytes()) for file in files]
