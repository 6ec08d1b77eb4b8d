"""Shares of a run: when things are due, how high the rate is, how much is left out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from charlm.config import TrainConfig
from charlm.training.schedule import (
    Clock,
    Every,
    Pace,
    dropout_for,
    due,
    held_back,
    rate_share,
    share_of,
    step_share,
    weight_decay_for,
    weight_dropout_for,
)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    """Warm-up over the first tenth, level, and down in a line over the second half."""
    shares = [0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0]
    expected = [0.01, 0.51, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert [rate_share(share, 0.1, 0.5) for share in shares] == pytest.approx(expected)
    assert rate_share(0.0, 0.0, 0.0) == rate_share(0.9, 0.0, 0.0) == 1.0


def test_a_cosine_falls_slowly_first_and_last() -> None:
    """Between the same ends as the line, through the same middle."""
    shares = [0.3, 0.5, 0.625, 0.75, 0.875, 1.0]
    expected = [1.0, 1.0, 0.8535534, 0.5, 0.1464466, 0.0]
    assert [rate_share(share, 0.1, 0.5, is_cosine=True) for share in shares] == pytest.approx(expected)


def test_steps_are_those_of_a_loop_over_epochs() -> None:
    """At the end of each epoch from the tenth on the rate is multiplied, as char-rnn (Karpathy 2015) does it."""
    rate, rates = 1.0, []
    for epoch in range(1, 15):
        rates.append(rate)  # during this epoch
        if epoch >= 10:
            rate *= 0.97
    assert [step_share(epoch + 0.5, 0.97, 10) for epoch in range(14)] == pytest.approx(rates)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 100, 12345])
@pytest.mark.parametrize("times", [1, 4, 10, 50, 100])
def test_what_is_due_so_often_happens_so_often(steps: int, times: int) -> None:
    """Spread over the run, the last time at its end, and never more than once a step."""
    happened = [due(step / steps, (step + 1) / steps, times) for step in range(steps)]
    assert sum(happened) == min(steps, times)
    assert happened[-1]


def test_dropout_grows_with_the_epochs() -> None:
    """A text read a few times needs none; one read over and over needs much, but never all."""
    values = [dropout_for(epochs) for epochs in (0.1, 1, 2.5, 10, 100, 1e6)]
    assert values == sorted(values)
    assert values[:3] == [0.0, 0.0, 0.0]
    assert 0.2 < values[3] <= values[5] < 0.9
    assert [weight_dropout_for(epochs) for epochs in (0, 10, 20, 1e6)] == [0.0, 0.0, 0.4, 0.4]
    assert 0 < weight_dropout_for(14) < 0.4
    decays = [weight_decay_for(epochs) for epochs in (0, 3, 8, 20, 1e6)]
    assert decays == [0.05, 0.05, 0.08, 0.1, 0.1]


def test_the_pace_leaves_out_the_time_that_was_not_learning() -> None:
    """Characters over seconds since the last measurement, or since learning went on after a pause."""
    now = [100.0]
    clock = Clock(lambda: now[0])
    clock.go_on_from(50.0)
    pace = Pace(clock, 1000)
    now[0] += 10
    assert clock.seconds == 60
    assert pace.measure(3000) == 200
    now[0] += 7
    pace.resume()
    now[0] += 2
    assert pace.measure(3100) == 50


@pytest.mark.parametrize("gap", [0.1, 0.7, 3.0, 9.9])
def test_what_is_due_every_10_s_is_never_late(gap: float) -> None:
    """However often one looks, the first time within 5 s if one looks by then, and not much too often."""
    every, seconds, happened = Every(10.0, 100.0, first_seconds=5.0), 100.0, [100.0]
    while seconds < 400:
        seconds += gap
        if every.is_due(seconds):
            every.done(seconds)
            happened.append(seconds)
    assert happened[1] <= 100 + max(5.0, gap)
    gaps = [later - earlier for earlier, later in pairwise(happened)]
    assert max(gaps) <= 10
    assert min(gaps[1:]) >= 10 - 2 * gap or gap > 5


def test_what_would_be_late_after_something_long_is_due_before_it() -> None:
    """When what comes ahead takes longer than the time that is left."""
    every = Every(60.0, 0.0)
    assert not every.is_due(1.0)
    assert not every.is_due(2.0, ahead=50.0)
    assert every.is_due(3.0, ahead=60.0)


def test_a_share_of_a_timed_run_leaves_out_what_is_reserved() -> None:
    """It is 1 when so much is left; steps and epochs know no reserve."""
    timed = TrainConfig.model_validate({"time": 60.0})
    assert share_of(timed, 0, 25.0, 10, reserved_seconds=10.0) == 0.5
    assert share_of(timed, 0, 50.0, 10, reserved_seconds=10.0) == 1.0
    assert share_of(timed, 0, 50.0, 10, reserved_seconds=1e9) == 1.0
    counted = TrainConfig.model_validate({"steps": 60})
    assert share_of(counted, 30, 1e6, 10, reserved_seconds=10.0) == 0.5


def test_a_smaller_net_may_read_more_often() -> None:
    """One of half the units is held back as much after twice as many readings; a larger one not sooner."""
    for epochs in (3, 8, 16, 50):
        assert held_back(2 * epochs, 256) == held_back(epochs, 512) == held_back(epochs, 2048)
    assert held_back(15, 128).dropout == 0
