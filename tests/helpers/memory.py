"""How much memory a computation takes beyond what its process has already."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.machine import give_back_freed_memory


def resident_growth(compute: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory of this process grows at most, as the system counts it."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    give_back_freed_memory()
    try:
        # Sets the peak to what is resident now.
        reset.write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not tell the peak of a process")

    def peak() -> int:
        words = status.read_text(encoding="utf-8").split()
        return int(words[words.index("VmHWM:") + 1]) * 1024

    before = peak()
    compute()
    return peak() - before


def traced_growth(compute: Callable[[], object]) -> int:
    """Return how many bytes a computation in Python and NumPy holds at most, by Python's own count."""
    tracemalloc.start()
    try:
        compute()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
