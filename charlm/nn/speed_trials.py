"""Trials that measure what is fast on this machine. A trial takes milliseconds, training takes minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from charlm.cells import CELLS
from charlm.nn.layers import LSTM, make_layer

# The sizes of a trial are bounded, because what is faster for large matrices is also faster for larger ones.
MAX_UNITS, MAX_STREAMS, MAX_STEPS = 512, 64, 32
# A trial measures each alternative for this long. On a busy machine it continues until the shortest time was reached
# twice, or at most this long; if bf16 is emulated, one product takes longer.
SECONDS, MAX_SECONDS = 0.02, 0.1
STEADY = 1.1
# An alternative is chosen if it is this many times as fast. On a busy machine trials differ by a tenth, and the choice
# should not change from one run to the next.
MARGIN = 1.15


class Work(NamedTuple):
    """The work that a run repeats: one block of a recurrent layer."""

    cell: str = "lstm"
    num_inputs: int = 64
    num_units: int = 512
    num_streams: int = 64

    @property
    def trial_sizes(self) -> tuple[int, int]:
        """H and B of a trial."""
        return min(self.num_units, MAX_UNITS), min(self.num_streams, MAX_STREAMS)


def bf16_speed(work: Work, device: torch.device) -> float:
    """Return how many times as fast a step's product is in bf16 as in float32."""
    size, columns = work.trial_sizes
    # Our kernel multiplies and converts at each step. Other kernels do a block at once, so a call costs almost nothing.
    is_by_step = device.type == "cpu" and work.cell != "lstm" and bool(CELLS[work.cell].products)
    if not is_by_step:
        columns = min(max(columns, MAX_UNITS**2 * MAX_STREAMS // size**2), MAX_STREAMS * MAX_STEPS)
    weight_HH, state_HB = torch.ones(size, size, device=device), torch.ones(size, columns, device=device)
    halves = weight_HH.bfloat16(), state_HB.bfloat16()

    def in_full() -> None:
        (weight_HH @ state_HB)[0, 0].item()

    def in_half() -> None:
        product_HB = halves[0] @ halves[1]
        if is_by_step:
            product_HB = state_HB.copy_(product_HB).bfloat16()
        product_HB[0, 0].item()

    full, half = least_seconds(in_full, in_half)
    return full / half


def block_kernel_speed(work: Work) -> float:
    """Return how many times as fast the kernel of `read_block` is as torch's for an LSTM in float32 on the CPU."""
    size, streams = work.trial_sizes
    layer = LSTM(work.num_inputs, size)
    x_TBE = torch.zeros(MAX_STEPS, streams, work.num_inputs)

    def learn(by_blocks: bool) -> Callable[[], None]:
        def learn_block() -> None:
            layer.by_blocks = by_blocks
            _learn(layer, x_TBE, _start(work, x_TBE))

        return learn_block

    theirs, ours = least_seconds(learn(False), learn(True), min_rounds=3)
    return theirs / ours


def block_seconds(work: Work, device: torch.device) -> float:
    """Return how long a device takes to learn a block of one layer, in float32."""
    size, streams = work.trial_sizes
    layer = make_layer(work.cell, work.num_inputs, size).to(device)
    x_TBE = torch.zeros(MAX_STEPS, streams, work.num_inputs, device=device)
    (seconds,) = least_seconds(lambda: _learn(layer, x_TBE, _start(work, x_TBE)))
    return seconds


def _start(work: Work, x_TBE: Tensor) -> Tensor | tuple[Tensor, ...]:
    parts = tuple(x_TBE.new_zeros(1, x_TBE.shape[1], work.trial_sizes[0]) for _ in CELLS[work.cell].state)
    return parts if len(parts) > 1 else parts[0]


def _learn(layer: nn.Module, x_TBE: Tensor, state: Tensor | tuple[Tensor, ...]) -> None:
    layer(x_TBE, state)[0].sum().backward()
    # Reading a number waits until the device has finished.
    next(layer.parameters()).grad[0, 0].item()  # type: ignore[index]


def least_seconds(*works: Callable[[], None], min_rounds: int = 1) -> list[float]:
    """Return the shortest time of each work. They take turns, so that a busy moment of the machine slows down all.

    Args:
        works: each runs once unmeasured, and then once a round, until all have taken `SECONDS` each, or on a busy
            machine up to `MAX_SECONDS`.
        min_rounds: how many rounds there are in any case.
    """
    for work in works:
        work()
    start, times = time.perf_counter(), [[_timed(work)] for work in works]
    while True:
        seconds = (time.perf_counter() - start) / len(works)
        is_long_enough = seconds >= (SECONDS if all(map(_is_steady, times)) else MAX_SECONDS)
        if is_long_enough and len(times[0]) >= min_rounds:
            return [min(of_work) for of_work in times]
        for of_work, work in zip(times, works, strict=True):
            of_work.append(_timed(work))


def _is_steady(times: list[float]) -> bool:
    """Return whether the shortest time was reached twice, nearly."""
    return len(times) > 1 and sorted(times)[1] < STEADY * min(times)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
