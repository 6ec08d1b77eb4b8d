"""Trials tell what is fast on this machine, in milliseconds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from charlm.cells import CELLS
from charlm.nn import trials
from charlm.nn.layers import LSTM
from charlm.nn.trials import Work, bf16_speed, block_kernel_speed, block_seconds, least_seconds

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only works move."""
    now = [0.0]
    monkeypatch.setattr("charlm.nn.trials.time.perf_counter", lambda: now[0])
    return now


def test_the_shortest_time_counts_and_the_first_run_does_not(clock: list[float]) -> None:
    """As many runs as fit into the time of a trial."""
    durations = iter([9.0, 0.008, 0.005, 0.009, 1.0])

    def work() -> None:
        clock[0] += next(durations)

    assert least_seconds(work) == pytest.approx(0.005)
    assert list(durations) == [1.0]


def test_what_is_very_slow_is_run_twice_and_no_more(clock: list[float]) -> None:
    """Emulated arithmetic takes a thousand times as long, and is found out by two products."""
    runs = []

    def work() -> None:
        runs.append(clock[0])
        clock[0] += 0.2

    assert least_seconds(work) == pytest.approx(0.2)
    assert len(runs) == 2


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_can_be_tried(cell: str) -> None:
    """Both arithmetics, and a block on the device."""
    work = Work(cell, num_inputs=3, num_units=8, num_streams=2)
    assert bf16_speed(work, CPU) > 0
    assert block_seconds(work, CPU) > 0


def test_both_kernels_of_the_lstm_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same blocks, in turns, by one and by the other."""
    order, learn = [], trials._learn

    def record(layer: LSTM, *rest: Any) -> None:
        order.append(layer.by_blocks)
        learn(layer, *rest)

    monkeypatch.setattr(trials, "_learn", record)
    assert block_kernel_speed(Work(num_inputs=3, num_units=8, num_streams=2)) > 0
    assert order == [False, True] * 4
