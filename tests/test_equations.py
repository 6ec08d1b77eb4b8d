"""Whole models against the published equations, written again in float64, one character and one gate at a time.

The reference uses no code of charlm. It is compared with the torch model, and with the stepper and its stacks in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.inference.stepper import Stack, Stepper
from charlm.nn.model import CharModel
from tests.helpers.evaluation import module_of

Floats = NDArray[np.float64]
Make = Callable[..., ModelFile]
State = tuple[Floats, ...]
Step = tuple[State, list[Floats]]
# The hidden state's term for a gate, R h + b.
Product = Callable[[int, Floats], Floats]

SYMBOLS = "\n abcdefgh"
START = len(SYMBOLS)


def logistic(x: Floats) -> Floats:
    """Return the textbook's sigmoid."""
    y: Floats = 1 / (1 + np.exp(-x))
    return y


# The cells. Arguments: the input's term for each gate (x), the state's term (R), the peepholes (p) and the state.
# Results: the new state, and the gates in their order.


def rnn(x: Floats, R: Product, p: Floats, h: Floats) -> Step:
    """Elman 1990."""
    n = np.tanh(x[0] + R(0, h))
    return (n,), [n]


def rnn_relu(x: Floats, R: Product, p: Floats, h: Floats) -> Step:
    """Elman 1990, rectified."""
    n = np.where(x[0] + R(0, h) > 0, x[0] + R(0, h), 0)
    return (n,), [n]


def lstm(x: Floats, R: Product, p: Floats, h: Floats, c: Floats) -> Step:
    """Gers et al. 2000."""
    i, f, o = (logistic(x[gate] + R(gate, h)) for gate in (0, 1, 3))
    g = np.tanh(x[2] + R(2, h))
    cell = f * c + i * g
    return (o * np.tanh(cell), cell), [i, f, g, o]


def lstm_peephole(x: Floats, R: Product, p: Floats, h: Floats, c: Floats) -> Step:
    """Gers and Schmidhuber 2000."""
    i = logistic(x[0] + R(0, h) + p[0] * c)
    f = logistic(x[1] + R(1, h) + p[1] * c)
    g = np.tanh(x[2] + R(2, h))
    cell = f * c + i * g
    o = logistic(x[3] + R(3, h) + p[2] * cell)
    return (o * np.tanh(cell), cell), [i, f, g, o]


def lstm_coupled(x: Floats, R: Product, p: Floats, h: Floats, c: Floats) -> Step:
    """Greff et al. 2015, CIFG."""
    f, g, o = logistic(x[0] + R(0, h)), np.tanh(x[1] + R(1, h)), logistic(x[2] + R(2, h))
    cell = f * c + (1 - f) * g
    return (o * np.tanh(cell), cell), [f, g, o]


def gru(x: Floats, R: Product, p: Floats, h: Floats) -> Step:
    """The form of cuDNN."""
    r, z = logistic(x[0] + R(0, h)), logistic(x[1] + R(1, h))
    n = np.tanh(x[2] + r * R(2, h))
    return ((1 - z) * n + z * h,), [r, z, n]


def gru_reset_before(x: Floats, R: Product, p: Floats, h: Floats) -> Step:
    """Cho et al. 2014."""
    r, z = logistic(x[0] + R(0, h)), logistic(x[1] + R(1, h))
    n = np.tanh(x[2] + R(2, r * h))
    return ((1 - z) * n + z * h,), [r, z, n]


def mingru(x: Floats, R: Product, p: Floats, h: Floats) -> Step:
    """Feng et al. 2024."""
    z, n = logistic(x[0]), x[1]
    return ((1 - z) * h + z * n,), [z, n]


def minlstm(x: Floats, R: Product, p: Floats, h: Floats) -> Step:
    """Feng et al. 2024."""
    total = logistic(x[0]) + logistic(x[1])
    f, i = logistic(x[0]) / total, logistic(x[1]) / total
    return (f * h + i * x[2],), [f, i, x[2]]


class Equations(NamedTuple):
    """A cell: its step, the number of its gates, and the number of parts of its state."""

    step: Callable[..., Step]
    num_gates: int
    num_parts: int


EQUATIONS = {
    "rnn": Equations(rnn, 1, 1),
    "rnn-relu": Equations(rnn_relu, 1, 1),
    "lstm": Equations(lstm, 4, 2),
    "lstm-peephole": Equations(lstm_peephole, 4, 2),
    "lstm-coupled": Equations(lstm_coupled, 3, 2),
    "gru": Equations(gru, 3, 1),
    "gru-reset-before": Equations(gru_reset_before, 3, 1),
    "mingru": Equations(mingru, 2, 1),
    "minlstm": Equations(minlstm, 3, 1),
}


class Reading(NamedTuple):
    """The states and gates of a stack of layers over a text, by step, layer, and part or gate."""

    states: list[list[State]]
    gates: list[list[list[Floats]]]

    @property
    def outputs_TH(self) -> Floats:
        """The output of the last layer at each step."""
        return np.array([layers[-1][0] for layers in self.states])


def read(file: ModelFile, ids: list[int], stack: str = "layers") -> Reading:
    """Read a text with one of the stacks, in float64."""
    settings = file.config["model"]
    num_layers, num_units = settings["num_layers"], settings["hidden_size"]
    weights = {name: array.astype(np.float64) for name, array in file.arrays.items()}
    cell = EQUATIONS[settings["cell"]]
    start = weights.get("initial_state", np.zeros((cell.num_parts, 2 * num_layers, num_units)))
    above = num_layers if stack == "backward_layers" else 0
    states: list[State] = [tuple(part[above + layer] for part in start) for layer in range(num_layers)]
    reading = Reading([], [])
    for index in ids:
        x = weights["embedding.weight"][index] if "embedding.weight" in weights else np.eye(START + 1)[index]
        gates = []
        for layer in range(num_layers):
            of = {name: weights.get(f"{stack}.{layer}.{name}_l0") for name in ("weight_hh", "bias_hh", "peephole")}

            def product(gate: int, h: Floats, of: dict[str, Any] = of) -> Floats:
                rows = slice(gate * num_units, (gate + 1) * num_units)
                y: Floats = of["weight_hh"][rows] @ h + of["bias_hh"][rows]
                return y

            x = weights[f"{stack}.{layer}.weight_ih_l0"] @ x + weights[f"{stack}.{layer}.bias_ih_l0"]
            states[layer], of_step = cell.step(
                x.reshape(cell.num_gates, num_units), product, of["peephole"], *states[layer]
            )
            x = states[layer][0]
            gates.append(of_step)
        reading.states.append([*states])
        reading.gates.append(gates)
    return reading


def logits_of(file: ModelFile, outputs: Floats) -> Floats:
    """Return the logits of the next character for outputs of the layers."""
    logits: Floats = outputs @ file.arrays["output.weight"].astype(np.float64).T + file.arrays["output.bias"]
    return logits


def random_texts(num_texts: int, length: int) -> list[list[int]]:
    """Draw random texts as ids."""
    texts: list[list[int]] = np.random.default_rng(9).integers(START, size=(num_texts, length)).tolist()
    return texts


def both_sides(module: CharModel, text: list[int], read_beyond: int = 0) -> Tensor:
    """Return the logits (T, V) of a model of both directions for each character but the last `read_beyond`."""
    tokens_TB = torch.tensor([START, *text[: len(text) - read_beyond - 1]])[:, None]
    logits_TBV, _ = module(tokens_TB, module.start_state(1), (), torch.tensor([*text[1:], START])[:, None])
    logits_TV: Tensor = logits_TBV[:, 0]
    return logits_TV


# Every value meets every other one.
shapes = pytest.mark.parametrize(
    ("num_layers", "embedding_size", "initial_state"),
    [(1, 5, "zero"), (1, 0, "learned"), (2, 5, "learned"), (2, 0, "zero")],
)


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    """Return the name of each cell."""
    return str(request.param)


def test_there_are_equations_for_every_cell() -> None:
    """Every cell has its equations in this file."""
    assert EQUATIONS.keys() == CELLS.keys()


@shapes
def test_module_and_stepper_compute_the_published_equations(
    make_model: Make, cell: str, num_layers: int, embedding_size: int, initial_state: str
) -> None:
    """Logits, states and gates of three texts of 30 characters equal the equations to 1e-5."""
    file = make_model(cell, num_layers, SYMBOLS, embedding_size=embedding_size, initial_state=initial_state)
    assert ("embedding.weight" in file.arrays) == bool(embedding_size)
    assert ("initial_state" in file.arrays) == (initial_state == "learned")
    texts = random_texts(3, 30)
    readings = [read(file, [START, *text]) for text in texts]
    expected_TBV = np.stack([logits_of(file, reading.outputs_TH) for reading in readings], axis=1)
    # The compared values change by far more than the tolerance.
    assert np.ptp(expected_TBV, axis=0).min() > 0.02

    module = module_of(file)
    tokens_TB = torch.tensor([[START, *text] for text in texts]).T
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            logits_TBV, state = module(tokens_TB, module.start_state(3))
        np.testing.assert_allclose(logits_TBV.detach().numpy(), expected_TBV, rtol=0, atol=1e-5)
        for part, part_LBH in enumerate(state):
            for layer, stream in np.ndindex(num_layers, 3):
                expected_H = readings[stream].states[-1][layer][part]
                np.testing.assert_allclose(part_LBH[layer, stream].detach().numpy(), expected_H, rtol=0, atol=1e-5)

    stepper = Stepper(file)
    logits_BV, states = stepper.start(3)
    assert not stepper.is_backward
    np.testing.assert_allclose(logits_BV, expected_TBV[0], rtol=0, atol=1e-5)
    for step, ids_B in enumerate(np.array(texts).T):
        _, gates = stepper.stack.look(ids_B, states)
        logits_BV, states = stepper.step(ids_B, states)
        np.testing.assert_allclose(logits_BV, expected_TBV[step + 1], rtol=0, atol=1e-5)
        for layer, stream in np.ndindex(num_layers, 3):
            assert tuple(gates[layer]) == CELLS[cell].gates
            for gate, expected_H in zip(gates[layer].values(), readings[stream].gates[step + 1][layer], strict=True):
                np.testing.assert_allclose(gate[stream], expected_H, rtol=0, atol=1e-5)


@shapes
def test_both_directions_predict_from_all_other_characters(
    make_model: Make, cell: str, num_layers: int, embedding_size: int, initial_state: str
) -> None:
    """Each prediction equals one from both sides read anew, also if the right side ends beyond the block."""
    settings = {"embedding_size": embedding_size, "initial_state": initial_state, "direction": "both"}
    file = make_model(cell, num_layers, SYMBOLS, **settings)
    (text,) = random_texts(1, 9)
    expected = []
    for position in range(len(text)):
        left_H = read(file, [START, *text[:position]]).outputs_TH[-1]
        right_H = read(file, [START, *text[:position:-1]], "backward_layers").outputs_TH[-1]
        expected.append(logits_of(file, np.concatenate([left_H, right_H])))
    module = module_of(file)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            found_TV, part_TV = both_sides(module, text), both_sides(module, text, read_beyond=4)
        np.testing.assert_allclose(found_TV.detach().numpy(), expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(part_TV.detach().numpy(), expected[:-4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stack_name", ["layers", "backward_layers"])
def test_both_stacks_compute_the_equations_in_numpy(make_model: Make, cell: str, stack_name: str) -> None:
    """Each stack has its own weights and its own start."""
    file = make_model(cell, 2, SYMBOLS, direction="both", initial_state="learned")
    (text,) = random_texts(1, 30)
    stack = Stack(file, stack_name)
    state = stack.start(1)
    for index, expected in zip([START, *text], read(file, [START, *text], stack_name).states, strict=True):
        state = stack.step(np.array([index]), state)
        for layer, parts in enumerate(expected):
            for part, expected_H in zip(state[layer], parts, strict=True):
                np.testing.assert_allclose(part[0], expected_H, rtol=0, atol=1e-5)


@shapes
def test_a_hidden_character_never_reaches_its_prediction(
    make_model: Make, cell: str, num_layers: int, embedding_size: int, initial_state: str
) -> None:
    """Another character in its place changes no bit of its own prediction, and changes all others."""
    settings = {"embedding_size": embedding_size, "initial_state": initial_state, "direction": "both"}
    module = module_of(make_model(cell, num_layers, SYMBOLS, **settings))
    (text,) = random_texts(1, 7)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            before_TV = both_sides(module, text)
            for position in range(len(text)):
                is_changed = np.zeros(len(text), dtype=bool)
                for other in ((text[position] + further) % START for further in (1, 3, 4)):
                    changed_TV = both_sides(module, [*text[:position], other, *text[position + 1 :]])
                    is_changed |= (changed_TV != before_TV).any(-1).numpy()
                assert is_changed.tolist() == [index != position for index in range(len(text))]


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_prediction_sends_no_gradient_to_its_character(make_model: Make, cell: str, num_layers: int) -> None:
    """The gradient is exactly 0 at inputs that carry the predicted character, and not at others."""
    file = make_model(cell, num_layers, SYMBOLS, direction="both")
    module, (text,) = module_of(file), random_texts(1, 7)
    length, embedded = len(text), []
    assert module.embedding is not None
    module.embedding.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    logits_TV = both_sides(module, text)
    # The left stack reads the start and then the text; the right stack reads the end and then the text backwards.
    left_TBE, right_SBE = embedded
    weights_V = torch.linspace(-1, 2, START)
    for predicted in range(length):
        loss = (logits_TV[predicted] * weights_V).sum()
        left, right = torch.autograd.grad(loss, [left_TBE, right_SBE], retain_graph=True)
        reaches_left = left.flatten(1).any(1).tolist()
        reaches_right = right.flatten(1).any(1).tolist()
        assert reaches_left == [True] + [index < predicted for index in range(length - 1)]
        assert reaches_right == [True] + [index > predicted for index in range(length - 1, 0, -1)]
