"""When what happens in a run, and how strongly: shares of the run, learning rate, dropout, pace. Knows no model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from charlm.config import TrainConfig

# A timed run must see how fast the machine is before it can tell how many epochs, and so how much dropout, it gets.
SHARE_TO_PROJECT_FROM = 0.06


class Clock:
    """Seconds of a run from the moment this is made, unmoved by changes of the system's time.

    Attributes:
        now: seconds from any moment, that only grow.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._began, self._before = now(), 0.0

    def go_on_from(self, seconds: float) -> None:
        """Count what the run had taken before this was made."""
        self._before = seconds

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return self._before + self.now() - self._began


class Every:
    """Tells when something is due that must happen every so many seconds, by looking now and then.

    It is due when the next look would come too late, if that is as far off as the last one.
    """

    def __init__(self, every_seconds: float, seconds: float, first_seconds: float | None = None) -> None:
        """Begin.

        Args:
            every_seconds: the longest time between two.
            seconds: what the clock shows now.
            first_seconds: the longest time to the first; as to the others where None.
        """
        self._every = every_seconds
        self._looked_at = seconds
        self._limit = seconds + (every_seconds if first_seconds is None else first_seconds)

    def is_due(self, seconds: float, ahead: float = 0.0) -> bool:
        """Look, and tell whether it is due.

        Args:
            seconds: what the clock shows now.
            ahead: seconds that the time to the next look may be longer than that since the last one.
        """
        gap, self._looked_at = seconds - self._looked_at, seconds
        return seconds + gap + ahead > self._limit

    def done(self, seconds: float) -> None:
        """Count from now on, for it has happened."""
        self._limit = seconds + self._every


class Pace:
    """Characters per second of learning, from one measurement to the next.

    Attributes:
        last: what was measured last.
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
        """Leave out the time since the last measurement."""
        self._seconds = self._clock.seconds


class Projection:
    """Tells how many blocks a timed run will learn, once it has seen how fast the machine is."""

    def __init__(self) -> None:
        self._marked: tuple[int, float] | None = None

    def steps(self, share: float, step: int, seconds: float, planned_seconds: float) -> float | None:
        """Return how many; None while it is too early to tell.

        Args:
            share: how much of the run is done.
            step: blocks learned so far.
            seconds: spent on them.
            planned_seconds: of the whole run.
        """
        if self._marked is None and share >= SHARE_TO_PROJECT_FROM / 2:
            self._marked = (step, seconds)
        if self._marked is None or share < SHARE_TO_PROJECT_FROM or step == self._marked[0]:
            return None
        # From there to here, for the first blocks of a process take far longer than all others.
        first_step, first_seconds = self._marked
        return step + (step - first_step) / (seconds - first_seconds) * (planned_seconds - seconds)


def share_of(
    settings: TrainConfig, step: int, seconds: float, batches_per_epoch: int, reserved_seconds: float = 0.0
) -> float:
    """Return how much of a run is done, from 0 to 1, by what its settings say of how long it is.

    Args:
        settings: they say it in steps, epochs or seconds.
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
        warmup_fraction: of the run in which it rises.
        decay_fraction: of the run, at its end, in which it falls; 0 for none.
        is_cosine: falls as half a cosine does, not in a line.
    """
    rise = (share + 1e-3) / warmup_fraction if warmup_fraction else 1.0
    left = min(max((1 - share) / decay_fraction, 0.0), 1.0) if decay_fraction else 1.0
    fall = (1 - math.cos(math.pi * left)) / 2 if is_cosine else left
    return max(0.0, min(rise, fall, 1.0))


def step_share(num_epochs: float, factor: float, after_epochs: int) -> float:
    """Return the share of the full rate where it is multiplied by a factor at the end of each epoch from one on."""
    return float(factor ** max(0, math.floor(num_epochs) - after_epochs + 1))


def due(share_before: float, share: float, times: int) -> bool:
    """Tell whether something that happens so many times in a run happens between two shares of it."""
    # A share such as 29/100 times 100 may come out a hair below 29.
    return int(share * times + 1e-9) > int(share_before * times + 1e-9)


# What the three functions below are fitted for.
UNITS_OF_READINGS = 512


class HeldBack(NamedTuple):
    """What keeps a model from learning its text by heart."""

    dropout: float
    weight_dropout: float
    weight_decay: float


def held_back(num_epochs: float, num_units: int) -> HeldBack:
    """Return how strongly, for a text that is read so often by a net with so many units in a layer.

    A net of half the size learns by heart after twice as many readings. On 166,000 characters of fables, in nats: 128
    units, 15 readings, 1.208 without dropout, 1.229 with 0.3; 37 readings, 1.182 with 0.15, 1.173 with 0.3; 256 units,
    5 readings, 1.207 without, 1.215 with 0.15; 10 readings, 1.190 without, 1.173 with 0.2 and with 0.4.
    """
    readings = num_epochs * min(1.0, num_units / UNITS_OF_READINGS)
    return HeldBack(dropout_for(readings), weight_dropout_for(readings), weight_decay_for(readings))


def dropout_for(num_epochs: float) -> float:
    """Return how much to leave out for a text that is read so often: nothing up to 4 times, 0.6 from 16 times on."""
    return round(min(0.6, 0.3 * math.log2(max(1.0, num_epochs / 4))), 2)


def weight_dropout_for(num_epochs: float) -> float:
    """Return the share of recurrent weights to leave out: none for a text read up to 10 times, 0.4 from 20 times on."""
    return round(min(0.4, 0.4 * math.log2(max(1.0, num_epochs / 10))), 2)


def weight_decay_for(num_epochs: float) -> float:
    """Return the decay for a text that is read so often: 0.05 up to 5 times, in proportion up to 0.1 for 10."""
    return round(0.01 * min(max(num_epochs, 5.0), 10.0), 4)
