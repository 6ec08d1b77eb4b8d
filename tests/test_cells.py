"""The equations of the cells against the same equations written in plain Python, and against torch's kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from charlm.cells import CELLS, sigmoid


def logistic(x: float) -> float:
    """Return the textbook's sigmoid."""
    return 1 / (1 + math.exp(-x))


def lstm_by_hand(x: list[float], r: list[float], h: float, c: float) -> tuple[float, float]:
    """Step one LSTM unit in scalars."""
    i, f, g, o = (logistic(x[0] + r[0]), logistic(x[1] + r[1]), math.tanh(x[2] + r[2]), logistic(x[3] + r[3]))
    cell = f * c + i * g
    return o * math.tanh(cell), cell


def gru_by_hand(x: list[float], r: list[float], h: float) -> tuple[float]:
    """Step one GRU unit in scalars."""
    reset, update = logistic(x[0] + r[0]), logistic(x[1] + r[1])
    candidate = math.tanh(x[2] + reset * r[2])
    return ((1 - update) * candidate + update * h,)


def rnn_by_hand(x: list[float], r: list[float], h: float) -> tuple[float]:
    """Step one Elman unit in scalars."""
    return (math.tanh(x[0] + r[0]),)


BY_HAND: dict[str, Any] = {"lstm": lstm_by_hand, "gru": gru_by_hand, "rnn": rnn_by_hand}


@pytest.mark.parametrize("cell", CELLS)
def test_a_unit_steps_as_its_equations_say(cell: str) -> None:
    """One unit, one stream, in float64: the cell equals the scalar arithmetic."""
    random = np.random.default_rng(1)
    gates, parts = len(CELLS[cell].gates), len(CELLS[cell].state)
    for _ in range(20):
        x, r, state = random.normal(size=gates), random.normal(size=gates), random.normal(size=parts)
        found, values = CELLS[cell].step(x[None], r[None], tuple(part.reshape(1, 1) for part in state))
        assert [float(part[0, 0]) for part in found] == pytest.approx(list(BY_HAND[cell](x, r, *state)), rel=1e-12)
        assert tuple(values) == CELLS[cell].gates


@pytest.mark.parametrize("cell", CELLS)
def test_numpy_and_torch_agree(cell: str) -> None:
    """The same function on arrays and on tensors gives the same numbers."""
    random = np.random.default_rng(2)
    gates, parts = len(CELLS[cell].gates), len(CELLS[cell].state)
    x, r = random.normal(size=(2, 3, gates * 4))
    state = tuple(random.normal(size=(3, 4)) for _ in range(parts))
    on_arrays, _ = CELLS[cell].step(x, r, state)
    on_tensors, _ = CELLS[cell].step(torch.tensor(x), torch.tensor(r), tuple(map(torch.tensor, state)))
    for array, tensor in zip(on_arrays, on_tensors, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_the_cells_equal_torch_forward_and_backward(cell: str) -> None:
    """T steps of the equations and one call of torch's layer give the same outputs and gradients, in float64."""
    torch.manual_seed(3)
    layer = getattr(torch.nn, cell.upper())(5, 4).double()
    x_TBE = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    expected_TBH, _ = layer(x_TBE)
    parameters = [x_TBE, *layer.parameters()]
    expected = torch.autograd.grad(expected_TBH.square().sum(), parameters)

    weight_ih, weight_hh, bias_ih, bias_hh = layer.parameters()
    state = tuple(torch.zeros(3, 4, dtype=torch.float64) for _ in CELLS[cell].state)
    outputs = []
    for x_BE in x_TBE:
        state, _ = CELLS[cell].step(x_BE @ weight_ih.T + bias_ih, state[0] @ weight_hh.T + bias_hh, state)
        outputs.append(state[0])
    found_TBH = torch.stack(outputs)
    torch.testing.assert_close(found_TBH, expected_TBH, rtol=1e-10, atol=1e-12)
    found = torch.autograd.grad(found_TBH.square().sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell() -> None:
    """A forget gate of 1 and an input gate of 0 carry the cell state over unchanged."""
    x = np.array([[-1e3, 1e3, 0.3, 0.7]])
    (_, cell), gates = CELLS["lstm"].step(x, np.zeros((1, 4)), (np.zeros((1, 1)), np.array([[0.625]])))
    assert cell.item() == 0.625
    assert (gates["forget"].item(), gates["input"].item()) == (1.0, 0.0)


def test_an_update_gate_of_one_keeps_the_state() -> None:
    """In the form used here the GRU's update gate is the share of the old state that stays."""
    x = np.array([[0.1, 1e3, 0.9]])
    (hidden,), _ = CELLS["gru"].step(x, np.zeros((1, 3)), (np.array([[0.25]]),))
    assert hidden.item() == 0.25


def test_the_sigmoid_does_not_overflow() -> None:
    """Any float32 comes out between 0 and 1, without a warning."""
    x = np.array([-3e38, -100, 0, 100, 3e38], dtype=np.float32)
    np.testing.assert_array_equal(sigmoid(x), np.array([0, 0, 0.5, 1, 1], dtype=np.float32))
