"""Recurrent layers on the CPU, a block at a time, forward and backward.

torch has a fused CPU kernel only for the LSTM; for the other cells it runs a dozen small operations per character. Here
a step is one product. The recurrent weights, the input weights and the biases are the columns of one matrix; the state,
the input and a one are the rows of the other:

    gates = [W_hh  W_ih  b] [h; x; 1]

So forward takes one product per step, backward takes one product per step, and one more product for all steps gives
the gradients of all weights. If the input is a symbol, x is its one-hot column, and W_ih is a table with each symbol's
term for the gates.

Letters: `T` steps, `S` some of them, `B` streams, `N` steps times streams, `E` inputs, `H` units, `G` rows of gates,
`O` rows of the gates that see the state, `K` rows of [h; x; 1], `P` parts of the state, `R` rows of torch's weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from charlm.nn.cell_arithmetic import ARITHMETIC, CellArithmetic, Gates, Step

# One product adds the gradients of this many steps to those of the weights.
STEPS_AT_ONCE = 16
# How many columns of a matrix a bf16 instruction reads.
TILE = 32


class Weights(NamedTuple):
    """A layer's weights under torch's names, and the peepholes of a cell that has them."""

    weight_ih_RE: Tensor
    weight_hh_RH: Tensor
    bias_ih_R: Tensor
    bias_hh_R: Tensor
    peepholes_3H: Tensor | None = None


class _Matrices(NamedTuple):
    """The same weights arranged for the products, each row and column in the scale of the cell's arithmetic.

    Attributes:
        outer_OK: for the gates that see the state: columns for the state, for the input and for 1.
        separate_HK: for a last gate with a separate input: columns for the input and for 1.
        inner_HH: for a last gate that sees the state multiplied by another gate.
    """

    outer_OK: Tensor
    separate_HK: Tensor | None
    inner_HH: Tensor | None


def read_block(
    cell: str,
    x: Tensor,
    state_PBH: Tensor,
    weights: Weights,
    embedding_VE: Tensor | None = None,
    resets: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Read a block with one of `ARITHMETIC`, in the precision that autocast asks for.

    Args:
        cell: by name.
        x: the inputs, shape (T, B, E); or ids, shape (T, B), int64, which are rows of the embedding, or one-hot inputs
            if there is no embedding.
        state_PBH: the state before the block; it is not changed.
        weights: of the layer.
        embedding_VE: the input for each id.
        resets: steps after which streams are set back, (T, B) booleans, and the state that they are set back to, like
            `state_PBH`. The output of such a step is that state.

    Returns:
        the outputs (T, B, H), in the precision of the products, and the state after the block, in the precision of the
        weights.
    """
    arithmetic, weight = ARITHMETIC[cell], weights.weight_hh_RH
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    with torch.autocast("cpu", enabled=False):
        if embedding_VE is not None:
            # The term of each symbol for the gates, computed once for the block and not once for each character.
            weights = weights._replace(weight_ih_RE=linear(weights.weight_ih_RE, embedding_VE))
        matrices = _arrange(arithmetic, weights)
        if dtype == torch.bfloat16:
            matrices = _padded(matrices)
        num_inputs, state_PBH = weights.weight_ih_RE.shape[1], state_PBH.to(weight.dtype)
        results: tuple[Tensor, Tensor] = _Block.apply(  # type: ignore[no-untyped-call]
            arithmetic, dtype, x, num_inputs, state_PBH, *(resets or (None, None)), weights.peepholes_3H, *matrices
        )
    return results


def _arrange(arithmetic: type[CellArithmetic], weights: Weights) -> _Matrices:
    """Concatenate weights and biases to the matrices, with operations that autograd can differentiate."""
    weight_ih, weight_hh, bias_ih, bias_hh, _ = weights
    size, bias = weight_hh.shape[1], bias_ih + bias_hh
    scale_G1 = bias.new_tensor(arithmetic.row_scales).repeat_interleave(size)[:, None]
    to_state_G1 = scale_G1 / arithmetic.hidden_scale
    if not arithmetic.has_separate_input:
        outer = [weight_hh * to_state_G1, weight_ih * scale_G1, bias[:, None] * scale_G1]
        return _Matrices(torch.cat(outer, 1), None, None)
    early, last = slice(None, -size), slice(-size, None)
    if arithmetic.has_inner:
        outer = [weight_hh[early] * to_state_G1[early], weight_ih[early], bias[early, None]]
        separate = torch.cat([weight_ih[last], bias[last, None]], 1) * scale_G1[last]
        return _Matrices(torch.cat(outer, 1), separate, weight_hh[last] * to_state_G1[last])
    # The rows that the last gate gets from the state come first, so that all rows that see the input are neighbours.
    rows_ih = torch.cat([torch.zeros_like(weight_ih[last]), weight_ih[early]])
    rows_bias = torch.cat([bias_hh[last], bias[early]])
    scale_O1 = scale_G1[early]
    rows_hh = _last_gate_first(weight_hh, size)
    outer = [rows_hh * to_state_G1[early], rows_ih * scale_O1, rows_bias[:, None] * scale_O1]
    separate = torch.cat([weight_ih[last], bias_ih[last, None]], 1) * scale_G1[last]
    return _Matrices(torch.cat(outer, 1), separate, None)


def _last_gate_first(weight_RH: Tensor, num_units: int) -> Tensor:
    """Return the rows in the order of the outer matrix of a GRU: r, z, n become n, r, z."""
    return weight_RH.roll(num_units, 0)


def _padded(matrices: _Matrices) -> _Matrices:
    """Add columns of zeros, because bf16 products are twice as fast in whole tiles."""
    outer_OK, separate_HK, inner_HH = matrices
    columns = (0, -outer_OK.shape[1] % TILE)
    return _Matrices(pad(outer_OK, columns), None if separate_HK is None else pad(separate_HK, columns), inner_HH)


class _Saved:
    """The tensors that a block's forward saves for backward. The steps of forward work on views of them.

    In full precision the steps work in place. The state after step t and the state before step t + 1 are the same
    memory:

        columns_TKB[t]         [h; x; 1]    step t reads h
        cells_THB[t]           c            step t reads it
        gates_TGB[t]                        step t writes its gates
        columns_TKB[t + 1]     [h; x; 1]    step t writes h, step t + 1 reads it
        cells_THB[t + 1]       c            step t writes it, step t + 1 reads it
        cell_sigmoids_THB[t]                step t writes it

    In bf16 the saved tensors are rounded. The steps work on tensors in full precision, two states in turn, and `save`
    copies the results:

        even steps             read state one, write state other
        odd steps              read state other, write state one

    Attributes:
        columns_TKB: [h; x; 1] before each step, and h after the last.
        gates_TGB: activations.
        inner_THB: the factor of the last gate's recurrent weights, for a cell with such a product.
        cells_THB: c before each step and after the last, for a cell that has c.
        cell_sigmoids_THB: the sigmoid that gives the tanh of c after each step.
        full: the dtype of full precision.
    """

    def __init__(self, cell: type[CellArithmetic], columns_TKB: Tensor, num_units: int, full: torch.dtype) -> None:
        T, H, B = len(columns_TKB) - 1, num_units, columns_TKB.shape[-1]
        self.columns_TKB = columns_TKB
        self.gates_TGB = columns_TKB.new_empty(T, len(cell.row_scales) * H, B)
        self.inner_THB = columns_TKB.new_empty(T if cell.has_inner else 0, H, B)
        has_cell = bool(cell.cell_scale)
        self.cells_THB = columns_TKB.new_empty(T + 1 if has_cell else 0, H, B)
        self.cell_sigmoids_THB = columns_TKB.new_empty(T if has_cell else 0, H, B)
        self._gates = _by_step(self.gates_TGB, H)
        after = (columns_TKB[1:, :H], self.cells_THB[1:], self.cell_sigmoids_THB)
        self._after = list(zip(*after, strict=True)) if has_cell else [(h_HB,) for h_HB in after[0]]
        before = (columns_TKB[0, :H], self.cells_THB[0]) if has_cell else (columns_TKB[0, :H],)
        self._before = [before, *(step[:2] for step in self._after[:-1])]
        self.full, self.is_rounded = full, columns_TKB.dtype != full
        if self.is_rounded:
            (gates,) = _by_step(torch.empty_like(self.gates_TGB[:1], dtype=full), H)
            one, other = ([torch.empty(H, B, dtype=full) for _ in self._after[0]] for _ in range(2))
            # The state after a step is the state before the next; the sigmoid of c is not part of the state.
            self._working = [Step(gates, one[:2], other), Step(gates, other[:2], one)]

    def start(self, state: Sequence[Tensor]) -> None:
        """Write the state before the block into the tensors of the first step."""
        for part_HB, computed, saved in zip(state, self.step(0).before, self._before[0], strict=True):
            computed.copy_(part_HB)
            saved.copy_(part_HB)

    def step(self, t: int) -> Step:
        """Return the tensors that a step works on."""
        return self._working[t % 2] if self.is_rounded else Step(self._gates[t], self._before[t], self._after[t])

    def save(self, t: int, step: Step) -> None:
        """Save the results of a step, unless it worked on the saved tensors."""
        if self.is_rounded:
            for saved, computed in zip(
                (self.gates_TGB[t], *self._after[t]), (step.gates.all_GB, *step.after), strict=True
            ):
                saved.copy_(computed)

    def restore(self, t: int) -> Step:
        """Return the tensors of a step as they were after it, except h and c after it, which backward does not need."""
        step = self.step(t)
        if self.is_rounded:
            saved = (self.gates_TGB[t], *self._before[t], *self._after[t][2:])
            for computed, tensor in zip((step.gates.all_GB, *step.before, *step.after[2:]), saved, strict=True):
                computed.copy_(tensor)
        return step


class _Gradients:
    """The gradients of a layer's matrices, inputs and peepholes, summed over steps in full precision.

    Attributes:
        matrices: in the shapes of the matrices.
        inputs_TEB: (T, 0, B) if the inputs need no gradient.
        peepholes_3H: None for a cell without peepholes.
    """

    def __init__(self, cell: type[CellArithmetic], saved: _Saved, matrices: _Matrices, num_inputs: int) -> None:
        self._saved, self._num_outer = saved, len(matrices.outer_OK)
        T, _, B = saved.gates_TGB.shape
        self._num_units = H = saved.gates_TGB.shape[1] // len(cell.row_scales)
        full = saved.full
        self.matrices = [None if one is None else torch.zeros(one.shape, dtype=full) for one in matrices]
        self.inputs_TEB = torch.empty(T, num_inputs, B, dtype=full)
        # The input weights of all gates that see the input; among the gates that see the state these are the last ones.
        self._input_RE = matrices.outer_OK[:, H : H + num_inputs]
        if matrices.separate_HK is not None:
            early_RE = self._input_RE if cell.has_inner else self._input_RE[H:]
            self._input_RE = torch.cat([early_RE, matrices.separate_HK[:, :num_inputs]])
        self._cell_scale = cell.cell_scale
        self.peepholes_3H = torch.zeros(3, H, dtype=full) if cell.has_peepholes else None

    def add(self, first: int, d_gates_SGB: Tensor) -> None:
        """Add the gradients of some steps, from step `first` on."""
        saved, H, steps = self._saved, self._num_units, slice(first, first + len(d_gates_SGB))
        d_gates_GN, columns_KN = _side_by_side(d_gates_SGB), _side_by_side(saved.columns_TKB[steps])
        d_outer, d_separate, d_inner = self.matrices
        assert d_outer is not None
        _add_product(d_outer, d_gates_GN[: self._num_outer], columns_KN)
        if d_separate is not None:
            _add_product(d_separate, d_gates_GN[self._num_outer :], columns_KN[H:])
        if d_inner is not None:
            _add_product(d_inner, d_gates_GN[self._num_outer :], _side_by_side(saved.inner_THB[steps]))
        if self.inputs_TEB.shape[1]:
            d_inputs_EN = self._input_RE.t() @ d_gates_GN[-len(self._input_RE) :]
            self.inputs_TEB[steps] = d_inputs_EN.view(len(d_inputs_EN), len(d_gates_SGB), -1).transpose(0, 1)
        if self.peepholes_3H is not None:
            before, after = saved.cells_THB[steps], saved.cells_THB[first + 1 : first + 1 + len(d_gates_SGB)]
            input_gate, forget, _, output = d_gates_SGB.chunk(4, dim=1)
            # The input and forget gates saw the cell before the step, the output gate saw the one after it.
            for row, (gradient, cell) in enumerate(((input_gate, before), (forget, before), (output, after))):
                self.peepholes_3H[row] += (gradient * cell).sum((0, 2)) / self._cell_scale


def _add_product(total: Tensor, left_RN: Tensor, right_KN: Tensor) -> None:
    if left_RN.dtype == total.dtype:
        total.addmm_(left_RN, right_KN.t())
    else:
        total.add_(left_RN @ right_KN.t())


class _Block(torch.autograd.Function):
    """A layer over a block: inputs, state, peepholes and `_Matrices` go in, `(h_TBH, state_PBH)` comes out."""

    @staticmethod
    def forward(
        ctx: Any,
        cell: type[CellArithmetic],
        dtype: torch.dtype,
        x: Tensor,
        num_inputs: int,
        state_PBH: Tensor,
        resets_TB: Tensor | None,
        start_PBH: Tensor | None,
        peepholes_3H: Tensor | None,
        *matrices: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        T, H, arithmetic = len(x), state_PBH.shape[-1], cell(peepholes_3H)
        outer_OK, separate_HK, inner_HH = (None if matrix is None else matrix.to(dtype) for matrix in matrices)
        assert outer_OK is not None
        num_outer, scales = len(outer_OK), (cell.hidden_scale, cell.cell_scale)
        saved = _Saved(cell, _columns(x, num_inputs, H, outer_OK), H, state_PBH.dtype)
        saved.start(_scaled(state_PBH, scales))
        resets = _streams_by_step(resets_TB)
        start = [] if start_PBH is None else _scaled(start_PBH.to(state_PBH.dtype), scales)
        outer_TOB = saved.gates_TGB[:, :num_outer].unbind()
        for t, (outer_OB, column_KB) in enumerate(zip(outer_TOB, saved.columns_TKB.unbind(), strict=False)):
            step = saved.step(t)
            torch.mm(outer_OK, column_KB, out=outer_OB)
            if separate_HK is not None:
                torch.mm(separate_HK, column_KB[H:], out=saved.gates_TGB[t, num_outer:])
            if saved.is_rounded:
                step.gates.all_GB.copy_(saved.gates_TGB[t])
            if inner_HH is not None:
                saved.inner_THB[t] = arithmetic.inner(step)
                saved.gates_TGB[t, num_outer:].addmm_(inner_HH, saved.inner_THB[t])
                if saved.is_rounded:
                    step.gates.each[-1].copy_(saved.gates_TGB[t, num_outer:])
            arithmetic.forward(step)
            if t in resets:
                for part_HB, start_HB in zip(step.after, start, strict=False):
                    part_HB[:, resets[t]] = start_HB[:, resets[t]]
            saved.save(t, step)
        ctx.cell, ctx.saved, ctx.num_inputs, ctx.resets = cell, saved, num_inputs, resets
        ctx.save_for_backward(peepholes_3H, outer_OK, separate_HK, inner_HH)
        # Units come first in memory, because the next product reads them so.
        y_HTB = saved.columns_TKB.new_empty(H, T, x.shape[1])
        torch.mul(saved.columns_TKB[1:, :H].transpose(0, 1), 1 / cell.hidden_scale, out=y_HTB)
        after = zip(step.after, scales, strict=False)
        return y_HTB.permute(1, 2, 0), torch.stack([part_HB.t() / scale for part_HB, scale in after])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y_TBH: Tensor, d_state_PBH: Tensor) -> tuple[Tensor | None, ...]:
        cell, saved = ctx.cell, ctx.saved
        peepholes_3H, outer_OK, separate_HK, inner_HH = ctx.saved_tensors
        (T, G, B), H, arithmetic = saved.gates_TGB.shape, d_state_PBH.shape[-1], cell(peepholes_3H)
        num_outer, dtype, full = len(outer_OK), outer_OK.dtype, d_state_PBH.dtype
        outer_HO = outer_OK[:, :H].t().contiguous()
        # The state's gradient is summed in full precision; only the results of products are rounded.
        d_h_THB = torch.empty(T + 1, H, B, dtype=full)
        d_h_THB[0] = 0
        torch.mul(d_y_TBH.transpose(1, 2), 1 / cell.hidden_scale, out=d_h_THB[1:])
        d_h_THB[T].add_(d_state_PBH[0].t(), alpha=1 / cell.hidden_scale)
        d_h_by_step, d_cells = d_h_THB.unbind(), [d_part_BH.t() / cell.cell_scale for d_part_BH in d_state_PBH[1:]]
        # A few steps at a time, so that their gradients are still in the cache when the weights' gradients need them.
        d_gates_SGB = saved.gates_TGB.new_empty(min(T, STEPS_AT_ONCE), G, B)
        d_gates_by_step, d_outer_by_step = _by_step(d_gates_SGB, H), d_gates_SGB[:, :num_outer].unbind()
        (working,) = _by_step(torch.empty(1, G, B, dtype=full), H) if saved.is_rounded else (None,)
        d_start = [torch.zeros_like(d_h_THB[0]) for _ in d_state_PBH] if ctx.needs_input_grad[6] else []
        matrices = _Matrices(outer_OK, separate_HK, inner_HH)
        gradients = _Gradients(cell, saved, matrices, ctx.num_inputs if ctx.needs_input_grad[2] else 0)
        for first in range((T - 1) // STEPS_AT_ONCE * STEPS_AT_ONCE, -1, -STEPS_AT_ONCE):
            for t in range(min(first + STEPS_AT_ONCE, T) - 1, first - 1, -1):
                step, d_h_HB, d_outer_OB = saved.restore(t), d_h_by_step[t], d_outer_by_step[t - first]
                d_gates, d_after = working or d_gates_by_step[t - first], (d_h_by_step[t + 1], *d_cells)
                if t in ctx.resets:
                    _cut(d_after, d_start, ctx.resets[t])
                arithmetic.backward(step, d_after, d_h_HB, d_gates)
                if inner_HH is not None:
                    d_inner_HB = (inner_HH.t() @ d_gates.each[-1].to(dtype)).to(full)
                    arithmetic.inner_backward(step, d_inner_HB, d_h_HB, d_gates)
                if saved.is_rounded:
                    d_gates_SGB[t - first] = d_gates.all_GB
                    d_h_HB.add_(outer_HO @ d_outer_OB)
                else:
                    d_h_HB.addmm_(outer_HO, d_outer_OB)
            gradients.add(first, d_gates_SGB[: T - first])
        scales = (cell.hidden_scale, cell.cell_scale)
        d_before = torch.stack(_scaled([d_h_THB[0], *d_cells], scales))
        d_start_PBH = torch.stack(_scaled(d_start, scales)) if d_start else None
        d_x_TBE = gradients.inputs_TEB.transpose(1, 2) if ctx.needs_input_grad[2] else None
        d_weights = gradients.peepholes_3H, *gradients.matrices
        return None, None, d_x_TBE, None, d_before, None, d_start_PBH, *d_weights


def _scaled(parts: Iterable[Tensor], scales: Sequence[float]) -> list[Tensor]:
    """Return the parts of a state, or of its gradient, transposed and in another scale."""
    return [part.t() * scale for part, scale in zip(parts, scales, strict=False)]


def _streams_by_step(resets_TB: Tensor | None) -> dict[int, Tensor]:
    """Return the numbers of the streams that are set back after a step, by step."""
    if resets_TB is None:
        return {}
    return {t: resets_TB[t].nonzero()[:, 0] for t in resets_TB.any(1).nonzero()[:, 0].tolist()}


def _cut(d_after: Sequence[Tensor], d_start: Sequence[Tensor], streams: Tensor) -> None:
    """Move the gradient of the state after a reset to the state that the streams are set back to."""
    for d_part_HB, d_start_HB in zip_longest(d_after, d_start):
        if d_start_HB is not None:
            d_start_HB[:, streams] += d_part_HB[:, streams]
        d_part_HB[:, streams] = 0


def _columns(x: Tensor, num_inputs: int, num_units: int, outer_OK: Tensor) -> Tensor:
    """Return [h; x; 1] for each step, and room for h after the last step; h is not yet written."""
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
    """Return views of the gates of each step, all together and one by one."""
    each = zip(
        *(gate_THB.unbind() for gate_THB in gates_TGB.chunk(gates_TGB.shape[1] // num_units, dim=1)), strict=True
    )
    return [Gates(*pair) for pair in zip(gates_TGB.unbind(), each, strict=True)]


def _side_by_side(rows_TRB: Tensor) -> Tensor:
    """Return the columns of all steps and streams beside each other, (R, N)."""
    return rows_TRB.transpose(0, 1).reshape(rows_TRB.shape[1], -1)
