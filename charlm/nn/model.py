"""Embedding -> recurrent layers -> Linear, in torch. The state is an argument and a result; the module keeps none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from charlm.checkpoint import Arrays
from charlm.nn.layers import LSTM, Resets, make_layer, trains_by_blocks
from charlm.settings.config import NAMED_INITIALISER
from charlm.spec import ModelSpec

# One tensor (L, B, H) for each part of the cell's state: hidden, and for LSTMs also cell.
State = tuple[Tensor, ...]


class Masks(NamedTuple):
    """The dropout masks of a layer for one block: 0 for what is dropped, 1 / (1 - share) for the rest.

    Attributes:
        outputs_BH: for its outputs, the same at every step (Gal & Ghahramani 2016); None drops nothing.
        recurrent_RH: for its recurrent weights (Merity et al. 2018); None drops nothing.
    """

    outputs_BH: Tensor | None
    recurrent_RH: Tensor | None


class CharModel(nn.Module):
    """A recurrent character model over blocks of T characters in B streams.

    There is one input more than there are symbols: the last, id V, stands for the start of a text, or for its end if
    the text is read from the right. Without an embedding the inputs are one-hot. A model of both directions has two
    stacks of layers, which meet only at the output: one reads everything before a character, the other everything
    after it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.num_symbols + 1, spec.embedding_size) if spec.embedding_size else None

        # One module per layer, because dropout is ours: one mask per block, drawn from known random numbers.
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
        """Its layers: first those that read from left to right, then those that read from right to left."""
        return [*self.layers, *self.backward_layers]

    def choose_kernel(self, lstm_by_blocks: bool) -> None:
        """Let LSTM layers train by our kernel, or by torch's own."""
        for layer in self.all_layers:
            if isinstance(layer, LSTM):
                layer.by_blocks = lstm_by_blocks

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, how: str = "auto") -> None:
        """Draw new weights; the forget bias is 1, and other biases, peepholes and the initial state are 0.

        By default embeddings have standard deviation 1 and matrices are uniform from -1 / sqrt(H) to 1 / sqrt(H).
        Orthogonal recurrent matrices, which are usual with other optimisers, give slightly worse results with Muon.

        Args:
            generator: of the random numbers.
            how: how matrices are drawn, as in `draw_matrix_`, or `auto`.
        """
        num_gates = len(self.spec.recurrence.gates)
        matrices = how if how != "auto" else f"uniform({self.spec.hidden_size**-0.5!r})"
        if self.embedding is not None:
            draw_matrix_(self.embedding.weight, "normal(1)" if how == "auto" else how, generator)
        for layer in self.all_layers:
            for name, parameter in layer.named_parameters():
                if name.startswith("weight"):
                    draw_matrix_(parameter, matrices, generator, num_gates)
                else:
                    nn.init.zeros_(parameter)
            if "forget" in self.spec.recurrence.gates:
                # Jozefowicz et al. 2015: the cell remembers from the start. Only one of the two biases is set to 1.
                gates = layer.get_parameter("bias_ih_l0").chunk(num_gates)
                gates[self.spec.recurrence.gates.index("forget")].fill_(1.0)
        if self.initial_state is not None:
            nn.init.zeros_(self.initial_state)
        draw_matrix_(self.output.weight, matrices, generator)
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
        self,
        tokens_TB: Tensor,
        state: State,
        masks: Sequence[Masks] = (),
        right_SB: Tensor | None = None,
        resets_TB: Tensor | None = None,
        right_resets_SB: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Read a block.

        Args:
            tokens_TB: ids, shape (T, B), int64, each in [0, V]; V is the start of a text. Each is the character before
                the one to predict.
            state: one (L, B, H) tensor for each part of the cell's state.
            masks: one for each layer, or empty to drop nothing.
            right_SB: only for a model of both directions: S >= T ids, V for the end of a text. The first T are the
                characters after those to predict; the rest is further text to the right.
            resets_TB: after which of its steps a stream is in its initial state again; None if it never is. What is
                predicted at such a step does not count.
            right_resets_SB: the same for the layers that read from right to left.

        Returns:
            logits_TBV, and the state after the block, not detached.
        """
        y_TBH, state = self._read(self.layers, tokens_TB, state, masks[: len(self.layers)], resets_TB)
        if self.spec.sees_both_sides:
            assert right_SB is not None
            start = self._start_state(right_SB.shape[1], slice(len(self.layers), None))
            resets_SB = None if right_resets_SB is None else right_resets_SB.flip(0)
            y_SBH, _ = self._read(self.backward_layers, right_SB.flip(0), start, masks[len(self.layers) :], resets_SB)
            y_TBH = torch.cat([y_TBH, y_SBH.flip(0)[: len(tokens_TB)]], dim=-1)
        return self._logits(y_TBH), state

    def advance(self, tokens_TB: Tensor, state: State, resets_TB: Tensor | None = None) -> State:
        """Read a block only for the state after it; see `forward`."""
        return self._read(self.layers, tokens_TB, state, (), resets_TB)[1]

    def _logits(self, y_TBH: Tensor) -> Tensor:
        y_HTB = y_TBH.permute(2, 0, 1)
        if not y_HTB.is_contiguous():
            return self.output(y_TBH)  # type: ignore[no-any-return]
        # The block kernels return units first and take gradients so; this product keeps that order.
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
        """Return whether the first layer is faster with ids than with the inputs that they stand for."""
        # Embedded inputs take three products: forward, the weights' gradient and their own. Ids take the first two.
        return trains_by_blocks(layer) and 2 * (self.spec.num_symbols + 1) <= 3 * self.spec.num_inputs

    def _read(
        self,
        layers: nn.ModuleList,
        tokens_TB: Tensor,
        state: State,
        masks: Sequence[Masks],
        resets_TB: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        # The initial state is that of the stack of these layers.
        first = 0 if layers is self.layers else len(self.layers)
        starts = () if resets_TB is None else self._start_state(tokens_TB.shape[1], slice(first, first + len(layers)))
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
            resets = None
            if resets_TB is not None:
                start = tuple(part_LBH[index : index + 1] for part_LBH in starts)
                resets = Resets(resets_TB, start, is_zero=self.initial_state is None)
            arguments = (x, before if len(before) > 1 else before[0], *(embedding or (None,)), resets)
            if recurrent_RH is None:
                x, after = layer(*arguments)
            else:
                masked = {"weight_hh_l0": layer.get_parameter("weight_hh_l0") * recurrent_RH}
                x, after = functional_call(layer, masked, arguments)
            embedding = ()
            layer_states.append(after if isinstance(after, tuple) else (after,))
            if outputs_BH is not None:
                x = x * outputs_BH.to(x.dtype)
        return x, tuple(torch.cat(parts) for parts in zip(*layer_states, strict=True))

    def arrays(self) -> Arrays:
        """Return the weights by name, as NumPy copies on the CPU."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def load_arrays(self, arrays: Arrays) -> None:
        """Load the weights that `arrays` returned or that a model file holds."""
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})


@torch.no_grad()
def draw_matrix_(weight_OI: Tensor, how: str, generator: torch.Generator, num_gates: int = 1) -> None:
    """Overwrite a matrix, O outputs by I inputs, with new random numbers.

    Args:
        weight_OI: the matrix.
        how: `glorot` (Glorot and Bengio 2010, uniform), `orthogonal` (Saxe et al. 2014), `normal(S)` with standard
            deviation S, or `uniform(A)` from -A to A.
        generator: of the random numbers.
        num_gates: how many matrices, one below the other, it consists of; each is drawn separately.
    """
    if found := NAMED_INITIALISER.fullmatch(how):
        size = float(found[2])
        if found[1] == "normal":
            nn.init.normal_(weight_OI, std=size, generator=generator)
        else:
            nn.init.uniform_(weight_OI, -size, size, generator=generator)
        return
    fill_ = {"glorot": nn.init.xavier_uniform_, "orthogonal": nn.init.orthogonal_}[how]
    for gate in weight_OI.chunk(num_gates):
        fill_(gate, generator=generator)


def tensor_of(arrays: Arrays, name: str, shape: Sequence[int]) -> Tensor:
    """Return a copy of one array as a tensor.

    Raises:
        ValueError: there is no array with this name, this shape and dtype float32.
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
        model: the masks are for its layers.
        num_streams: B.
        dropout: for each layer of a stack, the share of its outputs to drop.
        weight_dropout: the share of each layer's recurrent weights to drop.
        seed: numbers that differ for every block.
    """
    random = np.random.Generator(np.random.SFC64(seed))
    device = model.output.weight.device

    def draw(shape: torch.Size, share: float) -> Tensor | None:
        if not share:
            return None
        kept = random.random(tuple(shape), dtype=np.float32) >= share
        return torch.from_numpy(kept / np.float32(1 - share)).to(device)

    outputs = torch.Size((num_streams, model.spec.hidden_size))
    weight_share = weight_dropout if model.spec.recurrence.products else 0.0
    return [
        Masks(
            draw(outputs, share),
            draw(layer.get_parameter("weight_hh_l0").shape, weight_share) if weight_share else None,
        )
        for layer, share in zip(model.all_layers, [*dropout] * model.spec.num_stacks, strict=True)
    ]
