"""How far a run is, and what it reports of it. Plain values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_ROLLBACKS = 5
# What a block's loss leaves of the smoothed one, which begins as that of uniform guessing (as min-char-rnn has it).
SMOOTHING = 0.999
# JSON does not tell 1 from 1.0.
KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "float | None": (float, int, type(None)),
    "bool": (bool,),
    "str": (str,),
}
LIMITS = {"rollbacks": MAX_ROLLBACKS, "dropout": 0.95, "weight_dropout": 0.95, "weight_decay": 10}


@dataclass
class Progress:
    """How far a run is: all of its state besides arrays, so that writing it down is enough to go on exactly.

    Attributes:
        step: blocks learned.
        seconds: time spent learning, evaluations included.
        best_bits: best validation so far, in bits per character.
        evaluations_without_gain: how many came since.
        nats: sum of the losses since the last record, over `num_losses` blocks.
        num_losses: blocks since the last record.
        smoothed_nats: running mean of the losses, slow and from the beginning.
        skipped: blocks left out because their loss or gradient was not finite.
        skipped_in_a_row: those of them that came last.
        rollbacks: how often the run went back to its last good state with half the rate.
        dropout: share of outputs left out.
        weight_dropout: share of recurrent weights left out.
        weight_decay: of the recurrent layers' matrices.
        settled: whether these three are final: until a timed run knows its pace they are those of a short one.
        reserved_seconds: of a timed run, kept for what comes after its last block; 0 before that is known.
        evaluation_characters: how many characters a validation of a timed run may read; 0 for what the settings say.
        finished: why the run is over; empty while it is not.
    """

    step: int = 0
    seconds: float = 0.0
    best_bits: float | None = None
    evaluations_without_gain: int = 0
    nats: float = 0.0
    num_losses: int = 0
    smoothed_nats: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    rollbacks: int = 0
    dropout: float = 0.0
    weight_dropout: float = 0.0
    weight_decay: float = 0.0
    settled: bool = False
    reserved_seconds: float = 0.0
    evaluation_characters: int = 0
    finished: str = ""

    def count(self, nats: float) -> None:
        """Count a block that was learned, by its loss."""
        self.nats += nats
        self.num_losses += 1
        self.smoothed_nats += (1 - SMOOTHING) * (nats - self.smoothed_nats)
        self.skipped_in_a_row = 0

    def skip(self) -> None:
        """Count a block that was left out."""
        self.skipped += 1
        self.skipped_in_a_row += 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Make it of what was written down.

        Raises:
            TypeError: a value is missing, unknown, or not of its kind.
            ValueError: a number is out of its bounds.
        """
        progress = cls(**values)
        for field in fields(cls):
            value = getattr(progress, field.name)
            if field.name not in values or type(value) not in KINDS[str(field.type)]:
                raise TypeError(f"`{field.name}` is missing or is not `{field.type}`")
            if isinstance(value, int | float) and not 0 <= value <= LIMITS.get(field.name, 1e12):
                raise ValueError(f"`{field.name}` is not between 0 and {LIMITS.get(field.name, 1e12):g}")
        return progress


@dataclass
class Losses:
    """Losses of blocks, to be averaged.

    Attributes:
        nats: their sum.
        count: how many they are.
    """

    nats: float = 0.0
    count: int = 0

    def add(self, nats: float) -> None:
        """Count a block that was learned, by its loss."""
        self.nats += nats
        self.count += 1

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return self.nats / self.count if self.count else None


@dataclass(frozen=True)
class Record:
    """One line of `metrics.jsonl`.

    Those by share of the run come in every run of the same settings, and their losses are those since the one before
    of that kind. Those by the clock come between them where much time goes by, say `"by": "clock"`, and have the losses
    since the line before.
    """

    step: int
    epoch: float
    seconds: float
    train_bits_per_character: float | None
    smoothed_bits_per_character: float
    learning_rate: float
    characters_per_second: float
    validation_bits_per_character: float | None = None
    skipped: int = 0
    by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return its fields, without those that were not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}
