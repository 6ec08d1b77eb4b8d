"""The model one character at a time, in NumPy. Reads what training wrote; never imports torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charlm import usable_cores
from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.vocab import Ids, Vocabulary

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Floats = NDArray[np.floating[Any]]
# For each layer the parts of its state, each (B, H). Nothing writes into a state: keeping one is remembering it.
StepperState = tuple[tuple[Floats, ...], ...]

# 256 rows of 512 floats are 512 KiB, which fits a second-level cache.
ROWS_PER_BLOCK = 256
# With fewer, handing them out costs more than a second core saves.
MIN_STREAMS_PER_THREAD = 16
# BLAS takes several rows at once and sums what is left over in another order. Where there is nothing left over,
# neither the number of its threads nor the blocks above change a bit.
ROWS_TOGETHER = 64


class Stepper:
    """Embedding -> RNN | LSTM | GRU -> Linear, one step for B streams at a time, state in and state out.

    Attributes:
        vocabulary: the symbols of its inputs and outputs.
    """

    def __init__(self, model: ModelFile) -> None:
        settings: Mapping[str, Any] = model.config["model"]
        weights = model.weights
        self.vocabulary: Vocabulary = model.vocabulary
        self._cell = CELLS[settings["cell"]]
        self._hidden_size: int = settings["hidden_size"]
        layers = [
            [weights[f"layers.{layer}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            for layer in range(settings["num_layers"])
        ]
        # The first layer's input is one of V + 1 embeddings: what each adds to the gates is known beforehand.
        first_weight_ih, _, first_bias_ih, _ = layers[0]
        self._table_VG = weights["embedding.weight"] @ first_weight_ih.T + first_bias_ih
        self._inputs = [(_padded(weight_ih), bias_ih) for weight_ih, _, bias_ih, _ in layers[1:]]
        self._recurrences = [(_padded(weight_hh), bias_hh) for _, weight_hh, _, bias_hh in layers]
        self._output = (_padded(weights["output.weight"]), weights["output.bias"])

    def start(self, num_streams: int = 1) -> tuple[Floats, StepperState]:
        """Begin texts: return what the model expects first and its state, before any character."""
        dtype = self._table_VG.dtype
        zero = np.zeros((num_streams, self._hidden_size), dtype=dtype)
        state = tuple((zero,) * len(self._cell.state) for _ in self._recurrences)
        return self.step(np.full(num_streams, len(self.vocabulary)), state)

    def step(self, ids_B: NDArray[Any], state: StepperState) -> tuple[Floats, StepperState]:
        """Read one character in each stream.

        Args:
            ids_B: shape (B,); the id V, one past the last symbol, is the start of a text.
            state: what `start` or `step` returned; it is not changed.

        Returns:
            logits_BV: what comes next, shape (B, V), float32; and the new state.
        """
        if len(ids_B) < 2 * MIN_STREAMS_PER_THREAD or usable_cores() < 2:
            return self._step(ids_B, state)
        num_parts = min(usable_cores(), len(ids_B) // MIN_STREAMS_PER_THREAD)
        # No stream needs another: each core takes some of them, and NumPy lets them run side by side.
        ends = [len(ids_B) * index // num_parts for index in range(num_parts + 1)]
        shares = [slice(*pair) for pair in itertools.pairwise(ends)]
        states = [tuple(tuple(part[share] for part in layer) for layer in state) for share in shares]
        logits, new_states = zip(*_threads().map(self._step, [ids_B[share] for share in shares], states), strict=True)
        layers = zip(*new_states, strict=True)
        return np.concatenate(logits), tuple(tuple(map(np.concatenate, zip(*parts, strict=True))) for parts in layers)

    def _step(self, ids_B: NDArray[Any], state: StepperState) -> tuple[Floats, StepperState]:
        x_BG = self._table_VG[ids_B]
        new_state: list[tuple[Floats, ...]] = []
        for layer, ((weight_hh, bias_hh), layer_state) in enumerate(zip(self._recurrences, state, strict=True)):
            if layer:
                x_BG = _linear(new_state[-1][0], *self._inputs[layer - 1])
            layer_state, _ = self._cell.step(x_BG, _linear(layer_state[0], weight_hh, bias_hh), layer_state)
            new_state.append(layer_state)
        return _linear(new_state[-1][0], *self._output), tuple(new_state)

    def read(self, ids_T: Ids, logits_BV: Floats, state: StepperState) -> tuple[Floats, StepperState]:
        """Read T characters in every stream; with none, return what came in."""
        for index in ids_T:
            logits_BV, state = self.step(np.full(len(logits_BV), index), state)
        return logits_BV, state


@cache
def _threads() -> ThreadPoolExecutor:
    # Loaded only for many streams at once: the first character of one need not wait for it.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(usable_cores(), "stepper")


def _padded(weight_OI: Floats) -> Floats:
    """Add rows of zeros up to a multiple of `ROWS_TOGETHER`."""
    missing = -len(weight_OI) % ROWS_TOGETHER
    return (
        np.concatenate([weight_OI, np.zeros((missing, weight_OI.shape[1]), weight_OI.dtype)]) if missing else weight_OI
    )


def _linear(x_BI: Floats, weight_PI: Floats, bias_O: Floats) -> Floats:
    """Compute W x + b for each stream, bit for bit the same whatever the number of streams.

    One stream is a matrix times a vector, which reads the weights once. Many streams are done as that
    many such products, over rows few enough to stay in the cache, not as one product of matrices, which would round
    differently and let a text depend on its company.

    Args:
        x_BI: shape (B, I).
        weight_PI: `_padded`, its first O rows meant.
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
