"""Where a run trains: trials decide for `auto`, and what the machine lacks is refused."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from charlm.errors import DeviceError
from charlm.nn.runtime import Runtime, bf16_works, keep_freed_memory, use_threads
from charlm.nn.speed_trials import MARGIN, Work


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    """Leave torch with as many threads as it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("speed", "works", "precision", "reason"),
    [
        (3.0, True, "bf16", " (bf16 runs at 3 times the pace of fp32)"),
        (MARGIN, True, "bf16", " (bf16 runs at 1.1 times the pace of fp32)"),
        (1.1, True, "fp32", " (bf16 runs at only 1.1 times the pace of fp32)"),
        (1.04, True, "fp32", " (bf16 is not faster here)"),
        (1.0, True, "fp32", " (bf16 is not faster here)"),
        (0.01, True, "fp32", " (bf16 is not faster here)"),
        (3.0, False, "fp32", ""),
    ],
)
def test_auto_chooses_the_faster_precision(
    monkeypatch: pytest.MonkeyPatch, speed: float, works: bool, precision: str, reason: str
) -> None:
    """`precision: auto` depends on the measured speed, which is reported; bf16 that does not work is never chosen."""
    monkeypatch.setattr("charlm.nn.runtime.bf16_speed", lambda work, device: speed)
    monkeypatch.setattr("charlm.nn.runtime.bf16_works", lambda device: works)
    chosen = Runtime.choose("cpu", "auto", 1, Work(num_units=8))
    assert (chosen.precision, chosen.dtype) == (precision, {"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    assert str(chosen) == f"cpu x 1, {precision}"
    assert chosen.described == f"{chosen}{reason}"


def test_fp32_by_name_needs_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """`precision: fp32` tries nothing and computes everything in fp32."""
    monkeypatch.setattr("charlm.nn.runtime.bf16_speed", lambda work, device: pytest.fail("it is tried"))
    chosen = Runtime.choose("cpu", "fp32", 1, Work(num_units=8))
    assert (chosen.precision, chosen.dtype, chosen.reasons) == ("fp32", torch.float32, ())


def test_slow_bf16_by_name_is_used_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """`precision: bf16` is used even if it is slow; the reason gives the ratio and the faster setting."""
    monkeypatch.setattr("charlm.nn.runtime.bf16_works", lambda device: True)
    monkeypatch.setattr("charlm.nn.runtime.bf16_speed", lambda work, device: 0.02)
    chosen = Runtime.choose("cpu", "bf16", 1)
    assert chosen.precision == "bf16"
    (reason,) = chosen.reasons
    assert "0.02 times the pace of fp32" in reason
    assert "`precision: auto`" in reason


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", ["torch", "blocks"])
def test_a_resumed_run_makes_no_new_trials(monkeypatch: pytest.MonkeyPatch, precision: str, kernel: str) -> None:
    """A resumed run keeps the precision and the kernel that it started with."""
    monkeypatch.setattr("charlm.nn.runtime.bf16_works", lambda device: True)
    for name in ("bf16_speed", "block_kernel_speed", "block_seconds"):
        monkeypatch.setattr(f"charlm.nn.runtime.{name}", lambda *_: pytest.fail("it is tried"))
    before = {"device": "cpu", "precision": precision, "lstm_kernel": kernel, "threads": 1}
    chosen = Runtime.choose("auto", "auto", 1, Work(), before)
    assert chosen.precision == precision
    assert chosen.lstm_by_blocks == (kernel == "blocks" and precision == "fp32")


@pytest.mark.parametrize(("speed", "units", "by_blocks"), [(1.5, 256, True), (1.0, 256, False), (1.5, 64, False)])
def test_an_lstm_trains_by_the_faster_kernel(
    monkeypatch: pytest.MonkeyPatch, speed: float, units: int, by_blocks: bool
) -> None:
    """An LSTM trains by our kernel only if it is large and our kernel is clearly faster than torch's."""
    monkeypatch.setattr("charlm.nn.runtime.block_kernel_speed", lambda work: speed)
    chosen = Runtime.choose("cpu", "fp32", 1, Work("lstm", num_units=units))
    assert chosen.lstm_by_blocks == by_blocks
    assert chosen.facts()["lstm_kernel"] == ("blocks" if by_blocks else "torch")
    assert not Runtime.choose("cpu", "fp32", 1, Work("gru", num_units=units)).lstm_by_blocks


def test_bf16_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`precision: bf16` is refused if bf16 does not work, and the hint names fp32."""
    monkeypatch.setattr("charlm.nn.runtime.bf16_works", lambda device: False)
    with pytest.raises(DeviceError, match="bf16") as raised:
        Runtime.choose("cpu", "bf16", 1)
    assert "fp32" in raised.value.hint


@pytest.mark.parametrize("error", [RuntimeError("no primitive"), TypeError("no bf16")])
def test_an_error_in_the_trial_means_no_bf16(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Some machines announce bf16 without a kernel for it, so an error in the trial means no bf16."""
    assert bf16_works(torch.device("cpu")) in (True, False)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch.nn, "LSTM", fail)
    assert not bf16_works(torch.device("cpu"))


@pytest.mark.parametrize(
    ("cuda", "mps", "seconds", "device"),
    [
        (True, False, {"cpu": 9.0, "cuda": 1.0}, "cuda"),
        (True, False, {"cpu": 1.0, "cuda": 9.0}, "cpu"),
        (False, True, {"cpu": 9.0, "mps": 1.0}, "mps"),
        (False, True, {"cpu": 1.0, "mps": 1.0}, "cpu"),
        (False, False, {}, "cpu"),
    ],
)
def test_auto_chooses_the_faster_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, seconds: dict[str, float], device: str
) -> None:
    """`device: auto` takes the fastest device and reports the times; one device alone needs no trial."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr("charlm.nn.runtime.block_seconds", lambda work, device: seconds[device.type])
    chosen = Runtime.choose("auto", "fp32", 1, Work(num_units=8))
    assert chosen.device.type == device
    assert bool(chosen.reasons) == (cuda or mps)
    if seconds:
        assert f"{seconds[device] * 1e3:.1f} ms on {device}" in chosen.described


@pytest.mark.parametrize(
    ("environment", "asked", "threads"), [(None, None, 2), ("3", None, 3), ("3", 1, 1), ("many", None, 2)]
)
def test_the_setting_for_threads_wins_over_the_machine(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, asked: int | None, threads: int
) -> None:
    """`train.threads` wins over `OMP_NUM_THREADS`, which wins over the number of cores."""
    monkeypatch.setattr("charlm.machine._cores_to_run_on", lambda: 2)
    monkeypatch.setattr("charlm.machine._cores_of_groups", lambda root: 2.5)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert Runtime.choose("cpu", "fp32", asked).threads == threads


def test_torch_uses_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """`use_threads` gives torch as many threads as this process may use cores."""
    monkeypatch.setattr("charlm.nn.runtime.usable_cores", lambda: 3)
    use_threads()
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc keeps freed memory")
def test_the_memory_of_a_large_tensor_is_kept_for_the_next() -> None:
    """A second large tensor causes few page faults, because the memory of the first was kept."""
    # A new process, because the memory that other tests freed may have no gap that is large enough.
    program = """
import resource, torch
from charlm.nn.runtime import keep_freed_memory
keep_freed_memory()
torch.ones(128 << 18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# Smaller than the first, because glibc asks for a little more than an aligned tensor needs.
torch.ones(96 << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) < 6000


def test_choosing_a_runtime_leaves_the_allocator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choosing a runtime loads no C library, because the allocator belongs to the whole process."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("a C library is loaded"))
    assert Runtime.choose("cpu", "fp32", 1).threads == 1


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """`keep_freed_memory` does nothing if there is no C library or it has no `mallopt`."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    keep_freed_memory()
