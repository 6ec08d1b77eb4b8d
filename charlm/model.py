"""Embedding -> RNN | LSTM | GRU -> Linear, in torch. State goes in and comes out; the module remembers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from charlm.blocks import GRU, RNN
from charlm.cells import CELLS
from charlm.checkpoint import Arrays

LAYERS = {"lstm": nn.LSTM, "gru": GRU, "rnn": RNN}
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

    There is one embedding more than symbols: the last, id V, stands for the start of a text.
    """

    def __init__(self, cell: str, num_symbols: int, embedding_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.cell = CELLS[cell]
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(num_symbols + 1, embedding_size)
        # One module per layer, so that dropout between them is ours: one mask per block, its random numbers known.
        self.layers = nn.ModuleList(
            LAYERS[cell](embedding_size if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)
        )
        self.output = nn.Linear(hidden_size, num_symbols)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: embeddings of size 1, matrices uniform as torch does, forget bias 1, other biases 0.

        Orthogonal recurrent matrices, a habit from other optimisers, end a little worse under Muon.
        """
        nn.init.normal_(self.embedding.weight, generator=generator)
        bound = self.hidden_size**-0.5
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("weight"):
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)
                else:
                    nn.init.zeros_(parameter)
            if "forget" in self.cell.gates:
                # Jozefowicz et al. 2015: a cell that remembers from the start. One of the two biases, not both.
                gates = layer.get_parameter("bias_ih_l0").chunk(len(self.cell.gates))
                gates[self.cell.gates.index("forget")].fill_(1.0)
        nn.init.uniform_(self.output.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.output.bias)

    def zero_state(self, num_streams: int) -> State:
        """Return the state before any character: zeros, one (L, B, H) tensor for each part of the cell's state."""
        shape = (len(self.layers), num_streams, self.hidden_size)
        device = self.output.weight.device
        return tuple(torch.zeros(shape, device=device) for _ in self.cell.state)

    def forward(self, tokens_TB: Tensor, state: State, masks: Sequence[Masks] = ()) -> tuple[Tensor, State]:
        """Read a block.

        Args:
            tokens_TB: ids, shape (T, B), int64, each in [0, V]; V is the start of a text.
            state: one (L, B, H) tensor for each part of the cell's state.
            masks: what to leave out of each layer; none of them leaves out nothing.

        Returns:
            logits_TBV, and the state after the block, not detached.
        """
        x_TBH = self.embedding(tokens_TB)
        layer_states: list[tuple[Tensor, ...]] = []
        for index, layer in enumerate(self.layers):
            outputs_BH, recurrent_RH = masks[index] if masks else (None, None)
            before = tuple(part_LBH[index : index + 1].to(x_TBH.dtype) for part_LBH in state)
            arguments = (x_TBH, before if len(before) > 1 else before[0])
            if recurrent_RH is None:
                x_TBH, after = layer(*arguments)
            else:
                thinned = {"weight_hh_l0": layer.get_parameter("weight_hh_l0") * recurrent_RH}
                x_TBH, after = functional_call(layer, thinned, arguments)
            layer_states.append(after if isinstance(after, tuple) else (after,))
            if outputs_BH is not None:
                x_TBH = x_TBH * outputs_BH.to(x_TBH.dtype)
        return self.output(x_TBH), tuple(torch.cat(parts) for parts in zip(*layer_states, strict=True))

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


def build(settings: dict[str, Any], num_symbols: int) -> CharModel:
    """Make the model that the `model` group of some settings describes, its weights not yet drawn."""
    sizes = {name: settings[name] for name in ("embedding_size", "hidden_size", "num_layers")}
    return CharModel(settings["cell"], num_symbols, **sizes)


def draw_masks(
    model: CharModel, num_streams: int, dropout: float, weight_dropout: float, seed: Sequence[int]
) -> list[Masks]:
    """Draw the masks of one block, as a function of the seed alone.

    Args:
        model: whose layers they are for.
        num_streams: B.
        dropout: the share of its outputs that a layer leaves out.
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

    outputs = torch.Size((num_streams, model.hidden_size))
    return [
        Masks(draw(outputs, dropout), draw(layer.get_parameter("weight_hh_l0").shape, weight_dropout))
        for layer in model.layers
    ]
