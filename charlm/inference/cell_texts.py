"""What `charlm explain` says about each cell beside its equations: purposes, drawings, the notation of lecture notes.

It computes nothing. The equations themselves are in `cells.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class CellText(NamedTuple):
    """What is said about a cell beside its equations.

    Attributes:
        purposes: for each gate and the candidate, by its name in `Cell.gates`, a sentence on what it is for.
        effects: for each gate, what it does at a step; `{}` stands for its value in per cent.
        lecture: the equations in the notation of lecture notes.
        lecture_notation: how to read them.
        drawing: the way of the data, at most 40 cells wide.
        biases: how many biases a gate has, and why.
    """

    purposes: dict[str, str]
    effects: dict[str, str]
    lecture: str
    lecture_notation: str
    drawing: str
    biases: str


_INPUT = "The input gate i says how much of the candidate g enters the cell: at 0 nothing, at 1 all of it."
_FORGET = "The forget gate f says how much of the old cell c stays: at 0 the unit forgets it, at 1 it keeps all of it."
_CELL_CANDIDATE = "The candidate g is what this step could add to the cell, from -1 to 1."
_OUTPUT = "The output gate o says how much of the cell the rest of the net sees; what it hides stays in the cell."
_LSTM_PURPOSES = {"input": _INPUT, "forget": _FORGET, "candidate": _CELL_CANDIDATE, "output": _OUTPUT}
_LSTM_EFFECTS = {
    "input": "{} of g enters the cell",
    "forget": "{} of the old cell stays",
    "output": "{} of tanh(c') is shown",
}
_UPDATE = "The update gate z says how much of the old state h stays: at 1 the unit keeps it, at 0 it takes n instead."
_GRU_EFFECTS = {"reset": "{} of R_n(h) is used", "update": "{} of the old state stays"}

_JOINED = "[h, x] is the old state and the input, one below the other. Many notes write h_t for h' and h_(t-1) for h."
_MATRICES = "W_{0} is R_{0} and U_{0} side by side, and b_{0} is the sum of a_{0} and d_{0}; likewise for {1}."
_LECTURE_LSTM = (
    f"{_JOINED} {_MATRICES.format('f', 'the others')} C is the cell c, and C\u0303 is the candidate g, so W_C and b_C "
    "are those of g."
)

_TWO_BIASES = (
    "There are two biases, one beside each matrix, as in PyTorch and cuDNN. Only their sum counts, so one would do; "
    "with two, the weights fit the fast kernels of both."
)
_TWO_BIASES_ALONE = (
    "There are two biases, one beside each matrix, as in `{}`. Only their sum counts, so one would do; two keep the "
    "weights of both cells alike."
)
_TWO_BIASES_GRU = (
    "There are two biases, one beside each matrix, as in PyTorch and cuDNN. In r and z only their sum counts. In n "
    "both are needed: r multiplies d_n, and does not multiply a_n."
)
_ONE_BIAS = "There is one bias, because there is one matrix: the gates do not see the state."

_RNN_DRAWING = """
 h ----> R(h) -->(+)--> {} --+--> h'
                  ^            |
                  |            v
 x -------------> u        next layer
"""
_LSTM_DRAWING = """
 c ---->(*)------->(+)---+--------> c'
         ^          ^    |
         |         (*)  tanh
         |         ^ ^   v
         f         i g  (*)---+--> h'
         ^         ^ ^   ^    |
         |         | |   o    v
         |         | |   ^  next layer
 [h, x] -+---------+-+---+
"""
_PEEPHOLE_DRAWING = """
 c -+-->(*)------->(+)---+--------> c'
    |    ^          ^    |
    |    |         (*)  tanh
    |    |         ^ ^   v
    |    f         i g  (*)---+--> h'
    |    ^         ^ ^   ^    |
    +----+---------+ |   o    v
         |         | |   ^  next layer
 [h, x] -+---------+-+---+  (o sees c')
"""
_COUPLED_DRAWING = """
 c ---->(*)------->(+)---+--------> c'
         ^          ^    |
         |         (*)  tanh
         |         ^ ^   v
         f-->(1 - f) g  (*)---+--> h'
         ^           ^   ^    |
         |           |   o    v
         |           |   ^  next layer
 [h, x] -+-----------+---+
"""
_GRU_DRAWING = """
 h -+---->(* z)---------->(+)--+--> h'
    |                      ^   |
    |                (* 1 - z) v
    |                      ^ next layer
    |                      n
    |                      ^
    |                     tanh
    |                      ^
    +-> R_n(h) -->(* r)-->(+)
 x -----------------> u_n -^
 (r and z are computed from h and x)
"""
_RESET_BEFORE_DRAWING = """
 h -+---->(* z)---------->(+)--+--> h'
    |                      ^   |
    |                (* 1 - z) v
    |                      ^ next layer
    |                      n
    |                      ^
    |                     tanh
    |                      ^
    +-->(* r)--> R_n ---->(+)
 x -----------------> u_n -^
 (r and z are computed from h and x)
"""
_MINGRU_DRAWING = """
 h ---->(* 1 - z)->(+)---+--------> h'
             ^      ^    |
             |     (*)   v
             |     ^ ^  next layer
             +---- z n
                   ^ ^
 x ----------------+-+
"""
_MINLSTM_DRAWING = """
 h ---->(*)------->(+)---+--------> h'
         ^          ^    |
         |         (*)   v
         |         ^ ^  next layer
         f         i g
         ^         ^ ^
 x ------+---------+-+
 (f and i are divided by their sum)
"""

CELL_TEXTS = {
    "rnn": CellText(
        {"candidate": "The state h' is the memory of the layer and its output at once; the next step overwrites it."},
        {},
        "h' = tanh(W [h, x] + b)",
        f"{_JOINED} W is R and U side by side, and b is the sum of a and d.",
        _RNN_DRAWING.format("tanh"),
        _TWO_BIASES,
    ),
    "rnn-relu": CellText(
        {"candidate": "The state h' is the memory of the layer and its output at once; a sum below 0 becomes 0."},
        {},
        "h' = max(0, W [h, x] + b)",
        f"{_JOINED} W is R and U side by side, and b is the sum of a and d.",
        _RNN_DRAWING.format("max "),
        _TWO_BIASES,
    ),
    "lstm": CellText(
        _LSTM_PURPOSES,
        _LSTM_EFFECTS,
        """f = sigmoid(W_f [h, x] + b_f)
i = sigmoid(W_i [h, x] + b_i)
C\u0303 = tanh(W_C [h, x] + b_C)
C' = f * C + i * C\u0303
o = sigmoid(W_o [h, x] + b_o)
h' = o * tanh(C')""",
        _LECTURE_LSTM,
        _LSTM_DRAWING,
        _TWO_BIASES,
    ),
    "lstm-peephole": CellText(
        _LSTM_PURPOSES,
        _LSTM_EFFECTS,
        """f = sigmoid(W_f [h, x] + p_f * C + b_f)
i = sigmoid(W_i [h, x] + p_i * C + b_i)
C\u0303 = tanh(W_C [h, x] + b_C)
C' = f * C + i * C\u0303
o = sigmoid(W_o [h, x] + p_o * C' + b_o)
h' = o * tanh(C')""",
        f"{_LECTURE_LSTM} Some notes write W_f [C, h, x], with a matrix for C; here p_f has one number for each unit.",
        _PEEPHOLE_DRAWING,
        _TWO_BIASES_ALONE.format("lstm"),
    ),
    "lstm-coupled": CellText(
        {
            "forget": "The forget gate f says how much of the old cell c stays; i = 1 - f says how much of g enters "
            "it.",
            "candidate": _CELL_CANDIDATE,
            "output": _OUTPUT,
        },
        {name: _LSTM_EFFECTS[name] for name in ("forget", "output")},
        """f = sigmoid(W_f [h, x] + b_f)
C\u0303 = tanh(W_C [h, x] + b_C)
C' = f * C + (1 - f) * C\u0303
o = sigmoid(W_o [h, x] + b_o)
h' = o * tanh(C')""",
        _LECTURE_LSTM,
        _COUPLED_DRAWING,
        _TWO_BIASES_ALONE.format("lstm"),
    ),
    "gru": CellText(
        {
            "reset": "The reset gate r says how much of R_n(h), which is what the old state adds, goes into the "
            "candidate: at 0 the candidate depends on the input alone, at 1 fully on both.",
            "update": _UPDATE,
            "candidate": "The candidate n is what the new state would be if nothing of the old one stayed, from -1 to "
            "1.",
        },
        _GRU_EFFECTS,
        """r = sigmoid(W_r [h, x] + b_r)
z = sigmoid(W_z [h, x] + b_z)
h\u0303 = tanh(U_n x + a_n + r * (R_n h + d_n))
h' = (1 - z) * h\u0303 + z * h""",
        f"{_JOINED} {_MATRICES.format('r', 'z')} h\u0303 is the candidate n. Its line is not of the form W [h, x] + b, "
        "because r multiplies only one half. Many notes have h\u0303 = tanh(W [r * h, x] + b) instead, which is "
        "`gru-reset-before`. In many notes z and 1 - z change places: h' = z * h\u0303 + (1 - z) * h.",
        _GRU_DRAWING,
        _TWO_BIASES_GRU,
    ),
    "gru-reset-before": CellText(
        {
            "reset": "The reset gate r says how much of the old state of its unit all candidates see: at 0 nothing, at "
            "1 all of it.",
            "update": _UPDATE,
            "candidate": "The candidate n is what the new state would be if nothing of the old one stayed, from -1 to "
            "1.",
        },
        {"reset": "{} of h goes into R_n", "update": "{} of the old state stays"},
        """r = sigmoid(W_r [h, x] + b_r)
z = sigmoid(W_z [h, x] + b_z)
h\u0303 = tanh(W_h [r * h, x] + b_h)
h' = (1 - z) * h\u0303 + z * h""",
        f"{_JOINED} {_MATRICES.format('r', 'z')} h\u0303 is the candidate n, so W_h and b_h are those of n. In many "
        "notes z and 1 - z change places: h' = z * h\u0303 + (1 - z) * h.",
        _RESET_BEFORE_DRAWING,
        _TWO_BIASES_ALONE.format("gru"),
    ),
    "mingru": CellText(
        {
            "update": "The update gate z says how much of the candidate n is taken: at 0 the unit keeps its old state, "
            "at 1 it takes n instead.",
            "candidate": "The candidate n is what the new state would be if nothing of the old one stayed; nothing "
            "bounds it.",
        },
        {"update": "{} of n is taken"},
        """z = sigmoid(W_z x + b_z)
h\u0303 = W_h x + b_h
h' = (1 - z) * h + z * h\u0303""",
        "W_z is U_z, and b_z is a_z. h\u0303 is the candidate n, so W_h is U_n, and b_h is a_n. There is x in place of "
        "[h, x], because the gate does not see the state.",
        _MINGRU_DRAWING,
        _ONE_BIAS,
    ),
    "minlstm": CellText(
        {
            "forget": "The forget gate f says how much of the old state h stays.",
            "input": "The input gate i says how much of the candidate g is added. Both gates are divided by their sum "
            "s, so f and i add up to 1.",
            "candidate": "The candidate g is what the new state would be if nothing of the old one stayed; nothing "
            "bounds it.",
        },
        {"forget": "{} of the old state stays", "input": "{} of g is added"},
        """s = sigmoid(W_f x + b_f) + sigmoid(W_i x + b_i)
f = sigmoid(W_f x + b_f) / s
i = sigmoid(W_i x + b_i) / s
h\u0303 = W_h x + b_h
h' = f * h + i * h\u0303""",
        "W_f is U_f, and b_f is a_f; likewise for i. h\u0303 is the candidate g, so W_h is U_g, and b_h is a_g. "
        "There is x in place of [h, x], because the gates do not see the state.",
        _MINLSTM_DRAWING,
        _ONE_BIAS,
    ),
}
