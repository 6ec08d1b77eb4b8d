"""What a person sees of a training run: a live line on a terminal, plain lines elsewhere. Writes to stderr only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from charlm.cli.render import ESCAPED
from charlm.errors import ModelFileError
from charlm.inference.generate import Sampling, generate
from charlm.inference.stepper import Stepper
from charlm.training.schedule import Clock, Every
from charlm.training.state import Record
from charlm.training.trainer import BITS, RECORDS_PER_EVALUATION, Training

# A line of what it writes so far, below each validation on a terminal.
GLIMPSE_LENGTH = 100
GLIMPSE_TEMPERATURE = 0.7
# The sample that `train.sample_every` asks for.
SAMPLE_LENGTH = 200
# Where there is no bar, the longest time between two lines, and to the first.
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 5.0
SCORING = "scoring the best model on what was held out"


class _Display:
    """A bar on a terminal with lines above it; elsewhere lines alone."""

    def __init__(self, description: str, clock: Clock) -> None:
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
    """Shows how much of a text is scored, where that takes long."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(SCORING, clock or Clock())

    def show(self, share: float) -> None:
        """Show how much is done, from 0 to 1."""
        self._bar.update(self._task, completed=share)
        self._say_now_and_then(f"{SCORING}, {share:.0%} done")


class TrainingDisplay(_Display):
    """Shows records as they come; between them a bar moves, where there is a terminal."""

    def __init__(self, training: Training) -> None:
        super().__init__("", training.clock)
        self._training = training
        self._can_validate = len(training.parts.validation) > 0
        self._unit = "byte" if training.corpus.vocabulary.kind == "bytes" else "char"
        # What sees both sides of a character fills blanks and writes nothing.
        self._can_write = not training.model.spec.sees_both_sides
        self._per = self._unit if self._can_write else f"masked {self._unit}"
        self._num_by_share = 0
        # Where a run is taken up again, the sample has been seen.
        self._sampled_at = training.progress.step

    def tick(self) -> None:
        """Move the bar to where the run is, and show a sample where the settings ask for one now and then."""
        self._bar.update(self._task, completed=self._training.share)
        every, step = self._training.config.train.sample_every, self._training.progress.step
        if every and step % every == 0 and step != self._sampled_at:
            self._sampled_at = step
            smoothed = f"smoothed {self._training.progress.smoothed_nats * BITS:.3f} bits/{self._unit}"
            self.say(f"--- step {step:,}, {smoothed}\n{self._sample(SAMPLE_LENGTH).translate(ESCAPED)}\n---")

    def watch(self, share: float) -> None:
        """Show how far a validation is, where that takes long."""
        self._bar.update(self._task, description=f"validation, {share:.0%} done")
        seconds, step = self._clock.seconds, self._training.progress.step
        self._say_now_and_then(f"{seconds:6.1f} s  step {step:,}  validation, {share:.0%} done")

    def show(self, record: Record) -> None:
        """Show a record; those with a validation stay on the screen, and without a bar others now and then."""
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
            best = self._training.progress.best_bits
            if validation is not None and best is not None and best < validation:
                measured += f" (best {best:.3f})"
            skipped = f", {record.skipped} blocks skipped" if record.skipped else ""
            self.say(
                f"{record.seconds:6.1f} s  step {record.step:,}  epoch {record.epoch:.2f}  "
                f"{train}{measured} bits/{self._per}, {pace}{skipped}"
            )
            if self._console.is_terminal and self._can_write:
                self._console.print(f"  {self._glimpse()}", style="dim", overflow="ellipsis", no_wrap=True)

    def _glimpse(self) -> str:
        """Return a line of what the model writes by now."""
        text = self._sample(GLIMPSE_LENGTH)
        return "".join(character if character.isprintable() else " " for character in text)

    def _sample(self, length: int) -> str:
        stepper = Stepper(self._training.snapshot())
        sampling = Sampling(GLIMPSE_TEMPERATURE)
        try:
            return generate(stepper, "", length=length, sampling=sampling, seeds=[0]).texts()[0]
        except ModelFileError:
            # A state without bounds, left to itself; the run may yet learn to hold it.
            return "(it cannot write yet: its numbers overflow)"
