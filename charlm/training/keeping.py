"""The small model files that a run keeps along the way: when, how many, and how large they are together."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from pathlib import Path

from charlm.settings.config import TrainConfig
from charlm.settings.durations import Interval
from charlm.training.schedule import is_past_multiple

BYTES_PER_NUMBER = 4
# A note reports kept models that take more bytes than this together.
MUCH = 1e9


class Keeper:
    """Decides after each block whether the model is kept.

    A run's progress is its steps, epochs and seconds so far.
    """

    def __init__(self, every: int | str | None) -> None:
        """Start at the beginning of a run.

        Args:
            every: the setting `train.keep_every`.
        """
        self._every = None if every is None else Interval.parse(every)
        self._before = 0.0

    def restart(self, progress: tuple[int, float, float]) -> None:
        """Continue from another progress, because the run was resumed or rolled back."""
        self._before = self._of(progress)

    def is_due(self, progress: tuple[int, float, float]) -> bool:
        """Return whether a multiple of the interval has passed since the last call."""
        before, self._before = self._before, self._of(progress)
        return self._every is not None and is_past_multiple(before, self._before, self._every.amount)

    def _of(self, progress: tuple[int, float, float]) -> float:
        units = dict(zip(("steps", "epochs", "seconds"), progress, strict=True))
        return units[self._every.unit] if self._every else 0.0


def num_kept(interval: Interval, steps: float, epochs: float, seconds: float) -> int:
    """Return how many models a run of this length keeps."""
    length = {"steps": steps, "epochs": epochs, "seconds": seconds}[interval.unit]
    # At most one after each block.
    return int(min(length / interval.amount + 1e-9, steps or math.inf))


def note_on_keeping(train: TrainConfig, num_parameters: int, batches_per_epoch: int, folder: Path) -> str | None:
    """Return a note on the space that the kept models of a run will take; None if it is little, or not known yet.

    Args:
        train: the settings of the run.
        num_parameters: of its model.
        batches_per_epoch: of its training part.
        folder: on the disk that they are written to.
    """
    if train.keep_every is None:
        return None
    steps = train.steps or (train.epochs or 0.0) * batches_per_epoch
    # A timed run does not know its steps and epochs yet.
    number = num_kept(Interval.parse(train.keep_every), steps, steps / batches_per_epoch, train.time or 0.0)
    total, free = number * BYTES_PER_NUMBER * num_parameters, math.inf
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
    if total <= min(MUCH, free):
        return None
    there = "" if total <= free else f", and the disk has {free / 1e9:,.1f} GB left"
    return f"train.keep_every {train.keep_every} keeps {number:,} models, {total / 1e9:,.1f} GB{there}"


def note_on_size(sizes: list[int]) -> str | None:
    """Return a note if the last of these files has brought their sum above `MUCH`; None otherwise."""
    total = sum(sizes)
    if not sizes or not total - sizes[-1] <= MUCH < total:
        return None
    return f"{len(sizes):,} kept models take {total / 1e9:,.1f} GB now"
