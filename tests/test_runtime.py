"""Where a run trains: what a machine can do decides, and what is asked for by name is refused where it cannot."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from charlm import runtime as runtimes
from charlm.errors import DeviceError
from charlm.runtime import Runtime, use_threads


@pytest.fixture(autouse=True)
def threads_as_before() -> object:
    """Leave torch with as many threads as it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("capabilities", "works", "precision"),
    [
        ({"amx_bf16": True}, True, "bf16"),
        ({"avx512_bf16": True}, True, "bf16"),
        ({"avx2": True}, True, "fp32"),
        ({"amx_bf16": True}, False, "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_it_and_it_works(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], works: bool, precision: str
) -> None:
    """Announced and tried: a processor without the instructions would be slower with it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(runtimes, "_bf16_works", lambda device: works)
    chosen = Runtime.choose("cpu", "auto", 1)
    assert chosen.precision == precision
    assert str(chosen) == f"cpu x 1, {precision}"


def test_bf16_that_does_not_work_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to ask for instead."""
    monkeypatch.setattr(runtimes, "_bf16_works", lambda device: False)
    with pytest.raises(DeviceError, match="bf16") as raised:
        Runtime.choose("cpu", "bf16", 1)
    assert "fp32" in raised.value.hint


@pytest.mark.parametrize("error", [RuntimeError("no primitive"), TypeError("no bf16")])
def test_a_trial_that_fails_is_an_answer(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Some machines announce bf16 and then have no kernel for it."""
    assert runtimes._bf16_works(torch.device("cpu")) in (True, False)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch.nn, "LSTM", fail)
    assert not runtimes._bf16_works(torch.device("cpu"))


@pytest.mark.parametrize(
    ("cuda", "mps", "works", "device"),
    [(True, True, True, "cuda"), (False, True, True, "mps"), (False, True, False, "cpu"), (False, False, True, "cpu")],
)
def test_a_graphics_processor_is_taken_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, works: bool, device: str
) -> None:
    """CUDA before MPS, and MPS only where a trial of it works."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(runtimes, "_bf16_works", lambda device: works)
    assert Runtime.choose("auto", "fp32", 1).device.type == device


@pytest.mark.parametrize(
    ("environment", "asked", "threads"), [(None, None, 2), ("3", None, 3), ("3", 1, 1), ("many", None, 2)]
)
def test_threads_are_those_asked_for_or_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, asked: int | None, threads: int
) -> None:
    """A number in the settings wins over `OMP_NUM_THREADS`, and that over the number of cores."""
    monkeypatch.setattr("charlm.machine._cores_to_run_on", lambda: 2)
    monkeypatch.setattr("charlm.machine._cores_of_groups", lambda root: 2.5)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if environment:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert Runtime.choose("cpu", "fp32", asked).threads == threads


def test_torch_computes_with_the_cores_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is trained."""
    monkeypatch.setattr(runtimes, "usable_cores", lambda: 3)
    use_threads()
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's memory is what is kept")
def test_the_memory_of_a_large_tensor_is_kept_for_the_next() -> None:
    """The second time nothing has to be handed out again page by page."""
    # A process of its own, for among the leftovers of other tests a tensor may find no place that is large enough.
    program = """
import resource, torch
from charlm.runtime import Runtime
Runtime.choose("cpu", "fp32", 1)
torch.ones(128 << 18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# Smaller, because glibc asks for a little more than an aligned tensor needs, and would pass over one just as large.
torch.ones(96 << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) < 6000


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """No library by that name, none of its functions, or none that can be named at all."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    assert Runtime.choose("cpu", "fp32", 1).threads == 1
