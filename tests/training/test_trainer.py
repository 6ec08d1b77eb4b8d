"""The training loop: exact resume, evaluation without side effects, finite numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.checkpoint import load_checkpoint
from charlm.cli.train_session import verdict
from charlm.errors import OVERFLOW, ModelFileError, TrainingError
from charlm.run_folder import RunFolder
from charlm.settings.config_file import load_config
from charlm.training.events import BlockLearned, Event, RolledBack
from charlm.training.final_evaluation import measure_best
from charlm.training.learner import Learner
from charlm.training.recovery import MAX_SKIPPED_IN_A_ROW
from charlm.training.regularisation import Regularisation, strengths
from charlm.training.trainer import Trainer
from tests.helpers.training import (
    Hours,
    assert_same_run,
    begin,
    events_of,
    interrupt,
    metrics,
    poison,
    records,
    records_of,
    resume,
    training_of,
)


def test_runs_are_the_same_if_and_only_if_their_seeds_are() -> None:
    """Two runs side by side differ only if their seeds do."""
    runs = [begin(name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for training in runs:
        interrupt(training, 100)
    assert_same_run(runs[0], runs[1])
    assert any(
        (load_checkpoint(runs[0].run.best).arrays[k] != v).any()
        for k, v in load_checkpoint(runs[2].run.best).arrays.items()
    )


def test_evaluations_do_not_change_training() -> None:
    """A run that validates often and one that validates once have the same weights and losses."""
    often, seldom = begin("often", train__evaluations=20), begin("seldom", train__evaluations=1)
    interrupt(often, 100)
    interrupt(seldom, 100)
    for name, array in seldom.learner.model.arrays().items():
        np.testing.assert_array_equal(array, often.learner.model.arrays()[name])


def test_validation_text_is_never_trained_on() -> None:
    """Every target of every block lies in the training part, which shares no character with the validation part."""
    text = "abc" * 150 + "xyz" * 17
    training = begin(text=text, data__validation_fraction=0.1)
    seen = set()
    for step in range(3 * training.learner.batches.batches_per_epoch):
        block = training.learner.batches.batch(step)
        seen |= set(np.unique(block.targets_TB)) | set(np.unique(block.tokens_TB))
    vocabulary = training.corpus.vocabulary
    assert {vocabulary.symbols[i] for i in seen if i < len(vocabulary)} == set("abc")
    assert "xyz" in vocabulary.decode(training.learner.parts.validation.joined())


def test_a_text_of_thirty_characters_trains() -> None:
    """A text far too short for the block and the batch shrinks them, and the run reports it."""
    training = begin(text="to be or not to be, that is it", train__batch_size=64, train__block_size=64)
    interrupt(training, 100)
    assert training.state.finished == "done"
    assert any("27 characters" in note for note in training.notes)
    assert load_checkpoint(training.run.best).metrics["step"] >= 1


def test_a_run_notes_a_setting_without_an_effect() -> None:
    """The note covers only a setting that is not at its default."""
    Path("adam.yaml").write_text("train: {optimizer: adam, matrix_learning_rate: 0.5}\n", encoding="utf-8")
    Path("text.txt").write_text("to be or not to be" * 20, encoding="utf-8")
    flags = {"data.corpus": "text.txt", "model.hidden_size": 4, "train.steps": 1, "train.threads": 1, "seed": 1}
    training = training_of(load_config("adam.yaml", (), flags), RunFolder.create(Path("idle"), ""))
    assert "train.matrix_learning_rate 0.5 has no effect with train.optimizer adam" in training.notes
    assert not any("step_factor" in note for note in training.notes)


@pytest.mark.parametrize("text", ["a", "aa", "ab", "\n"])
def test_a_text_of_one_or_two_characters_trains(text: str) -> None:
    """Nothing divides by zero if the validation part is empty or a single character."""
    training = begin(text=text, train__steps=3)
    interrupt(training, 100)
    scores = measure_best(training)
    assert (scores.characters if scores else 0) == len(text) - 1
    assert load_checkpoint(training.run.best).metrics["step"] >= 1


def test_the_best_model_is_kept_not_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the validations 3, 2, NaN and 4, the second model is kept, and patience ends the run."""
    training = begin(train__patience=2, train__evaluations=10)
    answers = iter([3.0, 2.0, math.nan, 4.0, 1.0])
    monkeypatch.setattr(Trainer, "_validate", lambda self: next(answers))
    interrupt(training, 100)
    best = load_checkpoint(training.run.best)
    assert (best.metrics["step"], training.state.step) == (4, 8)
    assert "2 evaluations" in training.state.finished
    assert verdict(training) == "no validation has been better since step 4: it has started to overfit"


def test_the_verdict_reports_a_run_that_was_still_improving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last validation was the best; without held-out text there is no verdict."""
    training = begin(train__evaluations=2)
    answers = iter([3.0, 2.0])
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", lambda self: next(answers))
        interrupt(training, 100)
    assert "more time may" in verdict(training)
    untold = begin("untold", data__validation_fraction=0.0)
    interrupt(untold, 100)
    assert "nothing was held out" in verdict(untold)


def test_one_validation_without_gain_is_no_overfitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """This can happen after a run is made longer, because its rate then rises again."""
    training = begin(train__evaluations=3)
    answers = iter([3.0, 2.0, 2.1])
    monkeypatch.setattr(Trainer, "_validate", lambda self: next(answers))
    interrupt(training, 100)
    assert "too early to tell" in verdict(training)


def test_a_block_whose_loss_is_not_finite_is_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad gradient changes no weight and no state, and the run continues."""
    training = begin(train__steps=8)
    poison(training, monkeypatch, {3})
    interrupt(training, 100)
    assert (training.state.recovery.skipped, training.state.recovery.rollbacks, training.state.step) == (1, 0, 8)
    assert all(np.isfinite(array).all() for array in load_checkpoint(training.run.last).arrays.values())


def test_losses_that_stay_infinite_roll_back_with_a_lower_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After several in a row the run returns to its last good state, at half the rate, reports it, and finishes."""
    training = begin(train__steps=12)
    poison(training, monkeypatch, set(range(7, 7 + MAX_SKIPPED_IN_A_ROW)))
    reported = [event for event in events_of(training) if isinstance(event, RolledBack)]
    assert reported == [RolledBack(from_step=12, to_step=9, rate=0.5)]
    assert (training.state.recovery.rollbacks, training.state.finished) == (1, "done")
    steps = [record["step"] for record in metrics(training)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12


def test_a_loss_that_never_becomes_finite_ends_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error advises what to do, and the files on disk are finite."""
    training = begin()
    interrupt(training, 5)
    poison(training, monkeypatch, set(range(10_000)))
    with pytest.raises(TrainingError, match="finite"):
        interrupt(training, 10_000)
    assert all(np.isfinite(array).all() for array in load_checkpoint(training.run.last).arrays.values())


def test_records_carry_what_a_plot_needs() -> None:
    """Each line of metrics.jsonl has the same keys; validation figures are in the lines where it was measured."""
    training = begin()
    interrupt(training, 100)
    lines = records(training)
    always = {"step", "epoch", "seconds", "train_bits_per_character", "learning_rate", "characters_per_second"}
    assert all(always <= line.keys() for line in lines)
    assert sum("validation_bits_per_character" in line for line in lines) == 4
    assert [line["step"] for line in lines] == list(range(1, 21))


def test_a_model_outlives_its_text_and_its_folder(tmp_path: Path) -> None:
    """The model file alone still writes text after it is moved and its text and run are deleted."""
    from charlm.inference.generate import generate
    from charlm.inference.sampling import Sampling
    from charlm.inference.stepper import Stepper

    training = begin()
    interrupt(training, 100)
    moved = training.run.best.rename(tmp_path / "moved.safetensors")
    Path("text.txt").unlink()
    stepper = Stepper(load_checkpoint(moved))
    (text,) = generate(stepper, "the ", length=20, sampling=Sampling(), seeds=[1]).texts()
    assert len(text) == 24


def test_the_best_model_is_scored_on_all_that_is_held_out() -> None:
    """The score in the model file is that of the whole part, not that of the sample used during training."""
    from charlm.evaluation.evaluate import evaluate

    training = begin(train__evaluation_characters=5)
    interrupt(training, 100)
    scores = measure_best(training)
    assert scores is not None
    assert scores.characters == len(training.learner.parts.validation) > 5
    stored = load_checkpoint(training.run.best)
    assert stored.metrics["validation_bits_per_character"] == scores.bits_per_character
    training.learner.model.load_arrays(stored.weights)
    assert evaluate(training.learner.model, training.learner.parts.validation) == scores


def test_automatic_regularisation_is_chosen_once() -> None:
    """It is known from the start for a run of a given number of epochs, and a resume keeps it."""
    training = begin(model__dropout="auto", model__weight_dropout="auto", train__steps=None, train__epochs=300)
    interrupt(training, 5)
    assert training.state.regularisation == Regularisation(*strengths(300, num_units=16), settled=True)
    assert training.state.regularisation.dropout > 0
    # The helper lets a run choose anew, as with other settings.
    resumed = resume(training.run).state.regularisation
    assert replace(resumed, settled=True) == training.state.regularisation


def test_given_regularisation_holds_from_the_first_block() -> None:
    """This includes a timed run, which does not know yet how often it will read its text."""
    training = begin(
        model__dropout=0.4, model__weight_dropout=0.2, train__weight_decay=0.3, train__steps=None, train__time=100.0
    )
    interrupt(training, 1)
    assert training.state.regularisation == Regularisation(0.4, 0.2, 0.3, settled=False)


def test_a_timed_run_takes_about_as_long_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends when only the reserved time is left, with a rate of zero."""
    now = Hours()
    training = begin(now=now, train__steps=None, train__time=100.0)
    now.spend(monkeypatch, learn_block=0.5)
    interrupt(training, 10**9)
    assert training.state.finished == "done"
    assert (training.state.seconds, training.state.step) == (100, 200)
    assert metrics(training)[-1]["learning_rate"] < 1e-3


def test_training_changes_every_weight() -> None:
    """No parameter is missing from the optimiser or the graph."""
    training = begin(model__num_layers=2)
    before = training.learner.model.arrays()
    interrupt(training, 5)
    unchanged = [name for name, array in training.learner.model.arrays().items() if (array == before[name]).all()]
    assert unchanged == []


def test_the_first_loss_is_that_of_a_uniform_guess() -> None:
    """Fresh weights predict all characters about equally."""
    training = begin()
    tokens_TB = torch.from_numpy(training.learner.batches.batch(0).tokens_TB)
    logits_TBV, _ = training.learner.model(tokens_TB, training.learner.model.start_state(tokens_TB.shape[1]))
    assert logits_TBV.log_softmax(-1).mean().item() == pytest.approx(
        -math.log(len(training.corpus.vocabulary)), rel=0.1
    )


def test_a_stream_that_starts_has_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model gets zeros for a starting stream and the carried state for the others."""
    training = begin(train__reset_probability=0.5, train__steps=12)
    forward, seen = training.learner.model.forward, []

    def spy(tokens_TB: Any, state: Any, *others: Any) -> Any:
        seen.append([part.clone() for part in state])
        return forward(tokens_TB, state, *others)

    monkeypatch.setattr(training.learner.model, "forward", spy)
    monkeypatch.setattr(Trainer, "_validate", lambda self: 1.0)
    training.learner.carried = tuple(torch.ones_like(part) for part in training.learner.carried)
    carried = []
    for step in range(12):
        carried.append(training.learner.carried)
        training.learner.learn_block(step, 0.1, training.state.regularisation)
    assert any(training.learner.batches.batch(step).begins_B.any() for step in range(1, 12))
    for step in range(12):
        begins_B = training.learner.batches.batch(step).begins_B
        for given, before in zip(seen[step], carried[step], strict=True):
            assert (given[:, begins_B] == 0).all()
            assert torch.equal(given[:, ~begins_B], before[:, ~begins_B])


def test_a_long_run_is_saved_between_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """`last.safetensors` has the state after any block at which a save is due."""
    monkeypatch.setattr("charlm.training.time_budget.SAVE_SECONDS", -1.0)
    training = begin(train__evaluations=1)
    steps = []

    def look(event: Event) -> None:
        if isinstance(event, BlockLearned):
            steps.append((load_checkpoint(training.run.last).metrics["step"], event.step))

    interrupt(training, 6, look)
    assert steps == [(step, step) for step in range(1, 7)]


def test_a_run_whose_loss_is_never_finite_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is saved, as the hint of the error promises."""
    training = begin()
    poison(training, monkeypatch, set(range(10_000)))
    with pytest.raises(TrainingError, match="finite"):
        interrupt(training, 10_000)
    assert all(np.isfinite(array).all() for array in load_checkpoint(training.run.last).arrays.values())


def test_a_rollback_halves_the_rate_and_keeps_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The records after the rollback show half the scheduled rate, and skipped blocks stay counted."""
    training = begin(train__steps=12, train__warmup_fraction=0.0, train__decay_fraction=0.0)
    poison(training, monkeypatch, set(range(7, 7 + MAX_SKIPPED_IN_A_ROW)))
    interrupt(training, 100)
    assert metrics(training)[-1]["learning_rate"] == pytest.approx(training.config.train.learning_rate / 2)
    assert training.state.recovery.skipped == MAX_SKIPPED_IN_A_ROW


def test_weights_that_are_not_finite_are_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `best` nor `last` takes them, whatever the validation score."""
    training = begin(text="ab" * 30)
    answers = iter(range(100))

    def validate(self: Trainer) -> float:
        if next(answers) == 1:
            training.learner.model.output.bias.data[0] = math.nan
        return 1.0

    monkeypatch.setattr(Trainer, "_validate", validate)
    interrupt(training, 100)
    for file in (training.run.best, training.run.last):
        assert all(np.isfinite(array).all() for array in load_checkpoint(file).arrays.values())


def test_validation_during_training_reads_the_set_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole part is read once, at the end."""
    lengths = []

    def spy(model: Any, ids: Any, *others: Any) -> Any:
        scores = evaluate_sample(model, ids, *others)
        lengths.append(scores.characters)
        return scores

    from charlm.evaluation.evaluate import evaluate_sample

    for module in ("validation", "final_evaluation"):
        monkeypatch.setattr(f"charlm.training.{module}.evaluate_sample", spy)
    training = begin(train__evaluation_characters=70)
    interrupt(training, 100)
    measure_best(training)
    assert lengths == [70, 70, 70, 70, len(training.learner.parts.validation)]


def test_a_slow_first_block_does_not_change_the_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first block that takes as long as ten others does not change the expected number of epochs."""
    now = Hours()
    training = begin(now=now, model__dropout="auto", train__steps=None, train__time=100.0, model__hidden_size=512)
    monkeypatch.setattr(Trainer, "_validate", lambda self: 1.0)

    def tick(self: Learner, step: int, *others: Any) -> float:
        now.seconds += 10 * 0.25 if step == 0 else 0.25
        return 1.0

    monkeypatch.setattr(Learner, "learn_block", tick)
    interrupt(training, 60)
    num_epochs = (1 + (100 - 2.5) / 0.25) / training.learner.batches.batches_per_epoch
    expected = strengths(num_epochs, num_units=512).dropout
    assert expected > 0.1
    assert training.state.regularisation.dropout == pytest.approx(expected, abs=0.011)


def test_a_timed_run_does_not_spend_its_time_on_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock where each evaluation takes 2 of 100 seconds, three of ten happen; a run of steps has all ten."""
    now = Hours()
    monkeypatch.setattr(Trainer, "_validate", lambda self: 1.0)
    now.spend(monkeypatch, learn_block=0.5, _validate=2.0)
    timed: dict[str, Any] = {"train__steps": None, "train__time": 100.0}
    for changes, expected in ((timed, 3), ({"train__steps": 40}, 10)):
        training = begin(f"run{expected}", now=now, train__evaluations=10, **changes)
        interrupt(training, 1000)
        assert sum("validation_bits_per_character" in record for record in metrics(training)) == expected


def test_an_unreadable_state_is_not_saved() -> None:
    """Model files hold no number above a bound; a larger number is no good state, even if it is finite."""
    training = begin(model__cell="rnn-relu")
    assert training.learner.is_finite
    training.learner.carried = tuple(torch.full_like(part, 2e9) for part in training.learner.carried)
    assert not training.learner.is_finite


def test_a_validation_that_overflows_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run continues, its records have no score for it, and there is a best model at the end."""

    def overflow(*_: Any) -> Any:
        raise ModelFileError(*OVERFLOW)

    monkeypatch.setattr("charlm.training.validation.evaluate_sample", overflow)
    training = begin(train__steps=4, train__evaluations=2)
    written = records_of(training)
    assert training.state.finished == "done"
    assert [record.validation_bits_per_character for record in written] == [None] * len(written)
    assert load_checkpoint(training.run.best).step == 2
