"""What a person sees while a run trains: a live line on a terminal, plain lines elsewhere. Writes to stderr only.

The displays listen to the events of a run.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from charlm.cli.render import ESCAPED
from charlm.errors import ModelFileError, counted
from charlm.inference.generate import generate
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.training.decisions import RECORDS_PER_EVALUATION
from charlm.training.events import BlockLearned, Event, Note, Record, RolledBack, Scoring, Validating
from charlm.training.schedule import Clock, Every
from charlm.training.trainer import BITS, Trainer

# The length of the sample below each validation on a terminal.
GLIMPSE_LENGTH = 100
GLIMPSE_TEMPERATURE = 0.7
# The length of the sample that `train.sample_every` asks for.
SAMPLE_LENGTH = 200
# Without a bar, the longest time between two lines, and to the first line.
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 5.0
SCORING = "scoring the best model on what was held out"


class _Display:
    """A bar on a terminal with lines above it; elsewhere lines alone."""

    def __init__(self, description: str, clock: Clock, share: float = 0.0) -> None:
        self._clock = clock
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = Progress(
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(description, total=1.0)
        self._bar.update(self._task, completed=share)
        self._lines = Every(LINE_SECONDS, clock.seconds, FIRST_LINE_SECONDS)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Write a line above the bar."""
        if self._console.is_terminal:
            self._console.print(message, soft_wrap=True)
        else:
            print(message, file=sys.stderr, flush=True)

    def _say_now_and_then(self, message: str) -> None:
        seconds = self._clock.seconds
        if self._lines.is_due(seconds) and not self._console.is_terminal:
            self._lines.done(seconds)
            self.say(message)


class ScoringDisplay(_Display):
    """Shows how much of a text is scored, if that takes long."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(SCORING, clock or Clock())

    def show(self, event: Event) -> None:
        """Show an event of a scoring."""
        if isinstance(event, Scoring):
            self._bar.update(self._task, completed=event.share)
            self._say_now_and_then(f"{SCORING}, {event.share:.0%} done")


class TrainingDisplay(_Display):
    """Shows records as they come; on a terminal a bar moves between them."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__("", trainer.clock, trainer.share)
        self._trainer = trainer
        self._can_validate = len(trainer.learner.parts.validation) > 0
        self._unit = "byte" if trainer.corpus.vocabulary.kind == "bytes" else "char"
        # A model that sees both sides of a character fills blanks and writes nothing.
        self._can_write = not trainer.learner.model.spec.sees_both_sides
        self._per = self._unit if self._can_write else f"masked {self._unit}"
        self._num_by_share = 0
        self._record: Record | None = None

    def show(self, event: Event) -> None:
        """Show an event of a run."""
        match event:
            case Record():
                # Shown after the block, when it is saved. Records during a validation are not shown.
                self._record = event
            case BlockLearned():
                self._show_block(event)
            case Validating():
                self._bar.update(self._task, description=f"validation, {event.share:.0%} done")
                line = f"{self._clock.seconds:6.1f} s  step {event.step:,}  validation, {event.share:.0%} done"
                self._say_now_and_then(line)
            case RolledBack():
                self.say(
                    f"numbers were not finite at step {event.from_step:,}: back to step {event.to_step:,}, "
                    f"at 1/{1 / event.rate:.0f} of the learning rate"
                )
            case Note():
                self.say(event.message)

    def _show_block(self, block: BlockLearned) -> None:
        """Show the record that came with a block, move the bar, and show a sample if the settings ask for one."""
        if self._record:
            self._show_record(self._record)
            self._record = None
        self._bar.update(self._task, completed=block.share)
        every, state = self._trainer.config.train.sample_every, self._trainer.state
        # At the end of the run a sample is shown anyway.
        if every and block.step % every == 0 and not state.finished:
            smoothed = f"smoothed {state.smoothed_nats * BITS:.3f} bits/{self._unit}"
            self.say(f"--- step {block.step:,}, {smoothed}\n{self._sample(SAMPLE_LENGTH).translate(ESCAPED)}\n---")

    def _show_record(self, record: Record) -> None:
        """Show a record. One with a validation stays on the screen; without a bar, some of the others are shown too."""
        bits = record.train_bits_per_character
        train = "train -" if bits is None else f"train {bits:.3f}"
        pace = f"{record.characters_per_second:,.0f} {self._unit}s/s"
        self._bar.update(self._task, description=f"{train} bits/{self._per}, {pace}")
        self._num_by_share += record.by is None
        validation = record.validation_bits_per_character
        is_in_place_of_validation = (
            record.by is None and not self._can_validate and self._num_by_share % RECORDS_PER_EVALUATION == 0
        )
        is_line_due = self._lines.is_due(record.seconds) and not self._console.is_terminal
        if validation is not None or is_in_place_of_validation or is_line_due:
            self._lines.done(record.seconds)
            measured = "" if validation is None else f", validation {validation:.3f}"
            best = self._trainer.state.best.best_bits
            if validation is not None and best is not None and best < validation:
                measured += f" (best {best:.3f})"
            skipped = f", {counted(record.skipped, 'block')} skipped" if record.skipped else ""
            self.say(
                f"{record.seconds:6.1f} s  step {record.step:,}  epoch {record.epoch:.2f}  "
                f"{train}{measured} bits/{self._per}, {pace}{skipped}"
            )
            if self._console.is_terminal and self._can_write:
                self._console.print(f"  {self._glimpse()}", style="dim", overflow="ellipsis", no_wrap=True)

    def _glimpse(self) -> str:
        """Return a line of the model's current text."""
        text = self._sample(GLIMPSE_LENGTH)
        return "".join(character if character.isprintable() else " " for character in text)

    def _sample(self, length: int) -> str:
        try:
            stepper, sampling = Stepper(self._trainer.model_file()), Sampling(GLIMPSE_TEMPERATURE)
            return generate(stepper, "", length=length, sampling=sampling, seeds=[0]).texts()[0]
        except ModelFileError:
            # A state without bounds may overflow; the run may yet learn to avoid it.
            return "(it cannot write yet: its numbers overflow)"
