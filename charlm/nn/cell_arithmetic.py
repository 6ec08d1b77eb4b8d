"""A cell's arithmetic between two matrix products, forward and backward, in place on the tensors of one step.

tanh(a) is computed as 2 sigmoid(2 a) - 1, because torch computes a sigmoid in less than half the time of a tanh. The
factors are moved into the weights: the rows of a candidate are doubled, and the hidden state is stored as h / 2, with
doubled columns for it. Units come before streams (`HB`, not `BH`), so that each gate consists of whole rows.

Letters: `B` streams, `H` units, `G` rows of gates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_relu_backward = torch.ops.aten.threshold_backward.grad_input


class Gates(NamedTuple):
    """All gates of a step, or their gradients.

    Attributes:
        all_GB: all rows.
        each: a view of the rows of each gate, (H, B).
    """

    all_GB: Tensor
    each: tuple[Tensor, ...]


class Step(NamedTuple):
    """The tensors of one step.

    Attributes:
        gates: pre-activations; `forward` overwrites them with activations.
        before: the state before the step: h, and c if the cell has one, each (H, B), in the cell's scale.
        after: the state after the step, written by `forward`; if the cell has c, also the sigmoid that gives tanh(c).
    """

    gates: Gates
    before: Sequence[Tensor]
    after: Sequence[Tensor]


class CellArithmetic(ABC):
    """The arithmetic of one cell.

    Attributes:
        row_scales: the factor of each gate's rows: 2 for a candidate.
        has_separate_input: whether the last gate gets the input by a product of its own, without the state.
        has_inner: whether the last gate sees the result of `inner` and not the state itself.
        has_peepholes: whether gates see the cell state.
        hidden_scale: the factor of the hidden state in storage.
        cell_scale: the factor of the cell state in storage; 0 for a cell without one.
    """

    row_scales: tuple[int, ...]
    has_separate_input = False
    has_inner = False
    has_peepholes = False
    hidden_scale = 0.5
    cell_scale = 0.0

    def __init__(self, peepholes_3H: Tensor | None = None) -> None:
        self._peepholes_3H1 = None if peepholes_3H is None else peepholes_3H[:, :, None] / self.cell_scale

    @abstractmethod
    def forward(self, step: Step) -> None:
        """Turn pre-activations into activations, and the state before the step into the state after it."""

    @abstractmethod
    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        """Compute the gradients of `forward`.

        Args:
            step: as `forward` left it.
            d_after: gradients of h and c after the step. The gradient of h is overwritten as scratch memory; the
                gradient of c is overwritten with the gradient of c before the step.
            d_h_HB: gradient of h before the step; the part that does not pass through a product is added to it.
            d_gates: overwritten with the gradient of the pre-activations.
        """

    # The two below are called only for cells with `has_inner`.

    def inner(self, step: Step) -> Tensor:
        """Activate all gates but the last, and return the factor of the last gate's recurrent weights."""
        raise NotImplementedError

    def inner_backward(self, step: Step, d_inner_HB: Tensor, d_h_HB: Tensor, d_gates: Gates) -> None:
        """Compute the gradients of `inner`, which completes the gradient of the pre-activations."""
        raise NotImplementedError


class _Rnn(CellArithmetic):
    """h' = tanh(a)."""

    row_scales = (2,)

    def forward(self, step: Step) -> None:
        torch.sub(step.gates.all_GB.sigmoid_(), 0.5, out=step.after[0])

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _sigmoid_backward(d_after[0], step.gates.all_GB, grad_input=d_gates.all_GB)


class _RnnRelu(CellArithmetic):
    """h' = max(0, a)."""

    row_scales = (1,)
    hidden_scale = 1.0

    def forward(self, step: Step) -> None:
        torch.clamp_min(step.gates.all_GB, 0, out=step.after[0])

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _relu_backward(d_after[0], step.gates.all_GB, 0, grad_input=d_gates.all_GB)


class _Gru(CellArithmetic):
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_x + r a_h);  h' = n + z (h - n).

    The gates are a_h, r, z and n. The first three see the state; the last one, a_x before it is activated, sees only
    the input.
    """

    row_scales = (2, 1, 1, 2)
    has_separate_input = True

    def forward(self, step: Step) -> None:
        from_state, reset, update, candidate = step.gates.each
        size = len(candidate)
        step.gates.all_GB[size : 3 * size].sigmoid_()
        _interpolate(candidate.addcmul_(reset, from_state), update, step)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        from_state, reset, update, candidate = step.gates.each
        d_from_state, d_reset, d_update, d_candidate = d_gates.each
        size = len(candidate)
        _interpolate_backward(candidate, update, step, d_after[0], d_h_HB, d_candidate, d_update)
        torch.mul(d_candidate, reset, out=d_from_state)
        torch.mul(d_candidate, from_state, out=d_reset)
        both, d_both = step.gates.all_GB[size : 3 * size], d_gates.all_GB[size : 3 * size]
        _sigmoid_backward(d_both, both, grad_input=d_both)


class _GruResetBefore(CellArithmetic):
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_n), where a_n includes R (r h);  h' = n + z (h - n)."""

    row_scales = (1, 1, 2)
    has_separate_input = True
    has_inner = True

    def inner(self, step: Step) -> Tensor:
        reset, _, candidate = step.gates.each
        step.gates.all_GB[: -len(candidate)].sigmoid_()
        return reset * step.before[0]

    def forward(self, step: Step) -> None:
        _, update, candidate = step.gates.each
        _interpolate(candidate, update, step)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _, update, candidate = step.gates.each
        _, d_update, d_candidate = d_gates.each
        _interpolate_backward(candidate, update, step, d_after[0], d_h_HB, d_candidate, d_update)

    def inner_backward(self, step: Step, d_inner_HB: Tensor, d_h_HB: Tensor, d_gates: Gates) -> None:
        reset, _, candidate = step.gates.each
        torch.mul(d_inner_HB, step.before[0], out=d_gates.each[0])
        d_h_HB.addcmul_(d_inner_HB, reset)
        both, d_both = step.gates.all_GB[: -len(candidate)], d_gates.all_GB[: -len(candidate)]
        _sigmoid_backward(d_both, both, grad_input=d_both)


class _Lstm(CellArithmetic):
    """i, f, o = sigmoid(a);  g = tanh(a);  c' = f c + i g;  h' = o tanh(c'). The cell is stored as 2 c."""

    row_scales = (1, 1, 2, 1)
    cell_scale = 2.0

    def forward(self, step: Step) -> None:
        step.gates.all_GB.sigmoid_()
        _update_cell(step)
        _output_hidden(step.gates.each[3], step, from_scale=1)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _, forget, _, output = step.gates.each
        d_hidden, d_cell = d_after
        _output_hidden_backward(output, step, d_hidden, d_gates.each[3])
        d_cell.add_(d_hidden)
        _update_cell_backward(step, d_cell, d_gates, scratch=d_hidden)
        _sigmoid_backward(d_gates.all_GB, step.gates.all_GB, grad_input=d_gates.all_GB)
        d_cell.mul_(forget)


class _LstmPeephole(CellArithmetic):
    """i, f = sigmoid(a + p c);  g = tanh(a);  c' = f c + i g;  o = sigmoid(a + p c');  h' = o tanh(c').

    The cell is stored as 2 c.
    """

    row_scales = (1, 1, 2, 1)
    has_peepholes = True
    cell_scale = 2.0

    def forward(self, step: Step) -> None:
        assert self._peepholes_3H1 is not None
        gates_GB, size = step.gates.all_GB, len(step.before[1])
        gates_GB[: 2 * size].view(2, size, -1).addcmul_(self._peepholes_3H1[:2], step.before[1])
        gates_GB[: 3 * size].sigmoid_()
        _update_cell(step)
        output = gates_GB[3 * size :]
        output.addcmul_(self._peepholes_3H1[2], step.after[1]).sigmoid_()
        _output_hidden(output, step, from_scale=1)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        assert self._peepholes_3H1 is not None
        _, forget, _, output = step.gates.each
        d_input_gate, d_forget, _, d_output = d_gates.each
        d_hidden, d_cell = d_after
        _output_hidden_backward(output, step, d_hidden, d_output)
        d_cell.add_(d_hidden)
        _sigmoid_backward(d_output, output, grad_input=d_output)
        d_cell.addcmul_(self._peepholes_3H1[2], d_output)
        _update_cell_backward(step, d_cell, d_gates, scratch=d_hidden)
        three, d_three = step.gates.all_GB[: -len(output)], d_gates.all_GB[: -len(output)]
        _sigmoid_backward(d_three, three, grad_input=d_three)
        d_cell.mul_(forget)
        d_cell.addcmul_(self._peepholes_3H1[0], d_input_gate).addcmul_(self._peepholes_3H1[1], d_forget)


class _LstmCoupled(CellArithmetic):
    """f, o = sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g);  c' = g + f (c - g);  h' = o tanh(c').

    The cell is stored as c / 2.
    """

    row_scales = (1, 2, 1)
    cell_scale = 0.5

    def forward(self, step: Step) -> None:
        step.gates.all_GB.sigmoid_()
        forget, candidate, output = step.gates.each
        cell = step.after[1]
        torch.sub(candidate, 0.5, out=cell)
        torch.lerp(cell, step.before[1], forget, out=cell)
        _output_hidden(output, step, from_scale=4)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        forget, candidate, output = step.gates.each
        d_forget, d_candidate, d_output = d_gates.each
        d_hidden, d_cell = d_after
        _output_hidden_backward(output, step, d_hidden, d_output)
        d_cell.add_(d_hidden, alpha=4)
        torch.sub(step.before[1], candidate, out=d_forget).add_(0.5).mul_(d_cell)
        torch.mul(d_cell, forget, out=d_hidden)
        torch.sub(d_cell, d_hidden, out=d_candidate)
        _sigmoid_backward(d_gates.all_GB, step.gates.all_GB, grad_input=d_gates.all_GB)
        d_cell.copy_(d_hidden)


def _interpolate(candidate: Tensor, update: Tensor, step: Step) -> None:
    """Compute h' / 2 = n / 2 + z (h / 2 - n / 2), where n / 2 = s - 1/2 for s the sigmoid of the candidate's rows."""
    (before, *_), (after, *_) = step.before, step.after
    torch.sub(candidate.sigmoid_(), 0.5, out=after)
    torch.lerp(after, before, update, out=after)


def _interpolate_backward(
    candidate: Tensor, update: Tensor, step: Step, d_after: Tensor, d_h: Tensor, d_candidate: Tensor, d_update: Tensor
) -> None:
    """Compute the gradients of the candidate's pre-activation, of the activation z, and of h."""
    torch.sub(step.before[0], candidate, out=d_update).add_(0.5).mul_(d_after)
    torch.mul(d_after, update, out=d_candidate)
    d_h.add_(d_candidate)
    torch.sub(d_after, d_candidate, out=d_candidate)
    _sigmoid_backward(d_candidate, candidate, grad_input=d_candidate)


def _update_cell(step: Step) -> None:
    """Compute 2 c' = f 2 c + 2 i g, where g = 2 s - 1 and s is the sigmoid of the candidate's rows."""
    before, after = step.before[1], step.after[1]
    input_gate, forget, candidate, _ = step.gates.each
    torch.mul(forget, before, out=after)
    after.sub_(input_gate, alpha=2).addcmul_(input_gate, candidate, value=4)


def _update_cell_backward(step: Step, d_cell: Tensor, d_gates: Gates, scratch: Tensor) -> None:
    """Compute the gradients of the activations i, f and s in `_update_cell`."""
    input_gate, _, candidate, _ = step.gates.each
    d_input_gate, d_forget, d_candidate, _ = d_gates.each
    torch.mul(d_cell, step.before[1], out=d_forget)
    torch.mul(d_cell, 4, out=scratch)
    torch.mul(scratch, input_gate, out=d_candidate)
    torch.mul(scratch, candidate, out=d_input_gate).sub_(scratch, alpha=0.5)


def _output_hidden(output: Tensor, step: Step, from_scale: int) -> None:
    """Compute h' / 2 = o s - o / 2, where tanh(c') = 2 s - 1.

    s is the sigmoid of 2 c', and 2 c' is the stored cell times `from_scale`.
    """
    hidden, cell, cell_sigmoid = step.after
    if from_scale == 1:
        torch.sigmoid(cell, out=cell_sigmoid)
    else:
        torch.mul(cell, from_scale, out=cell_sigmoid).sigmoid_()
    torch.mul(output, cell_sigmoid, out=hidden).sub_(output, alpha=0.5)


def _output_hidden_backward(output: Tensor, step: Step, d_hidden: Tensor, d_output: Tensor) -> None:
    """Compute the gradient of the activation o; overwrite the gradient of h with the gradient of 2 c'."""
    cell_sigmoid = step.after[2]
    torch.mul(d_hidden, cell_sigmoid, out=d_output).sub_(d_hidden, alpha=0.5)
    d_hidden.mul_(output)
    _sigmoid_backward(d_hidden, cell_sigmoid, grad_input=d_hidden)


ARITHMETIC: dict[str, type[CellArithmetic]] = {
    "rnn": _Rnn,
    "rnn-relu": _RnnRelu,
    "lstm": _Lstm,
    "lstm-peephole": _LstmPeephole,
    "lstm-coupled": _LstmCoupled,
    "gru": _Gru,
    "gru-reset-before": _GruResetBefore,
}
