"""The recurrence h_t = a_t h_{t-1} + b_t over a block, without a matrix product, forward and backward.

An accelerator computes all steps together in about log2 T rounds. On a CPU, which has few threads, one multiplication
and addition per step is several times faster: 1.6 ms against 9.2 ms for 64 steps of 64 streams of 512 units on two
cores.

Letters: `T` steps, `B` streams, `H` units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def by_rounds(a_TBH: Tensor, b_TBH: Tensor) -> Tensor:
    """Return h for h_{-1} = 0 by doubling (Hillis and Steele 1986): round k joins the 2^k steps up to each step."""
    a_TBH, h_TBH, reach = a_TBH.clone(), b_TBH.clone(), 1
    while reach < len(h_TBH):
        # The right side is computed before anything is overwritten, so a round reads only results of the round before.
        h_TBH[reach:] += a_TBH[reach:] * h_TBH[:-reach]
        a_TBH[reach:] = a_TBH[reach:] * a_TBH[:-reach]
        reach *= 2
    return h_TBH


def by_steps(a_TBH: Tensor, b_TBH: Tensor) -> Tensor:
    """Return h for h_{-1} = 0, step by step."""
    h_TBH = b_TBH.clone()
    for t in range(1, len(h_TBH)):
        h_TBH[t].addcmul_(a_TBH[t], h_TBH[t - 1])
    return h_TBH


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a_TBH: Tensor, b_TBH: Tensor, h_BH: Tensor) -> Tensor:
        first_1BH = (a_TBH[:1] * h_BH).add_(b_TBH[:1])
        h_TBH = _recur(a_TBH, torch.cat([first_1BH, b_TBH[1:]]))
        ctx.save_for_backward(a_TBH, h_TBH, h_BH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a_TBH, h_TBH, h_BH = ctx.saved_tensors
        # The gradient is the same recurrence in reverse: d_t = gradient_t + a_{t+1} d_{t+1}.
        later_TBH = torch.cat([a_TBH[1:], torch.zeros_like(a_TBH[:1])])
        d_TBH = _recur(later_TBH.flip(0), gradient_TBH.flip(0)).flip(0)
        before_TBH = torch.cat([h_BH[None], h_TBH[:-1]])
        return d_TBH * before_TBH, d_TBH, d_TBH[0] * a_TBH[0]


def _recur(a_TBH: Tensor, b_TBH: Tensor) -> Tensor:
    return by_steps(a_TBH, b_TBH) if a_TBH.device.type == "cpu" else by_rounds(a_TBH, b_TBH)


def scan(a_TBH: Tensor, b_TBH: Tensor, h_BH: Tensor) -> Tensor:
    """Return h_t = a_t h_{t-1} + b_t for every step, shape (T, B, H), from the state h before the first step."""
    results: Tensor = _Scan.apply(a_TBH, b_TBH, h_BH)  # type: ignore[no-untyped-call]
    return results
