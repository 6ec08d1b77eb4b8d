"""The timing of events in a run: the clock, shares of the run, the learning rate, the pace. Knows no model."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from charlm.settings.config import TrainConfig

# How often a thread looks at the clock of a timed run, and how far apart two looks are if the process slept.
LOOK_SECONDS = 0.2
SLEEP_SECONDS = 5.0


class Look(NamedTuple):
    """What a clock shows at a moment: the time, and how long the cores have computed for this process."""

    seconds: float
    computed: float


class Clock:
    """Counts the seconds of a run from the moment this is made; changes of the system's time do not matter.

    It may drop the time in which the process slept: stopped by a signal, frozen by a container, or with the lid
    of the laptop closed. Then somebody must look at it often, see `awake_clock`. Each call of `now` is a look. Between
    two looks the process slept if many seconds have passed and the cores have computed in less than half of them.

    Attributes:
        seconds_asleep: the time that was dropped so far.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, computed: Callable[[], float] | None = None) -> None:
        """Start counting.

        Args:
            now: returns seconds from some fixed moment.
            computed: returns how long the cores have computed for this process; None if time asleep counts.
        """
        self._now, self._computed = now, computed
        self._lock = threading.RLock()
        self.seconds_asleep = 0.0
        self._last = self._look()
        self._began, self._before = self._last.seconds, 0.0

    def now(self) -> float:
        """Return the seconds from some fixed moment, without those asleep."""
        with self._lock:
            look = self._look()
            gap, computed = look.seconds - self._last.seconds, look.computed - self._last.computed
            self._last = look
            if self._computed and gap > SLEEP_SECONDS and computed < gap / 2:
                self.seconds_asleep += gap
            return look.seconds - self.seconds_asleep

    def _look(self) -> Look:
        return Look(self._now(), self._computed() if self._computed else 0.0)

    def resume_from(self, seconds: float) -> None:
        """Add the time that the run had taken before this clock was made."""
        self._before = seconds

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return self._before + self.now() - self._began


@contextmanager
def awake_clock(is_timed: bool) -> Iterator[Clock]:
    """Start the clock of a run; it does not count the time asleep if the run's end depends on the time.

    A thread of its own looks at it. Unlike a sleeping process, one that waits for a disk, a device or a core still
    runs its threads.
    """
    if not is_timed:
        yield Clock()
        return
    clock, is_over = Clock(computed=time.process_time), threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_SECONDS):
            clock.now()

    thread = threading.Thread(target=look, name="charlm clock", daemon=True)
    thread.start()
    try:
        yield clock
    finally:
        is_over.set()
        thread.join()


class Every:
    """Tells when a repeated event is due that must happen at least every so many seconds.

    It is queried at intervals. The event is due if the next query would come too late, assuming that the next interval
    is as long as the last one.
    """

    def __init__(self, every_seconds: float, seconds: float, first_seconds: float | None = None) -> None:
        """Start counting.

        Args:
            every_seconds: the longest time between two events.
            seconds: the current time of the clock.
            first_seconds: the longest time to the first event; None for the same as between two.
        """
        self._every = every_seconds
        self._asked_at = seconds
        self._limit = seconds + (every_seconds if first_seconds is None else first_seconds)

    def is_due(self, seconds: float, ahead: float = 0.0) -> bool:
        """Return whether the event is due.

        Args:
            seconds: the current time of the clock.
            ahead: seconds by which the time to the next query may be longer than that since the last one.
        """
        gap, self._asked_at = seconds - self._asked_at, seconds
        return seconds + gap + ahead > self._limit

    def done(self, seconds: float) -> None:
        """Count from now on, because the event has happened."""
        self._limit = seconds + self._every


class Pace:
    """Characters per second of training, from one measurement to the next.

    Attributes:
        last: the last result.
    """

    def __init__(self, clock: Clock, characters: int) -> None:
        self._clock = clock
        self.last = 0.0
        self._seconds, self._characters = clock.seconds, characters

    def measure(self, characters: int) -> float:
        """Return the pace since the last call, given all characters so far."""
        seconds = self._clock.seconds
        self.last = (characters - self._characters) / max(seconds - self._seconds, 1e-9)
        self._seconds, self._characters = seconds, characters
        return self.last

    def resume(self) -> None:
        """Exclude the time since the last measurement, because nothing was learned in it."""
        self._seconds = self._clock.seconds


def share_of(
    settings: TrainConfig, step: int, seconds: float, batches_per_epoch: int, reserved_seconds: float = 0.0
) -> float:
    """Return how much of a run is done, from 0 to 1, given the duration in its settings.

    Args:
        settings: they give the duration in steps, epochs or seconds.
        step: blocks learned so far.
        seconds: spent so far.
        batches_per_epoch: of the training part.
        reserved_seconds: of a timed run, for what comes after the last block.
    """
    if settings.steps is not None:
        done = step / settings.steps
    elif settings.epochs is not None:
        done = step / max(1, round(settings.epochs * batches_per_epoch))
    else:
        done = seconds / max((settings.time or math.inf) - reserved_seconds, 1e-9)
    return min(done, 1.0)


def rate_of(settings: TrainConfig, share: float, num_epochs: float) -> float:
    """Return the share of the full learning rate at a share of a run, after so many epochs."""
    decay_fraction = settings.decay_fraction if settings.schedule in ("linear", "cosine") else 0.0
    rate = rate_share(share, settings.warmup_fraction, decay_fraction, settings.schedule == "cosine")
    if settings.schedule != "step":
        return rate
    return rate * step_share(num_epochs, settings.step_factor, settings.step_after_epochs)


def rate_share(share: float, warmup_fraction: float, decay_fraction: float, is_cosine: bool = False) -> float:
    """Return the share of the full learning rate at a share of the run: up, level, and down to 0.

    Args:
        share: how much of the run is done.
        warmup_fraction: share of the run in which the rate rises.
        decay_fraction: share of the run, at its end, in which the rate falls; 0 for none.
        is_cosine: the rate falls like half a cosine, not linearly.
    """
    rise = (share + 1e-3) / warmup_fraction if warmup_fraction else 1.0
    left = min(max((1 - share) / decay_fraction, 0.0), 1.0) if decay_fraction else 1.0
    fall = (1 - math.cos(math.pi * left)) / 2 if is_cosine else left
    return max(0.0, min(rise, fall, 1.0))


def step_share(num_epochs: float, factor: float, after_epochs: int) -> float:
    """Return the share of the full rate if it is multiplied by a factor after each epoch from one on."""
    return float(factor ** max(0, math.floor(num_epochs) - after_epochs + 1))


def is_past_multiple(before: float, now: float, every: float) -> bool:
    """Return whether a multiple of `every` lies after `before` and not after `now`."""
    # A quotient such as 0.3 / 0.1 may be slightly below 3.
    return int(now / every + 1e-9) > int(before / every + 1e-9)


def due(share_before: float, share: float, times: int) -> bool:
    """Return whether an event that happens so many times in a run happens between two shares of the run."""
    # A share such as 29/100 times 100 may be slightly below 29.
    return int(share * times + 1e-9) > int(share_before * times + 1e-9)
