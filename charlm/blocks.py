"""Recurrent layers, block by block on the CPU, forward and backward, for the cells torch has no fast way for.

torch hands the LSTM to a fused kernel and steps through the others with a dozen small operations a character. Here a
block is one product for all its inputs, one product a step, gate arithmetic in place on buffers that stay in the
cache, and one product for each weight's gradient. Units come before streams (`HB`, not `BH`), so that the weights are
the left factor of each product, and a gate is a run of whole rows.

Letters: `T` steps, `B` streams, `N` both together, `E` inputs, `H` units, `R` rows of a weight (gates times H), `G`
rows of pre-activations: for the GRU one gate more than R, for its candidate adds what comes from the state apart from
what comes from the input; `S` rows of the state: H, and for the LSTMs H more for the cell; `P` parts of the state;
`K` peepholes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Arithmetic:
    """What a cell does between two products, in place on one step's buffers.

    The first R rows of `gates` take the product with the state; the last R rows take the product with the input, in
    torch's order. Where there are more than R, the rows of the state are in torch's order but the last gate first.

    Attributes:
        num_runs: G / H.
        num_inner: gates, the last ones, whose product is not with the state but with what `inner` makes of it.
        peepholes_KH1: weights from the cell state to the gates that see it.
    """

    num_runs: int
    num_inner = 0

    def __init__(self, peepholes_KH: Tensor | None = None) -> None:
        self.peepholes_KH1 = None if peepholes_KH is None else peepholes_KH[:, :, None]

    def inner(self, gates_GB: Tensor, state_SB: Tensor) -> Tensor:
        """Finish the gates that are complete, and return what the last ones are to be multiplied with."""
        raise NotImplementedError

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        """Turn pre-activations into what `backward` needs of them, and the state before into the state after."""
        raise NotImplementedError

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        """Write the gradient of the pre-activations, and leave in the state's what goes back past the products."""
        raise NotImplementedError

    def inner_backward(
        self, gates_GB: Tensor, before_SB: Tensor, inner_HB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor
    ) -> None:
        """Do the same for what the gradient of `inner` adds."""
        raise NotImplementedError


class _Elman(_Arithmetic):
    """h' = tanh(a)."""

    num_runs = 1

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        state_SB.copy_(_tanh_(gates_GB))

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        _through_tanh(state_gradient_SB, gates_GB, out=gradient_GB)
        state_gradient_SB.zero_()


class _Rectified(_Arithmetic):
    """h' = max(0, a)."""

    num_runs = 1

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        state_SB.copy_(gates_GB.relu_())

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        torch.mul(state_gradient_SB, gates_GB > 0, out=gradient_GB)
        state_gradient_SB.zero_()


class _Gated(_Arithmetic):
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_x + r a_h);  h' = n + z (h - n)."""

    num_runs = 4

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        from_state, reset, update, candidate = gates_GB.chunk(4)
        size = len(state_SB)
        gates_GB[size : 3 * size].sigmoid_()
        _tanh_(candidate.addcmul_(reset, from_state))
        torch.lerp(candidate, state_SB, update, out=state_SB)

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        from_state, reset, update, candidate = gates_GB.chunk(4)
        d_from_state, d_reset, d_update, d_candidate = gradient_GB.chunk(4)
        size = len(before_SB)
        both, d_both = gates_GB[size : 3 * size], gradient_GB[size : 3 * size]
        _back_to_candidate(update, candidate, before_SB, state_gradient_SB, d_update, d_candidate, scratch=d_from_state)
        torch.mul(d_candidate, reset, out=d_from_state)
        torch.mul(d_candidate, from_state, out=d_reset)
        _through_sigmoid_(d_both, both)


class _ResetBefore(_Arithmetic):
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_n), in which R (r h) is;  h' = n + z (h - n)."""

    num_runs = 3
    num_inner = 1

    def inner(self, gates_GB: Tensor, state_SB: Tensor) -> Tensor:
        size = len(state_SB)
        gates_GB[: 2 * size].sigmoid_()
        return gates_GB[:size] * state_SB

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        _, update, candidate = gates_GB.chunk(3)
        torch.lerp(_tanh_(candidate), state_SB, update, out=state_SB)

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        _, update, candidate = gates_GB.chunk(3)
        scratch, d_update, d_candidate = gradient_GB.chunk(3)
        _back_to_candidate(update, candidate, before_SB, state_gradient_SB, d_update, d_candidate, scratch)

    def inner_backward(
        self, gates_GB: Tensor, before_SB: Tensor, inner_HB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor
    ) -> None:
        size = len(before_SB)
        torch.mul(inner_HB, before_SB, out=gradient_GB[:size])
        state_gradient_SB.addcmul_(inner_HB, gates_GB[:size])
        _through_sigmoid_(gradient_GB[: 2 * size], gates_GB[: 2 * size])


class _Peephole(_Arithmetic):
    """i, f = sigmoid(a + p c);  g = tanh(a);  c' = f c + i g;  o = sigmoid(a + p c');  h' = o tanh(c')."""

    num_runs = 4

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        assert self.peepholes_KH1 is not None
        hidden, cell = state_SB.chunk(2)
        size = len(hidden)
        both = gates_GB[: 2 * size]
        both.view(2, size, -1).addcmul_(self.peepholes_KH1[:2], cell)
        both.sigmoid_()
        enter, forget, candidate, output = gates_GB.chunk(4)
        _tanh_(candidate)
        cell.mul_(forget).addcmul_(enter, candidate)
        output.addcmul_(self.peepholes_KH1[2], cell).sigmoid_()
        torch.mul(output, _tanh_(hidden.copy_(cell)), out=hidden)

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        assert self.peepholes_KH1 is not None
        d_hidden, d_cell = state_gradient_SB.chunk(2)
        size = len(d_hidden)
        before = before_SB[size:]
        enter, forget, candidate, output = gates_GB.chunk(4)
        d_enter, d_forget, d_candidate, d_output = gradient_GB.chunk(4)
        shown = _tanh_(torch.addcmul(forget * before, enter, candidate))
        _back_from_output(output, shown, d_hidden, d_cell, d_output)
        d_cell.addcmul_(self.peepholes_KH1[2], d_output)
        torch.mul(d_cell, candidate, out=d_enter)
        torch.mul(d_cell, before, out=d_forget)
        _through_tanh(d_cell * enter, candidate, out=d_candidate)
        d_both = gradient_GB[: 2 * size]
        _through_sigmoid_(d_both, gates_GB[: 2 * size])
        d_cell.mul_(forget)
        d_cell += (d_both.view(2, size, -1) * self.peepholes_KH1[:2]).sum(0)
        d_hidden.zero_()


class _Coupled(_Arithmetic):
    """f, o = sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g);  c' = g + f (c - g);  h' = o tanh(c')."""

    num_runs = 3

    def forward(self, gates_GB: Tensor, state_SB: Tensor) -> None:
        hidden, cell = state_SB.chunk(2)
        forget, candidate, output = gates_GB.chunk(3)
        forget.sigmoid_()
        output.sigmoid_()
        torch.lerp(_tanh_(candidate), cell, forget, out=cell)
        torch.mul(output, _tanh_(hidden.copy_(cell)), out=hidden)

    def backward(self, gates_GB: Tensor, before_SB: Tensor, state_gradient_SB: Tensor, gradient_GB: Tensor) -> None:
        d_hidden, d_cell = state_gradient_SB.chunk(2)
        before = before_SB[len(d_hidden) :]
        forget, candidate, output = gates_GB.chunk(3)
        d_forget, d_candidate, d_output = gradient_GB.chunk(3)
        shown = _tanh_(torch.lerp(candidate, before, forget))
        _back_from_output(output, shown, d_hidden, d_cell, d_output)
        _back_to_candidate(forget, candidate, before, d_cell, d_forget, d_candidate, scratch=d_hidden)
        _through_sigmoid_(d_forget, forget)
        d_hidden.zero_()


def _tanh_(x: Tensor) -> Tensor:
    """Overwrite x with tanh(x) as 2 sigmoid(2 x) - 1, which torch computes in half the time."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _through_tanh(gradient: Tensor, y: Tensor, out: Tensor) -> None:
    """Write gradient * (1 - y * y); `out` is not `gradient`."""
    torch.mul(gradient, y, out=out)
    torch.addcmul(gradient, out, y, value=-1, out=out)


def _through_sigmoid_(gradient: Tensor, y: Tensor) -> None:
    """Overwrite the gradient with gradient * y * (1 - y)."""
    gradient.mul_(y).addcmul_(gradient, y, value=-1)


def _back_to_candidate(
    kept: Tensor,
    candidate: Tensor,
    before: Tensor,
    gradient: Tensor,
    d_kept: Tensor,
    d_candidate: Tensor,
    scratch: Tensor,
) -> None:
    """Go back through n + k (h - n): write d k, not yet through its sigmoid, and d n; leave k of the gradient to h."""
    torch.sub(before, candidate, out=d_kept).mul_(gradient)
    torch.mul(gradient, kept, out=scratch)
    gradient.sub_(scratch)
    _through_tanh(gradient, candidate, out=d_candidate)
    gradient.copy_(scratch)


def _back_from_output(output: Tensor, shown: Tensor, d_hidden: Tensor, d_cell: Tensor, d_output: Tensor) -> None:
    """Go back through o tanh(c): write d o, through its sigmoid, and add to d c; `d_hidden` is used up."""
    torch.mul(d_hidden, shown, out=d_output)
    _through_sigmoid_(d_output, output)
    d_hidden.mul_(output)
    d_cell.add_(d_hidden).addcmul_(d_hidden.mul_(shown), shown, value=-1)


KINDS: dict[str, type[_Arithmetic]] = {
    "rnn": _Elman,
    "rnn-relu": _Rectified,
    "lstm-peephole": _Peephole,
    "lstm-coupled": _Coupled,
    "gru": _Gated,
    "gru-reset-before": _ResetBefore,
}


class _Block(torch.autograd.Function):
    """A layer over a block, from `(x_TBE, state_PBH)` and weights named as torch's to `(h_TBH, state_PBH)`."""

    @staticmethod
    def forward(
        ctx: Any,
        kind: type[_Arithmetic],
        dtype: torch.dtype,
        x_TBE: Tensor,
        state_PBH: Tensor,
        weight_ih_RE: Tensor,
        weight_hh_RH: Tensor,
        bias_ih_R: Tensor,
        bias_hh_R: Tensor,
        peepholes_KH: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        (T, B, E), (R, H), P = x_TBE.shape, weight_hh_RH.shape, len(state_PBH)
        arithmetic = kind(peepholes_KH)
        G, outer = arithmetic.num_runs * H, R - arithmetic.num_inner * H
        x_EN = x_TBE.permute(2, 0, 1).to(dtype).reshape(E, T * B)
        # The GRU's order is r, z, n; rolled it is n, r, z, and r, z meet what the input adds to them.
        weight_ih_RE, weight_hh_RH = weight_ih_RE.to(dtype), weight_hh_RH.to(dtype).roll(G - R, 0)
        bias_G1 = torch.zeros(G, 1, dtype=bias_hh_R.dtype)
        bias_G1[:R] += bias_hh_R.roll(G - R)[:, None]
        bias_G1[G - R :] += bias_ih_R[:, None]
        bias_G1 = bias_G1.to(dtype)

        gates_TGB = torch.empty(T, G, B, dtype=dtype)
        gates_TGB[:, : G - R] = bias_G1[: G - R]
        gates_TGB[:, G - R :] = torch.addmm(bias_G1[G - R :], weight_ih_RE, x_EN).view(R, T, B).transpose(0, 1)
        states_TSB = torch.empty(T + 1, P * H, B, dtype=dtype)
        state_SB = _rows_of(state_PBH)
        states_TSB[0] = state_SB
        inner_THB = torch.empty(T if outer < R else 0, H, B, dtype=dtype)
        gates_GB = torch.empty(G, B, dtype=state_PBH.dtype)
        is_rounded = dtype != state_PBH.dtype
        for t in range(T):
            saved_GB = gates_TGB[t]
            saved_GB[:outer].addmm_(weight_hh_RH[:outer], states_TSB[t, :H])
            step_GB = gates_GB.copy_(saved_GB) if is_rounded else saved_GB
            if outer < R:
                inner_THB[t] = arithmetic.inner(step_GB, state_SB)
                saved_GB[outer:].addmm_(weight_hh_RH[outer:], inner_THB[t])
                if is_rounded:
                    step_GB[outer:] = saved_GB[outer:]
            arithmetic.forward(step_GB, state_SB)
            if is_rounded:
                saved_GB.copy_(step_GB)
            states_TSB[t + 1] = state_SB
        ctx.kind = kind
        ctx.save_for_backward(x_EN, gates_TGB, states_TSB, inner_THB, weight_ih_RE, weight_hh_RH, peepholes_KH)
        # Units first, as the next layer's products want it.
        y_HTB = states_TSB[1:, :H].transpose(0, 1).contiguous()
        return y_HTB.permute(1, 2, 0), state_SB.view(P, H, B).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_gradient_TBH: Tensor, state_gradient_PBH: Tensor) -> tuple[Tensor | None, ...]:
        x_EN, gates_TGB, states_TSB, inner_THB, weight_ih_RE, weight_hh_RH, peepholes_KH = ctx.saved_tensors
        (T, G, B), (R, H), dtype = gates_TGB.shape, weight_hh_RH.shape, gates_TGB.dtype
        arithmetic: _Arithmetic = ctx.kind(peepholes_KH)
        P, outer = len(state_gradient_PBH), R - arithmetic.num_inner * H
        weight_hh_HR = weight_hh_RH.t().contiguous()
        y_gradient_THB = y_gradient_TBH.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
        is_rounded = dtype != state_gradient_PBH.dtype
        gradient_TGB = torch.empty(T, G, B, dtype=dtype)
        gates_GB = torch.empty(G, B, dtype=state_gradient_PBH.dtype)
        gradient_GB = torch.empty_like(gates_GB)
        before_SB = torch.empty(P * H, B, dtype=gates_GB.dtype)
        # The state's gradient is summed up in full precision; only what a product adds to it is rounded.
        state_gradient_SB = _rows_of(state_gradient_PBH)
        hidden_gradient_HB = state_gradient_SB[:H]
        hidden_gradient_HB += y_gradient_THB[-1]
        product_HB = torch.empty(H, B, dtype=dtype)
        for t in range(T - 1, -1, -1):
            gates, before, gradient = gates_TGB[t], states_TSB[t], gradient_TGB[t]
            if is_rounded:
                gates, before, gradient = gates_GB.copy_(gates), before_SB.copy_(before), gradient_GB
            arithmetic.backward(gates, before, state_gradient_SB, gradient)
            if outer < R:
                torch.mm(weight_hh_HR[:, outer:], gradient[outer:].to(dtype), out=product_HB)
                inner_HB = product_HB.to(gates.dtype)
                arithmetic.inner_backward(gates, before, inner_HB, state_gradient_SB, gradient)
            if is_rounded:
                gradient_TGB[t].copy_(gradient)
            if t:
                product_HB.copy_(y_gradient_THB[t - 1]).addmm_(weight_hh_HR[:, :outer], gradient_TGB[t, :outer])
            else:
                torch.mm(weight_hh_HR[:, :outer], gradient_TGB[t, :outer], out=product_HB)
            hidden_gradient_HB += product_HB

        gradient_GN = gradient_TGB.transpose(0, 1).reshape(G, T * B)
        before_HN = states_TSB[:T, :H].transpose(0, 1).reshape(H, T * B)
        weight_hh_gradient_RH = gradient_GN[:outer] @ before_HN.t()
        if outer < R:
            inner_HN = inner_THB.transpose(0, 1).reshape(H, T * B)
            weight_hh_gradient_RH = torch.cat([weight_hh_gradient_RH, gradient_GN[outer:] @ inner_HN.t()])
        weight_hh_gradient_RH = weight_hh_gradient_RH.roll(R - G, 0)
        weight_ih_gradient_RE = gradient_GN[G - R :] @ x_EN.t()
        x_gradient_TBE = (weight_ih_RE.t() @ gradient_GN[G - R :]).view(-1, T, B).permute(1, 2, 0)
        bias_gradient_G = gradient_GN.sum(1)
        state_gradient_PBH = state_gradient_SB.view(P, H, B).transpose(1, 2)
        gradients = (x_gradient_TBE, state_gradient_PBH, weight_ih_gradient_RE, weight_hh_gradient_RH)
        biases = (bias_gradient_G[G - R :], bias_gradient_G[:R].roll(R - G))
        peepholes = None
        if peepholes_KH is not None:
            peepholes = _peephole_gradient(gradient_TGB, states_TSB[:, H:]).to(gates_GB.dtype)
        return None, None, *(gradient.to(gates_GB.dtype) for gradient in (*gradients, *biases)), peepholes


def _rows_of(state_PBH: Tensor) -> Tensor:
    # A copy, for it is stepped in place, and row by row, for arithmetic across rows is half as fast.
    return state_PBH.transpose(1, 2).flatten(0, 1).clone(memory_format=torch.contiguous_format)


def _peephole_gradient(gradient_TGB: Tensor, cells_THB: Tensor) -> Tensor:
    """Sum up over steps and streams: input and forget gate saw the cell before, the output gate the one after."""
    enter, forget, _, output = gradient_TGB.chunk(4, dim=1)
    pairs = ((enter, cells_THB[:-1]), (forget, cells_THB[:-1]), (output, cells_THB[1:]))
    return torch.stack([(gradient * cell).sum((0, 2)) for gradient, cell in pairs])


def read_block(
    kind: str, x_TBE: Tensor, state_PBH: Tensor, weights: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Read a block with one of `KINDS`, in the arithmetic that autocast asks for.

    Args:
        kind: the cell.
        x_TBE: the inputs.
        state_PBH: the state before; it is not changed.
        weights: for the input, for the state, their biases, and the peepholes of a cell that has them.

    Returns:
        the outputs (T, B, H), in the arithmetic of the products, and the state after, as precise as the weights.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_TBE.dtype
    with torch.autocast("cpu", enabled=False):
        results: tuple[Tensor, Tensor] = _Block.apply(  # type: ignore[no-untyped-call]
            KINDS[kind], dtype, x_TBE, state_PBH.to(weights[0].dtype), *weights
        )
    return results
