"""GRU and simple recurrent layers, block by block on the CPU, forward and backward. Knows no model.

torch hands the LSTM to a fused kernel and steps through these two with a dozen small operations a character. Here a
block is one product for all its inputs, one product a step, gate arithmetic in place on buffers that stay in the
cache, and one product for each weight's gradient. Units come before streams (`HB`, not `BH`), so that the weights are
the left factor of each product, and a gate is a run of whole rows.

Letters: `T` steps, `B` streams, `N` both together, `E` inputs, `H` units, `R` rows of a weight (gates times H), `G`
rows of pre-activations: for the GRU one gate more than R, for its candidate adds what comes from the state apart from
what comes from the input.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Arithmetic(Protocol):
    """What a cell does between two products, in place on one step's buffers.

    The first R rows of `gates` take the product with the state, gates in torch's order but the last first; the last R
    rows take the product with the input, in torch's order.
    """

    num_parts: int

    def forward(self, gates_GB: Tensor, hidden_HB: Tensor) -> None:
        """Turn pre-activations into what `backward` needs of them, and the state before into the state after."""

    def backward(self, gates_GB: Tensor, before_HB: Tensor, hidden_gradient_HB: Tensor, gradient_GB: Tensor) -> None:
        """Write the gradient of the pre-activations, and leave in the state's what goes back past the product."""


class _Elman:
    """h' = tanh(a)."""

    num_parts = 1

    def forward(self, gates_GB: Tensor, hidden_HB: Tensor) -> None:
        hidden_HB.copy_(_tanh_(gates_GB))

    def backward(self, gates_GB: Tensor, before_HB: Tensor, hidden_gradient_HB: Tensor, gradient_GB: Tensor) -> None:
        _through_tanh(hidden_gradient_HB, gates_GB, out=gradient_GB)
        hidden_gradient_HB.zero_()


class _Gated:
    """r, z = sigmoid(a_r), sigmoid(a_z);  n = tanh(a_x + r a_h);  h' = n + z (h - n)."""

    num_parts = 4

    def forward(self, gates_GB: Tensor, hidden_HB: Tensor) -> None:
        from_state, reset, update, candidate = gates_GB.chunk(4)
        size = len(hidden_HB)
        gates_GB[size : 3 * size].sigmoid_()
        _tanh_(candidate.addcmul_(reset, from_state))
        torch.lerp(candidate, hidden_HB, update, out=hidden_HB)

    def backward(self, gates_GB: Tensor, before_HB: Tensor, hidden_gradient_HB: Tensor, gradient_GB: Tensor) -> None:
        from_state, reset, update, candidate = gates_GB.chunk(4)
        d_from_state, d_reset, d_update, d_candidate = gradient_GB.chunk(4)
        size = len(before_HB)
        both, d_both = gates_GB[size : 3 * size], gradient_GB[size : 3 * size]
        torch.sub(before_HB, candidate, out=d_update).mul_(hidden_gradient_HB)
        # What reaches the candidate is (1 - z) of the gradient; z of it goes to the state before.
        torch.mul(hidden_gradient_HB, update, out=d_from_state)
        hidden_gradient_HB.sub_(d_from_state)
        _through_tanh(hidden_gradient_HB, candidate, out=d_candidate)
        hidden_gradient_HB.copy_(d_from_state)
        torch.mul(d_candidate, reset, out=d_from_state)
        torch.mul(d_candidate, from_state, out=d_reset)
        # Through the sigmoid: d s (1 - s).
        d_both.mul_(both).addcmul_(d_both, both, value=-1)


class _Block(torch.autograd.Function):
    """A layer over a block, from `(x_TBE, h_BH)` and torch's weights to `(h_TBH, h_BH)`."""

    @staticmethod
    def forward(
        ctx: Any,
        arithmetic: _Arithmetic,
        dtype: torch.dtype,
        x_TBE: Tensor,
        h_BH: Tensor,
        weight_ih_RE: Tensor,
        weight_hh_RH: Tensor,
        bias_ih_R: Tensor,
        bias_hh_R: Tensor,
    ) -> tuple[Tensor, Tensor]:
        (T, B, E), (R, H) = x_TBE.shape, weight_hh_RH.shape
        G = arithmetic.num_parts * H
        x_EN = x_TBE.permute(2, 0, 1).to(dtype).reshape(E, T * B)
        # Torch's order is r, z, n; rolled it is n, r, z, and r, z meet what the input adds to them.
        weight_ih_RE, weight_hh_RH = weight_ih_RE.to(dtype), weight_hh_RH.to(dtype).roll(H, 0)
        bias_G1 = torch.zeros(G, 1, dtype=bias_hh_R.dtype)
        bias_G1[:R] += bias_hh_R.roll(H)[:, None]
        bias_G1[G - R :] += bias_ih_R[:, None]
        bias_G1 = bias_G1.to(dtype)

        gates_TGB = torch.empty(T, G, B, dtype=dtype)
        gates_TGB[:, : G - R] = bias_G1[: G - R]
        gates_TGB[:, G - R :] = torch.addmm(bias_G1[G - R :], weight_ih_RE, x_EN).view(R, T, B).transpose(0, 1)
        hidden_THB = torch.empty(T + 1, H, B, dtype=dtype)
        hidden_THB[0] = h_BH.t()
        gates_GB, hidden_HB = torch.empty(G, B, dtype=h_BH.dtype), h_BH.t().clone(memory_format=torch.contiguous_format)
        is_rounded = dtype != h_BH.dtype
        steps = zip(gates_TGB, gates_TGB[:, :R], hidden_THB[:-1], hidden_THB[1:], strict=True)
        for saved_GB, recurrent_RB, before_HB, after_HB in steps:
            recurrent_RB.addmm_(weight_hh_RH, before_HB)
            if is_rounded:
                gates_GB.copy_(saved_GB)
                arithmetic.forward(gates_GB, hidden_HB)
                saved_GB.copy_(gates_GB)
            else:
                arithmetic.forward(saved_GB, hidden_HB)
            after_HB.copy_(hidden_HB)
        ctx.arithmetic = arithmetic
        ctx.save_for_backward(x_EN, gates_TGB, hidden_THB, weight_ih_RE, weight_hh_RH)
        # Units first, as the next layer's products want it.
        y_HTB = hidden_THB[1:].transpose(0, 1).contiguous()
        return y_HTB.permute(1, 2, 0), hidden_HB.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_gradient_TBH: Tensor, h_gradient_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_EN, gates_TGB, hidden_THB, weight_ih_RE, weight_hh_RH = ctx.saved_tensors
        (T, G, B), (R, H), dtype = gates_TGB.shape, weight_hh_RH.shape, gates_TGB.dtype
        weight_hh_HR = weight_hh_RH.t().contiguous()
        y_gradient_THB = y_gradient_TBH.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
        is_rounded = dtype != h_gradient_BH.dtype
        gradient_TGB = torch.empty(T, G, B, dtype=dtype)
        gates_GB = torch.empty(G, B, dtype=h_gradient_BH.dtype)
        gradient_GB = torch.empty_like(gates_GB)
        before_HB = torch.empty(H, B, dtype=gates_GB.dtype)
        # The state's gradient is summed up in full precision; only what a product adds to it is rounded.
        hidden_gradient_HB = h_gradient_BH.t().clone(memory_format=torch.contiguous_format)
        hidden_gradient_HB += y_gradient_THB[-1]
        product_HB = torch.empty(H, B, dtype=dtype)
        for t in range(T - 1, -1, -1):
            if is_rounded:
                gates_GB.copy_(gates_TGB[t])
                before_HB.copy_(hidden_THB[t])
                ctx.arithmetic.backward(gates_GB, before_HB, hidden_gradient_HB, gradient_GB)
                gradient_TGB[t].copy_(gradient_GB)
            else:
                ctx.arithmetic.backward(gates_TGB[t], hidden_THB[t], hidden_gradient_HB, gradient_TGB[t])
            if t:
                product_HB.copy_(y_gradient_THB[t - 1]).addmm_(weight_hh_HR, gradient_TGB[t, :R])
            else:
                torch.mm(weight_hh_HR, gradient_TGB[t, :R], out=product_HB)
            hidden_gradient_HB += product_HB

        gradient_GN = gradient_TGB.transpose(0, 1).reshape(G, T * B)
        before_HN = hidden_THB[:T].transpose(0, 1).reshape(H, T * B)
        weight_hh_gradient_RH = (gradient_GN[:R] @ before_HN.t()).roll(-H, 0)
        weight_ih_gradient_RE = gradient_GN[G - R :] @ x_EN.t()
        x_gradient_TBE = (weight_ih_RE.t() @ gradient_GN[G - R :]).view(-1, T, B).permute(1, 2, 0)
        bias_gradient_G = gradient_GN.sum(1)
        gradients = (x_gradient_TBE, hidden_gradient_HB.t(), weight_ih_gradient_RE, weight_hh_gradient_RH)
        biases = (bias_gradient_G[G - R :], bias_gradient_G[:R].roll(-H))
        return None, None, *(gradient.to(gates_GB.dtype) for gradient in (*gradients, *biases))


def _tanh_(x: Tensor) -> Tensor:
    """Overwrite x with tanh(x) as 2 sigmoid(2 x) - 1, which torch computes in half the time."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _through_tanh(gradient: Tensor, y: Tensor, out: Tensor) -> None:
    """Write gradient * (1 - y * y)."""
    torch.mul(gradient, y, out=out)
    torch.addcmul(gradient, out, y, value=-1, out=out)


class GRU(nn.GRU):
    """`torch.nn.GRU` with one layer, faster when it trains on a CPU."""

    def forward(self, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Read a block; see `torch.nn.GRU`."""
        return _block(self, _Gated(), x_TBE, h_1BH) if _is_ours(x_TBE) else super().forward(x_TBE, h_1BH)


class RNN(nn.RNN):
    """`torch.nn.RNN` with one layer and tanh, faster when it trains on a CPU."""

    def forward(self, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Read a block; see `torch.nn.RNN`."""
        return _block(self, _Elman(), x_TBE, h_1BH) if _is_ours(x_TBE) else super().forward(x_TBE, h_1BH)


def _is_ours(x: Tensor) -> bool:
    # On a GPU cuDNN has fused kernels; without gradients there is nothing to keep, and torch's own way is as fast.
    return x.device.type == "cpu" and torch.is_grad_enabled()


def _block(layer: nn.RNNBase, arithmetic: _Arithmetic, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:
    weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_TBE.dtype
    # Whatever the products are computed in, the state keeps the precision of the weights.
    h_BH = h_1BH[0].to(layer.get_parameter("weight_ih_l0").dtype)
    with torch.autocast("cpu", enabled=False):
        y_TBH, h_BH = _Block.apply(arithmetic, dtype, x_TBE, h_BH, *weights)  # type: ignore[no-untyped-call]
    return y_TBH, h_BH[None]
