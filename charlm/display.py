"""What a person sees of a training run: a live line on a terminal, plain lines elsewhere. Writes to stderr only."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from charlm.errors import ModelFileError
from charlm.output import ESCAPED
from charlm.progress import Record
from charlm.sample import Choice, joined, start, stream
from charlm.stepper import Stepper
from charlm.train import BITS, RECORDS_PER_EVALUATION, Training

# A line of what it writes so far, below each validation on a terminal.
GLIMPSE_LENGTH = 100
GLIMPSE_TEMPERATURE = 0.7
# The sample that `train.sample_every` asks for.
SAMPLE_LENGTH = 200


class TrainingDisplay:
    """Shows records as they come; between them a bar moves, where there is a terminal."""

    def __init__(self, training: Training) -> None:
        self._training = training
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
        self._can_validate = len(training.parts.validation) > 0
        self._unit = "byte" if training.corpus.vocabulary.kind == "bytes" else "char"
        # What sees both sides of a character fills blanks and writes nothing.
        self._can_write = training.config.model.direction != "both"
        self._per = self._unit if self._can_write else f"masked {self._unit}"
        self._num_shown = 0
        # Where a run is taken up again, the sample has been seen.
        self._sampled_at = training.progress.step
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tick(self) -> None:
        """Move the bar to where the run is, and show a sample where the settings ask for one now and then."""
        self._bar.update(self._task, completed=self._training.share)
        every, step = self._training.config.train.sample_every, self._training.progress.step
        if every and step % every == 0 and step != self._sampled_at:
            self._sampled_at = step
            smoothed = f"smoothed {self._training.progress.smoothed_nats * BITS:.3f} bits/{self._unit}"
            self.say(f"--- step {step:,}, {smoothed}\n{self._sample(SAMPLE_LENGTH).translate(ESCAPED)}\n---")

    def show(self, record: Record) -> None:
        """Show a record; those with a validation stay on the screen."""
        bits = record.train_bits_per_character
        train = "train -" if bits is None else f"train {bits:.3f}"
        pace = f"{record.characters_per_second:,.0f} {self._unit}s/s"
        self._bar.update(self._task, description=f"{train} bits/{self._per}, {pace}")
        self._num_shown += 1
        validation = record.validation_bits_per_character
        if validation is not None or (not self._can_validate and self._num_shown % RECORDS_PER_EVALUATION == 0):
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
        choice = Choice(GLIMPSE_TEMPERATURE)
        try:
            pieces = stream(stepper, *start(stepper, ""), length=length, choice=choice, seeds=[0])
            return joined(stepper, pieces, "", 1)[0]
        except ModelFileError:
            # A state without bounds, left to itself; the run may yet learn to hold it.
            return "(it cannot write yet: its numbers overflow)"

    def say(self, message: str) -> None:
        """Write a line above the bar."""
        if self._console.is_terminal:
            self._console.print(message, soft_wrap=True)
        else:
            print(message, file=sys.stderr, flush=True)
