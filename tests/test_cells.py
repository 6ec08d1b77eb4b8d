"""The equations of the cells against the same equations written in plain Python, and against torch's kernels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from charlm.cells import CELLS, Gates, Recurrent, State, sigmoid, softplus

Scalars = list[float]
TORCH_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "rnn": nn.RNN,
    "rnn-relu": lambda num_inputs, num_units: nn.RNN(num_inputs, num_units, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}


def recurrent_of(cell: str, weight_RH: Any, bias_R: Any, peepholes_KH: Any = None) -> Recurrent:
    """Return the products R h + b of a cell, each with its own rows of the weights, of NumPy or of torch."""
    num_units = weight_RH.shape[-1]
    ends = [num_units * end for end in itertools.accumulate(CELLS[cell].products, initial=0)]

    def product(start: int, end: int) -> Callable[[Any], Any]:
        return lambda h_BH: h_BH @ weight_RH[start:end].T + bias_R[start:end]

    return Recurrent([product(*pair) for pair in itertools.pairwise(ends)], peepholes_KH)


def random_step(cell: str, seed: int, num_streams: int, num_units: int) -> tuple[NDArray[np.float64], ...]:
    """Draw in float64 the inputs, recurrent weights, their biases, peepholes and then each part of the state."""
    random, kind = np.random.default_rng(seed), CELLS[cell]
    rows, recurrent_rows = num_units * len(kind.gates), num_units * sum(kind.products)
    shapes = [(num_streams, rows), (recurrent_rows, num_units), (recurrent_rows,), (len(kind.peepholes), num_units)]
    shapes += [(num_streams, num_units)] * len(kind.state)
    return tuple(random.normal(size=shape) for shape in shapes)


def step(cell: str, x_BG: Any, *others: Any) -> tuple[State, Gates]:
    """Step a cell with what `random_step` returned."""
    weight_RH, bias_R, peepholes_KH, *state = others
    return CELLS[cell].step(x_BG, recurrent_of(cell, weight_RH, bias_R, peepholes_KH), tuple(state))


def unit(cell: str, x: Scalars, state: Scalars, biases: Scalars | None = None) -> tuple[Scalars, dict[str, float]]:
    """Step one unit without recurrent weights, so that the state adds only the biases to the gates."""
    rows = sum(CELLS[cell].products)
    bias_R = np.array(biases) if biases else np.zeros(rows)
    peepholes_KH = np.zeros((len(CELLS[cell].peepholes), 1))
    parts = [np.array([[part]]) for part in state]
    after, gates = step(cell, np.array([x]), np.zeros((rows, 1)), bias_R, peepholes_KH, *parts)
    return [part.item() for part in after], {name: gate.item() for name, gate in gates.items()}


def logistic(x: float) -> float:
    """Return the textbook's sigmoid."""
    return 1 / (1 + math.exp(-x))


# One unit in scalars. Arguments: the input's term for each gate, the weight and bias from the state to each gate, the
# peepholes and the state. Results: the new state and the gates.


def rnn_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float) -> tuple[Scalars, Scalars]:
    """Step one Elman unit."""
    candidate = math.tanh(x[0] + w[0] * h + b[0])
    return [candidate], [candidate]


def rnn_relu_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float) -> tuple[Scalars, Scalars]:
    """Step one rectified linear unit."""
    total = x[0] + w[0] * h + b[0]
    candidate = total if total > 0 else 0.0
    return [candidate], [candidate]


def lstm_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float, c: float) -> tuple[Scalars, Scalars]:
    """Step one LSTM unit."""
    i = logistic(x[0] + w[0] * h + b[0])
    f = logistic(x[1] + w[1] * h + b[1])
    g = math.tanh(x[2] + w[2] * h + b[2])
    o = logistic(x[3] + w[3] * h + b[3])
    cell = f * c + i * g
    return [o * math.tanh(cell), cell], [i, f, g, o]


def peephole_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float, c: float) -> tuple[Scalars, Scalars]:
    """Step one LSTM unit whose input and forget gates see the old cell, and whose output gate sees the new one."""
    i = logistic(x[0] + w[0] * h + b[0] + p[0] * c)
    f = logistic(x[1] + w[1] * h + b[1] + p[1] * c)
    g = math.tanh(x[2] + w[2] * h + b[2])
    cell = f * c + i * g
    o = logistic(x[3] + w[3] * h + b[3] + p[2] * cell)
    return [o * math.tanh(cell), cell], [i, f, g, o]


def coupled_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float, c: float) -> tuple[Scalars, Scalars]:
    """Step one LSTM unit whose input gate is 1 minus its forget gate."""
    f = logistic(x[0] + w[0] * h + b[0])
    g = math.tanh(x[1] + w[1] * h + b[1])
    o = logistic(x[2] + w[2] * h + b[2])
    cell = f * c + (1 - f) * g
    return [o * math.tanh(cell), cell], [f, g, o]


def gru_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float) -> tuple[Scalars, Scalars]:
    """Step one GRU unit with the reset after the product."""
    r = logistic(x[0] + w[0] * h + b[0])
    z = logistic(x[1] + w[1] * h + b[1])
    n = math.tanh(x[2] + r * (w[2] * h + b[2]))
    return [(1 - z) * n + z * h], [r, z, n]


def reset_before_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float) -> tuple[Scalars, Scalars]:
    """Step one GRU unit with the reset before the product."""
    r = logistic(x[0] + w[0] * h + b[0])
    z = logistic(x[1] + w[1] * h + b[1])
    n = math.tanh(x[2] + w[2] * (r * h) + b[2])
    return [(1 - z) * n + z * h], [r, z, n]


def mingru_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float) -> tuple[Scalars, Scalars]:
    """Step one minimal GRU unit."""
    z = logistic(x[0])
    return [(1 - z) * h + z * x[1]], [z, x[1]]


def minlstm_by_hand(x: Scalars, w: Scalars, b: Scalars, p: Scalars, h: float) -> tuple[Scalars, Scalars]:
    """Step one minimal LSTM unit."""
    total = logistic(x[0]) + logistic(x[1])
    f, i = logistic(x[0]) / total, logistic(x[1]) / total
    return [f * h + i * x[2]], [f, i, x[2]]


BY_HAND: dict[str, Callable[..., tuple[Scalars, Scalars]]] = {
    "rnn": rnn_by_hand,
    "rnn-relu": rnn_relu_by_hand,
    "lstm": lstm_by_hand,
    "lstm-peephole": peephole_by_hand,
    "lstm-coupled": coupled_by_hand,
    "gru": gru_by_hand,
    "gru-reset-before": reset_before_by_hand,
    "mingru": mingru_by_hand,
    "minlstm": minlstm_by_hand,
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_unit_steps_as_its_equations_say(cell: str) -> None:
    """State and gates of one unit in float64 equal the scalar arithmetic, with the gates in their order."""
    for seed in range(20):
        arrays = random_step(cell, seed, num_streams=1, num_units=1)
        x, w, b, p, *state = (array.ravel().tolist() for array in arrays)
        after, gates = step(cell, *arrays)
        expected_state, expected_gates = BY_HAND[cell](x, w, b, p, *(part for (part,) in state))
        assert [part.item() for part in after] == pytest.approx(expected_state, rel=1e-12, abs=1e-15)
        assert [gate.item() for gate in gates.values()] == pytest.approx(expected_gates, rel=1e-12, abs=1e-15)
        assert tuple(gates) == CELLS[cell].gates
        assert len(after) == len(CELLS[cell].state)


@pytest.mark.parametrize("cell", CELLS)
def test_numpy_and_torch_agree(cell: str) -> None:
    """Arrays and tensors give the same states and gates, and the arguments are not changed."""
    arrays = random_step(cell, 2, num_streams=3, num_units=4)
    given = [array.copy() for array in arrays]
    on_arrays, gates = step(cell, *arrays)
    on_tensors, tensor_gates = step(cell, *map(torch.from_numpy, arrays))
    assert list(gates) == list(tensor_gates)
    tensors = (*on_tensors, *tensor_gates.values())
    for array, tensor in zip((*on_arrays, *gates.values()), tensors, strict=True):
        assert array.shape == (3, 4)
        assert array.dtype == np.float64
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-12, atol=1e-15)
    for array, before in zip(arrays, given, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("cell", CELLS)
def test_float32_stays_float32(cell: str) -> None:
    """No constant in the equations widens a number, in NumPy or in torch."""
    arrays = [array.astype(np.float32) for array in random_step(cell, 3, num_streams=2, num_units=3)]
    for given, dtype in ((arrays, np.dtype(np.float32)), ([*map(torch.from_numpy, arrays)], torch.float32)):
        after, gates = step(cell, *given)
        assert {part.dtype for part in (*after, *gates.values())} == {dtype}


@pytest.mark.parametrize("cell", TORCH_LAYERS)
def test_the_cells_equal_torch_forward_and_backward(cell: str) -> None:
    """T steps of the equations and one call of torch's layer give the same outputs and gradients."""
    torch.manual_seed(3)
    layer = TORCH_LAYERS[cell](5, 4).double()
    x_TBE = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    expected_TBH, _ = layer(x_TBE)
    parameters = [x_TBE, *layer.parameters()]
    expected = torch.autograd.grad(expected_TBH.square().sum(), parameters)

    weight_ih, weight_hh, bias_ih, bias_hh = layer.parameters()
    recurrent = recurrent_of(cell, weight_hh, bias_hh)
    state: State = tuple(torch.zeros(3, 4, dtype=torch.float64) for _ in CELLS[cell].state)
    outputs = []
    for x_BE in x_TBE:
        state, _ = CELLS[cell].step(x_BE @ weight_ih.T + bias_ih, recurrent, state)
        outputs.append(state[0])
    found_TBH = torch.stack(outputs)
    torch.testing.assert_close(found_TBH, expected_TBH, rtol=1e-10, atol=1e-12)
    found = torch.autograd.grad(found_TBH.square().sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_the_slopes_of_the_equations(cell: str) -> None:
    """Gradients of states and gates equal finite differences, for every argument of a step."""
    tensors = [torch.from_numpy(array).requires_grad_() for array in random_step(cell, 4, num_streams=2, num_units=3)]
    used = [tensor for tensor in tensors if tensor.numel()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        filled = iter(inputs)
        after, gates = step(cell, *(next(filled) if tensor.numel() else tensor for tensor in tensors))
        return (*after, *(gate for gate in gates.values() if gate.requires_grad))

    assert torch.autograd.gradcheck(run, used)


@pytest.mark.parametrize("cell", ["lstm", "lstm-peephole"])
def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell(cell: str) -> None:
    """A forget gate of 1 and an input gate of 0 carry the cell state over unchanged."""
    (hidden, kept), gates = unit(cell, [-1e3, 1e3, 0.3, 0.7], [0.5, 0.625])
    assert kept == 0.625
    assert (gates["forget"], gates["input"]) == (1.0, 0.0)
    assert hidden == pytest.approx(logistic(0.7) * math.tanh(0.625), rel=1e-15)


@pytest.mark.parametrize(("forget", "kept"), [(1e3, 0.625), (-1e3, math.tanh(0.3))])
def test_coupled_gates_keep_the_cell_or_replace_it(forget: float, kept: float) -> None:
    """A forget gate of 1 keeps the whole cell; a forget gate of 0 replaces it with the candidate."""
    (_, cell), _ = unit("lstm-coupled", [forget, 0.3, 0.7], [0.5, 0.625])
    assert cell == pytest.approx(kept, rel=1e-15)


@pytest.mark.parametrize("cell", ["gru", "gru-reset-before"])
def test_an_update_gate_of_one_keeps_the_state_of_a_gru(cell: str) -> None:
    """In this form of the GRU the update gate is the share of the old state that stays."""
    (hidden,), gates = unit(cell, [0.1, 1e3, 0.9], [0.25])
    assert hidden == 0.25
    assert gates["update"] == 1.0
    (hidden,), _ = unit(cell, [0.1, -1e3, 0.9], [0.25])
    assert hidden == pytest.approx(math.tanh(0.9), rel=1e-15)


def test_an_update_gate_of_zero_keeps_the_state_of_a_mingru() -> None:
    """In the minimal GRU the update gate is the share of the new candidate."""
    assert unit("mingru", [-1e3, 7.0], [0.25]) == ([0.25], {"update": 0.0, "candidate": 7.0})
    assert unit("mingru", [1e3, 7.0], [0.25]) == ([7.0], {"update": 1.0, "candidate": 7.0})


def test_extreme_gates_keep_the_state_of_a_minlstm() -> None:
    """With a forget gate of 1 and an input gate of 0 a minimal LSTM keeps its hidden state."""
    assert unit("minlstm", [0.0, -1e3, 7.0], [0.25]) == ([0.25], {"forget": 1.0, "input": 0.0, "candidate": 7.0})
    assert unit("minlstm", [-1e3, 0.0, 7.0], [0.25]) == ([7.0], {"forget": 0.0, "input": 1.0, "candidate": 7.0})


def test_coupled_gates_equal_an_lstm_with_mirrored_gates() -> None:
    """If x_i + R_i(h) = -(x_f + R_f(h)), then i is 1 - f and the LSTM equals the coupled one."""
    x_BG, weight_RH, bias_R, none_KH, h_BH, c_BH = random_step("lstm-coupled", 5, num_streams=3, num_units=4)
    (hidden, cell), gates = step("lstm-coupled", x_BG, weight_RH, bias_R, none_KH, h_BH, c_BH)
    (expected_hidden, expected_cell), expected_gates = step(
        "lstm",
        np.concatenate([-x_BG[:, :4], x_BG], axis=1),
        np.concatenate([-weight_RH[:4], weight_RH]),
        np.concatenate([-bias_R[:4], bias_R]),
        none_KH,
        h_BH,
        c_BH,
    )
    np.testing.assert_allclose(hidden, expected_hidden, rtol=1e-13)
    np.testing.assert_allclose(cell, expected_cell, rtol=1e-13)
    for name, gate in gates.items():
        np.testing.assert_allclose(gate, expected_gates[name], rtol=1e-13)


def test_peepholes_of_zero_make_a_plain_lstm() -> None:
    """Peepholes of 0 give a plain LSTM bit for bit; other peepholes change the three gates only."""
    x_BG, weight_RH, bias_R, peepholes_KH, *state = random_step("lstm-peephole", 6, num_streams=3, num_units=4)
    expected, expected_gates = step("lstm", x_BG, weight_RH, bias_R, None, *state)
    found, gates = step("lstm-peephole", x_BG, weight_RH, bias_R, np.zeros_like(peepholes_KH), *state)
    for one, other in zip((*found, *gates.values()), (*expected, *expected_gates.values()), strict=True):
        np.testing.assert_array_equal(one, other)
    _, gates = step("lstm-peephole", x_BG, weight_RH, bias_R, peepholes_KH, *state)
    changed = {name for name, gate in gates.items() if (gate != expected_gates[name]).all()}
    assert changed == {"input", "forget", "output"}


def test_without_a_reset_both_forms_of_the_gru_are_equal() -> None:
    """With r = 1 both forms of the GRU are equal; with r between 0 and 1 they differ."""
    arrays = random_step("gru", 7, num_streams=3, num_units=4)
    (before,), _ = step("gru-reset-before", *arrays)
    (after,), _ = step("gru", *arrays)
    assert np.abs(before - after).max() > 0.01
    arrays[0][:, :4] = 1e3
    (before,), gates = step("gru-reset-before", *arrays)
    (after,), _ = step("gru", *arrays)
    assert (gates["reset"] == 1).all()
    np.testing.assert_allclose(before, after, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gates_of_a_minlstm_sum_to_one(dtype: type[np.floating[Any]]) -> None:
    """The gates sum to 1 without a warning even if both sigmoids underflow."""
    x = np.array([-1e4, -100, -3, 0, 2, 100, 1e4], dtype=dtype)
    x_f, x_i = (axis.ravel() for axis in np.meshgrid(x, x))
    x_BG = np.stack([x_f, x_i, np.full_like(x_f, 3)], axis=1)
    h_BH = np.full((len(x_f), 1), 5, dtype=dtype)
    (hidden,), gates = CELLS["minlstm"].step(x_BG, Recurrent(()), (h_BH,))
    forget, enter = gates["forget"][:, 0], gates["input"][:, 0]
    np.testing.assert_allclose(forget + enter, 1, rtol=1e-6)
    assert ((forget >= 0) & (enter >= 0)).all()
    np.testing.assert_allclose(hidden[:, 0], 3 + 2 * forget, rtol=1e-6)
    (on_tensors,), _ = CELLS["minlstm"].step(torch.from_numpy(x_BG), Recurrent(()), (torch.from_numpy(h_BH),))
    np.testing.assert_allclose(hidden, on_tensors.numpy(), rtol=1e-6)

    def log_logistic(x: float) -> float:
        return x if x < -50 else -math.log1p(math.exp(-x))

    logs = [(log_logistic(float(one)), log_logistic(float(other))) for one, other in zip(x_f, x_i, strict=True)]
    expected = [1 / (1 + math.exp(min(log_i - log_f, 700.0))) for log_f, log_i in logs]
    np.testing.assert_allclose(forget, expected, rtol=1e-5, atol=1e-6)
    assert forget[(x_f == -1e4) & (x_i == -1e4)] == pytest.approx(0.5, abs=1e-7)


def test_the_sigmoid_does_not_overflow() -> None:
    """The sigmoid of any float32 is between 0 and 1, without a warning."""
    x = np.array([-3e38, -100, 0, 100, 3e38], dtype=np.float32)
    expected = np.array([0, 0, 0.5, 1, 1], dtype=np.float32)
    np.testing.assert_array_equal(sigmoid(x), expected)
    np.testing.assert_array_equal(sigmoid(torch.from_numpy(x)).numpy(), expected)


def test_the_softplus_does_not_overflow() -> None:
    """The softplus of any float32 is finite: 0 far below 0, x far above, log(1 + exp(x)) in between."""
    x = np.array([-3e38, -200, -2, 0, 3, 200, 3e38], dtype=np.float32)
    expected = np.array([0, 0, math.log1p(math.exp(-2)), math.log(2), math.log1p(math.exp(3)), 200, 3e38], np.float32)
    for found in (softplus(x), softplus(torch.from_numpy(x)).numpy()):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-30)
