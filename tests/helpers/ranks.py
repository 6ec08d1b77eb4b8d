"""Several processes that work together as torchrun would start them, and what they return."""

from __future__ import annotations

import json
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


# Forks the processes from one that has loaded what they need, which takes longer than what they do.
PROGRAM = """
import json, os, pickle, sys
import torch._dynamo  # by DistributedDataParallel
from {module} import {name}
numbers = []
for environment, file in json.loads(sys.argv[1]):
    number = os.fork()
    if not number:
        os.environ.update(environment)
        with open(file, "wb") as result:
            pickle.dump({name}(), result)
        os._exit(0)
    numbers.append(number)
sys.exit(any([os.waitpid(number, 0)[1] for number in numbers]))
"""


def in_ranks(size: int, function: Callable[[], Any], folder: Path) -> list[Any]:
    """Call a function of a module in several processes; return what it returned in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [folder / f"rank-{rank}.pickle" for rank in range(size)]
    program = PROGRAM.format(module=function.__module__, name=function.__name__)
    orders = json.dumps([(environment(rank, size, port), str(file)) for rank, file in enumerate(files)])
    path = os.pathsep.join([str(ROOT), *sys.path])
    subprocess.run(
        [sys.executable, "-c", program, orders],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=120,
        check=True,
    )
    return [pickle.loads(file.read_bytes()) for file in files]
