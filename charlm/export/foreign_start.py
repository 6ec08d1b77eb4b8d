"""The start of a text for a net that knows none: a symbol that it reads without leaving the zero state.

charlm reads the start of a text before its first character. The nets of torch start with the first character, in the
zero state. So the start gets an input of its own, which keeps the first layer in the zero state. An LSTM above it gets
a learned initial state, from which one step without input leads to the zero state. In all other nets of several layers
each layer gets one unit more, which is 1 after the start and otherwise 0, and keeps the layer above in the zero state.
"""

from __future__ import annotations

import numpy as np

from charlm.cells import sigmoid, tanh
from charlm.checkpoint import Arrays
from charlm.errors import ModelFileError
from charlm.inference.sampling import Floats

# With -CLOSED a sigmoid is 0, with CLOSED it is 1, and so is tanh.
CLOSED = 100.0
LEAST_FORGET_GATE = 1e-6
# The gate that keeps a zero state zero, and its input then; a net without gates needs a sum of zero.
KEEPING = {
    "lstm": ("input", -CLOSED),
    "gru": ("update", CLOSED),
    "rnn": ("candidate", 0.0),
    "rnn-relu": ("candidate", 0.0),
}


def with_start(weights: Arrays, cell: str, gates: tuple[str, ...], num_layers: int) -> Arrays:
    """Return the weights of a net with an input for the start of a text.

    With an embedding it has one entry more, which is 1 for the start and 0 for the symbols.

    Args:
        weights: those of a net with V inputs, by their names in a model file.
        cell: its cell.
        gates: the gates of the cell.
        num_layers: of the net.

    Raises:
        ModelFileError: torch does not have this cell.
    """
    if cell not in KEEPING:
        raise ModelFileError(
            f"this net has no input for the start of a text, which every {cell} by charlm has",
            "`--cell` names the cell of the layers",
        )
    result = dict(weights)
    if "embedding.weight" in weights:
        result["embedding.weight"] = np.pad(weights["embedding.weight"], ((0, 1), (0, 1)))
        result["embedding.weight"][-1, -1] = 1
    has_marks = num_layers > 1 and cell != "lstm"
    for layer in range(num_layers if has_marks else 1):
        _add_input(result, layer, cell, gates)
        if has_marks:
            _add_unit(result, layer, cell, gates)
    if has_marks:
        result["output.weight"] = np.pad(weights["output.weight"], ((0, 0), (0, 1)))
    elif num_layers > 1:
        result["initial_state"] = _initial_state(weights, num_layers)
    return result


def _add_input(weights: Arrays, layer: int, cell: str, gates: tuple[str, ...]) -> None:
    """Add an input to a layer, which keeps its units at zero where it is 1."""
    name = f"layers.{layer}.weight_ih_l0"
    bias_GH = (weights[f"layers.{layer}.bias_ih_l0"] + weights[f"layers.{layer}.bias_hh_l0"]).reshape(len(gates), -1)
    gate, wanted = KEEPING[cell]
    column_GH = np.zeros_like(bias_GH)
    row = gates.index(gate)
    column_GH[row] = wanted - bias_GH[row]
    weights[name] = np.column_stack([weights[name], column_GH.ravel()])


def _add_unit(weights: Arrays, layer: int, cell: str, gates: tuple[str, ...]) -> None:
    """Add a unit to a layer, which is 1 where the last input is 1, and otherwise 0."""
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        array = weights[f"layers.{layer}.{name}"]
        blocks = array.reshape(len(gates), -1, *array.shape[1:])
        columns = [(0, int(name == "weight_hh_l0"))] * (array.ndim - 1)
        blocks = np.pad(blocks, ((0, 0), (0, 1), *columns))
        if name == "weight_ih_l0":
            blocks[gates.index("candidate"), -1, -1] = 1 if cell == "rnn-relu" else CLOSED
        if name == "bias_ih_l0" and "update" in gates:
            # It keeps nothing of its old value.
            blocks[gates.index("update"), -1] = -CLOSED
        weights[f"layers.{layer}.{name}"] = blocks.reshape(-1, *blocks.shape[2:])


def _initial_state(weights: Arrays, num_layers: int) -> Floats:
    """Return the state of an LSTM from which one step without input leads to the zero state, (2, L, H)."""
    state_PLH = np.zeros((2, num_layers, weights["output.weight"].shape[1]), np.float32)
    for layer in range(1, num_layers):
        bias_G = weights[f"layers.{layer}.bias_ih_l0"] + weights[f"layers.{layer}.bias_hh_l0"]
        i, f, g, _ = np.split(bias_G.astype(np.float64), 4)
        # f c + i g = 0. No trained unit forgets so much that the bound matters.
        state_PLH[1, layer] = -sigmoid(i) * tanh(g) / np.maximum(sigmoid(f), LEAST_FORGET_GATE)
    return state_PLH
