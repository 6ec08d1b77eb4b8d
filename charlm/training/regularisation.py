"""Dropout and weight decay: how strong they must be so that a model does not overfit its text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from charlm.data.batches import Batches
from charlm.settings.config import Config
from charlm.training.state_types import STRICT

# A timed run must measure the pace of the machine before it knows how many epochs, and so how much dropout, it gets.
SHARE_TO_PROJECT_FROM = 0.06
# The functions below are fitted for a net with this many units in a layer.
UNITS_OF_READINGS = 512
DropoutShare = Annotated[float, Field(ge=0, le=0.95)]


@dataclass(frozen=True)
class Regularisation:
    """The strength of a run's regularisation; a part of the saved state.

    Attributes:
        dropout: share of outputs that are dropped.
        weight_dropout: share of recurrent weights that are dropped.
        weight_decay: of the recurrent layers' matrices.
        settled: whether these three are final; until a timed run knows its pace they are those of a short run.
    """

    __pydantic_config__ = STRICT

    dropout: DropoutShare
    weight_dropout: DropoutShare
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    settled: bool

    @classmethod
    def planned(cls, config: Config, num_epochs: float, *, settled: bool) -> Regularisation:
        """Return the values of the settings, and for `auto` the values that fit so many epochs."""
        auto = strengths(num_epochs, config.model.num_units)
        dropout, weight_dropout, decay = config.model.dropout, config.model.weight_dropout, config.train.weight_decay
        # If each layer has its own dropout, the settings hold it.
        for_all = 0.0 if isinstance(dropout, list) else dropout
        # Adam and the other classic optimisers have no weight decay unless it is asked for.
        auto_decay = auto.weight_decay if config.train.optimizer in ("muon", "adamw") else 0.0
        return cls(
            dropout=auto.dropout if for_all == "auto" else for_all,
            weight_dropout=auto.weight_dropout if weight_dropout == "auto" else weight_dropout,
            weight_decay=auto_decay if decay == "auto" else decay,
            settled=settled,
        )


class Projection:
    """Predicts how many blocks a timed run will learn, once the pace of the machine is known."""

    def __init__(self) -> None:
        self._marked: tuple[int, float] | None = None

    def steps(self, share: float, step: int, seconds: float, planned_seconds: float) -> float | None:
        """Return the predicted number; None while it is too early to tell.

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
        # Counted from the mark, because the first blocks of a process take far longer than all others.
        first_step, first_seconds = self._marked
        return step + (step - first_step) / (seconds - first_seconds) * (planned_seconds - seconds)


class Regulariser:
    """Plans the regularisation of a run, and settles it when the number of epochs is known."""

    def __init__(self, config: Config, batches: Batches) -> None:
        self._config, self._batches = config, batches
        self._projection = Projection()

    def plan(self, share: float, step: int, seconds: float, reserved_seconds: float) -> Regularisation | None:
        """Return the settled regularisation; None while a timed run does not know its pace yet.

        Args:
            share: how much of the run is done.
            step: blocks learned so far.
            seconds: spent so far.
            reserved_seconds: of a timed run, for what comes after its last block.
        """
        settings = self._config.train
        if settings.time is None:
            num_epochs = settings.epochs or (settings.steps or 0) / self._batches.batches_per_epoch
            return Regularisation.planned(self._config, num_epochs, settled=True)
        steps = self._projection.steps(share, step, seconds, settings.time - reserved_seconds)
        return None if steps is None else Regularisation.planned(self._config, self._batches.epoch(steps), settled=True)


class Strengths(NamedTuple):
    """The strength of regularisation."""

    dropout: float
    weight_dropout: float
    weight_decay: float


def strengths(num_epochs: float, num_units: int) -> Strengths:
    """Return the strength for a net with this many units in a layer that reads its text this many times.

    A net of half the size overfits after twice as many readings, and it bears less. On 166,000 characters of fables,
    in nats, with dropout and weight dropout in brackets:

    * 128 units: 15 readings 1.208 (0, 0), 1.229 (0.3, 0); 37 readings 1.182 (0.15, 0), 1.173 (0.3, 0); 80 readings
      1.175 (0.3, 0), 1.309 (0.6, 0.4)
    * 256 units: 10 readings 1.190 (0, 0), 1.173 (0.2, 0) and (0.4, 0), 1.217 (0.4, 0.2); 40 readings 1.173 (0.4, 0),
      1.203 (0.6, 0.4); 80 readings 1.190 (0.5, 0), 1.178 (0.6, 0.4)
    * 512 units: 19 readings 1.182 (0.5, 0), 1.128 (0.5, 0.1), 1.127 (0.6, 0.17); 40 readings 1.130 (0.6, 0.4)
    """
    size = min(1.0, num_units / UNITS_OF_READINGS)
    readings = num_epochs * size
    dropout = min(dropout_for(readings), round(0.6 * size**0.5, 2))
    weight_dropout = min(weight_dropout_for(readings), round(0.4 * max(0.0, (size - 0.25) / 0.75), 2))
    return Strengths(dropout, weight_dropout, weight_decay_for(readings))


def dropout_for(num_epochs: float) -> float:
    """Return the dropout for a text that is read this often: none up to 4 times, 0.6 from 16 times on."""
    return round(min(0.6, 0.3 * math.log2(max(1.0, num_epochs / 4))), 2)


def weight_dropout_for(num_epochs: float) -> float:
    """Return the share of recurrent weights to drop: none for a text read up to 6 times, 0.4 from 96 times on."""
    return round(min(0.4, 0.1 * math.log2(max(1.0, num_epochs / 6))), 2)


def weight_decay_for(num_epochs: float) -> float:
    """Return the decay for a text that is read this often: 0.05 up to 5 times, in proportion up to 0.1 for 10."""
    return round(0.01 * min(max(num_epochs, 5.0), 10.0), 4)
