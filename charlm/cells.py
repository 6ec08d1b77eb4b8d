"""The recurrences, each written once, as equations. They run on NumPy arrays and on torch tensors alike.

`charlm explain` prints the equations. They are constants, because `python -OO` removes docstrings.

Notation: `u` is what the input x adds to each gate, U x + a, already computed; the gates lie side by side in its last
axis, in the order of `Cell.gates`. `h` is the hidden state, `c` the cell state of the LSTMs. R(h) is what the hidden
state adds, R h + d. A prime marks a new value. `charlm explain` evaluates the equations as they stand in the texts.
Letters: `B` streams, `H` units, `G` gates times units, `K` peepholes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

# A NumPy array or a torch tensor: both have +, *, slicing and broadcasting.
Array = Any
State = tuple[Array, ...]
Gates = dict[str, Array]


class Recurrent(NamedTuple):
    """The recurrent weights that a step multiplies the state with.

    Attributes:
        products: functions from (B, H) to some of the gates, (B, gates times H): R h + d.
        peepholes_KH: one weight for each unit and each gate that sees the cell state.
    """

    products: Sequence[Callable[[Array], Array]]
    peepholes_KH: Array = None


# The gates' letters in the equations; the candidate's letter depends on the cell.
LETTERS = {"input": "i", "forget": "f", "output": "o", "reset": "r", "update": "z"}


@dataclass(frozen=True)
class Cell:
    """One kind of recurrence.

    Attributes:
        step: `(u_BG, recurrent, state) -> (state, gates)`; gates by name, in the order of `gates`.
        text: a sentence with the source, the equations of a step, and notes on them.
        gates: the gates in the order in which they lie in the weights.
        state: the parts of the state; the first one is the layer's output.
        products: how many gates each product with the state computes; they add up to all gates, or to none.
        candidate: the candidate's letter in the equations.
        peepholes: the gates that see the cell state.
    """

    step: Callable[[Array, Recurrent, State], tuple[State, Gates]]
    text: str
    gates: tuple[str, ...]
    state: tuple[str, ...]
    products: tuple[int, ...]
    candidate: str
    peepholes: tuple[str, ...] = ()

    @property
    def letters(self) -> dict[str, str]:
        """The letter of each gate in the equations."""
        return {name: LETTERS.get(name, self.candidate) for name in self.gates}

    def weight_shapes(self, num_inputs: int, num_units: int) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of each weight of a layer.

        Names and order are torch's; torch has no `peephole_l0`.
        """
        num_rows = len(self.gates) * num_units
        weights: dict[str, tuple[int, ...]] = {"weight_ih_l0": (num_rows, num_inputs)}
        biases: dict[str, tuple[int, ...]] = {"bias_ih_l0": (num_rows,)}
        if self.products:
            weights["weight_hh_l0"], biases["bias_hh_l0"] = (num_rows, num_units), (num_rows,)
        if self.peepholes:
            biases["peephole_l0"] = (len(self.peepholes), num_units)
        return weights | biases

    def product_rows(self, num_units: int) -> list[slice]:
        """Return the rows of `weight_hh_l0` and `bias_hh_l0` that belong to each product."""
        ends = (num_units * num_gates for num_gates in accumulate(self.products, initial=0))
        return [slice(*pair) for pair in pairwise(ends)]


RNN = """Simple recurrent network (Elman 1990).

h' = tanh(u + R(h))

The network computes its whole state anew at each step. It has no gates, so nothing decides what is kept: what was
read a while ago is overwritten little by little.
"""


def rnn(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `RNN`.

    Args:
        u_BG: shape (B, H).
        recurrent: one product, to (B, H).
        state: h, shape (B, H).
    """
    (R,) = recurrent.products
    (h,) = state
    h = tanh(u_BG + R(h))
    return (h,), {"candidate": h}


RNN_RELU = """Simple recurrent network (Elman 1990) of rectified linear units.

h' = max(0, u + R(h))

Like `rnn`, the network computes its whole state anew at each step. It has no gates, and nothing bounds its state. Le,
Jaitly and Hinton 2015 start with the identity as R, so that the state stays as it is until the input changes it; here
R is initialised like any other matrix.
"""


def rnn_relu(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `RNN_RELU`.

    Args:
        u_BG: shape (B, H).
        recurrent: one product, to (B, H).
        state: h, shape (B, H).
    """
    (R,) = recurrent.products
    (h,) = state
    h = relu(u_BG + R(h))
    return (h,), {"candidate": h}


LSTM = """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

i = sigmoid(u_i + R_i(h))
f = sigmoid(u_f + R_f(h))
g = tanh(u_g + R_g(h))
o = sigmoid(u_o + R_o(h))
c' = f * c + i * g
h' = o * tanh(c')

An LSTM remembers because its cell c changes by adding. Where f is near 1 and i is near 0, the cell keeps its value:
with f = 0.99, 37% of it is left after 100 steps. Back along the cell, the gradient is multiplied by f alone, so it
lasts as long. In an `rnn`, each step multiplies the gradient by the recurrent matrix and the slope of tanh, so it soon
vanishes or explodes.
"""


def lstm(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `LSTM`.

    Args:
        u_BG: shape (B, 4H).
        recurrent: one product, to (B, 4H).
        state: h and c, each (B, H).
    """
    (R,) = recurrent.products
    h, c = state
    i, f, g, o = split(u_BG + R(h), 4)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * tanh(c)
    return (h, c), {"input": i, "forget": f, "candidate": g, "output": o}


LSTM_PEEPHOLE = """Long short-term memory whose gates see the cell state (Gers and Schmidhuber 2000).

i = sigmoid(u_i + R_i(h) + p_i * c)
f = sigmoid(u_f + R_f(h) + p_f * c)
g = tanh(u_g + R_g(h))
c' = f * c + i * g
o = sigmoid(u_o + R_o(h) + p_o * c')
h' = o * tanh(c')

Each gate of a unit sees the cell of that unit through one weight p: the input and forget gates see the old cell, the
output gate sees the new one. In `lstm`, the gates see h and x only, not what an output gate hides in the cell.
"""


def lstm_peephole(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `LSTM_PEEPHOLE`.

    Args:
        u_BG: shape (B, 4H).
        recurrent: one product, to (B, 4H), and the peepholes p_i, p_f, p_o, shape (3, H).
        state: h and c, each (B, H).
    """
    (R,), p_KH = recurrent
    h, c = state
    i, f, g, o = split(u_BG + R(h), 4)
    i, f, g = sigmoid(i + p_KH[0] * c), sigmoid(f + p_KH[1] * c), tanh(g)
    c = f * c + i * g
    o = sigmoid(o + p_KH[2] * c)
    h = o * tanh(c)
    return (h, c), {"input": i, "forget": f, "candidate": g, "output": o}


LSTM_COUPLED = """Long short-term memory with coupled input and forget gates (CIFG of Greff et al. 2015).

f = sigmoid(u_f + R_f(h))
g = tanh(u_g + R_g(h))
o = sigmoid(u_o + R_o(h))
i = 1 - f
c' = f * c + i * g
h' = o * tanh(c')

The cell forgets exactly as much as it takes in: it becomes a weighted mean of the old cell and the candidate. Greff et
al. also use peepholes, which are omitted here. They learn i and compute f = 1 - i; here f is learned, which is
equivalent.
"""


def lstm_coupled(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `LSTM_COUPLED`.

    Args:
        u_BG: shape (B, 3H).
        recurrent: one product, to (B, 3H).
        state: h and c, each (B, H).
    """
    (R,) = recurrent.products
    h, c = state
    f, g, o = split(u_BG + R(h), 3)
    f, g, o = sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + (1 - f) * g
    h = o * tanh(c)
    return (h, c), {"forget": f, "candidate": g, "output": o}


GRU = """Gated recurrent unit, reset applied after the recurrent product (the form of PyTorch and cuDNN).

r = sigmoid(u_r + R_r(h))
z = sigmoid(u_z + R_z(h))
n = tanh(u_n + r * R_n(h))
h' = (1 - z) * n + z * h

The new state is a weighted mean of the candidate n and the old state h. So the update gate z does the work of two gates
of an LSTM: what it keeps of the old state, it does not take from the candidate. There is no cell beside h. Where z is
near 1, a value stays, as in the cell of an LSTM. Here z is the share of the OLD state, as in Cho et al. 2014; in other
texts, among them Chung et al. 2014, z is the share of the new one.
"""


def gru(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `GRU`.

    Args:
        u_BG: shape (B, 3H).
        recurrent: one product, to (B, 3H).
        state: h, shape (B, H).
    """
    (R,) = recurrent.products
    (h,) = state
    u_r, u_z, u_n = split(u_BG, 3)
    h_r, h_z, h_n = split(R(h), 3)
    r, z = sigmoid(u_r + h_r), sigmoid(u_z + h_z)
    n = tanh(u_n + r * h_n)
    return ((1 - z) * n + z * h,), {"reset": r, "update": z, "candidate": n}


GRU_RESET_BEFORE = """Gated recurrent unit, reset applied before the recurrent product (Cho et al. 2014).

r = sigmoid(u_r + R_r(h))
z = sigmoid(u_z + R_z(h))
n = tanh(u_n + R_n(r * h))
h' = (1 - z) * n + z * h

The candidate sees the old state multiplied by the reset gate r, so a unit that is reset is hidden from all
candidates. In `gru`, r acts only on the candidate of its own unit. Here z is the share of the OLD state, as in Cho et
al. 2014; in other texts z is the share of the new one.
"""


def gru_reset_before(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `GRU_RESET_BEFORE`.

    Args:
        u_BG: shape (B, 3H).
        recurrent: two products, to (B, 2H) for the gates and to (B, H) for the candidate.
        state: h, shape (B, H).
    """
    R_rz, R_n = recurrent.products
    (h,) = state
    u_r, u_z, u_n = split(u_BG, 3)
    h_r, h_z = split(R_rz(h), 2)
    r, z = sigmoid(u_r + h_r), sigmoid(u_z + h_z)
    n = tanh(u_n + R_n(r * h))
    return ((1 - z) * n + z * h,), {"reset": r, "update": z, "candidate": n}


MINGRU = """Minimal gated recurrent unit (Feng et al. 2024): the gate and the candidate see only the input.

z = sigmoid(u_z)
n = u_n
h' = (1 - z) * h + z * n

Here z is the share of the NEW candidate; in `gru` it is the share of the old state. Only the last line depends on
the state. So the gates of all steps of a block can be computed at once, and a scan then joins the steps.
"""


def mingru(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `MINGRU`.

    Args:
        u_BG: shape (B, 2H).
        recurrent: empty, because there are no recurrent weights.
        state: h, shape (B, H).
    """
    (h,) = state
    z, n = split(u_BG, 2)
    z = sigmoid(z)
    return ((1 - z) * h + z * n,), {"update": z, "candidate": n}


MINLSTM = """Minimal long short-term memory (Feng et al. 2024): the gates see only the input and sum to 1.

s = sigmoid(u_f) + sigmoid(u_i)
f = sigmoid(u_f) / s
i = sigmoid(u_i) / s
g = u_g
h' = f * h + i * g

There is no cell state, only h. Only the last line depends on it. So the gates of all steps of a block can be computed
at once, and a scan then joins the steps.
"""


def minlstm(u_BG: Array, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
    """Take one step of `MINLSTM`.

    Args:
        u_BG: shape (B, 3H).
        recurrent: empty, because there are no recurrent weights.
        state: h, shape (B, H).
    """
    (h,) = state
    u_f, u_i, g = split(u_BG, 3)
    # The same quotient by logarithms, -log sigmoid(x) = softplus(-x), because both sigmoids may underflow to 0.
    ratio = softplus(-u_i) - softplus(-u_f)
    f, i = sigmoid(ratio), sigmoid(-ratio)
    return (f * h + i * g,), {"forget": f, "input": i, "candidate": g}


_LSTM_GATES = ("input", "forget", "candidate", "output")
_GRU_GATES = ("reset", "update", "candidate")

CELLS = {
    "rnn": Cell(rnn, RNN, ("candidate",), ("hidden",), (1,), "h'"),
    "rnn-relu": Cell(rnn_relu, RNN_RELU, ("candidate",), ("hidden",), (1,), "h'"),
    "lstm": Cell(lstm, LSTM, _LSTM_GATES, ("hidden", "cell"), (4,), "g"),
    "lstm-peephole": Cell(
        lstm_peephole, LSTM_PEEPHOLE, _LSTM_GATES, ("hidden", "cell"), (4,), "g", ("input", "forget", "output")
    ),
    "lstm-coupled": Cell(lstm_coupled, LSTM_COUPLED, ("forget", "candidate", "output"), ("hidden", "cell"), (3,), "g"),
    "gru": Cell(gru, GRU, _GRU_GATES, ("hidden",), (3,), "n"),
    "gru-reset-before": Cell(gru_reset_before, GRU_RESET_BEFORE, _GRU_GATES, ("hidden",), (2, 1), "n"),
    "mingru": Cell(mingru, MINGRU, ("update", "candidate"), ("hidden",), (), "n"),
    "minlstm": Cell(minlstm, MINLSTM, ("forget", "input", "candidate"), ("hidden",), (), "g"),
}


def split(gates: Array, count: int) -> tuple[Array, ...]:
    """Split the last axis into `count` equal parts."""
    size = gates.shape[-1] // count
    return tuple(gates[..., index * size : (index + 1) * size] for index in range(count))


def tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return np.tanh(x) if isinstance(x, np.ndarray) else x.tanh()


def relu(x: Array) -> Array:
    """The larger of x and 0."""
    return np.maximum(x, 0) if isinstance(x, np.ndarray) else x.relu()


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)); in NumPy as a tanh, which cannot overflow and keeps the dtype."""
    return 0.5 * np.tanh(0.5 * x) + 0.5 if isinstance(x, np.ndarray) else x.sigmoid()


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(x, x.dtype.type(0)) if isinstance(x, np.ndarray) else x.logaddexp(x.new_zeros(()))
