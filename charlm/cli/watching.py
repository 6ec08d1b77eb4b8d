"""Shows a run that trains: on the screen of a terminal that can be redrawn, elsewhere in plain lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.text import Text

from charlm.cli.cockpit import Judged, View, cockpit_lines, summary_lines
from charlm.cli.layout import clock_text
from charlm.cli.live import TrainingDisplay
from charlm.cli.plot import BRAILLE, DASH
from charlm.cli.render import can_show
from charlm.cli.run_history import History, Written
from charlm.cli.screen import may_draw, shown, size_of
from charlm.cli.shades import FEW_COLOURS, style_for
from charlm.training.events import (
    Baseline,
    BlockLearned,
    Event,
    Finished,
    Note,
    Preparing,
    Record,
    RolledBack,
    Saved,
    Validating,
)
from charlm.training.trainer import Trainer


def watch(trainer: Trainer, judge: Callable[[Trainer], Judged]) -> TrainingDisplay:
    """Return a display for a run.

    Args:
        trainer: of the run.
        judge: returns what to make of it so far.
    """
    return Cockpit(trainer, judge) if may_draw(sys.stderr) else TrainingDisplay(trainer)


class Cockpit(TrainingDisplay):
    """Shows a run on the whole screen; its lines and its curves remain afterwards."""

    def __init__(self, trainer: Trainer, judge: Callable[[Trainer], Judged]) -> None:
        super().__init__(trainer, are_lines_all=False)
        self._view, self._judge = _view_of(trainer), judge
        self._said: list[str] = []
        # Count what is to be seen at once; how far the run is, is seen once a second.
        self._num_changes = 0
        self._num_judged = -1
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._running.enter_context(shown(self.lines, self._moment, self.say))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the screen back, and write what was said meanwhile."""
        self._running.close()
        for message in self._said:
            super().say(message)
        for line in summary_lines(self._view, size_of(sys.stderr)[0]):
            self._console.print(line, no_wrap=True, overflow="ignore", crop=False)

    def say(self, message: str) -> None:
        """Keep a line for the end."""
        self._said.append(message)

    def notify(self, message: str) -> None:
        """Show what the user has to know now, and keep it."""
        self.say(message)
        self._view.note = message
        self._num_changes += 1

    def show(self, event: Event) -> None:
        """Show an event of a run."""
        super().show(event)
        view = self._view
        match event:
            case BlockLearned():
                view.step, view.share = event.step, event.share
                return
            case Preparing():
                view.activity = event.what
            case Baseline():
                view.baseline, view.activity = event, ""
            case Validating():
                view.activity = f"validating, {event.share:.0%}"
            case Record():
                view.history.add(self._trainer.in_units(event.to_json()))
            case Note():
                view.note = event.message
            case RolledBack():
                view.note = self._said[-1]
                view.history.rewind(event.to_step)
                view.step, view.share = event.to_step, self._trainer.share
            case Saved() | Finished():
                view.activity = ""
        self._num_changes += 1

    def lines(self, columns: int, rows: int) -> list[Text]:
        """Return the screen as it is now."""
        view, seconds, left = self._view, self._clock.seconds, self._seconds_left
        so_far = clock_text(seconds)
        view.times = [
            f"{so_far} elapsed" if self._budget is None else f"{so_far} of {clock_text(self._budget)}",
            *([] if left is None else [f"{clock_text(left)} left"]),
        ]
        if self._num_judged != len(view.history.validations):
            self._num_judged = len(view.history.validations)
            view.judged = self._judge(self._trainer)
        return cockpit_lines(view, columns, rows)

    def _moment(self) -> tuple[int, int]:
        return self._num_changes, int(self._clock.seconds)

    def _show_sample(self, step: int, smoothed: str, text: str) -> None:
        super()._show_sample(step, smoothed, text)
        self._view.history.write(Written(step, text, ()))


def _view_of(trainer: Trainer) -> View:
    """Return what the screen shows of a run before its first block, or before it continues."""
    train, model, vocabulary = trainer.config.train, trainer.config.model, trainer.corpus.vocabulary
    is_timed = train.steps is None and train.epochs is None
    steps = train.steps or max(1, round((train.epochs or 0.0) * trainer.learner.batches.batches_per_epoch))
    return View(
        title=(
            str(trainer.run.path),
            f"{model.num_layers}x{model.hidden_size} {model.cell}",
            f"{trainer.learner.model.spec.num_parameters:,} parameters",
            trainer.corpus.name,
        ),
        unit=vocabulary.unit,
        per=vocabulary.scored_unit(trainer.learner.model.spec.sees_both_sides),
        of_net=" of the net" if trainer.learner.counting.order else "",
        end=(train.time or 0.0) if is_timed else steps,
        is_timed=is_timed,
        shades=style_for(sys.stderr),
        is_unicode=can_show(chr(BRAILLE) + DASH) and os.environ.get("TERM") not in FEW_COLOURS,
        history=History(trainer.logbook.records),
        step=trainer.state.step,
        share=trainer.share,
    )
