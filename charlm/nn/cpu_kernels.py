"""Recurrent layers on the CPU, a block at a time, forward and backward.

torch has a fused CPU kernel for the LSTM alone; the other cells take a dozen small operations a character. Here a step
is one product: the weights for the state, those for the input and the biases stand side by side in one matrix, and the
state, the input and a row of ones stand above each other,

    gates = [W_hh  W_ih  b] [h; x; 1]

so that forward is one product a step, backward is one product a step, and one product for the whole block gives the
gradients of all weights. Where the input is a symbol, x is its one-hot column, and W_ih is a table of what each symbol
adds to the gates.

Letters: `T` steps, `B` streams, `N` both together, `E` inputs, `H` units, `G` rows of gates, `O` those of them that see
the state, `K` rows of [h; x; 1], `P` parts of the state, `R` rows of torch's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from charlm.nn.cell_arithmetic import ARITHMETIC, CellArithmetic, Gates, Step

# Steps whose gradients go into those of the weights together.
STEPS_AT_ONCE = 16
# Columns of a matrix that bf16 instructions take at once.
TILE = 32


class Weights(NamedTuple):
    """A layer's weights under torch's names, and the peepholes of a cell that has them."""

    weight_ih_RE: Tensor
    weight_hh_RH: Tensor
    bias_ih_R: Tensor
    bias_hh_R: Tensor
    peepholes_3H: Tensor | None = None


class _Matrices(NamedTuple):
    """The same weights as the products want them, each row and column scaled as the cell's arithmetic says.

    Attributes:
        outer_OK: for the gates that see the state: columns for it, for the input, and for 1.
        apart_HK: for the last gate, where it sees the input apart from the state: columns for the input and for 1.
        inner_HH: for the last gate, where it sees what another gate leaves of the state.
    """

    outer_OK: Tensor
    apart_HK: Tensor | None
    inner_HH: Tensor | None


def read_block(
    cell: str, x: Tensor, state_PBH: Tensor, weights: Weights, embedding_VE: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read a block with one of `ARITHMETIC`, in the precision that autocast asks for.

    Args:
        cell: by name.
        x: the inputs, shape (T, B, E); or ids, shape (T, B), int64, each a row of the embedding, or without one an
            input that is one-hot.
        state_PBH: the state before; it is not changed.
        weights: of the layer.
        embedding_VE: for ids: the input that each stands for.

    Returns:
        the outputs (T, B, H), in the precision of the products, and the state after, in that of the weights.
    """
    arithmetic, weight = ARITHMETIC[cell], weights.weight_hh_RH
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    with torch.autocast("cpu", enabled=False):
        if embedding_VE is not None:
            # What each symbol adds to the gates, once for the block and not once for each of its characters.
            weights = weights._replace(weight_ih_RE=linear(weights.weight_ih_RE, embedding_VE))
        matrices = _arrange(arithmetic, weights)
        if dtype == torch.bfloat16:
            matrices = _padded(matrices)
        num_inputs, state_PBH = weights.weight_ih_RE.shape[1], state_PBH.to(weight.dtype)
        results: tuple[Tensor, Tensor] = _Block.apply(  # type: ignore[no-untyped-call]
            arithmetic, dtype, x, num_inputs, state_PBH, weights.peepholes_3H, *matrices
        )
    return results


def _arrange(arithmetic: type[CellArithmetic], weights: Weights) -> _Matrices:
    """Put the weights and biases side by side, by operations that autograd goes back through."""
    weight_ih, weight_hh, bias_ih, bias_hh, _ = weights
    size, bias = weight_hh.shape[1], bias_ih + bias_hh
    scale_G1 = bias.new_tensor(arithmetic.row_scales).repeat_interleave(size)[:, None]
    to_state_G1 = scale_G1 / arithmetic.hidden_scale
    if not arithmetic.sees_apart:
        outer = [weight_hh * to_state_G1, weight_ih * scale_G1, bias[:, None] * scale_G1]
        return _Matrices(torch.cat(outer, 1), None, None)
    early, last = slice(None, -size), slice(-size, None)
    if arithmetic.has_inner:
        outer = [weight_hh[early] * to_state_G1[early], weight_ih[early], bias[early, None]]
        apart = torch.cat([weight_ih[last], bias[last, None]], 1) * scale_G1[last]
        return _Matrices(torch.cat(outer, 1), apart, weight_hh[last] * to_state_G1[last])
    # What the last gate sees of the state comes first, so that all gates that see the input are neighbours.
    rows_ih = torch.cat([torch.zeros_like(weight_ih[last]), weight_ih[early]])
    rows_bias = torch.cat([bias_hh[last], bias[early]])
    scale_O1 = scale_G1[early]
    outer = [weight_hh.roll(size, 0) * to_state_G1[early], rows_ih * scale_O1, rows_bias[:, None] * scale_O1]
    apart = torch.cat([weight_ih[last], bias_ih[last, None]], 1) * scale_G1[last]
    return _Matrices(torch.cat(outer, 1), apart, None)


def _padded(matrices: _Matrices) -> _Matrices:
    """Add columns of zeros, for products of bf16 numbers are twice as fast in whole tiles."""
    outer_OK, apart_HK, inner_HH = matrices
    columns = (0, -outer_OK.shape[1] % TILE)
    return _Matrices(pad(outer_OK, columns), None if apart_HK is None else pad(apart_HK, columns), inner_HH)


class _Kept:
    """What each step of a block leaves for the next one and for going back.

    In full precision a step is computed in place on what is kept. Otherwise it is computed on full tensors of its own,
    and what is kept of them is rounded.

    Attributes:
        columns_TKB: [h; x; 1] before each step, and h after the last.
        gates_TGB: activations.
        inner_THB: what the last gate was multiplied with, for a cell with such a product.
        cells_THB: c before each step and after the last, for a cell that has it.
        shown_THB: the sigmoid that makes the tanh of c after each step.
        full: full precision.
    """

    def __init__(self, cell: type[CellArithmetic], columns_TKB: Tensor, num_units: int, full: torch.dtype) -> None:
        T, H, B = len(columns_TKB) - 1, num_units, columns_TKB.shape[-1]
        self.columns_TKB = columns_TKB
        self.gates_TGB = columns_TKB.new_empty(T, len(cell.row_scales) * H, B)
        self.inner_THB = columns_TKB.new_empty(T if cell.has_inner else 0, H, B)
        has_cell = bool(cell.cell_scale)
        self.cells_THB = columns_TKB.new_empty(T + 1 if has_cell else 0, H, B)
        self.shown_THB = columns_TKB.new_empty(T if has_cell else 0, H, B)
        self._gates = _by_step(self.gates_TGB, H)
        after = (columns_TKB[1:, :H], self.cells_THB[1:], self.shown_THB)
        self._after = list(zip(*after, strict=True)) if has_cell else [(h_HB,) for h_HB in after[0]]
        before = (columns_TKB[0, :H], self.cells_THB[0]) if has_cell else (columns_TKB[0, :H],)
        self._before = [before, *(step[:2] for step in self._after[:-1])]
        self.full, self.is_rounded = full, columns_TKB.dtype != full
        if self.is_rounded:
            (gates,) = _by_step(torch.empty_like(self.gates_TGB[:1], dtype=full), H)
            one, other = ([torch.empty(H, B, dtype=full) for _ in self._after[0]] for _ in range(2))
            # What comes after a step comes before the next.
            self._own = [Step(gates, one[:2], other), Step(gates, other[:2], one)]

    def begin(self, state: Sequence[Tensor]) -> None:
        """Put the state before the block where the first step finds it."""
        for part_HB, computed, kept in zip(state, self.step(0).before, self._before[0], strict=True):
            computed.copy_(part_HB)
            kept.copy_(part_HB)

    def step(self, t: int) -> Step:
        """Return the tensors a step is computed on."""
        return self._own[t % 2] if self.is_rounded else Step(self._gates[t], self._before[t], self._after[t])

    def keep(self, t: int, step: Step) -> None:
        """Keep what a step has computed."""
        if self.is_rounded:
            for kept, computed in zip(
                (self.gates_TGB[t], *self._after[t]), (step.gates.all_GB, *step.after), strict=True
            ):
                kept.copy_(computed)

    def recall(self, t: int) -> Step:
        """Return the tensors of a step as it left them, but for h and c after it, which going back does not need."""
        step = self.step(t)
        if self.is_rounded:
            kept = (self.gates_TGB[t], *self._before[t], *self._after[t][2:])
            for computed, tensor in zip((step.gates.all_GB, *step.before, *step.after[2:]), kept, strict=True):
                computed.copy_(tensor)
        return step


class _Gradients:
    """The gradients of a layer's matrices, inputs and peepholes, summed up over steps in full precision.

    Attributes:
        matrices: shaped as the matrices are.
        inputs_TEB: (T, 0, B) where nobody asks for it.
        peepholes_3H: None for a cell that has none.
    """

    def __init__(self, cell: type[CellArithmetic], kept: _Kept, matrices: _Matrices, num_inputs: int) -> None:
        self._kept, self._num_outer = kept, len(matrices.outer_OK)
        T, _, B = kept.gates_TGB.shape
        self._num_units = H = kept.gates_TGB.shape[1] // len(cell.row_scales)
        full = kept.full
        self.matrices = [None if one is None else torch.zeros(one.shape, dtype=full) for one in matrices]
        self.inputs_TEB = torch.empty(T, num_inputs, B, dtype=full)
        # The weights for the input, of all gates that see it: among those that see the state they are the last.
        self._input_RE = matrices.outer_OK[:, H : H + num_inputs]
        if matrices.apart_HK is not None:
            early_RE = self._input_RE if cell.has_inner else self._input_RE[H:]
            self._input_RE = torch.cat([early_RE, matrices.apart_HK[:, :num_inputs]])
        self._cell_scale = cell.cell_scale
        self.peepholes_3H = torch.zeros(3, H, dtype=full) if cell.has_peepholes else None

    def add(self, first: int, d_gates_SGB: Tensor) -> None:
        """Add what some steps from `first` on bring."""
        kept, H, steps = self._kept, self._num_units, slice(first, first + len(d_gates_SGB))
        d_gates_GN, columns_KN = _side_by_side(d_gates_SGB), _side_by_side(kept.columns_TKB[steps])
        d_outer, d_apart, d_inner = self.matrices
        assert d_outer is not None
        _add_product(d_outer, d_gates_GN[: self._num_outer], columns_KN)
        if d_apart is not None:
            _add_product(d_apart, d_gates_GN[self._num_outer :], columns_KN[H:])
        if d_inner is not None:
            _add_product(d_inner, d_gates_GN[self._num_outer :], _side_by_side(kept.inner_THB[steps]))
        if self.inputs_TEB.shape[1]:
            d_inputs_EN = self._input_RE.t() @ d_gates_GN[-len(self._input_RE) :]
            self.inputs_TEB[steps] = d_inputs_EN.view(len(d_inputs_EN), len(d_gates_SGB), -1).transpose(0, 1)
        if self.peepholes_3H is not None:
            before, after = kept.cells_THB[steps], kept.cells_THB[first + 1 : first + 1 + len(d_gates_SGB)]
            enter, forget, _, output = d_gates_SGB.chunk(4, dim=1)
            # Input and forget gate saw the cell before the step, the output gate the one after it.
            for row, (gradient, cell) in enumerate(((enter, before), (forget, before), (output, after))):
                self.peepholes_3H[row] += (gradient * cell).sum((0, 2)) / self._cell_scale


def _add_product(total: Tensor, left_RN: Tensor, right_KN: Tensor) -> None:
    if left_RN.dtype == total.dtype:
        total.addmm_(left_RN, right_KN.t())
    else:
        total.add_(left_RN @ right_KN.t())


class _Block(torch.autograd.Function):
    """A layer over a block, from inputs, state, peepholes and `_Matrices` to `(h_TBH, state_PBH)`."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: type[CellArithmetic],
        dtype: torch.dtype,
        x: Tensor,
        num_inputs: int,
        state_PBH: Tensor,
        peepholes_3H: Tensor | None,
        *matrices: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        T, H, arithmetic = len(x), state_PBH.shape[-1], cell(peepholes_3H)
        outer_OK, apart_HK, inner_HH = (None if matrix is None else matrix.to(dtype) for matrix in matrices)
        assert outer_OK is not None
        num_outer, scales = len(outer_OK), (cell.hidden_scale, cell.cell_scale)
        kept = _Kept(cell, _columns(x, num_inputs, H, outer_OK), H, state_PBH.dtype)
        kept.begin([part_BH.t() * scale for part_BH, scale in zip(state_PBH, scales, strict=False)])
        outer_TOB = kept.gates_TGB[:, :num_outer].unbind()
        for t, (outer_OB, column_KB) in enumerate(zip(outer_TOB, kept.columns_TKB.unbind(), strict=False)):
            step = kept.step(t)
            torch.mm(outer_OK, column_KB, out=outer_OB)
            if apart_HK is not None:
                torch.mm(apart_HK, column_KB[H:], out=kept.gates_TGB[t, num_outer:])
            if kept.is_rounded:
                step.gates.all_GB.copy_(kept.gates_TGB[t])
            if inner_HH is not None:
                kept.inner_THB[t] = arithmetic.inner(step)
                kept.gates_TGB[t, num_outer:].addmm_(inner_HH, kept.inner_THB[t])
                if kept.is_rounded:
                    step.gates.each[-1].copy_(kept.gates_TGB[t, num_outer:])
            arithmetic.forward(step)
            kept.keep(t, step)
        ctx.cell, ctx.kept, ctx.num_inputs = cell, kept, num_inputs
        ctx.save_for_backward(peepholes_3H, outer_OK, apart_HK, inner_HH)
        # Units first, as the products after this one want it.
        y_HTB = kept.columns_TKB.new_empty(H, T, x.shape[1])
        torch.mul(kept.columns_TKB[1:, :H].transpose(0, 1), 1 / cell.hidden_scale, out=y_HTB)
        after = zip(step.after, scales, strict=False)
        return y_HTB.permute(1, 2, 0), torch.stack([part_HB.t() / scale for part_HB, scale in after])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y_TBH: Tensor, d_state_PBH: Tensor) -> tuple[Tensor | None, ...]:
        cell, kept = ctx.cell, ctx.kept
        peepholes_3H, outer_OK, apart_HK, inner_HH = ctx.saved_tensors
        (T, G, B), H, arithmetic = kept.gates_TGB.shape, d_state_PBH.shape[-1], cell(peepholes_3H)
        num_outer, dtype, full = len(outer_OK), outer_OK.dtype, d_state_PBH.dtype
        outer_HO = outer_OK[:, :H].t().contiguous()
        # The state's gradient is summed up in full precision; only what a product adds to it is rounded.
        d_h_THB = torch.empty(T + 1, H, B, dtype=full)
        d_h_THB[0] = 0
        torch.mul(d_y_TBH.transpose(1, 2), 1 / cell.hidden_scale, out=d_h_THB[1:])
        d_h_THB[T].add_(d_state_PBH[0].t(), alpha=1 / cell.hidden_scale)
        d_h_of, d_cells = d_h_THB.unbind(), [d_part_BH.t() / cell.cell_scale for d_part_BH in d_state_PBH[1:]]
        # A few steps at a time: their gradients are still in the cache when the weights' are made of them.
        d_gates_SGB = kept.gates_TGB.new_empty(min(T, STEPS_AT_ONCE), G, B)
        d_gates_of, d_outer_of = _by_step(d_gates_SGB, H), d_gates_SGB[:, :num_outer].unbind()
        (own,) = _by_step(torch.empty(1, G, B, dtype=full), H) if kept.is_rounded else (None,)
        matrices = _Matrices(outer_OK, apart_HK, inner_HH)
        gradients = _Gradients(cell, kept, matrices, ctx.num_inputs if ctx.needs_input_grad[2] else 0)
        for first in range((T - 1) // STEPS_AT_ONCE * STEPS_AT_ONCE, -1, -STEPS_AT_ONCE):
            for t in range(min(first + STEPS_AT_ONCE, T) - 1, first - 1, -1):
                step, d_gates, d_outer_OB = kept.recall(t), own or d_gates_of[t - first], d_outer_of[t - first]
                arithmetic.backward(step, (d_h_of[t + 1], *d_cells), d_h_of[t], d_gates)
                if inner_HH is not None:
                    d_inner_HB = (inner_HH.t() @ d_gates.each[-1].to(dtype)).to(full)
                    arithmetic.inner_backward(step, d_inner_HB, d_h_of[t], d_gates)
                if kept.is_rounded:
                    d_gates_SGB[t - first] = d_gates.all_GB
                    d_h_of[t].add_(outer_HO @ d_outer_OB)
                else:
                    d_h_of[t].addmm_(outer_HO, d_outer_OB)
            gradients.add(first, d_gates_SGB[: T - first])
        parts = [d_h_THB[0].t() * cell.hidden_scale, *(d_cell_HB.t() * cell.cell_scale for d_cell_HB in d_cells)]
        d_x_TBE = gradients.inputs_TEB.transpose(1, 2) if ctx.needs_input_grad[2] else None
        return None, None, d_x_TBE, None, torch.stack(parts), gradients.peepholes_3H, *gradients.matrices


def _columns(x: Tensor, num_inputs: int, num_units: int, outer_OK: Tensor) -> Tensor:
    """Return [h; x; 1] for each step, and a column for after the last, with h not yet known."""
    T, B = x.shape[:2]
    columns_TKB = outer_OK.new_empty(T + 1, outer_OK.shape[1], B)
    inputs_TEB, ones_TKB = columns_TKB[:T, num_units:].tensor_split([num_inputs], dim=1)
    ones_TKB.zero_()
    ones_TKB[:, 0] = 1
    if x.is_floating_point():
        inputs_TEB.copy_(x.transpose(1, 2))
    else:
        inputs_TEB.zero_().scatter_(1, x[:, None], 1)
    return columns_TKB


def _by_step(gates_TGB: Tensor, num_units: int) -> list[Gates]:
    """Return the gates of each step, together and one by one."""
    each = zip(
        *(gate_THB.unbind() for gate_THB in gates_TGB.chunk(gates_TGB.shape[1] // num_units, dim=1)), strict=True
    )
    return [Gates(*pair) for pair in zip(gates_TGB.unbind(), each, strict=True)]


def _side_by_side(rows_TRB: Tensor) -> Tensor:
    """Return all steps of all streams beside each other, (R, N)."""
    return rows_TRB.transpose(0, 1).reshape(rows_TRB.shape[1], -1)
