"""Where this process trains: device, precision, threads. Knows torch and the machine, but no models."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch

from charlm.errors import DeviceError
from charlm.machine import usable_cores
from charlm.nn.speed_trials import MARGIN, Work, bf16_speed, block_kernel_speed, block_seconds

# With fewer units torch's own LSTM is faster on every machine, so there is no trial.
MIN_UNITS_OF_BLOCKS = 160

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4


@dataclass(frozen=True)
class Runtime:
    """The device and arithmetic of a run.

    Attributes:
        device: where tensors live.
        precision: `bf16`, `fp16` or `fp32`: how training blocks are computed; weights are float32.
        threads: CPU threads.
        lstm_by_blocks: whether an LSTM trains by our kernel and not by torch's own.
        reasons: the results of the trials, as text.
        processes: how many processes train together.
    """

    device: torch.device
    precision: str
    threads: int
    lstm_by_blocks: bool = False
    reasons: tuple[str, ...] = ()
    processes: int = 1

    @classmethod
    def choose(
        cls,
        device: str,
        precision: str,
        threads: int | None,
        work: Work | None = None,
        before: Mapping[str, Any] | None = None,
    ) -> Runtime:
        """Choose device and arithmetic; for `auto`, by trials of what is fast on this machine.

        Args:
            device: the setting.
            precision: the setting.
            threads: the setting.
            work: what the run will do. If it is None, arithmetic is tried for a large LSTM, and no kernel is tried.
            before: the facts of a run that is resumed. Its choices are kept without new trials.

        Raises:
            DeviceError: the machine lacks the device or precision that the settings name.
        """
        use_threads(threads)
        is_lstm = work is not None and work.cell == "lstm"
        work, before = work or Work(), before or {}
        name, device_reason = _choose_device(work, before) if device == "auto" else (device, "")
        if name not in _available_devices():
            raise DeviceError(f"this machine has no device `{name}`", f"there is {', '.join(_available_devices())}")
        chosen = torch.device(name)
        precision, precision_reason = _choose_precision(precision, chosen, work, before)
        # torch's own kernel for the LSTM is as fast as its products on some processors and a third slower on others.
        by_blocks = name == "cpu" and precision == "fp32" and is_lstm and _choose_blocks(work, before)
        reasons = tuple(reason for reason in (device_reason, precision_reason) if reason)
        return cls(chosen, precision, torch.get_num_threads(), by_blocks, reasons)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of Muon's products: fp16 has too few small numbers for them."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for training on a block."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def facts(self) -> dict[str, str | int]:
        """Return the facts that must stay the same for a run to resume bit for bit."""
        return {
            "device": self.device.type,
            "precision": self.precision,
            "lstm_kernel": "blocks" if self.lstm_by_blocks else "torch",
            "threads": self.threads,
            "processes": self.processes,
            "torch": torch.__version__,
        }

    @property
    def described(self) -> str:
        """The device and arithmetic as text, with the reasons."""
        return f"{self} ({'; '.join(self.reasons)})" if self.reasons else str(self)

    def __str__(self) -> str:
        threads = f" x {self.threads}" if self.device.type == "cpu" else ""
        processes = f"{self.processes} processes, each on " if self.processes > 1 else ""
        return f"{processes}{self.device.type}{threads}, {self.precision}"


def use_threads(threads: int | None = None) -> None:
    """Set the number of torch's threads; by default to the usable cores."""
    # By default torch counts the cores that the process may run on, and ignores the limits of a container.
    torch.set_num_threads(threads or usable_cores())


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep the memory of large tensors for the next ones; other C libraries are left alone.

    By default glibc returns blocks of many megabytes to the system when they are freed. At every training step the
    system then hands them out again page by page and clears each page: a third of the time of a step.

    This holds for the whole process, so commands call it and the library does not. A program that trains for long may
    call it first.

    Args:
        keep: whether to keep freed memory; False restores the default.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # A higher threshold would not do, because glibc before 2.35 refuses one above 32 MB.
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


def _choose_device(work: Work, before: Mapping[str, Any]) -> tuple[str, str]:
    """Return the fastest device for training on a block, and the measured times if there are several devices."""
    devices = _available_devices()
    if before.get("device") in devices:
        return before["device"], ""
    if len(devices) == 1:
        return devices[0], ""
    seconds = {device: block_seconds(work, torch.device(device)) for device in devices}
    tried = ", ".join(f"{taken * 1e3:.1f} ms on {device}" for device, taken in seconds.items())
    return min(devices, key=lambda device: seconds[device]), f"a block takes {tried}"


def _choose_precision(asked: str, device: torch.device, work: Work, before: Mapping[str, Any]) -> tuple[str, str]:
    """Return the precision that the setting names, or the faster one for `auto`, and the result of a trial."""
    if asked == "fp32":
        return asked, ""
    if asked == "fp16":
        if device.type != "cuda":
            raise DeviceError(f"fp16 is for cuda, not for {device.type}", "use `precision: bf16`, `fp32` or `auto`")
        return asked, ""
    works = bf16_works(device)
    if asked == "bf16" and not works:
        raise DeviceError(f"bf16 does not work on this machine's {device.type}", "use `precision: fp32` or `auto`")
    if asked == "auto" and before.get("device") == device.type and before.get("precision") in ("fp32", "bf16"):
        return (before["precision"] if works else "fp32"), ""
    if not works:
        return "fp32", ""
    speed = bf16_speed(work, device)
    if asked == "bf16":
        slower = f"bf16 runs at {speed:.2g} times the pace of fp32 here; `precision: auto` would take fp32"
        return asked, slower if speed < 1 else ""
    if speed >= MARGIN:
        return "bf16", f"bf16 runs at {speed:.2g} times the pace of fp32"
    # A gain that would be written as 1 is none.
    is_faster = speed >= 1.05
    return "fp32", f"bf16 runs at only {speed:.2g} times the pace of fp32" if is_faster else "bf16 is not faster here"


def _choose_blocks(work: Work, before: Mapping[str, Any]) -> bool:
    if "device" in before:
        return before.get("lstm_kernel") == "blocks"
    return work.num_units >= MIN_UNITS_OF_BLOCKS and block_kernel_speed(work) >= MARGIN


def bf16_works(device: torch.device) -> bool:
    """Try bf16 on a tiny layer, forward and backward, because some machines announce bf16 but have no kernel for it."""
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
