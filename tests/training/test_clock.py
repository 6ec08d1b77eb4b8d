"""What a run does by the clock, what must not depend on the clock, and that a timed run ends on time."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import load_checkpoint
from charlm.cli.live import ScoringDisplay, TrainingDisplay
from charlm.cli.train_session import report_outcome
from charlm.evaluation.evaluate import Scores, evaluate_sample
from charlm.nn.model import CharModel
from charlm.training.events import BlockLearned, Event, Scoring
from charlm.training.final_evaluation import measure_best
from charlm.training.recovery import MAX_SKIPPED_IN_A_ROW
from charlm.training.schedule import Clock
from charlm.training.trainer import Trainer
from tests.helpers.commands import SHORT, call
from tests.helpers.training import CAT_AND_DOG, Hours, assert_same_run, begin, interrupt, poison, records, resume

MILLION: dict[str, Any] = {"train__steps": 10**6, "train__evaluations": 1}


@pytest.fixture
def now() -> Hours:
    """A clock that advances only when a test advances it."""
    return Hours()


def seconds_of(training: Trainer) -> list[float]:
    """Return the time of each line of `metrics.jsonl`, in seconds since the start of the run."""
    lines = [json.loads(line) for line in training.run.metrics.read_text().splitlines()]
    return [0.0, *(line["seconds"] for line in lines)]


# What a run does by the clock


@pytest.mark.parametrize("block_seconds", [0.25, 3.0, 9.0])
def test_a_million_slow_blocks_have_a_record_every_10_s(
    block_seconds: float, now: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records come every 10 s however slow the blocks are, and the first within 5 s if a block is over by then."""
    training = begin(now=now, **MILLION)
    now.spend(monkeypatch, learn_block=block_seconds)
    interrupt(training, int(100 / block_seconds))
    seconds = seconds_of(training)
    assert seconds[1] <= max(5, block_seconds)
    assert max(later - earlier for earlier, later in pairwise(seconds)) <= 10
    assert seconds[-1] > 90
    assert len(seconds) < 20
    for record in records(training, by="clock"):
        assert record["train_bits_per_character"] > 0
        assert record["characters_per_second"] == pytest.approx(40 / block_seconds)


@pytest.mark.parametrize("block_seconds", [0.5, 4.0])
def test_progress_lines_come_within_5_s_and_every_minute(
    block_seconds: float, now: Hours, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal, each line shows the loss and the speed."""
    training = begin(now=now, **MILLION)
    now.spend(monkeypatch, learn_block=block_seconds)
    said: list[float] = [0.0]
    with TrainingDisplay(training) as display:

        def show(event: Event) -> None:
            display.show(event)
            if lines := capsys.readouterr().err.splitlines():
                assert re.search(r" \d+ chars/s  train \d\.\d{3}$", lines[-1])
                assert len(lines) == 1 or "in bits per character" in lines[0]
                said.append(training.clock.seconds)

        interrupt(training, int(200 / block_seconds), show)
    assert said[1] <= 5
    assert max(later - earlier for earlier, later in pairwise(said)) <= 60
    assert said[-1] > 140
    assert len(said) < 8


@pytest.mark.parametrize("block_seconds", [1.0, 25.0])
def test_a_long_run_is_saved_once_a_minute(block_seconds: float, now: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed at any moment loses at most a minute, and it is saved no more often than that requires."""
    training = begin(now=now, **MILLION)
    now.spend(monkeypatch, learn_block=block_seconds)
    saved: list[float] = [0.0]

    def look(event: Event) -> None:
        if isinstance(event, BlockLearned):
            saved.append(load_checkpoint(training.run.last).metrics["seconds"])
            # The next block may be killed just before its end.
            assert training.clock.seconds + block_seconds - saved[-1] <= 60 + block_seconds

    interrupt(training, int(200 / block_seconds) + 1, look)
    assert max(later - earlier for earlier, later in pairwise(saved)) <= 60
    assert saved[-1] > 140
    assert len(set(saved)) < 7


def test_a_save_comes_before_a_validation_that_would_delay_it(now: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of 1 s and a validation of 40 s after every 30 of them, a save is never more than a minute away.

    This holds from the second validation on: the length of the first one is not known before it.
    """
    training = begin(now=now, train__steps=120, train__evaluations=4)
    now.spend(monkeypatch, learn_block=1.0, _validate=40.0)
    saves: list[float] = []
    write = Trainer._write_last

    def noted(self: Trainer, state: Any) -> None:
        saves.append(self.clock.seconds)
        write(self, state)

    monkeypatch.setattr(Trainer, "_write_last", noted)
    interrupt(training, 1000)
    gaps = [later - earlier for earlier, later in pairwise(saves)]
    assert gaps[0] == 70
    assert max(gaps[1:]) <= 60


def test_a_long_validation_has_records_and_lines(
    now: Hours, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A validation of 200 s has a record every 10 s and a line every minute; the records by share do not change."""
    training = begin(now=now, train__steps=4, train__evaluations=2)
    score = evaluate_sample

    def slow(model: Any, ids: Any, num_read: int, tick: Callable[[float], None]) -> Scores:
        for part in range(100):
            now.seconds += 2
            tick(part / 100)
        return score(model, ids, num_read)

    monkeypatch.setattr("charlm.training.validation.evaluate_sample", slow)
    with TrainingDisplay(training) as display:
        training.learn(display.show)
    seconds = seconds_of(training)
    assert max(later - earlier for earlier, later in pairwise(seconds)) <= 10
    said = [line for line in capsys.readouterr().err.splitlines() if "% done" in line]
    assert len(said) == 7
    quick = begin("quick", train__steps=4, train__evaluations=2)
    monkeypatch.setattr("charlm.training.validation.evaluate_sample", score)
    interrupt(quick, 100)
    assert_same_run(quick, training)


# What must not depend on the clock


@pytest.mark.parametrize("duration", [{"train__steps": 20}, {"train__steps": None, "train__epochs": 0.35}])
def test_a_run_is_the_same_whatever_the_clock_does(
    duration: dict[str, Any], now: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run at full speed and one with hours between its blocks and two interruptions agree in every bit and record."""
    straight = begin("straight", **duration)
    interrupt(straight, 100)
    slow = begin("slow", now=now, **duration)
    now.spend(monkeypatch, learn_block=4000.0, _validate=500.0, save=70.0)
    interrupt(slow, 7)
    interrupt(resume(slow.run, now), 6)
    last = resume(slow.run, now)
    interrupt(last, 100)
    assert straight.state.step == last.state.step > 15
    assert_same_run(straight, last)
    assert records(straight, by="clock") == []
    measure_best(straight)
    measure_best(last)
    assert_same_run(straight, last)


def test_records_by_the_clock_are_additional(now: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow run of few reports has additional records, and each record states its kind."""
    training = begin(now=now, train__steps=20, train__evaluations=1)
    monkeypatch.setattr("charlm.training.decisions.RECORDS_PER_EVALUATION", 2)
    now.spend(monkeypatch, learn_block=8.0)
    interrupt(training, 100)
    assert [record["step"] for record in records(training)] == [10, 20]
    assert [record["step"] for record in records(training, by="clock")] == [*range(1, 10), *range(11, 20)]


def test_a_rollback_does_not_depend_on_the_clock(now: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback does not return to the states that are saved by the clock after every block."""
    runs = [begin("quick", train__steps=12), begin("slow", now=now, train__steps=12)]
    for training in runs:
        if training is runs[1]:
            now.spend(monkeypatch, learn_block=100.0)
        poison(training, monkeypatch, set(range(7, 7 + MAX_SKIPPED_IN_A_ROW)))
        interrupt(training, 100)
        assert training.state.recovery.rollbacks == 1
    assert_same_run(*runs)


def test_a_run_of_steps_scores_a_sample_of_fixed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text too long to be scored whole gives the same sample each time; the model file has its standard error."""
    training = begin()
    interrupt(training, 100)
    with monkeypatch.context() as patch:
        patch.setattr("charlm.training.final_evaluation.MAX_CHARACTERS_SCORED", 120)
        scores = [measure_best(training), measure_best(training)]
    assert scores[0] == scores[1]
    assert scores[0] is not None
    metrics = load_checkpoint(training.run.best).metrics
    assert metrics["validation_characters"] == scores[0].characters < 120 < len(training.learner.parts.validation)
    assert metrics["validation_standard_error_bits"] == scores[0].standard_error_bits
    measure_best(training)
    metrics = load_checkpoint(training.run.best).metrics
    assert metrics["validation_characters"] == len(training.learner.parts.validation)
    assert "validation_standard_error_bits" not in metrics


# A timed run


class Machine:
    """Makes every character that a model reads take time, in training and in evaluation."""

    def __init__(self, now: Hours, monkeypatch: pytest.MonkeyPatch, pace: float) -> None:
        for name in ("forward", "advance"):
            self._slow(name, now, monkeypatch, pace)

    def _slow(self, name: str, now: Hours, monkeypatch: pytest.MonkeyPatch, pace: float) -> None:
        read = getattr(CharModel, name)

        def slow(model: CharModel, tokens_TB: Any, *others: Any) -> Any:
            now.seconds += tokens_TB.numel() / pace
            return read(model, tokens_TB, *others)

        monkeypatch.setattr(CharModel, name, slow)


@pytest.mark.parametrize(
    ("pace", "budget", "is_whole"),
    [(200, 10.0, False), (2_000, 10.0, False), (20_000, 1.0, False), (20_000, 10.0, True), (2_000, 100.0, True)],
)
def test_a_timed_run_and_its_scoring_end_in_time(
    pace: float, budget: float, is_whole: bool, now: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines differ by a factor of 100; scoring the whole held-out part takes 45 s on the slowest."""
    Machine(now, monkeypatch, pace)
    sizes: dict[str, Any] = {"train__batch_size": 32, "train__block_size": 32}
    training = begin(now=now, text=CAT_AND_DOG * 30, train__steps=None, train__time=budget, **sizes)
    interrupt(training, 10**9)
    scores = measure_best(training)
    # With short blocks nothing is late.
    assert 0.5 * budget <= training.clock.seconds <= (1.02 if is_whole else 1.15) * budget
    assert len(records(training)) >= 1
    assert scores is not None
    assert (scores.characters == len(training.learner.parts.validation)) == is_whole
    assert (scores.standard_error_bits is None) == is_whole


def test_a_tiny_time_suffices_for_a_block_and_a_validation(now: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if the set-up takes all the time."""
    training = begin(now=now, train__steps=None, train__time=1.0)
    before = training.learner.model.arrays()["output.weight"]
    now.seconds += 2
    now.spend(monkeypatch, learn_block=5.0)
    interrupt(training, 100)
    (record,) = records(training)
    assert (record["step"], training.state.finished) == (1, "done")
    assert record["validation_bits_per_character"] > 0
    assert (training.learner.model.arrays()["output.weight"] != before).any()


def test_the_clock_of_a_run_starts_before_its_model_is_built(now: Hours) -> None:
    """The clock starts when the text is read, and a resumed run continues its count."""
    training = begin(now=now, train__steps=None, train__time=100.0)
    now.seconds += 7
    assert training.clock.seconds == 7
    interrupt(training, 1)
    assert training.state.seconds == 7
    now.seconds += 1000
    again = resume(training.run, now)
    assert again.clock.seconds == again.state.seconds == 7


def test_a_resumed_timed_run_keeps_its_plan(now: Hours, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserved time and the size of a validation are not planned again on a machine that is slower now."""
    with monkeypatch.context() as patch:
        Machine(now, patch, 3_000)
        training = begin(now=now, text=CAT_AND_DOG * 30, train__steps=None, train__time=10.0)
        interrupt(training, 20)
    Machine(now, monkeypatch, 1_500)
    again = resume(training.run, now)
    assert again.share == training.share > 0
    interrupt(again, 5)
    for name in ("reserved_seconds", "evaluation_characters"):
        assert getattr(again.state, name) == getattr(training.state, name) > 0


# The scoring at the end of a run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_scoring_ends_with_a_message(
    text: str, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command reports that the run is complete and where it is, and exits with the code of the signal."""

    def interrupted(model: Any, ids: Any, num_read: int, tick: Callable[[float], None], mixture: Any) -> Any:
        tick(0.25)
        signal.raise_signal(number)
        tick(0.5)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", lambda self: 2.0)
        patch.setattr("charlm.training.final_evaluation.evaluate_sample", interrupted)
        result = call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    assert (result.exit_code, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr
    assert "the run is complete" in result.stderr
    assert "charlm eval --model run" in result.stderr
    assert load_checkpoint(Path("run/last.safetensors")).metrics["finished"] == "done"
    assert call("eval", "--model", "run").exit_code == 0
    assert call("train", "--resume", "run", "--sample-length", "0").exit_code == 0


def test_a_signal_in_the_last_block_ends_the_command_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is complete and saved, and nothing is scored after the signal."""

    def validate(self: Trainer) -> float:
        if self.share >= 1:
            signal.raise_signal(signal.SIGINT)
        return 1.0

    monkeypatch.setattr(Trainer, "_validate", validate)
    monkeypatch.setattr("charlm.training.lifecycle.measure_best", lambda *_: pytest.fail("scored"))
    result = call("train", "-c", text, *SHORT, "--out", "run")
    assert result.exit_code == 130
    assert "the run is complete" in result.stderr


def test_a_long_scoring_reports_its_progress(now: Hours, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line comes within 5 s and then every minute; a short scoring prints nothing."""
    with ScoringDisplay(Clock(now)) as display:
        for part in range(1000):
            now.seconds += 0.2
            display.show(Scoring(part / 1000))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "2% done" in lines[0]
    with ScoringDisplay(Clock(now)) as display:
        for part in range(20):
            now.seconds += 0.2
            display.show(Scoring((part + 1) / 20))
    assert capsys.readouterr().err == ""


def test_the_verdict_reports_that_a_sample_was_scored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict reports how many characters were scored, the standard error, and how to score all of them."""
    training = begin()
    interrupt(training, 100)
    report_outcome(training, 0, 0.7, as_json=False)
    assert f"on all {len(training.learner.parts.validation)} held out\n" in capsys.readouterr().err
    monkeypatch.setattr("charlm.training.final_evaluation.MAX_CHARACTERS_SCORED", 120)
    report_outcome(training, 0, 0.7, as_json=False)
    reported = capsys.readouterr().err
    assert f"of the {len(training.learner.parts.validation)} held out" in reported
    assert "standard error" in reported
    assert "charlm eval" in reported
