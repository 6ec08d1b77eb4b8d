"""What a cell computes between two products of matrices, and its gradient, in place on the tensors of one step.

tanh(a) is 2 sigmoid(2 a) - 1, for torch computes a sigmoid in less than half the time of a tanh. The factors are moved
into the weights: the rows of a candidate are doubled, and the hidden state is kept as h / 2, with doubled columns for
it. Units come before streams (`HB`, not `BH`), so that a gate is a run of whole rows.

Letters: `B` streams, `H` units, `G` rows of gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_through_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
_through_relu = torch.ops.aten.threshold_backward.grad_input


class Gates(NamedTuple):
    """All gates of a step, or their gradients.

    Attributes:
        all_GB: their rows.
        each: the same for each gate, (H, B).
    """

    all_GB: Tensor
    each: tuple[Tensor, ...]


class Step(NamedTuple):
    """The tensors of one step.

    Attributes:
        gates: pre-activations, which `forward` overwrites with activations.
        before: the state before the step: h, and c for a cell that has one, each (H, B) and scaled as the cell says.
        after: the state after it, which `forward` writes, and after c the sigmoid that makes its tanh.
    """

    gates: Gates
    before: Sequence[Tensor]
    after: Sequence[Tensor]


class CellArithmetic:
    """The arithmetic of one cell.

    Attributes:
        row_scales: what the rows of each gate are multiplied with: 2 for a candidate.
        sees_apart: whether the last gate sees the input apart from the state.
        has_inner: whether it sees what `inner` makes of the state.
        has_peepholes: whether gates see the cell state.
        hidden_scale: what the hidden state is multiplied with where it is kept.
        cell_scale: the same for the cell state; 0 for a cell that has none.
    """

    row_scales: tuple[int, ...]
    sees_apart = False
    has_inner = False
    has_peepholes = False
    hidden_scale = 0.5
    cell_scale = 0.0

    def __init__(self, peepholes_3H: Tensor | None = None) -> None:
        self._peepholes_3H1 = None if peepholes_3H is None else peepholes_3H[:, :, None] / self.cell_scale

    def inner(self, step: Step) -> Tensor:
        """Finish the gates that are complete, and return what the last one is multiplied with."""
        raise NotImplementedError

    def forward(self, step: Step) -> None:
        """Turn pre-activations into activations, and the state before the step into the state after it."""
        raise NotImplementedError

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        """Go back through `forward`.

        Args:
            step: as `forward` left it.
            d_after: gradients of h and c after the step. That of h is used up, that of c becomes that of c before.
            d_h_HB: gradient of h before the step, to which is added what reaches it without a product.
            d_gates: overwritten with the gradient of the pre-activations.
        """
        raise NotImplementedError

    def inner_backward(self, step: Step, d_inner_HB: Tensor, d_h_HB: Tensor, d_gates: Gates) -> None:
        """Go back through `inner`, which finishes the gradient of the pre-activations."""
        raise NotImplementedError


class _Elman(CellArithmetic):
    """h' = tanh(a)."""

    row_scales = (2,)

    def forward(self, step: Step) -> None:
        torch.sub(step.gates.all_GB.sigmoid_(), 0.5, out=step.after[0])

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _through_sigmoid(d_after[0], step.gates.all_GB, grad_input=d_gates.all_GB)


class _Rectified(CellArithmetic):
    """h' = max(0, a)."""

    row_scales = (1,)
    hidden_scale = 1.0

    def forward(self, step: Step) -> None:
        torch.clamp_min(step.gates.all_GB, 0, out=step.after[0])

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _through_relu(d_after[0], step.gates.all_GB, 0, grad_input=d_gates.all_GB)


class _Gated(CellArithmetic):
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_x + r a_h);  h' = n + z (h - n).

    The gates are a_h, r, z and n: the first three see the state, and the last sees the input apart from it.
    """

    row_scales = (2, 1, 1, 2)
    sees_apart = True

    def forward(self, step: Step) -> None:
        from_state, reset, update, candidate = step.gates.each
        size = len(candidate)
        step.gates.all_GB[size : 3 * size].sigmoid_()
        _mix(candidate.addcmul_(reset, from_state), update, step)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        from_state, reset, update, candidate = step.gates.each
        d_from_state, d_reset, d_update, d_candidate = d_gates.each
        size = len(candidate)
        _back_through_mix(candidate, update, step, d_after[0], d_h_HB, d_candidate, d_update)
        torch.mul(d_candidate, reset, out=d_from_state)
        torch.mul(d_candidate, from_state, out=d_reset)
        both, d_both = step.gates.all_GB[size : 3 * size], d_gates.all_GB[size : 3 * size]
        _through_sigmoid(d_both, both, grad_input=d_both)


class _ResetBefore(CellArithmetic):
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_n), in which R (r h) is;  h' = n + z (h - n)."""

    row_scales = (1, 1, 2)
    sees_apart = True
    has_inner = True

    def inner(self, step: Step) -> Tensor:
        reset, _, candidate = step.gates.each
        step.gates.all_GB[: -len(candidate)].sigmoid_()
        return reset * step.before[0]

    def forward(self, step: Step) -> None:
        _, update, candidate = step.gates.each
        _mix(candidate, update, step)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _, update, candidate = step.gates.each
        _, d_update, d_candidate = d_gates.each
        _back_through_mix(candidate, update, step, d_after[0], d_h_HB, d_candidate, d_update)

    def inner_backward(self, step: Step, d_inner_HB: Tensor, d_h_HB: Tensor, d_gates: Gates) -> None:
        reset, _, candidate = step.gates.each
        torch.mul(d_inner_HB, step.before[0], out=d_gates.each[0])
        d_h_HB.addcmul_(d_inner_HB, reset)
        both, d_both = step.gates.all_GB[: -len(candidate)], d_gates.all_GB[: -len(candidate)]
        _through_sigmoid(d_both, both, grad_input=d_both)


class _Lstm(CellArithmetic):
    """i, f, o = sigmoid(a);  g = tanh(a);  c' = f c + i g;  h' = o tanh(c'). The cell is kept as 2 c."""

    row_scales = (1, 1, 2, 1)
    cell_scale = 2.0

    def forward(self, step: Step) -> None:
        step.gates.all_GB.sigmoid_()
        _let_in(step)
        _show(step.gates.each[3], step, from_scale=1)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        _, forget, _, output = step.gates.each
        d_hidden, d_cell = d_after
        _back_from_output(output, step, d_hidden, d_gates.each[3])
        d_cell.add_(d_hidden)
        _back_to_gates(step, d_cell, d_gates, scratch=d_hidden)
        _through_sigmoid(d_gates.all_GB, step.gates.all_GB, grad_input=d_gates.all_GB)
        d_cell.mul_(forget)


class _Peephole(CellArithmetic):
    """i, f = sigmoid(a + p c);  g = tanh(a);  c' = f c + i g;  o = sigmoid(a + p c');  h' = o tanh(c'). Kept as 2 c."""

    row_scales = (1, 1, 2, 1)
    has_peepholes = True
    cell_scale = 2.0

    def forward(self, step: Step) -> None:
        assert self._peepholes_3H1 is not None
        gates_GB, size = step.gates.all_GB, len(step.before[1])
        gates_GB[: 2 * size].view(2, size, -1).addcmul_(self._peepholes_3H1[:2], step.before[1])
        gates_GB[: 3 * size].sigmoid_()
        _let_in(step)
        output = gates_GB[3 * size :]
        output.addcmul_(self._peepholes_3H1[2], step.after[1]).sigmoid_()
        _show(output, step, from_scale=1)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        assert self._peepholes_3H1 is not None
        _, forget, _, output = step.gates.each
        d_enter, d_forget, _, d_output = d_gates.each
        d_hidden, d_cell = d_after
        _back_from_output(output, step, d_hidden, d_output)
        d_cell.add_(d_hidden)
        _through_sigmoid(d_output, output, grad_input=d_output)
        d_cell.addcmul_(self._peepholes_3H1[2], d_output)
        _back_to_gates(step, d_cell, d_gates, scratch=d_hidden)
        three, d_three = step.gates.all_GB[: -len(output)], d_gates.all_GB[: -len(output)]
        _through_sigmoid(d_three, three, grad_input=d_three)
        d_cell.mul_(forget)
        d_cell.addcmul_(self._peepholes_3H1[0], d_enter).addcmul_(self._peepholes_3H1[1], d_forget)


class _Coupled(CellArithmetic):
    """f, o = sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g);  c' = g + f (c - g);  h' = o tanh(c'). Kept as c / 2."""

    row_scales = (1, 2, 1)
    cell_scale = 0.5

    def forward(self, step: Step) -> None:
        step.gates.all_GB.sigmoid_()
        forget, candidate, output = step.gates.each
        cell = step.after[1]
        torch.sub(candidate, 0.5, out=cell)
        torch.lerp(cell, step.before[1], forget, out=cell)
        _show(output, step, from_scale=4)

    def backward(self, step: Step, d_after: Sequence[Tensor], d_h_HB: Tensor, d_gates: Gates) -> None:
        forget, candidate, output = step.gates.each
        d_forget, d_candidate, d_output = d_gates.each
        d_hidden, d_cell = d_after
        _back_from_output(output, step, d_hidden, d_output)
        d_cell.add_(d_hidden, alpha=4)
        torch.sub(step.before[1], candidate, out=d_forget).add_(0.5).mul_(d_cell)
        torch.mul(d_cell, forget, out=d_hidden)
        torch.sub(d_cell, d_hidden, out=d_candidate)
        _through_sigmoid(d_gates.all_GB, step.gates.all_GB, grad_input=d_gates.all_GB)
        d_cell.copy_(d_hidden)


def _mix(candidate: Tensor, update: Tensor, step: Step) -> None:
    """Compute h' / 2 = n / 2 + z (h / 2 - n / 2), with n / 2 = s - 1/2 for s the sigmoid of the candidate's rows."""
    (before, *_), (after, *_) = step.before, step.after
    torch.sub(candidate.sigmoid_(), 0.5, out=after)
    torch.lerp(after, before, update, out=after)


def _back_through_mix(
    candidate: Tensor, update: Tensor, step: Step, d_after: Tensor, d_h: Tensor, d_candidate: Tensor, d_update: Tensor
) -> None:
    """Go back to the candidate's rows, to z, not yet through its sigmoid, and to h."""
    torch.sub(step.before[0], candidate, out=d_update).add_(0.5).mul_(d_after)
    torch.mul(d_after, update, out=d_candidate)
    d_h.add_(d_candidate)
    torch.sub(d_after, d_candidate, out=d_candidate)
    _through_sigmoid(d_candidate, candidate, grad_input=d_candidate)


def _let_in(step: Step) -> None:
    """Compute 2 c' = f 2 c + 2 i g, with g = 2 s - 1 for s the sigmoid of the candidate's rows."""
    before, after = step.before[1], step.after[1]
    enter, forget, candidate, _ = step.gates.each
    torch.mul(forget, before, out=after)
    after.sub_(enter, alpha=2).addcmul_(enter, candidate, value=4)


def _back_to_gates(step: Step, d_cell: Tensor, d_gates: Gates, scratch: Tensor) -> None:
    """Go back through `_let_in` to i, f and g, not yet through their sigmoids."""
    enter, _, candidate, _ = step.gates.each
    d_enter, d_forget, d_candidate, _ = d_gates.each
    torch.mul(d_cell, step.before[1], out=d_forget)
    torch.mul(d_cell, 4, out=scratch)
    torch.mul(scratch, enter, out=d_candidate)
    torch.mul(scratch, candidate, out=d_enter).sub_(scratch, alpha=0.5)


def _show(output: Tensor, step: Step, from_scale: int) -> None:
    """Compute h' / 2 = o s - o / 2, with tanh(c') = 2 s - 1, from the cell times `from_scale`, which is 2 c'."""
    hidden, cell, shown = step.after
    if from_scale == 1:
        torch.sigmoid(cell, out=shown)
    else:
        torch.mul(cell, from_scale, out=shown).sigmoid_()
    torch.mul(output, shown, out=hidden).sub_(output, alpha=0.5)


def _back_from_output(output: Tensor, step: Step, d_hidden: Tensor, d_output: Tensor) -> None:
    """Go back through `_show` to o, not yet through its sigmoid; the gradient of h becomes that of 2 c'."""
    shown = step.after[2]
    torch.mul(d_hidden, shown, out=d_output).sub_(d_hidden, alpha=0.5)
    d_hidden.mul_(output)
    _through_sigmoid(d_hidden, shown, grad_input=d_hidden)


ARITHMETIC: dict[str, type[CellArithmetic]] = {
    "rnn": _Elman,
    "rnn-relu": _Rectified,
    "lstm": _Lstm,
    "lstm-peephole": _Peephole,
    "lstm-coupled": _Coupled,
    "gru": _Gated,
    "gru-reset-before": _ResetBefore,
}
