"""One recurrent layer in torch for each cell: by torch's kernel, by our block kernel, by a scan, or by the equations.

Every layer takes `(x_TBE, state)` and returns `(h_TBH, state)` like torch's layers: the state is one (1, B, H) tensor,
or a pair of them, hidden and cell. Weights have torch's names. Letters: `T` steps, `B` streams, `E` inputs, `H` units.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from charlm.cells import CELLS, Recurrent
from charlm.nn.cpu_kernels import Weights, read_block
from charlm.nn.scan import scan

# The state of torch's layers: h, or h and c.
Parts = TypeVar("Parts", Tensor, tuple[Tensor, Tensor])
# The weights of torch's layers.
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
# A gate with this before its activation is open or closed, whatever else is added. fp16 has no much larger number.
SATURATED = 3e4
# bf16 products are up to twice as fast if the number of inputs is a multiple of this.
COLUMNS = 8


class Resets(NamedTuple):
    """Where the streams of a block are set back to their initial state.

    Attributes:
        steps_TB: after which steps; what a layer returns for such a step is no output.
        start: the initial state, one (1, B, H) tensor for each part of it.
        is_zero: whether that is zero, and not learned.
    """

    steps_TB: Tensor
    start: tuple[Tensor, ...]
    is_zero: bool


class LSTM(nn.LSTM):
    """`torch.nn.LSTM` with one layer, which on a CPU in full precision may train by the kernel of `read_block`.

    Attributes:
        by_blocks: whether it does. torch's own kernel is as fast on some processors and much slower on others.
    """

    by_blocks = False

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        state: tuple[Tensor, Tensor],
        embedding_VE: Tensor | None = None,
        resets: Resets | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Read a block; see `torch.nn.LSTM`, and `read_block` for ids."""
        if trains_by_blocks(self):
            y_TBH, state_PBH = _block("lstm", self, x, torch.cat(state), embedding_VE, resets)
            return y_TBH, (state_PBH[:1], state_PBH[1:])
        if resets is None:
            return super().forward(x, state)
        return self._closed(x, state, resets) if resets.is_zero else _piecewise(super().forward, x, state, resets)

    def _closed(
        self, x_TBE: Tensor, state: tuple[Tensor, Tensor], resets: Resets
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Set streams back to zero in torch's kernel: a further input closes their input and forget gates."""
        weight_ih, weight_hh, *biases = (self.get_parameter(name) for name in NAMES)
        num_columns = COLUMNS - self.input_size % COLUMNS
        closing_RC = weight_ih.new_zeros(4 * self.hidden_size, num_columns)
        closing_RC[: 2 * self.hidden_size, 0] = -SATURATED
        resets_TBC = pad(resets.steps_TB[..., None].to(x_TBE.dtype), (0, num_columns - 1))
        weights = [torch.cat([weight_ih, closing_RC], dim=1), weight_hh, *biases]
        x_TBE = torch.cat([x_TBE, resets_TBC], dim=-1)
        y_TBH, h_1BH, c_1BH = torch.lstm(x_TBE, state, weights, True, 1, 0.0, self.training, False, False)
        return y_TBH, (h_1BH, c_1BH)


class GRU(nn.GRU):
    """`torch.nn.GRU` with one layer, which trains faster on a CPU."""

    def forward(  # type: ignore[override]
        self, x: Tensor, h_1BH: Tensor, embedding_VE: Tensor | None = None, resets: Resets | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read a block; see `torch.nn.GRU`, and `read_block` for ids."""
        if trains_by_blocks(self):
            return _block("gru", self, x, h_1BH, embedding_VE, resets)
        return _piecewise(super().forward, x, h_1BH, resets) if resets else super().forward(x, h_1BH)


class RNN(nn.RNN):
    """`torch.nn.RNN` with one layer, which trains faster on a CPU."""

    def forward(  # type: ignore[override]
        self, x: Tensor, h_1BH: Tensor, embedding_VE: Tensor | None = None, resets: Resets | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read a block; see `torch.nn.RNN`, and `read_block` for ids."""
        if trains_by_blocks(self):
            kind = "rnn" if self.nonlinearity == "tanh" else "rnn-relu"
            return _block(kind, self, x, h_1BH, embedding_VE, resets)
        return _piecewise(super().forward, x, h_1BH, resets) if resets else super().forward(x, h_1BH)


class Variant(nn.Module):
    """A layer of a cell for which torch has no module."""

    def __init__(self, name: str, num_inputs: int, num_units: int) -> None:
        super().__init__()
        self._name, self._cell = name, CELLS[name]
        for weight, shape in self._cell.weight_shapes(num_inputs, num_units).items():
            self.register_parameter(weight, nn.Parameter(torch.zeros(shape)))

    def forward(
        self,
        x: Tensor,
        state: Tensor | tuple[Tensor, Tensor],
        embedding_VE: Tensor | None = None,
        resets: Resets | None = None,
    ) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """Read a block of inputs, or of ids if `trains_by_blocks`; see `read_block`."""
        if not self._cell.products:
            return self._scanned(x, state, resets)  # type: ignore[arg-type]
        parts = torch.cat(state) if isinstance(state, tuple) else state
        if x.device.type == "cpu":
            y_TBH, parts_PBH = _block(self._name, self, x, parts, embedding_VE, resets)
        else:
            y_TBH, parts_PBH = self.read_by_steps(x, parts, resets)
        return y_TBH, parts_PBH if len(parts_PBH) == 1 else tuple(parts_PBH.chunk(2))

    def _scanned(self, x_TBE: Tensor, h_1BH: Tensor, resets: Resets | None) -> tuple[Tensor, Tensor]:
        """Compute the gates of all steps at once, and scan the linear recurrence that they define."""
        weight_ih, bias_ih = self.get_parameter("weight_ih_l0"), self.get_parameter("bias_ih_l0")
        x_TBG = linear(x_TBE, weight_ih, bias_ih).to(weight_ih.dtype)
        # From a zero state, one step returns just the added term b.
        (added_TBH,), gates = self._cell.step(x_TBG, Recurrent(()), (torch.zeros_like(h_1BH),))
        kept_TBH = gates["forget"] if "forget" in gates else 1 - gates["update"]
        if resets:
            steps_TB1 = resets.steps_TB[..., None]
            kept_TBH = kept_TBH.masked_fill(steps_TB1, 0)
            added_TBH = torch.where(steps_TB1, resets.start[0].to(added_TBH.dtype), added_TBH)
        h_TBH = scan(kept_TBH, added_TBH, h_1BH[0].to(weight_ih.dtype))
        return h_TBH, h_TBH[-1:]

    def read_by_steps(self, x_TBE: Tensor, state_PBH: Tensor, resets: Resets | None = None) -> tuple[Tensor, Tensor]:
        """Compute the equations step by step, on any device, like a plain loop in torch. This is slow.

        Args:
            x_TBE: the inputs.
            state_PBH: the parts of the state before the block, stacked.
            resets: where streams are set back.

        Returns:
            the outputs (T, B, H), and the state after the block.
        """
        weights = dict(self.named_parameters())
        x_TBG = linear(x_TBE, weights["weight_ih_l0"], weights["bias_ih_l0"])
        products = []
        if self._cell.products:
            sizes = [num_gates * state_PBH.shape[-1] for num_gates in self._cell.products]
            rows = torch.split(weights["weight_hh_l0"], sizes), torch.split(weights["bias_hh_l0"], sizes)
            products = [partial(linear, weight=weight, bias=bias) for weight, bias in zip(*rows, strict=True)]
        recurrent = Recurrent(products, weights.get("peephole_l0"))
        state: tuple[Tensor, ...] = tuple(state_PBH)
        outputs = []
        for t, x_BG in enumerate(x_TBG):
            state, _ = self._cell.step(x_BG, recurrent, state)
            if resets:
                is_reset_B1 = resets.steps_TB[t, :, None]
                pairs = zip(resets.start, state, strict=True)
                state = tuple(torch.where(is_reset_B1, start_1BH[0], part_BH) for start_1BH, part_BH in pairs)
            outputs.append(state[0])
        return torch.stack(outputs), torch.stack(state)


def trains_by_blocks(layer: nn.Module) -> bool:
    """Return whether a layer uses the kernel of `read_block` to train."""
    # On a GPU cuDNN has fused kernels. Without gradients nothing is saved for backward, and torch is as fast.
    if not torch.is_grad_enabled() or next(layer.parameters()).device.type != "cpu":
        return False
    if isinstance(layer, LSTM):
        return layer.by_blocks and not torch.is_autocast_enabled("cpu")
    return "weight_hh_l0" in dict(layer.named_parameters())


def _piecewise(
    read: Callable[[Tensor, Parts], tuple[Tensor, Parts]], x: Tensor, state: Parts, resets: Resets
) -> tuple[Tensor, Parts]:
    """Read a block from reset to reset, with a layer that knows of none. Each piece takes a call."""
    ends: list[int] = resets.steps_TB[:-1].any(1).nonzero()[:, 0].tolist()
    outputs = []
    for first, last in pairwise([0, *(end + 1 for end in ends), len(x)]):
        y_TBH, state = read(x[first:last], state)
        outputs.append(y_TBH)
        is_reset_B1, parts = resets.steps_TB[last - 1, :, None], state if isinstance(state, tuple) else (state,)
        reset = [torch.where(is_reset_B1, *pair) for pair in zip(resets.start, parts, strict=True)]
        state = (reset[0], reset[1]) if isinstance(state, tuple) else reset[0]
    return torch.cat(outputs), state


def _block(
    kind: str,
    layer: nn.Module,
    x: Tensor,
    state_PBH: Tensor,
    embedding_VE: Tensor | None,
    resets: Resets | None,
) -> tuple[Tensor, Tensor]:
    own = dict(layer.named_parameters())
    weight_ih, weight_hh, bias_ih, bias_hh = (own[name] for name in NAMES)
    weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh, own.get("peephole_l0"))
    own_resets = (resets.steps_TB, torch.cat(resets.start)) if resets else None
    return read_block(kind, x, state_PBH, weights, embedding_VE, own_resets)


def make_layer(cell: str, num_inputs: int, num_units: int) -> nn.Module:
    """Make a layer; its weights are initialised later."""
    if cell == "lstm":
        return LSTM(num_inputs, num_units)
    if cell == "gru":
        return GRU(num_inputs, num_units)
    if cell in ("rnn", "rnn-relu"):
        return RNN(num_inputs, num_units, nonlinearity="tanh" if cell == "rnn" else "relu")
    return Variant(cell, num_inputs, num_units)
