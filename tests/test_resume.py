"""A run that is taken up again: bit for bit the run that was never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import load
from charlm.errors import RunError
from charlm.train import Training
from tests.training import TEXT, assert_same_run, begin, interrupt, metrics, resume


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_resumed_run_is_bit_identical_to_one_that_was_not_interrupted(
    cell: str, num_layers: int, dropout: float, optimizer: str
) -> None:
    """Interrupted twice, in the middle of an epoch and between records: weights, optimiser, state, records."""
    changes: dict[str, Any] = {
        "model__cell": cell,
        "model__num_layers": num_layers,
        "model__dropout": dropout,
        "train__optimizer": optimizer,
        "train__reset_probability": 0.2,
        "train__evaluations": 2,
    }
    straight = begin("straight", **changes)
    interrupt(straight, 100)
    broken = begin("broken", **changes)
    interrupt(broken, 7)
    interrupt(resume(broken.run), 6)
    last = resume(broken.run)
    interrupt(last, 100)
    assert_same_run(straight, last)
    assert last.progress.finished == "done"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_run_in_bf16_resumes_exactly_too(cell: str) -> None:
    """The carried state is kept as it was rounded."""
    straight = begin("straight", model__cell=cell, train__precision="bf16")
    interrupt(straight, 100)
    broken = begin("broken", model__cell=cell, train__precision="bf16")
    interrupt(broken, 9)
    last = resume(broken.run)
    interrupt(last, 100)
    assert_same_run(straight, last)


def test_a_finished_run_that_is_resumed_stays_as_it_is() -> None:
    """Nothing is learned, nothing is lost."""
    training = begin()
    interrupt(training, 100)
    before = training.run.metrics.read_text(), training.run.best.read_bytes()
    again = resume(training.run)
    assert list(again.learn()) == []
    assert (again.run.metrics.read_text(), again.run.best.read_bytes()) == before


def test_a_finished_run_can_be_made_longer() -> None:
    """With more steps it goes on from where it ended."""
    training = begin()
    interrupt(training, 100)
    longer = resume(training.run, train__steps=30)
    interrupt(longer, 100)
    assert (longer.progress.step, longer.progress.finished) == (30, "done")
    steps = [record["step"] for record in metrics(longer)]
    assert steps == sorted(set(steps))


def test_another_text_is_refused() -> None:
    """A run goes on with the text it was begun on, by its fingerprint."""
    training = begin()
    interrupt(training, 5)
    Path("text.txt").write_text(TEXT + "more", encoding="utf-8")
    with pytest.raises(RunError, match="changed"):
        resume(training.run)


def test_a_best_that_is_resumed_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a resume a worse model does not take the place of the better one before."""
    monkeypatch.setattr(Training, "_validate", lambda self: 1.0)
    training = begin()
    interrupt(training, 6)
    best = training.run.best.read_bytes()
    monkeypatch.setattr(Training, "_validate", lambda self: 1.5)
    interrupt(resume(training.run), 100)
    assert training.run.best.read_bytes() == best


def test_a_run_can_be_resumed_from_its_first_moment() -> None:
    """The state before the first block is on disk, even if that block fails."""
    training = begin()
    interrupt(training, 0)
    assert load(training.run.last).metrics["step"] == 0
    interrupt(resume(training.run), 100)
    assert_same_run(training, training)


def test_a_run_past_its_new_end_ends() -> None:
    """Resumed with fewer steps than it has, it does not learn for ever."""
    training = begin()
    interrupt(training, 9)
    shorter = resume(training.run, train__steps=5)
    interrupt(shorter, 50)
    assert shorter.progress.step <= 10
    assert shorter.progress.finished == "done"
