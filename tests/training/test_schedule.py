"""Shares of a run: when events are due, and the learning rate."""

from __future__ import annotations

from itertools import pairwise

import pytest

from charlm.settings.config import TrainConfig
from charlm.training.schedule import (
    Clock,
    Every,
    Pace,
    due,
    rate_share,
    share_of,
    step_share,
)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    """The rate rises over the first tenth, stays level, and falls linearly over the second half."""
    shares = [0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0]
    expected = [0.01, 0.51, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert [rate_share(share, 0.1, 0.5) for share in shares] == pytest.approx(expected)
    assert rate_share(0.0, 0.0, 0.0) == rate_share(0.9, 0.0, 0.0) == 1.0


def test_a_cosine_rate_falls_slowly_at_both_ends() -> None:
    """The cosine has the same ends and the same middle as the line."""
    shares = [0.3, 0.5, 0.625, 0.75, 0.875, 1.0]
    expected = [1.0, 1.0, 0.8535534, 0.5, 0.1464466, 0.0]
    assert [rate_share(share, 0.1, 0.5, is_cosine=True) for share in shares] == pytest.approx(expected)


def test_the_step_schedule_equals_a_loop_over_epochs() -> None:
    """After each epoch from the tenth on the rate is multiplied by a factor, as char-rnn (Karpathy 2015) does."""
    rate, rates = 1.0, []
    for epoch in range(1, 15):
        rates.append(rate)  # during this epoch
        if epoch >= 10:
            rate *= 0.97
    assert [step_share(epoch + 0.5, 0.97, 10) for epoch in range(14)] == pytest.approx(rates)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 100, 12345])
@pytest.mark.parametrize("times", [1, 4, 10, 50, 100])
def test_an_event_happens_as_often_as_it_is_due(steps: int, times: int) -> None:
    """The occasions are spread over the run, the last at its end, with at most one per step."""
    happened = [due(step / steps, (step + 1) / steps, times) for step in range(steps)]
    assert sum(happened) == min(steps, times)
    assert happened[-1]


def test_the_pace_leaves_out_the_time_without_training() -> None:
    """The pace is characters per second since the last measurement, or since training resumed after a pause."""
    now = [100.0]
    clock = Clock(lambda: now[0])
    clock.resume_from(50.0)
    pace = Pace(clock, 1000)
    now[0] += 10
    assert clock.seconds == 60
    assert pace.measure(3000) == 200
    now[0] += 7
    pace.resume()
    now[0] += 2
    assert pace.measure(3100) == 50


@pytest.mark.parametrize("gap", [0.1, 0.7, 3.0, 9.9])
def test_an_event_due_every_10_s_is_never_late(gap: float) -> None:
    """However often it is checked, the first is due within 5 s if a check comes by then, and not much too often."""
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


def test_an_event_is_due_early_before_a_long_wait() -> None:
    """This holds if the coming work takes longer than the time that is left until it is due."""
    every = Every(60.0, 0.0)
    assert not every.is_due(1.0)
    assert not every.is_due(2.0, ahead=50.0)
    assert every.is_due(3.0, ahead=60.0)


def test_the_share_of_a_timed_run_leaves_out_the_reserved_time() -> None:
    """The share is 1 when only the reserved time is left; steps and epochs have no reserve."""
    timed = TrainConfig.model_validate({"time": 60.0})
    assert share_of(timed, 0, 25.0, 10, reserved_seconds=10.0) == 0.5
    assert share_of(timed, 0, 50.0, 10, reserved_seconds=10.0) == 1.0
    assert share_of(timed, 0, 50.0, 10, reserved_seconds=1e9) == 1.0
    counted = TrainConfig.model_validate({"steps": 60})
    assert share_of(counted, 30, 1e6, 10, reserved_seconds=10.0) == 0.5
