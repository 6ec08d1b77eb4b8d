"""The first Ctrl-C or SIGTERM asks a loop to end cleanly, the second ends the process. Knows nothing of the loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self


class Interrupt:
    """While entered, remembers the first signal and lets the process live.

    Attributes:
        signal: the signal that came, or None.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self.signal: signal.Signals | None = None
        self._announce = announce
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only; elsewhere there is nothing to set.
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                # An ignored signal (`nohup`, a background job) stays so; None is a handler that Python did not set.
                if number and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def exit_code(self) -> int:
        """The exit code of a process that ended because of the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal if self.signal else 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            # Not os._exit, so that the terminal is restored and half-written files are removed on exit.
            raise SystemExit(128 + number)
        self.signal = signal.Signals(number)
        # The terminal may be gone, or in the middle of a write: then nothing is printed.
        with suppress(OSError, RuntimeError):
            self._announce()
