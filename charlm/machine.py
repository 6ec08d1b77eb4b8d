"""How many cores and how much memory the machine, or a container, lets this process use.

A container is limited by control groups. A process belongs to one group in each hierarchy, and the limits of all
groups above that one hold for it, too. `/proc/self/cgroup` names its groups, `/proc/self/mountinfo` says in which
folders the hierarchies are, and the limits of a group are files in its folder. Version 1 has a hierarchy for each
controller, version 2 has one for all of them, and a system may have both.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

# More than any memory. Without a limit, version 1 says 2**63 - 1, rounded down to whole pages.
NO_LIMIT_BYTES = 1 << 62
# A line of `/proc/self/cgroup`: `4:cpu,cpuacct:/a/b` in version 1, `0::/a/b` in version 2.
GROUP = re.compile("^[0-9]+:([^:\n]*):(.*)$", re.MULTILINE)
# A line of `/proc/self/mountinfo`: `36 25 0:31 /a /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct`.
MOUNT = re.compile("^[0-9]+ [0-9]+ [0-9:]+ ([^ \n]+) ([^ \n]+) .* - (cgroup2?) [^ \n]* ([^ \n]+)$", re.MULTILINE)
# The upper bound of `train.threads`.
MAX_THREADS = 1024


def usable_cores(root: Path = Path("/"), *, obeys_openmp: bool = True) -> int:
    """Return how many threads this process should compute with, at least 1.

    If `OMP_NUM_THREADS` is a number, or a list of numbers, the (first) number is the answer. Otherwise it is the number
    of cores that the process may run on, or that its control groups grant, whichever is smaller, rounded down.

    Args:
        root: the folder that holds `proc` and `sys`.
        obeys_openmp: whether `OMP_NUM_THREADS` counts.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip() if obeys_openmp else ""
    if re.fullmatch("0*[1-9][0-9]{0,3}", asked) and int(asked) <= MAX_THREADS:
        return int(asked)
    return max(1, math.floor(min(_cores_to_run_on(), _cores_of_groups(root))))


def usable_bytes(root: Path = Path("/")) -> float:
    """Return how many bytes of memory this process may use; infinite if the system does not say.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    sizes = [math.inf]
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min([*sizes, *map(_bytes_of_group, _groups("memory", root))])


def resident_bytes(root: Path = Path("/")) -> int:
    """Return how many bytes of memory this process uses now; 0 if the system does not say.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    pages = _numbers(root / "proc/self/statm")
    return pages[1] * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def give_back_freed_memory() -> None:
    """Let glibc return, once, what it keeps of freed memory to the system; with another C library, do nothing."""
    with suppress(ImportError, OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def limit_numpy(root: Path = Path("/")) -> None:
    """Limit the threads of OpenBLAS, NumPy's library for matrix products, if it would use too many.

    OpenBLAS reads the environment once, when NumPy is imported. It counts the cores that a process may run on, but
    it does not know control groups. Only OpenBLAS reads this variable: torch, in this process or in one that it
    starts, ignores it.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    cores = usable_cores(root)
    if cores < _cores_to_run_on():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(cores))


def limit_spinning() -> None:
    """Let torch's threads sleep after a short wait. This counts only before torch is loaded.

    The threads wait for each other a thousand times in a training step. By default GNU OpenMP spins for long, and
    if another program uses a core, a step of 0.08 s becomes one of several seconds. Sleeping after so few spins
    costs next to nothing on a quiet machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _cores_to_run_on() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Cached, because sampling asks for the cores at every step.
@cache
def _cores_of_groups(root: Path) -> float:
    return min(map(_cores_of_group, _groups("cpu", root)), default=math.inf)


def _cores_of_group(folder: Path) -> float:
    """Return how many seconds of computing a group has in each second; infinite if it has no limit."""
    # Each limit is a quota and a period. Without a quota, version 2 says `max`, not a number, and version 1 says -1.
    version_1 = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
    pairs = [pair for pair in (_numbers(folder / "cpu.max"), version_1) if len(pair) == 2 and min(pair) > 0]
    return min((quota / period for quota, period in pairs), default=math.inf)


def _bytes_of_group(folder: Path) -> float:
    """Return how much memory a group may use; infinite if it has no limit."""
    # Version 1 also reports the smallest limit up to the root; a container may not see all groups on the way.
    inherited = re.findall("^hierarchical_memory_limit ([0-9]{1,20})$", _text(folder / "memory.stat"), re.MULTILINE)
    numbers = _numbers(folder / "memory.max") + _numbers(folder / "memory.limit_in_bytes")
    limits = [*numbers, *map(int, inherited)]
    return min((size for size in limits if 0 < size < NO_LIMIT_BYTES), default=math.inf)


def _groups(controller: str, root: Path) -> list[Path]:
    """Return the folders of all groups that this process is in: its own groups and those above them.

    Args:
        controller: `cpu` or `memory`.
        root: the folder that holds `proc` and `sys`.
    """
    mounts, folders = list(_mounts(controller, root)), []
    for kind, group in _own_groups(controller, root):
        same_kind = [(folder, _names_below(top, group)) for its_kind, top, folder in mounts if its_kind == kind]
        inside = [(folder, names) for folder, names in same_kind if names is not None]
        # A container may see its own group at the top of the hierarchy, but under the name that it has outside.
        for folder, names in inside or [(folder, ()) for folder, _ in same_kind]:
            folders += [folder.joinpath(*names[:depth]) for depth in range(len(names), -1, -1)]
    return folders


def _own_groups(controller: str, root: Path) -> Iterator[tuple[str, str]]:
    """Yield the file system type and the group in each hierarchy that may have the controller."""
    for controllers, group in GROUP.findall(_text(root / "proc/self/cgroup")):
        if not controllers:
            yield "cgroup2", group
        elif controller in controllers.split(","):
            yield "cgroup", group


def _mounts(controller: str, root: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield file system type, top group and folder of each hierarchy that may have the controller."""
    for top, folder, kind, options in MOUNT.findall(_text(root / "proc/self/mountinfo")):
        if kind == "cgroup2" or controller in options.split(","):
            yield kind, _unescaped(top), root / _unescaped(folder).lstrip("/")


def _unescaped(path: str) -> str:
    r"""Decode a path from `mountinfo`, which writes a space as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _names_below(top: str, group: str) -> tuple[str, ...] | None:
    """Return the names on the way from one group down to another, or None if it is not inside.

    A group outside the process's own namespace begins with `/..`; its names are not known, so the result is empty.
    """
    tops, groups = PurePosixPath(top).parts, PurePosixPath(group).parts
    names = groups[len(tops) :]
    if groups[: len(tops)] != tops:
        return None
    return () if ".." in names else names


def _numbers(path: Path) -> list[int]:
    """Return the whole numbers among the words of a file."""
    return [int(word) for word in _text(path).split() if re.fullmatch(r"-?[0-9]{1,20}", word)]


def _text(path: Path) -> str:
    """Return the content of a file, or an empty string if it cannot be read."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    return ""


class ProcessPlace(NamedTuple):
    """The place of this process among those that train together.

    Attributes:
        rank: the number of this process, from 0.
        size: how many processes there are.
        local_rank: the number of this process on its machine.
        local_size: how many processes there are on its machine.
        attempt: how often they have been restarted.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    attempt: int = 0


def process_place() -> ProcessPlace:
    """Return the place that torchrun has given this process; that of a single process elsewhere."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    values = [os.environ.get(name, "") for name in names]
    is_started_by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and all(value.isdecimal() for value in values)
    return ProcessPlace(*map(int, values)) if is_started_by_torchrun else ProcessPlace()
