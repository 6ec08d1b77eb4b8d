"""The events of a training run, typed, in the order in which they happen.

Setting up a run, `Trainer.learn` and `measure_best` call a listener with each event. A progress bar, a plain log and a
notebook are listeners. A listener may ask the trainer to stop; what it raises ends the run where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Preparing:
    """Something is done before the first block, and may take a while.

    Attributes:
        what: as in `reading the text`.
        here: how many bytes of the text are downloaded or read; None if something else is done.
        total: how many there are; None if that is unknown.
    """

    what: str
    here: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class BlockLearned:
    """A block was learned, and its validation, record and save, if any, are done.

    Attributes:
        step: blocks learned so far.
        share: how much of the run is done, from 0 to 1.
        bits_per_character: the loss of this block; None if the block was skipped, because its numbers were not
            finite.
    """

    step: int
    share: float
    bits_per_character: float | None


@dataclass(frozen=True)
class Record:
    """A report, which is also one line of `metrics.jsonl`.

    Runs of the same settings have the same records by share of the run; their losses are those since the last record of
    that kind. Records by the clock come between them if much time passes, have `"by": "clock"`, and give the losses
    since the line before.

    Attributes:
        step: blocks learned so far.
        epoch: how often the training part has been read.
        seconds: how long the run has taken.
        train_bits_per_character: the mean loss of the blocks; None if all of them were skipped.
        smoothed_bits_per_character: the slow running mean of the losses.
        learning_rate: of the last block.
        characters_per_second: the pace of learning since the last record.
        validation_bits_per_character: with a validation, its result; None if nothing is held out.
        skipped: blocks skipped so far, because their numbers were not finite.
        by: `clock` for a record by the clock.
        gradient_norm: the mean norm of the gradient over the same blocks as the loss, before it is clipped; None if
            all of them were skipped.
        sample: with a validation, a text that the model writes now; None of a model that sees both sides, or if there
            was no time for it.
        sample_bits: the bits of each character of the sample, rounded to hundredths.
        validation_overflowed: True if the numbers of the model overflowed in a validation, which then has no result.
        new_text: True in the first record after the run was resumed on another text.
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
    gradient_norm: float | None = None
    sample: str | None = None
    sample_bits: list[float] | None = None
    validation_overflowed: bool | None = None
    new_text: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Return its fields, without those that were not measured."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Baseline:
    """The model of counts that the run has to beat, at its start; also a line of `metrics.jsonl`.

    It was counted on the training part and measured on the characters that the validations read.

    Attributes:
        order: the length of its longest n-grams, at most 7.
        bits_per_character: what it needs.
    """

    order: int
    bits_per_character: float

    @property
    def name(self) -> str:
        """Its name, as in `charlm eval`."""
        return f"{self.order}-gram Kneser-Ney"

    def to_json(self) -> dict[str, Any]:
        """Return its figure as it stands in `metrics.jsonl`."""
        return {"baseline": self.name, "baseline_bits_per_character": self.bits_per_character}


@dataclass(frozen=True)
class Validating:
    """A validation is under way.

    Attributes:
        step: blocks learned so far.
        share: how much of the validation is done, from 0 to 1.
    """

    step: int
    share: float


@dataclass(frozen=True)
class Scoring:
    """The best model is being scored at the end of the run.

    Attributes:
        share: how much is done, from 0 to 1.
    """

    share: float


@dataclass(frozen=True)
class Saved:
    """The whole state was saved to the run folder.

    Attributes:
        step: blocks learned so far.
    """

    step: int


@dataclass(frozen=True)
class RolledBack:
    """Numbers were not finite, and the run went back to its last good state.

    Attributes:
        from_step: blocks learned before.
        to_step: blocks learned in the last good state.
        rate: share of the full learning rate from now on.
    """

    from_step: int
    to_step: int
    rate: float


@dataclass(frozen=True)
class Note:
    """Something that a person should know.

    Attributes:
        message: one line.
    """

    message: str


@dataclass(frozen=True)
class Finished:
    """The loop has ended.

    Attributes:
        step: blocks learned so far.
        reason: `done`, or why the run ended early; empty if it was asked to stop and can be resumed.
    """

    step: int
    reason: str


Event = Preparing | BlockLearned | Record | Baseline | Validating | Scoring | Saved | RolledBack | Note | Finished
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event."""
