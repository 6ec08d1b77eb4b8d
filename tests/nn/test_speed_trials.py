"""Trials measure what is fast on this machine, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from charlm.cells import CELLS
from charlm.nn import speed_trials
from charlm.nn.layers import LSTM
from charlm.nn.speed_trials import Work, bf16_speed, block_kernel_speed, block_seconds, least_seconds

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that only the work under test moves."""
    now = [0.0]
    monkeypatch.setattr("charlm.nn.speed_trials.time.perf_counter", lambda: now[0])
    return now


def test_the_shortest_time_counts_and_the_first_run_does_not(clock: list[float]) -> None:
    """A trial returns the shortest of as many runs as fit into its time, without the first run."""
    durations = iter([9.0, 0.008, 0.005, 0.0052, 0.009, 1.0])

    def work() -> None:
        clock[0] += next(durations)

    assert least_seconds(work) == [pytest.approx(0.005)]
    assert list(durations) == [1.0]


def test_a_trial_lasts_longer_on_a_busy_machine(clock: list[float]) -> None:
    """A trial lasts until the shortest time is reached twice, because a single short time may be noise."""
    durations = iter([9.0, 0.02, 0.013, 0.009, 0.012, 0.005, 0.008, 0.005, 1.0])

    def work() -> None:
        clock[0] += next(durations)

    assert least_seconds(work) == [pytest.approx(0.005)]
    assert list(durations) == [1.0]


def test_works_take_turns_so_that_noise_meets_all(clock: list[float]) -> None:
    """If the machine is three times as slow for a while, it is so for both works, and their ratio does not change."""
    factors = iter([9.0, 9.0, 3.0, 3.0, 1.0, 1.0, 3.0, 3.0, 1.0, 1.0])

    def work_of(seconds: float) -> Callable[[], None]:
        def work() -> None:
            clock[0] += seconds * next(factors)

        return work

    assert least_seconds(work_of(0.004), work_of(0.002)) == [pytest.approx(0.004), pytest.approx(0.002)]


def test_very_slow_work_runs_only_twice(clock: list[float]) -> None:
    """Emulated arithmetic may be a thousand times as slow, so a trial of it ends after two runs."""
    runs = []

    def work() -> None:
        runs.append(clock[0])
        clock[0] += 0.2

    assert least_seconds(work) == [pytest.approx(0.2)]
    assert len(runs) == 2


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_can_be_tried(cell: str) -> None:
    """For every cell a trial of both precisions and one of a block run on the CPU."""
    work = Work(cell, num_inputs=3, num_units=8, num_streams=2)
    assert bf16_speed(work, CPU) > 0
    assert block_seconds(work, CPU) > 0


def test_both_lstm_kernels_are_tried_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same blocks are computed by torch's kernel and by ours, in turns."""
    order, learn = [], speed_trials._learn

    def record(layer: LSTM, *rest: Any) -> None:
        order.append(layer.by_blocks)
        learn(layer, *rest)

    monkeypatch.setattr(speed_trials, "_learn", record)
    assert block_kernel_speed(Work(num_inputs=3, num_units=8, num_streams=2)) > 0
    assert len(order) >= 8
    assert order == [False, True] * (len(order) // 2)
