"""A trained model that reads one character at a time, in NumPy, and the base class of all predictors."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Cell, Gates, Recurrent
from charlm.checkpoint import Arrays, ModelFile
from charlm.errors import UsageError
from charlm.inference.clamp import clamps_of, holding
from charlm.inference.mixture import Mixture
from charlm.inference.sampling import Floats
from charlm.machine import usable_cores
from charlm.vocab import Ids, Vocabulary

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# For each layer the parts of its state, each (B, H); then the contexts of the n-grams, if there are any. No step
# changes a state, so that keeping one needs no copy.
StepperState = tuple[tuple[NDArray[Any], ...], ...]
# Called now and then with how many symbols of how many were read.
Progress = Callable[[int, int], None]

# 256 rows of 512 floats are 512 KiB, which fits a second-level cache.
ROWS_PER_BLOCK = 256
# With fewer streams, distributing them costs more than a second core saves.
MIN_STREAMS_PER_THREAD = 16
# BLAS takes several rows at once, and sums the rows that are left over in another order. With a multiple of 64 rows no
# row is left over, and neither the number of its threads nor the blocks above change a bit.
ROWS_TOGETHER = 64


class Stack:
    """Embedding and recurrent layers, one step for B streams at a time, state in and state out.

    Args:
        model: its weights and sizes.
        name: which stack of the model: `layers` reads from left to right; `backward_layers`, of a model that sees both
            sides, reads from right to left.
    """

    def __init__(self, model: ModelFile, name: str = "layers") -> None:
        spec, weights, num_layers = model.spec, model.weights, model.spec.num_layers
        self.spec, self.cell = spec, spec.recurrence
        layers = [
            {weight: weights[f"{name}.{layer}.{weight}"] for weight in self.cell.weight_shapes(1, 1)}
            for layer in range(num_layers)
        ]
        # The first layer's input is one of V + 1 symbols: what each of them adds to the gates is computed once, here.
        first = layers[0]["weight_ih_l0"].T
        table_VG = weights["embedding.weight"] @ first if spec.embedding_size else first
        self._table_VG = np.ascontiguousarray(table_VG + layers[0]["bias_ih_l0"])
        self._inputs = [(_padded(layer["weight_ih_l0"]), layer["bias_ih_l0"]) for layer in layers[1:]]
        self._recurrents = [_recurrent(self.cell, layer) for layer in layers]
        self._steps = [self.cell.step] * num_layers
        start_PLH = np.zeros((len(self.cell.state), num_layers, spec.hidden_size), self._table_VG.dtype)
        if "initial_state" in weights:
            # The states of the layers that read from right to left come after the others.
            start_PLH = weights["initial_state"][:, slice(num_layers, None) if name != "layers" else slice(num_layers)]
        self._start = [tuple(part_LH[layer] for part_LH in start_PLH) for layer in range(num_layers)]

    def holding(self, values: Mapping[str, float]) -> Stack:
        """Return the same layers with some units held at a value after every step; see `Stepper.holding`."""
        stack, clamps, dtype = copy.copy(self), clamps_of(self.spec, values), self._table_VG.dtype
        numbers = range(1, self.spec.num_layers + 1)
        of_layer = [[clamp for clamp in clamps if clamp.unit.layer.number == number] for number in numbers]
        stack._steps = [holding(self.cell, some, dtype) if some else self.cell.step for some in of_layer]
        return stack

    def start(self, num_streams: int) -> StepperState:
        """Return the state before anything was read."""
        return tuple(tuple(np.repeat(part_H[None], num_streams, axis=0) for part_H in layer) for layer in self._start)

    def step(self, ids_B: NDArray[Any], state: StepperState) -> StepperState:
        """Read one character in each stream; the output of the last layer is the first part of its new state."""
        return self.look(ids_B, state)[0]

    def read(self, ids_T: Iterable[int], state: StepperState) -> StepperState:
        """Read T characters in one stream."""
        for index in ids_T:
            state = self.step(np.array([index]), state)
        return state

    # The weights of an untrusted file may be so large that a state overflows. Users of the logits refuse them.
    @np.errstate(over="ignore", invalid="ignore")
    def look(self, ids_B: NDArray[Any], state: StepperState) -> tuple[StepperState, list[Gates]]:
        """Read one character in each stream, and also return the gates of each layer by name."""
        x_BG = self._table_VG[ids_B]
        new_state: list[tuple[Floats, ...]] = []
        gates: list[Gates] = []
        for layer, (step, recurrent, layer_state) in enumerate(zip(self._steps, self._recurrents, state, strict=True)):
            if layer:
                x_BG = _linear(new_state[-1][0], *self._inputs[layer - 1])
            layer_state, layer_gates = step(x_BG, recurrent, layer_state)
            new_state.append(layer_state)
            gates.append(layer_gates)
        return tuple(new_state), gates

    @np.errstate(over="ignore", invalid="ignore")
    def terms(self, ids_B: NDArray[Any], new_state: StepperState) -> list[tuple[Floats, Recurrent]]:
        """Return for each layer what its input added to each gate in the step that led to a new state.

        Returns:
            For each layer these terms, (B, G), and its recurrent weights.
        """
        outputs = [layer_state[0] for layer_state in new_state[:-1]]
        upper = [_linear(x_BH, *inputs) for x_BH, inputs in zip(outputs, self._inputs, strict=True)]
        return list(zip([self._table_VG[ids_B], *upper], self._recurrents, strict=True))


class Output:
    """The linear layer from the output of the last recurrent layers to logits."""

    def __init__(self, model: ModelFile) -> None:
        self._weight_PI, self._bias_V = _padded(model.weights["output.weight"]), model.weights["output.bias"]

    @np.errstate(over="ignore", invalid="ignore")
    def __call__(self, x_BI: Floats) -> Floats:
        """Return logits, shape (B, V)."""
        return _linear(x_BI, self._weight_PI, self._bias_V)


class Predictor(ABC):
    """Reads characters, one step for B streams at a time, and predicts the next ones; state in and state out.

    Attributes:
        vocabulary: the symbols of its inputs and outputs.
        is_backward: whether it reads texts from their end and predicts what stands before.
    """

    vocabulary: Vocabulary
    is_backward: bool

    @abstractmethod
    def before(self, num_streams: int) -> StepperState:
        """Return the state before anything was read, not even the start of a text."""

    @abstractmethod
    def advance(self, ids_B: NDArray[Any], state: StepperState) -> StepperState:
        """Read one character in each stream, without the logits of what comes next."""

    @abstractmethod
    def logits(self, state: StepperState) -> Floats:
        """Return the logits of what comes next in a state, shape (B, V)."""

    @property
    @abstractmethod
    def has_ngrams(self) -> bool:
        """Whether there are n-grams beside a net, which also predicts alone."""

    @abstractmethod
    def net_logits(self, state: StepperState) -> Floats:
        """Return the logits without n-grams, shape (B, V)."""

    @abstractmethod
    def net_state(self, state: StepperState) -> StepperState:
        """Return a state without the contexts of the n-grams."""

    @abstractmethod
    def holding(self, values: Mapping[str, float]) -> Predictor:
        """Return the same predictor with some units held at a value after every step.

        Args:
            values: by unit, `LAYER.UNIT` for the hidden state or `LAYER.UNIT.cell`; layers from 1, units from 0.

        Raises:
            UsageError: there is no such unit, or a value is out of its bounds.
        """

    def start(self, num_streams: int = 1) -> tuple[Floats, StepperState]:
        """Read the start of a text in each stream: return the logits of the first character, and the state."""
        return self.step(np.full(num_streams, len(self.vocabulary)), self.before(num_streams))

    def step(self, ids_B: NDArray[Any], state: StepperState) -> tuple[Floats, StepperState]:
        """Read one character in each stream.

        Args:
            ids_B: shape (B,); the id V, one past the last symbol, is the start of a text.
            state: as `start` or `step` returned it; it is not changed.

        Returns:
            logits_BV: what comes next, shape (B, V), float32; and the new state.
        """
        if len(ids_B) < 2 * MIN_STREAMS_PER_THREAD or usable_cores() < 2:
            return self._step(ids_B, state)
        num_parts = min(usable_cores(), len(ids_B) // MIN_STREAMS_PER_THREAD)
        # The streams do not depend on one another: each core takes some of them, and NumPy releases the GIL.
        ends = [len(ids_B) * index // num_parts for index in range(num_parts + 1)]
        shares = [slice(*pair) for pair in itertools.pairwise(ends)]
        states = [streams_of(state, share) for share in shares]
        logits, new_states = zip(*_threads().map(self._step, [ids_B[share] for share in shares], states), strict=True)
        return np.concatenate(logits), side_by_side(new_states)

    def _step(self, ids_B: NDArray[Any], state: StepperState) -> tuple[Floats, StepperState]:
        state = self.advance(ids_B, state)
        return self.logits(state), state

    def read(self, ids_T: Iterable[int], state: StepperState | None = None) -> tuple[Floats, StepperState]:
        """Read T characters of one text, and compute the logits of what comes after the last of them only.

        Args:
            ids_T: the characters.
            state: the state before them; without one, the start of a text is read first.

        Returns:
            logits_BV: what comes next, shape (1, V), float32; and the new state.
        """
        if state is None:
            ids_T, state = itertools.chain([len(self.vocabulary)], ids_T), self.before(1)
        for index in ids_T:
            state = self.advance(np.array([index]), state)
        return self.logits(state), state

    def read_each(self, texts: Sequence[Ids]) -> tuple[Floats, StepperState]:
        """Read a text in each stream from its start, and compute the logits of what comes after each text only.

        Args:
            texts: the characters of each, which may be of different lengths.

        Returns:
            logits_BV: what comes next, shape (B, V), float32; and the new state.
        """
        # The longest comes first: the streams that still read are the first rows.
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        state = self.advance(np.full(len(texts), len(self.vocabulary)), self.before(len(texts)))
        finished: list[StepperState] = []
        num_reading = len(texts)
        for position in range(max(map(len, texts), default=0)):
            while len(texts[order[num_reading - 1]]) == position:
                num_reading -= 1
                finished.append(streams_of(state, slice(num_reading, None)))
                state = streams_of(state, slice(num_reading))
            state = self.advance(np.array([texts[row][position] for row in order[:num_reading]]), state)
        state = streams_of(side_by_side([state, *reversed(finished)]), np.argsort(order))
        return self.logits(state), state


class Stepper(Predictor):
    """Embedding -> recurrent layers -> Linear, one step for B streams at a time, state in and state out.

    If the model has n-grams, their contexts are the last part of the state, and the logits are those of the mixture.

    Args:
        model: its weights and sizes.
        mixture: its n-grams, if somebody has unpacked them already; otherwise they are read from the model.

    Attributes:
        stack: its recurrent layers.

    Raises:
        UsageError: the model reads from both sides, and cannot predict from one of them.
    """

    def __init__(self, model: ModelFile, mixture: Mixture | None = None) -> None:
        if model.spec.sees_both_sides:
            raise UsageError(
                "this model reads from both sides and cannot continue a text", "`charlm fill` asks it for blanks"
            )
        self.vocabulary = model.vocabulary
        self.is_backward = model.spec.is_backward
        self.stack = Stack(model)
        self._output = Output(model)
        self._mixture = mixture or Mixture.of(model)

    def holding(self, values: Mapping[str, float]) -> Stepper:
        """Return the same model with some units of its net held at a value; n-grams count as before."""
        stepper = copy.copy(self)
        stepper.stack = self.stack.holding(values)
        return stepper

    def before(self, num_streams: int) -> StepperState:
        """Return the state before anything was read, not even the start of a text."""
        state = self.stack.start(num_streams)
        return (*state, (self._mixture.ngrams.start(num_streams),)) if self._mixture else state

    def advance(self, ids_B: NDArray[Any], state: StepperState) -> StepperState:
        """Read one character in each stream, without the logits of what comes next."""
        if self._mixture is None:
            return self.stack.step(ids_B, state)
        *layers, (contexts_BK,) = state
        return (*self.stack.step(ids_B, tuple(layers)), (self._mixture.ngrams.step(ids_B, contexts_BK),))

    @np.errstate(invalid="ignore")
    def logits(self, state: StepperState) -> Floats:
        """Return the logits of what comes next in a state, shape (B, V)."""
        net_BV = self.net_logits(state)
        if self._mixture is None:
            return net_BV
        return self._mixture.mix(net_BV, self._mixture.ngrams.log_probabilities(state[-1][0]))

    def net_logits(self, state: StepperState) -> Floats:
        """Return the logits of the net alone, shape (B, V)."""
        return self._output(self.net_state(state)[-1][0])

    def net_state(self, state: StepperState) -> StepperState:
        """Return a state without the contexts of the n-grams."""
        return state[:-1] if self._mixture else state

    @property
    def has_ngrams(self) -> bool:
        """Whether the model has n-grams beside its net."""
        return self._mixture is not None


def streams_of(state: StepperState, streams: slice | Sequence[int] | NDArray[np.intp]) -> StepperState:
    """Return the state of some of the streams."""
    return tuple(tuple(part[streams] for part in layer) for layer in state)


def start_anew(state: StepperState, start: StepperState, is_start_B: NDArray[np.bool_]) -> StepperState:
    """Return a state with some of its streams set back to their start."""
    if not is_start_B.any():
        return state
    is_start_B1 = is_start_B[:, None]
    return tuple(
        tuple(np.where(is_start_B1, first, part) for first, part in zip(starts, parts, strict=True))
        for starts, parts in zip(start, state, strict=True)
    )


def side_by_side(states: Sequence[StepperState]) -> StepperState:
    """Join the streams of several states."""
    return tuple(tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*states, strict=True))


@cache
def _threads() -> ThreadPoolExecutor:
    # Imported here because one stream does not need it: its first character comes sooner.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(usable_cores(), "stepper")


def _recurrent(cell: Cell, weights: Arrays) -> Recurrent:
    """Return the products of a layer with its state, one for each group of gates."""
    products = [
        partial(_linear, weight_PI=_padded(weights["weight_hh_l0"][part]), bias_O=weights["bias_hh_l0"][part])
        for part in cell.product_rows(len(weights["bias_ih_l0"]) // len(cell.gates))
    ]
    return Recurrent(products, weights.get("peephole_l0"))


def _padded(weight_OI: Floats) -> Floats:
    """Add rows of zeros up to a multiple of `ROWS_TOGETHER`."""
    missing = -len(weight_OI) % ROWS_TOGETHER
    return (
        np.concatenate([weight_OI, np.zeros((missing, weight_OI.shape[1]), weight_OI.dtype)]) if missing else weight_OI
    )


def _linear(x_BI: Floats, weight_PI: Floats, bias_O: Floats) -> Floats:
    """Compute W x + b for each stream, bit for bit the same whatever the number of streams.

    For one stream this is a matrix times a vector, which reads the weights once. For many streams it is as many such
    products, over few enough rows to stay in the cache. One product of two matrices would round differently, and a
    text would depend on the others beside it.

    Args:
        x_BI: shape (B, I).
        weight_PI: as `_padded` returned it; its first O rows count.
        bias_O: shape (O,).
    """
    num_rows, num_outputs = len(weight_PI), len(bias_O)
    if len(x_BI) == 1:
        y_P: Floats = weight_PI @ x_BI[0]
        return (y_P[:num_outputs] + bias_O)[None]
    y_BP1 = np.empty((len(x_BI), num_rows, 1), dtype=x_BI.dtype)
    for start in range(0, num_rows, ROWS_PER_BLOCK):
        end = start + ROWS_PER_BLOCK
        np.matmul(weight_PI[start:end], x_BI[:, :, None], out=y_BP1[:, start:end])
    return y_BP1[:, :num_outputs, 0] + bias_O
