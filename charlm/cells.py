"""The recurrences, once, as equations. They run on NumPy arrays and on torch tensors alike.

Notation: `x` is what the input adds to each gate, W x + b, already computed; `h` is the hidden state, `c` the
LSTM's cell state. `recurrent` is what the hidden state adds, R h + b_r. The gates lie side by side in the last
axis, in the order of the names in `CELLS`, the order of PyTorch and cuDNN. Letters: `B` streams, `H` units, `G` gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# An array of NumPy or of torch: both know +, *, slicing and broadcasting.
Array = Any
State = tuple[Array, ...]


@dataclass(frozen=True)
class Cell:
    """One kind of recurrence.

    Attributes:
        step: `(x_BGH, recurrent_BGH, state) -> (state, gates)`; gates by name, in the order of `gates`.
        gates: the gates in the order in which they lie in the weights.
        state: the parts of the state; the first is what the layer puts out.
    """

    step: Callable[[Array, Array, State], tuple[State, dict[str, Array]]]
    gates: tuple[str, ...]
    state: tuple[str, ...]


def lstm(x_BGH: Array, recurrent_BGH: Array, state: State) -> tuple[State, dict[str, Array]]:
    """Step a long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    i, f, o = sigmoid(x + R h),  g = tanh(x + R h),  c' = f * c + i * g,  h' = o * tanh(c')

    Args:
        x_BGH: shape (B, 4H).
        recurrent_BGH: shape (B, 4H).
        state: h and c, each (B, H).
    """
    _, c_BH = state
    i, f, g, o = split(x_BGH + recurrent_BGH, 4)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c_BH = f * c_BH + i * g
    return (o * tanh(c_BH), c_BH), {"input": i, "forget": f, "candidate": g, "output": o}


def gru(x_BGH: Array, recurrent_BGH: Array, state: State) -> tuple[State, dict[str, Array]]:
    """Step a gated recurrent unit, reset applied after the recurrent product (the form of PyTorch and cuDNN).

    r, z = sigmoid(x + R h),  n = tanh(x + r * (R h)),  h' = (1 - z) * n + z * h

    The update gate z is the share of the OLD state that is kept; Cho et al. 2014 call it the same, other texts
    the reverse.

    Args:
        x_BGH: shape (B, 3H).
        recurrent_BGH: shape (B, 3H).
        state: h, shape (B, H).
    """
    (h_BH,) = state
    x_reset, x_update, x_candidate = split(x_BGH, 3)
    h_reset, h_update, h_candidate = split(recurrent_BGH, 3)
    r, z = sigmoid(x_reset + h_reset), sigmoid(x_update + h_update)
    n = tanh(x_candidate + r * h_candidate)
    return ((1 - z) * n + z * h_BH,), {"reset": r, "update": z, "candidate": n}


def rnn(x_BGH: Array, recurrent_BGH: Array, state: State) -> tuple[State, dict[str, Array]]:
    """Step a simple recurrent network (Elman 1990).

    h' = tanh(x + R h)

    Args:
        x_BGH: shape (B, H).
        recurrent_BGH: shape (B, H).
        state: h, shape (B, H).
    """
    h_BH = tanh(x_BGH + recurrent_BGH)
    return (h_BH,), {"candidate": h_BH}


CELLS = {
    "lstm": Cell(lstm, ("input", "forget", "candidate", "output"), ("hidden", "cell")),
    "gru": Cell(gru, ("reset", "update", "candidate"), ("hidden",)),
    "rnn": Cell(rnn, ("candidate",), ("hidden",)),
}


def split(gates: Array, count: int) -> tuple[Array, ...]:
    """Cut the last axis into `count` equal parts."""
    size = gates.shape[-1] // count
    return tuple(gates[..., index * size : (index + 1) * size] for index in range(count))


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x) if isinstance(x, np.ndarray) else x.tanh()


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), as a tanh: it cannot overflow and keeps the dtype."""
    return 0.5 * tanh(0.5 * x) + 0.5
