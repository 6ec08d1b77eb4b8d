"""The usable cores and memory are those of the machine, limited by each control group of the process."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from charlm.__main__ import main
from charlm.machine import limit_numpy, resident_bytes, usable_bytes, usable_cores

GB = 10**9
# The value of version 1 without a limit, on systems with pages of 4 and of 64 KiB.
NO_LIMITS = (2**63 - 4096, 2**63 - 65536)


@dataclass(frozen=True)
class Case:
    """A system's files, and the limits that they set.

    Attributes:
        name: of the case.
        groups: `/proc/self/cgroup`.
        mounts: the hierarchies, as (group at the top, folder, options); options of version 1 name its controllers.
        files: the files of limits, by path.
        cores: how many of 8 cores may be used.
        bytes: how many of 8 GB may be used.
    """

    name: str
    groups: str
    mounts: list[tuple[str, str, str]]
    files: dict[str, str] = field(default_factory=dict)
    cores: int = 8
    bytes: float = 8 * GB


V1_MOUNTS = [("/", "/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"), ("/", "/sys/fs/cgroup/memory", "rw,memory")]
V2_MOUNT = [("/", "/sys/fs/cgroup", "")]


def v1_files(group: str, quota: int, limit: int, period: int = 100_000) -> dict[str, str]:
    """Return the files of a group in two hierarchies of version 1."""
    cpu, memory = f"sys/fs/cgroup/cpu,cpuacct{group}", f"sys/fs/cgroup/memory{group}"
    return {
        f"{cpu}/cpu.cfs_quota_us": f"{quota}\n",
        f"{cpu}/cpu.cfs_period_us": f"{period}\n",
        f"{memory}/memory.limit_in_bytes": f"{limit}\n",
    }


def v2_files(group: str, cpu: str, memory: str) -> dict[str, str]:
    """Return the files of a group in the hierarchy of version 2."""
    folder = f"sys/fs/cgroup{group}"
    return {f"{folder}/cpu.max": f"{cpu}\n", f"{folder}/memory.max": f"{memory}\n"}


V1_GROUPS = "9:memory:/a/b\n4:cpu,cpuacct:/a/b\n1:name=systemd:/c\n"
HYBRID_GROUPS = V1_GROUPS + "0::/c\n"
HYBRID_MOUNTS = [*V1_MOUNTS, ("/", "/sys/fs/cgroup/unified", "")]
UNLIMITED = v1_files("/a/b", -1, NO_LIMITS[0])
CASES = [
    Case("no control groups", "", []),
    Case("v2 without limits", "0::/a\n", V2_MOUNT, v2_files("/a", "max 100000", "max")),
    Case("v2", "0::/a\n", V2_MOUNT, v2_files("/a", "200000 100000", "1000000000"), 2, GB),
    Case("v2 half a core", "0::/a\n", V2_MOUNT, v2_files("/a", "50000 100000", "max"), 1),
    Case("v2 a core and a half", "0::/a\n", V2_MOUNT, v2_files("/a", "150000 100000", "max"), 1),
    Case("v2 another period", "0::/a\n", V2_MOUNT, v2_files("/a", "30000 10000", "max"), 3),
    Case("v2 more than there is", "0::/a\n", V2_MOUNT, v2_files("/a", "6400000 100000", "64000000000")),
    Case(
        "v2 tighter in the parent",
        "0::/a/b/c\n",
        V2_MOUNT,
        v2_files("/a/b/c", "600000 100000", "max") | v2_files("/a", "300000 100000", "2000000000"),
        3,
        2 * GB,
    ),
    Case(
        "v2 looser in the parent",
        "0::/a/b\n",
        V2_MOUNT,
        v2_files("/a/b", "100000 100000", "1000000000") | v2_files("/a", "300000 100000", "2000000000"),
        1,
        GB,
    ),
    Case(
        "v2 a sibling's limit",
        "0::/a/b\n",
        V2_MOUNT,
        v2_files("/a/c", "100000 100000", "1000000000") | v2_files("/a/b/d", "100000 100000", "1000000000"),
    ),
    Case("v2 in a namespace", "0::/\n", V2_MOUNT, v2_files("", "200000 100000", "1000000000"), 2, GB),
    Case("v2 beside the namespace", "0::/../../a\n", V2_MOUNT, v2_files("", "200000 100000", "1000000000"), 2, GB),
    Case(
        "v2 its own group mounted",
        "0::/docker/4f/a\n",
        [("/docker/4f", "/sys/fs/cgroup", "")],
        v2_files("/a", "400000 100000", "max") | v2_files("", "200000 100000", "1000000000"),
        2,
        GB,
    ),
    Case(
        "v2 its outer name, not to be found inside",
        "0::/docker/4f\n",
        V2_MOUNT,
        v2_files("", "200000 100000", "1000000000"),
        2,
        GB,
    ),
    Case(
        "v2 another's group mounted beside its own",
        "0::/docker/4f\n",
        [("/docker/4f", "/sys/fs/cgroup", ""), ("/docker/5a", "/mnt", "")],
        v2_files("", "400000 100000", "max") | {"mnt/cpu.max": "100000 100000", "mnt/memory.max": "5"},
        4,
    ),
    Case(
        "v2 a group that is mounted elsewhere alone",
        "0::/docker/4f\n",
        [("/docker/5a", "/sys/fs/cgroup", "")],
        v2_files("", "200000 100000", "1000000000"),
        2,
        GB,
    ),
    Case(
        "v2 in a folder with a space in its name",
        "0::/a\n",
        [("/", "/my\\040groups", "")],
        {"my groups/a/cpu.max": "200000 100000"},
        2,
    ),
    Case("v1 without limits", V1_GROUPS, V1_MOUNTS, UNLIMITED),
    Case("v1 without limits, large pages", V1_GROUPS, V1_MOUNTS, v1_files("/a/b", -1, NO_LIMITS[1])),
    Case("v1", V1_GROUPS, V1_MOUNTS, v1_files("/a/b", 200_000, GB), 2, GB),
    Case("v1 half a core", V1_GROUPS, V1_MOUNTS, v1_files("/a/b", 25_000, NO_LIMITS[0], 50_000), 1),
    Case("v1 tighter in the parent", V1_GROUPS, V1_MOUNTS, UNLIMITED | v1_files("/a", 300_000, 2 * GB), 3, 2 * GB),
    Case("v1 tighter at the root", V1_GROUPS, V1_MOUNTS, UNLIMITED | v1_files("", 300_000, 2 * GB), 3, 2 * GB),
    Case(
        "v1 tighter above what can be seen",
        V1_GROUPS,
        V1_MOUNTS,
        UNLIMITED | {"sys/fs/cgroup/memory/a/b/memory.stat": "cache 5\nhierarchical_memory_limit 3000000000\nrss 7\n"},
        8,
        3 * GB,
    ),
    Case(
        "v1 its own group mounted",
        V1_GROUPS,
        [("/a/b", folder, options) for _, folder, options in V1_MOUNTS],
        v1_files("", 200_000, GB),
        2,
        GB,
    ),
    Case("hybrid, limits of v1", HYBRID_GROUPS, HYBRID_MOUNTS, v1_files("/a/b", 200_000, GB), 2, GB),
    Case(
        "hybrid, limits of both",
        HYBRID_GROUPS,
        HYBRID_MOUNTS,
        v1_files("/a/b", 400_000, NO_LIMITS[0]) | {"sys/fs/cgroup/unified/c/memory.max": "1000000000"},
        4,
        GB,
    ),
    Case("garbage in v1", V1_GROUPS, V1_MOUNTS, v1_files("/a/b", 0, 0, 0)),
    Case("garbage in v2", "0::/a\n", V2_MOUNT, v2_files("/a", "lots of\0it", "1e9 \xff 7GB")),
    Case("a quota without a period", "0::/a\n", V2_MOUNT, v2_files("/a", "50000", "max")),
    Case("garbage in the lists", "::\n0:\nx\n0::\n\n-1:cpu:/\n4", [("", "", ""), ("..", "\\9", "")]),
]


def make(case: Case, root: Path) -> Path:
    """Write the files of a case."""
    lines = ["22 27 0:21 / /proc rw,relatime - proc proc rw", "a line of another kind"]
    for number, (top, folder, options) in enumerate(case.mounts):
        kind, optional = ("cgroup", "shared:9 ") if options else ("cgroup2", "")
        lines.append(f"{30 + number} 25 0:31 {top} {folder} rw,nosuid {optional}- {kind} {kind} {options or 'rw'}")
    files = {"proc/self/cgroup": case.groups, "proc/self/mountinfo": "\n".join(lines) + "\n"} | case.files
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="latin-1")
    return root


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a machine with 8 cores, 8 GB and no limits in the environment."""
    sizes = {"SC_PHYS_PAGES": 2 * GB // 1000, "SC_PAGE_SIZE": 4000}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        # Set first, so that the change of a test is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_tightest_of_all_limits_holds(case: Case, tmp_path: Path) -> None:
    """The smallest limit counts, in any version of control groups and at any mount point."""
    root = make(case, tmp_path)
    assert (usable_cores(root), usable_bytes(root)) == (case.cores, case.bytes)


HALF_A_CORE = Case("", "0::/a\n", V2_MOUNT, v2_files("/a", "50000 100000", "1000000000"))
THREE_CORES = Case("", "0::/a\n", V2_MOUNT, v2_files("/a", "300000 100000", "max"))


def test_unreadable_files_limit_nothing(tmp_path: Path) -> None:
    """A system without these files, or with a folder in place of one, has no limit."""
    assert (usable_cores(tmp_path / "nothing"), usable_bytes(tmp_path / "nothing")) == (8, 8 * GB)
    root = make(Case("", "0::/a\n", V2_MOUNT), tmp_path)
    for name in ("cpu.max", "memory.max"):
        (root / "sys/fs/cgroup/a" / name).mkdir(parents=True)
    assert (usable_cores(root), usable_bytes(root)) == (8, 8 * GB)


@pytest.mark.parametrize(("num_cores", "expected"), [(2, 2), (3, 3), (4, 3)])
def test_a_process_tied_to_some_cores_uses_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_cores: int, expected: int
) -> None:
    """The smaller number counts: the cores the process may run on, or the three of its group."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(num_cores)), raising=False)
    assert usable_cores(make(THREE_CORES, tmp_path)) == expected


def test_a_system_without_affinity_has_all_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without affinity all cores count, and one if their number is unknown."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("1", 1),
        ("16", 16),
        ("4,2", 4),
        (" 5 , 2", 5),
        ("1024", 1024),
        ("", 3),
        ("0", 3),
        ("-2", 3),
        ("many", 3),
        ("2.5", 3),
        (",2", 3),
        ("\u0664", 3),
        ("1025", 3),
        ("9" * 30, 3),
    ],
)
def test_the_number_of_threads_in_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, expected: int
) -> None:
    """`OMP_NUM_THREADS` wins over the group's three cores, unless it is not a sensible number."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_cores(make(THREE_CORES, tmp_path)) == expected


def test_unknown_memory_is_infinite_unless_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system does not report its memory, only a group can limit it."""
    monkeypatch.delattr(os, "sysconf")
    assert usable_bytes(tmp_path) == math.inf
    assert usable_bytes(make(HALF_A_CORE, tmp_path)) == GB


def test_resident_memory_is_in_bytes(tmp_path: Path) -> None:
    """The system counts pages; without its report the result is 0."""
    assert resident_bytes(tmp_path) == 0
    make(Case("", "", [], {"proc/self/statm": "765 410 382 5 0 123 0\n"}), tmp_path)
    assert resident_bytes(tmp_path) == 410 * 4000


@pytest.mark.parametrize(
    ("case", "given", "expected"),
    [(HALF_A_CORE, None, "1"), (THREE_CORES, None, "3"), (HALF_A_CORE, "5", "5"), (CASES[0], None, None)],
)
def test_numpy_gets_a_limit_below_the_cores_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, given: str | None, expected: str | None
) -> None:
    """NumPy's threads are limited if it counts too many cores and the environment has no limit yet."""
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    limit_numpy(make(case, tmp_path))
    assert os.environ.get("OPENBLAS_NUM_THREADS") == expected
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_command_limits_numpy_before_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is set before the command line loads its modules."""
    seen = []
    monkeypatch.setattr("charlm.machine.usable_cores", lambda root: 1)
    monkeypatch.setattr("charlm.cli.app.app", lambda: seen.append(os.environ.get("OPENBLAS_NUM_THREADS")))
    before = signal.getsignal(signal.SIGINT)
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["1"]


def test_finding_the_limits_loads_neither_numpy_nor_torch() -> None:
    """The limits are found without NumPy, which starts its threads when it is loaded."""
    code = "import sys, charlm.__main__, charlm.machine; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted through /proc")
def test_numpy_starts_as_many_threads_as_the_limit_says(tmp_path: Path) -> None:
    """With half a core NumPy has only the main thread."""
    root = make(HALF_A_CORE, tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from charlm.machine import limit_numpy\n"
        "limit_numpy(Path(sys.argv[1]))\n"
        "import numpy as np; np.ones((500, 500)) @ np.ones((500, 500)); print(len(os.listdir('/proc/self/task')))\n"
    )
    command = [sys.executable, "-c", code, str(root)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
