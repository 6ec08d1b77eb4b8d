"""A resumed run is bit for bit the run that was never interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import load_checkpoint
from charlm.errors import RunError
from charlm.training.trainer import Trainer
from tests.helpers.commands import call
from tests.helpers.training import (
    BF16_WORKS,
    CAT_AND_DOG,
    assert_same_run,
    begin,
    events_of,
    interrupt,
    metrics,
    needs_bf16,
    records_of,
    resume,
    training_of,
)


@pytest.fixture(autouse=True)
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that ask for bf16 use it, however fast it is, so nobody measures it."""
    monkeypatch.setattr("charlm.nn.runtime.bf16_speed", lambda work, device: 1.0)


def assert_resumed_exactly(**changes: Any) -> Trainer:
    """Compare a run of 14 blocks with one that was interrupted after 5 and after 11; return the second."""
    usual: dict[str, Any] = {"text": CAT_AND_DOG[:400], "train__steps": 14, "train__evaluations": 2}
    changes = usual | changes
    straight = begin("straight", **changes)
    interrupt(straight, 100)
    broken = begin("broken", **changes)
    interrupt(broken, 5)
    interrupt(resume(broken.run), 6)
    last = resume(broken.run)
    interrupt(last, 100)
    assert_same_run(straight, last)
    assert last.state.finished == "done"
    # One interruption is in the middle of the first epoch, one in the middle of the second.
    assert 5 < last.learner.batches.batches_per_epoch < 11
    return last


def in_part(*lists: Sequence[Any], every: int) -> list[Any]:
    """Return all combinations of values; one half or third of them is not slow, with every value among them."""
    found = []
    for places in itertools.product(*(range(len(values)) for values in lists)):
        values = [values[place] for values, place in zip(lists, places, strict=True)]
        found.append(pytest.param(*values, marks=[] if sum(places) % every == 0 else pytest.mark.slow))
    return found


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize(
    ("cell", "num_layers", "dropout", "optimizer"),
    in_part(["lstm", "gru", "rnn"], [1, 2], [0.0, 0.3], ["muon", "adamw"], every=2),
)
def test_a_resumed_run_is_bit_identical_to_an_unbroken_one(
    cell: str, num_layers: int, dropout: float, optimizer: str, precision: str
) -> None:
    """Interruptions in the middle of an epoch and between records change no weight, optimiser, state or record."""
    changes: dict[str, Any] = {
        "model__cell": cell,
        "model__num_layers": num_layers,
        "model__dropout": dropout,
        "model__weight_dropout": dropout,
        "train__optimizer": optimizer,
        "train__precision": precision,
        "train__reset_probability": 0.2,
    }
    assert_resumed_exactly(**changes)


@pytest.mark.parametrize(("cell", "direction"), in_part(list(CELLS), ["forward", "backward", "both"], every=3))
def test_a_resumed_run_of_any_cell_and_direction_is_exact(cell: str, direction: str) -> None:
    """The runs have one-hot inputs, a learned initial state and a dropout for each layer, in bf16 where it works."""
    changes: dict[str, Any] = {
        "model__cell": cell,
        "model__direction": direction,
        "model__num_layers": 2,
        "model__embedding_size": 0,
        "model__initial_state": "learned",
        "model__dropout": [0.2, 0.4],
        "train__precision": "bf16" if BF16_WORKS else "fp32",
        "train__reset_probability": 0.3,
    }
    last = assert_resumed_exactly(**changes)
    assert (last.learner.model.arrays()["initial_state"] != 0).any()


def test_a_run_from_before_directions_resumes() -> None:
    """Facts missing from its files have the only values of that time, and its vocabulary is a plain string."""
    training = begin("old", model__embedding_size=8)
    interrupt(training, 7)
    for path in (training.run.last, training.run.best):
        file = load_checkpoint(path)
        file.metrics.pop("smoothed_nats", None)
        for name in ("direction", "initial_state", "initialiser"):
            del file.config["model"][name]
        del file.config["train"]["sample_every"]
        file.config["vocab"] = "characters"
        file.save(path)
    result = call("train", "--resume", "old", "--sample-length", "5")
    assert result.exit_code == 0, result.stderr
    assert "not a model of this run" not in result.stderr
    assert load_checkpoint(training.run.last).metrics["finished"] == "done"


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_a_run_with_a_classic_optimiser_resumes_exactly(optimizer: str, precision: str) -> None:
    """This includes an optimiser without memory."""
    assert_resumed_exactly(train__optimizer=optimizer, train__precision=precision, train__clip_value=0.01)


@pytest.mark.parametrize("at", [3, 8, 13, 17])
def test_patience_continues_after_a_resume(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations without improvement are counted across the resume, so a run ends where it would have ended."""
    bits = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.4, 10: 2.3, 12: 1.9}
    monkeypatch.setattr(Trainer, "_validate", lambda self: bits.get(self.state.step, 9.0))
    changes: dict[str, Any] = {"train__patience": 4, "train__evaluations": 10}
    straight = begin("straight", **changes)
    interrupt(straight, 100)
    assert (straight.state.step, straight.state.best.best_bits) == (20, 1.9)
    broken = begin("broken", **changes)
    interrupt(broken, at)
    last = resume(broken.run)
    interrupt(last, 100)
    assert_same_run(straight, last)


def test_a_finished_run_that_is_resumed_does_not_change() -> None:
    """Nothing is trained, and nothing is lost."""
    training = begin()
    interrupt(training, 100)
    before = training.run.metrics.read_text(), training.run.best.read_bytes()
    again = resume(training.run)
    assert [type(event).__name__ for event in events_of(again)] == ["Finished"]
    assert (again.run.metrics.read_text(), again.run.best.read_bytes()) == before


def test_a_finished_run_can_be_made_longer() -> None:
    """With more steps, the run continues from its end."""
    training = begin()
    interrupt(training, 100)
    longer = resume(training.run, train__steps=30)
    interrupt(longer, 100)
    assert (longer.state.step, longer.state.finished) == (30, "done")
    steps = [record["step"] for record in metrics(longer)]
    assert steps == sorted(set(steps))


def test_another_text_is_refused() -> None:
    """A run resumes only on the text it was started on, checked by its fingerprint."""
    training = begin()
    interrupt(training, 5)
    Path("text.txt").write_text(CAT_AND_DOG + "more", encoding="utf-8")
    with pytest.raises(RunError, match="changed"):
        resume(training.run)


def test_a_resumed_run_keeps_its_best_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a resume, a worse model does not replace the better one from before."""
    monkeypatch.setattr(Trainer, "_validate", lambda self: 1.0)
    training = begin()
    interrupt(training, 6)
    best = training.run.best.read_bytes()
    monkeypatch.setattr(Trainer, "_validate", lambda self: 1.5)
    interrupt(resume(training.run), 100)
    assert training.run.best.read_bytes() == best


def test_a_run_can_be_resumed_from_its_first_moment() -> None:
    """The state before the first block is on disk, even if that block fails."""
    training = begin()
    interrupt(training, 0)
    assert load_checkpoint(training.run.last).metrics["step"] == 0
    interrupt(resume(training.run), 100)
    assert_same_run(training, training)


def test_a_resumed_run_past_its_new_end_ends() -> None:
    """A run resumed with fewer steps than it has taken ends at once."""
    training = begin()
    interrupt(training, 9)
    shorter = resume(training.run, train__steps=5)
    interrupt(shorter, 50)
    assert shorter.state.step <= 10
    assert shorter.state.finished == "done"


def test_a_lengthened_run_has_the_schedule_of_its_new_length() -> None:
    """From its current step on, the rate is that of a run of the new length, and dropout is planned anew."""
    changes: dict[str, Any] = {
        "train__evaluations": 20,
        "model__dropout": "auto",
        "model__hidden_size": 256,
        "train__batch_size": 1,
        "text": CAT_AND_DOG[:60],
    }
    training = begin(train__steps=20, **changes)
    interrupt(training, 100)
    longer = resume(training.run, train__steps=100)
    records = records_of(longer)
    straight = begin("straight", train__steps=100, **changes)
    rates = {record.step: record.learning_rate for record in records_of(straight)}
    assert all(record.learning_rate == pytest.approx(rates[record.step]) for record in records)
    planned = [run.state.regularisation.dropout for run in (training, straight, longer)]
    assert planned[0] < planned[1] == planned[2]


def test_another_text_is_accepted_on_request() -> None:
    """The new text starts with an empty state, and measurements on the old text do not count."""
    training = begin()
    interrupt(training, 10)
    best = training.run.best.read_bytes()
    Path("text.txt").write_text(CAT_AND_DOG[::-1][:900], encoding="utf-8")
    last = load_checkpoint(training.run.last)
    other = training_of(training.config, training.run)
    other.restore(last, is_new_text=True)
    assert all(not part.any() for part in other.learner.carried)
    assert (other.state.step, other.state.best.best_bits) == (10, None)
    np.testing.assert_array_equal(other.learner.model.arrays()["output.weight"], last.arrays["output.weight"])
    interrupt(other, 100)
    assert other.state.finished == "done"
    assert training.run.best.read_bytes() != best
    assert load_checkpoint(training.run.last).corpus["characters"] == 900


def test_accepting_another_text_does_not_affect_the_same_text() -> None:
    """The option that allows another text changes nothing if the text is the same."""
    straight, broken = begin("straight"), begin("broken")
    interrupt(straight, 100)
    interrupt(broken, 9)
    again = training_of(broken.config, broken.run)
    again.restore(load_checkpoint(broken.run.last), is_new_text=True)
    interrupt(again, 100)
    assert_same_run(straight, again)
