"""Where this process trains: device, precision, threads. Knows torch and the machine, nothing of models."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from charlm.errors import DeviceError
from charlm.machine import usable_cores

# Of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4


@dataclass(frozen=True)
class Runtime:
    """The device and arithmetic of a run.

    Attributes:
        device: where tensors live.
        precision: `bf16` or `fp32`: how training blocks are computed; weights are always float32.
        threads: CPU threads.
    """

    device: torch.device
    precision: str
    threads: int

    @classmethod
    def choose(cls, device: str, precision: str, threads: int | None) -> Runtime:
        """Turn settings, `auto` among them, into what this machine can do.

        Raises:
            DeviceError: the machine lacks what was asked for by name.
        """
        keep_freed_memory()
        use_threads(threads)
        chosen = torch.device(_best_device() if device == "auto" else device)
        if chosen.type not in _available_devices():
            raise DeviceError(f"this machine has no device `{device}`", f"there is {', '.join(_available_devices())}")
        if precision == "auto":
            precision = "bf16" if _bf16_is_fast(chosen) and _bf16_works(chosen) else "fp32"
        elif precision == "bf16" and not _bf16_works(chosen):
            raise DeviceError(f"bf16 does not work on this machine's {chosen.type}", "use `precision: fp32` or `auto`")
        return cls(chosen, precision, torch.get_num_threads())

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that training blocks are computed in."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def facts(self) -> dict[str, str | int]:
        """Return what a run must have the same of to go on bit for bit."""
        return {
            "device": self.device.type,
            "precision": self.precision,
            "threads": self.threads,
            "torch": torch.__version__,
        }

    def __str__(self) -> str:
        threads = f" x {self.threads}" if self.device.type == "cpu" else ""
        return f"{self.device.type}{threads}, {self.precision}"


def use_threads(threads: int | None = None) -> None:
    """Have torch compute with so many threads, or with as many as this process should."""
    # By itself torch counts the cores that the process may run on, whatever share of their time a container has.
    torch.set_num_threads(threads or usable_cores())


def keep_freed_memory(keep: bool = True) -> None:
    """Have the C library keep the memory of large tensors for the next ones, where it can be told to.

    By default (what it adjusts itself to, and what `keep=False` goes back to) glibc gives blocks of many megabytes back
    to the system when they are freed, and at every training step the system hands them out again page by page, each
    cleared first: a third of the time of a step.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Not by a higher threshold: glibc before 2.35 refuses one above 32 MB.
        mallopt(M_MMAP_MAX, 0 if keep else 1 << 16)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1 if keep else 64 << 20)


def _available_devices() -> list[str]:
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    # Muon computes in bf16 on every device; older versions of Apple's system lack it.
    return "mps" if torch.backends.mps.is_available() and _bf16_works(torch.device("mps")) else "cpu"


def _bf16_is_fast(device: torch.device) -> bool:
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _bf16_works(device: torch.device) -> bool:
    """Run a tiny layer forward and backward: some machines announce bf16 and then have no kernel for it."""
    try:
        square = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        layer = torch.nn.LSTM(8, 16).to(device)
        x_TBE = torch.ones(2, 2, 8, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            y_TBH, _ = layer(x_TBE)
        y_TBH.float().sum().backward()
        return bool(torch.isfinite(y_TBH).all()) and bool((square @ square == 2).all())
    except (RuntimeError, TypeError):
        return False
