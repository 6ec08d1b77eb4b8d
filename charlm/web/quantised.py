"""A net with weights of int8, as a page holds it, and the arithmetic of the page in NumPy, which measures its loss.

Each row of a matrix has a scale of its own. The numbers that a matrix is multiplied with become integers, too, by one
scale for all of them, which is as large as int32 sums allow. So a product is a sum of integers, and exact.

Letters, beside those of the models: `R` rows and `C` columns of a matrix, `I` its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Cell, Recurrent
from charlm.checkpoint import Arrays, ModelFile
from charlm.data.gaps import Gapped
from charlm.data.holdout import Part
from charlm.errors import OVERFLOW, ModelFileError
from charlm.evaluation.segments import sample
from charlm.evaluation.window import Window
from charlm.inference.mixture import Mixture
from charlm.inference.sampling import Floats, log2_probabilities
from charlm.inference.stepper import Progress, Stepper, StepperState, start_anew
from charlm.web.kernel import GREATEST_INPUT

GREATEST_WEIGHT, GREATEST_SUM = 127, (1 << 31) - 1
# Smaller inputs count as zeros, because their scale would overflow.
LEAST_INPUT = 1e-30
# A measurement takes some seconds: so many products of two numbers, but not fewer or more characters than this.
PRODUCTS = 2 * 10**10
LEAST_CHARACTERS, MOST_CHARACTERS = 1 << 11, 1 << 15


@dataclass(frozen=True)
class Rows:
    """Rows of numbers as integers, each with its scale.

    Attributes:
        integers_RC: from -127 to 127.
        scales_R: float32; a number is its integer times the scale of its row.
    """

    integers_RC: NDArray[np.int8]
    scales_R: NDArray[np.float32]

    @classmethod
    def of(cls, numbers_RC: Floats) -> Rows:
        """Round numbers; the largest of each row is exact."""
        scales_R = (abs(numbers_RC).max(axis=1) / GREATEST_WEIGHT).astype(np.float32)
        divisors_R = np.where(scales_R > 0, scales_R, np.float32(1))
        return cls(np.rint(numbers_RC / divisors_R[:, None]).astype(np.int8), scales_R)

    def at(self, places: NDArray[Any]) -> NDArray[np.float64]:
        """Return some rows."""
        numbers_BC: NDArray[np.float64] = self.integers_RC[places].astype(np.float64) * self.scales_R[places, None]
        return numbers_BC


@dataclass(frozen=True)
class Matrix(Rows):
    """A matrix and the bias that is added to its product with a vector.

    Attributes:
        bias_R: float32.
    """

    bias_R: NDArray[np.float32]

    @classmethod
    def with_bias(cls, weight_RI: Floats, bias_R: Floats) -> Matrix:
        """Round the weights; the bias stays as it is."""
        rows = Rows.of(weight_RI)
        return cls(rows.integers_RC, rows.scales_R, bias_R.astype(np.float32))

    @cached_property
    def limit(self) -> int:
        """The greatest integer that an input may become, so that no sum leaves int32."""
        largest = int(abs(self.integers_RC).sum(axis=1, dtype=np.int64).max())
        return min(GREATEST_INPUT, GREATEST_SUM // max(1, largest))

    @cached_property
    def _transposed_IR(self) -> NDArray[np.float64]:
        # Products of floats are fast, and sums of integers below 2^53 are exact.
        return np.ascontiguousarray(self.integers_RC.T.astype(np.float64))

    def __call__(self, x_BI: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multiply with vectors.

        Raises:
            ModelFileError: an input is not finite.
        """
        largest_B1 = abs(x_BI).max(axis=1, keepdims=True)
        if not np.isfinite(largest_B1).all():
            raise ModelFileError(*OVERFLOW)
        is_large_B1 = largest_B1 > LEAST_INPUT
        divisor_B1 = np.where(is_large_B1, largest_B1, 1.0)
        integers_BI = np.where(is_large_B1, np.floor(x_BI * (self.limit / divisor_B1) + 0.5), 0.0)
        return (integers_BI @ self._transposed_IR) * (self.scales_R * (divisor_B1 / self.limit)) + self.bias_R


@dataclass(frozen=True)
class QuantisedLayer:
    """A recurrent layer.

    Attributes:
        inputs: what multiplies its input; None if the rows of the net's table are what the first layer's gates get.
        bias_G: what the first layer's gates get beside these rows.
        recurrent: what multiplies its state, one for each product of the cell.
        peephole_KH: the weights of the gates that see the cell state, if there are any.
        start_PH: the parts of the state before anything was read.
    """

    inputs: Matrix | None
    bias_G: NDArray[np.float32]
    recurrent: list[Matrix]
    peephole_KH: NDArray[np.float32] | None
    start_PH: NDArray[np.float32]


class QuantisedNet:
    """Embedding -> recurrent layers -> Linear with int8 weights, one step for B streams at a time.

    Attributes:
        table: what each symbol is to the first layer: its embedding, or what it adds to the gates.
        layers: the recurrent layers.
        output: the linear layer.
    """

    def __init__(self, model: ModelFile) -> None:
        spec, weights = model.spec, model.weights
        self._cell = spec.recurrence
        shape = (len(self._cell.state), spec.num_layers, spec.hidden_size)
        start_PLH = weights.get("initial_state", np.zeros(shape, np.float32))
        self.layers = [
            _layer(self._cell, weights, index, start_PLH[:, index], bool(index or spec.embedding_size))
            for index in range(spec.num_layers)
        ]
        one_hot = weights["layers.0.weight_ih_l0"].T
        self.table = Rows.of(weights["embedding.weight"] if spec.embedding_size else one_hot)
        self.output = Matrix.with_bias(weights["output.weight"], weights["output.bias"])

    def before(self, num_streams: int) -> StepperState:
        """Return the state before anything was read, not even the start of a text."""
        starts = [layer.start_PH.astype(np.float64) for layer in self.layers]
        return tuple(tuple(np.repeat(part_H[None], num_streams, axis=0) for part_H in start_PH) for start_PH in starts)

    @np.errstate(over="ignore", invalid="ignore")
    def step(self, ids_B: NDArray[Any], state: StepperState) -> tuple[NDArray[np.float64], StepperState]:
        """Read one character in each stream; return the logits of what comes next, (B, V), and the new state.

        Raises:
            ModelFileError: the weights are so large that a state overflows.
        """
        x_BI = self.table.at(ids_B)
        new_state = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            u_BG = layer.inputs(x_BI) if layer.inputs else x_BI + layer.bias_G
            peephole_KH = None if layer.peephole_KH is None else layer.peephole_KH.astype(np.float64)
            stepped, _ = self._cell.step(u_BG, Recurrent(layer.recurrent, peephole_KH), layer_state)
            # The page keeps its states in float32.
            new_state.append(tuple(part_BH.astype(np.float32).astype(np.float64) for part_BH in stepped))
            x_BI = new_state[-1][0]
        return self.output(x_BI), tuple(new_state)


def _layer(cell: Cell, weights: Arrays, index: int, start_PH: Floats, has_inputs: bool) -> QuantisedLayer:
    arrays = {name: weights[f"layers.{index}.{name}"] for name in cell.weight_shapes(1, 1)}
    bias_G = arrays["bias_ih_l0"]
    recurrent = [
        Matrix.with_bias(arrays["weight_hh_l0"][rows], arrays["bias_hh_l0"][rows])
        for rows in cell.product_rows(len(bias_G) // len(cell.gates))
    ]
    inputs = Matrix.with_bias(arrays["weight_ih_l0"], bias_G) if has_inputs else None
    return QuantisedLayer(inputs, bias_G, recurrent, arrays.get("peephole_l0"), start_PH)


@dataclass(frozen=True)
class Loss:
    """What the rounding of the weights costs, measured on a text.

    Attributes:
        text: what people call the text.
        characters: how many of its symbols were scored, evenly spaced in it.
        bits: per symbol, with the weights of the page.
        bits_full: the same with the weights of the model file.
        largest_change: of the probability of any symbol at any of these places.
    """

    text: str
    characters: int
    bits: float
    bits_full: float
    largest_change: float

    @property
    def tolerance(self) -> str:
        """What no probability changed by more than, rounded up to three decimals."""
        return f"{math.ceil(self.largest_change * 1000) / 1000:.3f}"


def measure_loss(model: ModelFile, net: QuantisedNet, text: Part, name: str, progress: Progress | None = None) -> Loss:
    """Score evenly spaced pieces of a text with the weights of a page and with those of the model.

    Args:
        model: the model, which reads from one side.
        net: its net with the weights of the page.
        text: at least one symbol of the model.
        name: what people call the text.
        progress: called now and then with how many of the characters were scored.

    Raises:
        ModelFileError: the weights are so large that a state overflows.
    """
    stepper, mixture = Stepper(model), Mixture.of(model)
    num_products = sum(array.size for array in model.weights.values() if array.ndim == 2)
    number = min(max(PRODUCTS // num_products, LEAST_CHARACTERS), MOST_CHARACTERS)
    bits: list[Floats] = []
    largest_change = 0.0
    for full_BV, quantised_BV, targets_B, total in _side_by_side(stepper, net, mixture, text, number):
        log_p, log_q = log2_probabilities(full_BV), log2_probabilities(quantised_BV)
        largest_change = max(largest_change, float(abs(np.exp2(log_p) - np.exp2(log_q)).max()))
        rows = np.arange(len(targets_B))
        bits.append(-np.stack([log_p[rows, targets_B], log_q[rows, targets_B]]))
        if progress:
            progress(sum(each.shape[1] for each in bits), total)
    full, quantised = np.concatenate(bits, axis=1).mean(axis=1).tolist()
    return Loss(name, sum(each.shape[1] for each in bits), quantised, full, largest_change)


def _side_by_side(
    stepper: Stepper, net: QuantisedNet, mixture: Mixture | None, text: Part, number: int
) -> Iterator[tuple[Floats, Floats, NDArray[np.int64], int]]:
    """Yield the logits of both nets at places of a text, the symbols that stand there, and how many places come."""
    part = Gapped(text.backwards() if stepper.is_backward else text)
    segments, start_id = sample(part, number), len(stepper.vocabulary)
    num_characters = int(part.num_characters_of(segments.first_S, segments.last_S).sum())
    inputs = Window(part, segments, start_id).left_of(-segments.warm_up, segments.length)
    starts_B = np.full(len(segments), start_id)
    before, net_before = stepper.before(len(segments)), net.before(len(segments))
    state, (_, net_state) = stepper.advance(starts_B, before), net.step(starts_B, net_before)
    for place, (ids_B, targets_B) in enumerate(zip(inputs.tokens_TB, inputs.targets_TB, strict=True)):
        is_start_B = ids_B == start_id
        full_BV, state = stepper.step(ids_B, start_anew(state, before, is_start_B))
        net_BV, net_state = net.step(ids_B, start_anew(net_state, net_before, is_start_B))
        is_scored_B = (place >= segments.warm_up) & (place - segments.warm_up < segments.lengths_S)
        if inputs.resets_TB is not None:
            is_scored_B &= ~inputs.resets_TB[place]
        if is_scored_B.any():
            quantised_BV = mixture.mix(net_BV, mixture.ngrams.log_probabilities(state[-1][0])) if mixture else net_BV
            yield full_BV[is_scored_B], quantised_BV[is_scored_B], targets_B[is_scored_B], num_characters
