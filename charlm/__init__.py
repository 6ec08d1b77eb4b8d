"""charlm: character-level recurrent language models. The version, and what the machine has: cores and memory."""

import math
import os
from contextlib import suppress
from pathlib import Path

__version__ = "0.1.0"

# Torch's threads wait for each other a thousand times in a training step. By default GNU OpenMP spins for long, and
# where any other program wants a core, a step of 0.08 s becomes one of several seconds. After so few spins they sleep
# instead, which costs next to nothing on a quiet machine. The library reads this once, when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def usable_cores() -> int:
    """Return on how many cores this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_bytes() -> float:
    """Return how much memory this process may have; infinite where the system does not say."""
    sizes = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # The limit of a container; without one it says `max`.
    with suppress(OSError, ValueError):
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(sizes)
