"""Embedding -> recurrent layers -> Linear, in torch. State goes in and comes out; the module remembers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from charlm.checkpoint import Arrays
from charlm.nn.initialise import draw_
from charlm.nn.layers import LSTM, trains_by_blocks
from charlm.nn.layers import make as make_layer
from charlm.spec import ModelSpec

# One tensor (L, B, H) for each part of the cell's state: hidden, and for the LSTM cell.
State = tuple[Tensor, ...]


class Masks(NamedTuple):
    """What a layer is multiplied with while it learns one block: 0 where left out, 1 / (1 - share) elsewhere.

    Attributes:
        outputs_BH: for its outputs, at every step the same (Gal & Ghahramani 2016); None leaves out nothing.
        recurrent_RH: for its recurrent weights (Merity et al. 2018); None leaves out nothing.
    """

    outputs_BH: Tensor | None
    recurrent_RH: Tensor | None


class CharModel(nn.Module):
    """A recurrent character model over blocks of T characters in B streams.

    There is one input more than symbols: the last, id V, stands for the start of a text, and for the end of one that
    is read from the right. Without an embedding the inputs are one-hot. A model of both directions has two stacks of
    layers that never meet but at the output, which sees what one makes of all before a character and the other of all
    after it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.num_symbols + 1, spec.embedding_size) if spec.embedding_size else None

        # One module per layer, so that dropout between them is ours: one mask per block, its random numbers known.
        def stack(num_layers: int) -> nn.ModuleList:
            sizes = [spec.num_inputs, *[spec.hidden_size] * num_layers]
            return nn.ModuleList(make_layer(spec.cell, sizes[layer], spec.hidden_size) for layer in range(num_layers))

        self.layers = stack(spec.num_layers)
        self.backward_layers = stack(spec.num_layers if spec.sees_both_sides else 0)
        is_learned = spec.initial_state == "learned"
        shape = (len(spec.recurrence.state), spec.num_stacks * spec.num_layers, spec.hidden_size)
        self.initial_state = nn.Parameter(torch.zeros(shape)) if is_learned else None
        self.output = nn.Linear(spec.num_stacks * spec.hidden_size, spec.num_symbols)

    @property
    def all_layers(self) -> list[nn.Module]:
        """Its layers, from left to right and then those from right to left."""
        return [*self.layers, *self.backward_layers]

    def choose_kernel(self, lstm_by_blocks: bool) -> None:
        """Have LSTM layers learn by our kernel, or by torch's own."""
        for layer in self.all_layers:
            if isinstance(layer, LSTM):
                layer.by_blocks = lstm_by_blocks

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, how: str = "auto") -> None:
        """Draw fresh weights; the forget bias is 1, other biases, peepholes and the initial state are 0.

        By default embeddings are of size 1 and matrices uniform from -1 / sqrt(H) to 1 / sqrt(H). Orthogonal
        recurrent matrices, a habit from other optimisers, end a little worse under Muon.

        Args:
            generator: of the random numbers.
            how: the matrices are drawn, as `initialise.draw_` names it; or `auto`.
        """
        num_gates = len(self.spec.recurrence.gates)
        matrices = how if how != "auto" else f"uniform({self.spec.hidden_size**-0.5!r})"
        if self.embedding is not None:
            draw_(self.embedding.weight, "normal(1)" if how == "auto" else how, generator)
        for layer in self.all_layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("weight"):
                    draw_(parameter, matrices, generator, num_gates)
                else:
                    nn.init.zeros_(parameter)
            if "forget" in self.spec.recurrence.gates:
                # Jozefowicz et al. 2015: a cell that remembers from the start. One of the two biases, not both.
                gates = layer.get_parameter("bias_ih_l0").chunk(num_gates)
                gates[self.spec.recurrence.gates.index("forget")].fill_(1.0)
        if self.initial_state is not None:
            nn.init.zeros_(self.initial_state)
        draw_(self.output.weight, matrices, generator)
        nn.init.zeros_(self.output.bias)

    def start_state(self, num_streams: int) -> State:
        """Return the state before any character, one (L, B, H) tensor for each part of the cell's state."""
        return self._start_state(num_streams, slice(len(self.layers)))

    def _start_state(self, num_streams: int, layers: slice) -> State:
        if self.initial_state is not None:
            return tuple(
                part_LH[layers, None].expand(-1, num_streams, -1).contiguous() for part_LH in self.initial_state
            )
        shape = (len(self.layers), num_streams, self.spec.hidden_size)
        device = self.output.weight.device
        return tuple(torch.zeros(shape, device=device) for _ in self.spec.recurrence.state)

    def forward(
        self, tokens_TB: Tensor, state: State, masks: Sequence[Masks] = (), right_SB: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read a block.

        Args:
            tokens_TB: ids, shape (T, B), int64, each in [0, V]; V is the start of a text. Each stands before the one
                that is to be predicted.
            state: one (L, B, H) tensor for each part of the cell's state.
            masks: what to leave out of each layer; none of them leaves out nothing.
            right_SB: for a model of both directions, what stands after each of the T to be predicted, and after
                them as much as there is to read: S >= T ids, V for the end of a text.

        Returns:
            logits_TBV, and the state after the block, not detached.
        """
        y_TBH, state = self._read(self.layers, tokens_TB, state, masks[: len(self.layers)])
        if self.spec.sees_both_sides:
            assert right_SB is not None
            start = self._start_state(right_SB.shape[1], slice(len(self.layers), None))
            y_SBH, _ = self._read(self.backward_layers, right_SB.flip(0), start, masks[len(self.layers) :])
            y_TBH = torch.cat([y_TBH, y_SBH.flip(0)[: len(tokens_TB)]], dim=-1)
        return self._logits(y_TBH), state

    def advance(self, tokens_TB: Tensor, state: State) -> State:
        """Read a block for the state after it alone; see `forward`."""
        return self._read(self.layers, tokens_TB, state, ())[1]

    def _logits(self, y_TBH: Tensor) -> Tensor:
        y_HTB = y_TBH.permute(2, 0, 1)
        if not y_HTB.is_contiguous():
            return self.output(y_TBH)  # type: ignore[no-any-return]
        # Units come first out of the block kernels, and gradients go back into them so: this product leaves them there.
        logits_VN = torch.addmm(self.output.bias[:, None], self.output.weight, y_HTB.flatten(1))
        return logits_VN.t().view(*y_TBH.shape[:2], -1)

    def _inputs(self, tokens_TB: Tensor) -> Tensor:
        if self.embedding is None:
            weight = self.output.weight
            inputs_TBV = torch.zeros(
                *tokens_TB.shape, self.spec.num_symbols + 1, dtype=weight.dtype, device=weight.device
            )
            return inputs_TBV.scatter_(-1, tokens_TB[..., None], 1.0)
        embedded: Tensor = self.embedding(tokens_TB)
        return embedded

    def _reads_ids(self, layer: nn.Module) -> bool:
        """Tell whether the first layer is quicker with ids than with what they stand for."""
        # Inputs are multiplied forward, for the weights' gradient and for their own, one-hot ids but the first two.
        return trains_by_blocks(layer) and 2 * (self.spec.num_symbols + 1) <= 3 * self.spec.num_inputs

    def _read(
        self, layers: nn.ModuleList, tokens_TB: Tensor, state: State, masks: Sequence[Masks]
    ) -> tuple[Tensor, State]:
        layer_states: list[tuple[Tensor, ...]] = []
        embedding: tuple[Tensor, ...] = ()
        if self._reads_ids(layers[0]):
            x = tokens_TB
            embedding = () if self.embedding is None else (self.embedding.weight,)
        else:
            x = self._inputs(tokens_TB)
        for index, layer in enumerate(layers):
            outputs_BH, recurrent_RH = masks[index] if masks else (None, None)
            before = tuple(part_LBH[index : index + 1] for part_LBH in state)
            arguments = (x, before if len(before) > 1 else before[0], *embedding)
            if recurrent_RH is None:
                x, after = layer(*arguments)
            else:
                thinned = {"weight_hh_l0": layer.get_parameter("weight_hh_l0") * recurrent_RH}
                x, after = functional_call(layer, thinned, arguments)
            embedding = ()
            layer_states.append(after if isinstance(after, tuple) else (after,))
            if outputs_BH is not None:
                x = x * outputs_BH.to(x.dtype)
        return x, tuple(torch.cat(parts) for parts in zip(*layer_states, strict=True))

    def arrays(self) -> Arrays:
        """Return the weights by name, as NumPy copies on the CPU."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def load_arrays(self, arrays: Arrays) -> None:
        """Take over weights that `arrays` returned or a model file holds."""
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


def tensor_of(arrays: Arrays, name: str, shape: Sequence[int]) -> Tensor:
    """Return one array as a tensor of its own.

    Raises:
        ValueError: there is none by this name, of this shape, in float32.
    """
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"array `{name}` is missing")
    if array.shape != tuple(shape) or array.dtype != np.float32:
        raise ValueError(f"`{name}` is {array.dtype} {array.shape}, not float32 {tuple(shape)}")
    return torch.tensor(array)


def draw_masks(
    model: CharModel, num_streams: int, dropout: Sequence[float], weight_dropout: float, seed: Sequence[int]
) -> list[Masks]:
    """Draw the masks of one block, as a function of the seed alone.

    Args:
        model: whose layers they are for.
        num_streams: B.
        dropout: for each layer of a stack, the share of its outputs that it leaves out.
        weight_dropout: the share of its recurrent weights that a layer leaves out.
        seed: numbers that are others for every block.
    """
    random = np.random.Generator(np.random.SFC64(seed))
    device = model.output.weight.device

    def draw(shape: torch.Size, share: float) -> Tensor | None:
        if not share:
            return None
        kept = random.random(tuple(shape), dtype=np.float32) >= share
        return torch.from_numpy(kept / np.float32(1 - share)).to(device)

    outputs = torch.Size((num_streams, model.spec.hidden_size))
    thinned = weight_dropout if model.spec.recurrence.products else 0.0
    return [
        Masks(draw(outputs, share), draw(layer.get_parameter("weight_hh_l0").shape, thinned) if thinned else None)
        for layer, share in zip(model.all_layers, [*dropout] * model.spec.num_stacks, strict=True)
    ]
