"""The events that a listener receives from a run, and their order."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

from charlm.checkpoint import load_checkpoint
from charlm.training.events import (
    Baseline,
    BlockLearned,
    Event,
    Finished,
    Preparing,
    Record,
    Saved,
    Scoring,
    Validating,
)
from charlm.training.final_evaluation import measure_best
from tests.helpers.training import assert_same_run, begin, events_of, interrupt, records


def test_events_come_in_the_order_in_which_things_happen() -> None:
    """A run of two blocks reports its first state and the counts, then validation, record and save of each block."""
    kinds = [type(event) for event in events_of(begin(train__steps=2, train__evaluations=2))]
    block = [Validating, Record, Saved, BlockLearned]
    once = [kind for kind, following in pairwise([*kinds, None]) if kind is not following]
    assert once == [Saved, Preparing, Baseline, *block, *block, Finished]


def test_a_block_is_reported_after_it_is_on_disk() -> None:
    """A listener that receives a validated block finds it and its record in the run folder."""
    training, found = begin(train__steps=4, train__evaluations=4), []

    def look(event: Event) -> None:
        if isinstance(event, BlockLearned):
            found.append((load_checkpoint(training.run.last).step, records(training)[-1]["step"]))

    training.learn(look)
    assert found == [(step, step) for step in (1, 2, 3, 4)]


def test_records_are_the_lines_of_the_metrics_file() -> None:
    """Every event of a record has a line in the file, in the same order."""
    training = begin()
    reported = [event.to_json() for event in events_of(training) if isinstance(event, Record)]
    assert reported == records(training)


def test_a_listener_can_stop_a_run_after_its_block() -> None:
    """The run is saved after the block, and the last event reports that it is not complete."""
    training = begin()
    events: list[Event] = []
    interrupt(training, 7, events.append)
    assert events[-2:] == [Saved(step=7), Finished(step=7, reason="")]
    assert load_checkpoint(training.run.last).step == 7
    assert not training.is_asked_to_stop


def test_a_stopped_scoring_changes_no_file() -> None:
    """The scoring returns no scores."""
    training = begin()
    training.learn()
    before = training.run.best.read_bytes()

    def stop(event: Event) -> None:
        assert isinstance(event, Scoring)
        training.stop()

    assert measure_best(training, stop) is None
    assert training.run.best.read_bytes() == before


def test_listening_changes_no_bit_of_a_run() -> None:
    """A run without a listener has the same bits."""
    heard, unheard = begin("heard"), begin("unheard")
    events_of(heard)
    unheard.learn()
    assert_same_run(heard, unheard)


def test_training_does_not_know_the_terminal() -> None:
    """Training loads neither Typer nor Rich nor the terminal display."""
    modules = ", ".join(f"charlm.training.{name}" for name in ("trainer", "lifecycle", "run"))
    code = f"import sys, {modules}; sys.exit(bool({{'typer', 'rich', 'charlm.cli'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
