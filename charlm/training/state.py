"""The saved progress of a run, without the arrays. Plain values only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from charlm.training.best import Best
from charlm.training.recovery import Recovery
from charlm.training.regularisation import Regularisation
from charlm.training.state_types import MAX_NUMBER, STRICT, Count, Number

# The share of the smoothed loss that each block keeps. It starts as the loss of uniform guessing, as in min-char-rnn.
SMOOTHING = 0.999


@dataclass
class TrainState:
    """The progress of a run: with this and the arrays a run resumes exactly.

    A model file stores all values under flat names, including those of the three parts.

    Attributes:
        step: blocks learned.
        seconds: time spent learning, evaluations included.
        nats: sum of the losses since the last record by share of the run, over `num_losses` blocks.
        num_losses: blocks learned since that record.
        gradient_norms: sum of the norms of their gradients; None in the state of an old run, up to its next record.
        smoothed_nats: running mean of the losses, slow and from the start of the run.
        reserved_seconds: in a timed run, the time kept for the work after its last block; 0 before that is known.
        evaluation_characters: how many characters a validation of a timed run may read; 0 for the setting's number.
        finished: why the run is over; empty until it is.
        best: the best validation and how long ago it was.
        regularisation: the strength of regularisation.
        recovery: the failures so far.
    """

    __pydantic_config__ = STRICT

    step: Count
    seconds: Number
    nats: Number
    num_losses: Count
    gradient_norms: Number | None
    smoothed_nats: Number
    reserved_seconds: Number
    evaluation_characters: Count
    finished: str
    best: Best
    regularisation: Regularisation
    recovery: Recovery

    @classmethod
    def at_start(cls, smoothed_nats: float, regularisation: Regularisation) -> TrainState:
        """Return the state before the first block."""
        return cls(
            step=0,
            seconds=0.0,
            nats=0.0,
            num_losses=0,
            gradient_norms=0.0,
            smoothed_nats=smoothed_nats,
            reserved_seconds=0.0,
            evaluation_characters=0,
            finished="",
            best=Best(None, 0),
            regularisation=regularisation,
            recovery=Recovery(0, 0, 0),
        )

    @property
    def losses(self) -> Losses:
        """The losses since the last record by share of the run."""
        return Losses(self.nats, self.num_losses, self.gradient_norms)

    def recorded(self) -> None:
        """Start a new record by share of the run."""
        self.nats, self.num_losses, self.gradient_norms = 0.0, 0, 0.0

    def count(self, nats: float | None, gradient_norm: float = 0.0) -> None:
        """Count a block by its loss, None if it was skipped, and by the norm of its gradient."""
        self.step += 1
        if nats is None:
            self.recovery.skip()
            return
        self.recovery.learned()
        self.nats += nats
        self.num_losses += 1
        if self.gradient_norms is not None:
            self.gradient_norms = min(self.gradient_norms + gradient_norm, MAX_NUMBER)
        self.smoothed_nats += (1 - SMOOTHING) * (nats - self.smoothed_nats)

    def to_json(self) -> dict[str, Any]:
        """Return all values by flat names, including those of the parts."""
        values = asdict(self)
        for part in PARTS:
            values |= values.pop(part)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainState:
        """Read back what `to_json` returned.

        Raises:
            ValueError: a value is missing, unknown, not of its type, or out of its bounds.
        """
        if unknown := PARTS.keys() & values.keys():
            raise ValueError(f"`{min(unknown)}` is the name of a part")
        nested = dict(values)
        for name, part in PARTS.items():
            names = [field.name for field in fields(part) if field.name in nested]
            nested[name] = {name: nested.pop(name) for name in names}
        try:
            # Values pass through JSON, because strict validation accepts a group of values as a part only from JSON.
            return TypeAdapter(cls).validate_json(json.dumps(nested))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"`{'.'.join(map(str, first['loc'][-1:]))}`: {first['msg']}") from error


PARTS: dict[str, type[Best | Regularisation | Recovery]] = {
    "best": Best,
    "regularisation": Regularisation,
    "recovery": Recovery,
}


@dataclass
class Losses:
    """Sums over blocks of their losses and of the norms of their gradients, to be averaged.

    Attributes:
        nats: the sum of the losses.
        count: the number of blocks.
        gradient_norms: the sum of the norms; None if not all of them are known.
    """

    nats: float = 0.0
    count: int = 0
    gradient_norms: float | None = 0.0

    def add(self, nats: float, gradient_norm: float) -> None:
        """Count the loss of a block and the norm of its gradient."""
        self.nats += nats
        self.count += 1
        if self.gradient_norms is not None:
            self.gradient_norms += gradient_norm

    @property
    def mean(self) -> float | None:
        """The mean loss; None if there are no blocks."""
        return self.nats / self.count if self.count else None

    @property
    def mean_gradient_norm(self) -> float | None:
        """The mean norm; None if there are no blocks, or if it is not known."""
        return self.gradient_norms / self.count if self.count and self.gradient_norms is not None else None
