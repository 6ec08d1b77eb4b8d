"""The plain lines of a run that trains, and how far a scoring is. Writes to stderr only.

The displays listen to the events of a run. The lines themselves are laid out by functions that know only a width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from charlm.cli.layout import Field, clock_text, fitted, screen_width, wrapped
from charlm.cli.render import escaped
from charlm.cli.screen import may_draw
from charlm.errors import ModelFileError, counted
from charlm.inference.generate import generate
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.training.decisions import RECORDS_PER_EVALUATION
from charlm.training.events import BlockLearned, Event, Note, Record, RolledBack, Scoring, Validating
from charlm.training.schedule import Clock, Every
from charlm.training.trainer import BITS, Trainer

# Of the sample that `train.sample_every` asks for.
SAMPLE_LENGTH, SAMPLE_TEMPERATURE = 200, 0.7
# Without a bar, the longest time between two lines, and to the first line.
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 5.0
SCORING = "scoring the best model"
# Narrower terminals have no room for a bar beside the figures.
BAR_WIDTH, LEAST_WIDTH_WITH_BAR = 12, 60


def progress_line(
    share: float, seconds: float, seconds_left: float | None, details: Sequence[str], width: int | None
) -> str:
    """Lay out how far something is.

    Args:
        share: how much is done, from 0 to 1.
        seconds: how long it has taken.
        seconds_left: how long it will still take, if that is known.
        details: further facts; the last ones are dropped first.
        width: the most cells of the line.
    """
    left = "" if seconds_left is None else f", {clock_text(seconds_left)} left"
    fields = [Field(f"{share:4.0%}"), Field(f"{clock_text(seconds)} elapsed{left}")]
    return fitted([*fields, *(Field(text, rank) for rank, text in enumerate(details, start=1))], width)


def record_line(
    record: Record,
    share: float,
    seconds_left: float | None,
    best: float | None,
    unit: str,
    width: int | None,
) -> str:
    """Lay out a record, so that those of a run stand in line: what only some of them have comes last.

    Args:
        record: what was measured; its figures are in bits per character.
        share: how much of the run is done, from 0 to 1.
        seconds_left: how long it will still take, if that is known.
        best: the best validation so far.
        unit: `char` or `byte`.
        width: the most cells of the line.
    """
    train, valid = record.train_bits_per_character, record.validation_bits_per_character
    is_worse = valid is not None and best is not None and best < valid
    fields = [
        Field(f"{clock_text(record.seconds):>7}", 5),
        Field(f"step {record.step:>7,}"),
        Field(f"epoch {record.epoch:>6.2f}", 7),
        Field(f"{share:4.0%}", 2),
        Field("" if seconds_left is None else f"{clock_text(seconds_left):>7} left", 3, size=12),
        Field(f"{record.characters_per_second:>9,.0f} {unit}s/s", 6),
        Field("train     -" if train is None else f"train {train:.3f}", 1),
        Field("" if valid is None else f"valid {valid:.3f}", size=11),
        Field(f"best {best:.3f}" if is_worse else "", 4, size=10),
        Field(f"{counted(record.skipped, 'block')} skipped" if record.skipped else ""),
    ]
    return fitted(fields, width)


class _Display:
    """What all displays do: they write lines on standard error and know how long the rest will take."""

    def __init__(self, clock: Clock, share: float = 0.0, budget: float | None = None) -> None:
        self._clock, self._budget = clock, budget
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._began, self._share, self._share_at_start = clock.seconds, share, share
        self._lines = Every(LINE_SECONDS, clock.seconds, FIRST_LINE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def say(self, message: str) -> None:
        """Write a line."""
        if self._console.is_terminal:
            for line in message.split("\n"):
                self._console.print("\n".join(wrapped(line, self._width)), soft_wrap=True)
        else:
            print(message, file=sys.stderr, flush=True)

    @property
    def _width(self) -> int | None:
        return screen_width(sys.stderr)

    @property
    def _seconds_left(self) -> float | None:
        """How long the rest will take: of a timed run what is left of its time, of any other at the pace so far."""
        if self._budget is not None:
            return max(self._budget - self._clock.seconds, 0.0)
        done = self._share - self._share_at_start
        return (self._clock.seconds - self._began) * (1 - self._share) / done if done > 0 else None

    def _say_now_and_then(self, message: str) -> None:
        seconds = self._clock.seconds
        if self._lines.is_due(seconds):
            self._lines.done(seconds)
            self.say(message)


class _Status(ProgressColumn):
    """The text beside a bar, laid out anew whenever it is drawn."""

    def __init__(self, line: Callable[[], str]) -> None:
        self._line = line
        super().__init__()

    def render(self, task: Task) -> Text:
        """Return the text."""
        return Text(self._line(), no_wrap=True, overflow="ellipsis")


class ScoringDisplay(_Display):
    """Shows how much of a text is scored, if that takes long: in a bar where it can be redrawn, elsewhere in lines."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock or Clock())
        self._has_bar = may_draw(sys.stderr)
        self._bar_width = BAR_WIDTH if (self._width or 0) >= LEAST_WIDTH_WITH_BAR else 0
        self._bar = Progress(
            *([BarColumn(bar_width=BAR_WIDTH)] if self._bar_width else []),
            _Status(self._status),
            console=self._console,
            transient=True,
            disable=not self._has_bar,
        )
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Show an event of a scoring."""
        if isinstance(event, Scoring):
            self._share = event.share
            self._bar.update(self._task, completed=event.share)
            if not self._has_bar:
                self._say_now_and_then(f"{SCORING} on the held-out text, {event.share:.0%} done")

    def _status(self) -> str:
        width = (self._width or 0) - self._bar_width - 1
        return progress_line(self._share, self._clock.seconds, self._seconds_left, [SCORING], width)


class TrainingDisplay(_Display):
    """Writes a line for each validation and, if lines are all that there is to see, now and then another one."""

    def __init__(self, trainer: Trainer, are_lines_all: bool = True) -> None:
        """Prepare for a run.

        Args:
            trainer: of the run.
            are_lines_all: whether nothing else shows how far the run is, and what it writes.
        """
        super().__init__(trainer.clock, trainer.share, trainer.config.train.time)
        self._trainer, self._are_lines_all = trainer, are_lines_all
        self._num_held_out = len(trainer.learner.parts.validation)
        self._unit = "byte" if trainer.corpus.vocabulary.kind == "bytes" else "char"
        # A model that sees both sides of a character fills blanks and writes nothing.
        self._can_write = not trainer.learner.model.spec.sees_both_sides
        self._num_by_share = 0
        self._record: Record | None = None
        self._has_legend = False

    def notify(self, message: str) -> None:
        """Say what the user has to know now."""
        self.say(message)

    def show(self, event: Event) -> None:
        """Show an event of a run."""
        match event:
            case Record():
                # Shown after the block, when it is saved. Records during a validation are not shown.
                self._record = event
            case BlockLearned():
                self._show_block(event)
            case Validating() if self._are_lines_all:
                so_far = f"{clock_text(self._clock.seconds):>7}  step {event.step:>7,}"
                self._say_now_and_then(f"{so_far}  validation, {event.share:.0%} done")
            case RolledBack():
                self.say(
                    f"numbers were not finite at step {event.from_step:,}: back to step {event.to_step:,}, "
                    f"at 1/{1 / event.rate:.0f} of the learning rate"
                )
            case Note():
                self.say(event.message)

    def _show_block(self, block: BlockLearned) -> None:
        """Show the record that came with a block, and a sample if the settings ask for one."""
        self._share = block.share
        if self._record:
            self._show_record(self._record)
            self._record = None
        every, state = self._trainer.config.train.sample_every, self._trainer.state
        # At the end of the run a sample is shown anyway.
        if every and block.step % every == 0 and not state.finished:
            smoothed = f"smoothed {state.smoothed_nats * BITS:.3f} bits/{self._unit}"
            self._show_sample(block.step, smoothed, self._sample())

    def _show_sample(self, step: int, smoothed: str, text: str) -> None:
        self.say(f"--- step {step:,}, {smoothed}\n{escaped(text)}\n---")

    def _show_record(self, record: Record) -> None:
        """Show a record with a validation, and some of the others."""
        self._num_by_share += record.by is None
        validation = record.validation_bits_per_character
        is_in_place_of_validation = (
            record.by is None and self._num_held_out == 0 and self._num_by_share % RECORDS_PER_EVALUATION == 0
        )
        is_line_due = self._are_lines_all and self._lines.is_due(record.seconds)
        if validation is not None or is_in_place_of_validation or is_line_due:
            self._lines.done(record.seconds)
            self._say_legend()
            best = self._trainer.state.best.best_bits
            self.say(record_line(record, self._share, self._seconds_left, best, self._unit, self._width))
            if self._are_lines_all and self._console.is_terminal and record.sample:
                glimpse = "".join(character if character.isprintable() else " " for character in record.sample)
                self._console.print(f"  {glimpse}", style="dim", overflow="ellipsis", no_wrap=True)

    def _say_legend(self) -> None:
        """Say once what the figures in the lines are."""
        if not self._has_legend:
            self._has_legend = True
            vocabulary = self._trainer.corpus.vocabulary
            alone = " of the net alone" if self._trainer.learner.counting.order else ""
            per = vocabulary.scored_unit(not self._can_write) + alone
            message = f"train and valid in bits per {per}, lower is better"
            if not self._num_held_out:
                message = f"train in bits per {per}, lower is better"
            elif measured := self._trainer.validation.described(self._trainer.state.evaluation_characters):
                message += f"; valid on {measured} of the {self._num_held_out:,} {vocabulary.unit}s held out"
            self.say(message)

    def _sample(self) -> str:
        try:
            stepper, sampling = Stepper(self._trainer.model_now()), Sampling(SAMPLE_TEMPERATURE)
            return generate(stepper, "", length=SAMPLE_LENGTH, sampling=sampling, seeds=[0]).texts()[0]
        except ModelFileError:
            # A state without bounds may overflow; the run may yet learn to avoid it.
            return "(it cannot write yet: its numbers overflow)"
