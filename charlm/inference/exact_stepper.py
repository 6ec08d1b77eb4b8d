"""A trained model that reads one character at a time and predicts the same on every CPU: frequencies, whole numbers.

`stepper.py` is faster for one stream, and its last bits depend on the CPU. Here the equations of `cells.py` run on
`ExactArray`s.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from charlm.cells import Cell, Recurrent
from charlm.checkpoint import Arrays, ModelFile
from charlm.errors import UsageError
from charlm.inference.exact import ExactArray, ExactLinear, Float64s, decayed, natural_logarithm
from charlm.inference.mixture import Mixture
from charlm.inference.ngrams import MIN_PROBABILITY, Contexts
from charlm.inference.packed_ngrams import CODES_PER_NAT

# For each layer the parts of its state, each (B, H).
LayerStates = tuple[tuple[ExactArray, ...], ...]
Frequencies = NDArray[np.int64]

# The most probable symbol has this frequency, and no symbol has less than one.
LARGEST_FREQUENCY = 1 << 24
# Logits are rounded to whole numbers of 2^-12. The error of 0.0001 costs about a billionth of a bit.
LOGIT_BITS = 12
# The probe reads so many characters in so many streams.
PROBE_STEPS, PROBE_STREAMS = 32, 3


class ExactState:
    """What was read so far in B streams.

    Attributes:
        layers: the state of each layer.
        contexts_BK: the contexts of the n-grams, if the model has any.
    """

    __slots__ = ("contexts_BK", "layers")

    def __init__(self, layers: LayerStates, contexts_BK: Contexts | None) -> None:
        self.layers, self.contexts_BK = layers, contexts_BK

    def streams(self, rows: list[int]) -> ExactState:
        """Return the state of some of the streams."""
        layers = tuple(tuple(part[rows] for part in layer) for layer in self.layers)
        return ExactState(layers, None if self.contexts_BK is None else self.contexts_BK[rows])


class ExactStepper:
    """Embedding -> recurrent layers -> Linear, and n-grams beside them, one step for B streams at a time.

    Args:
        model: its weights and sizes.

    Attributes:
        num_symbols: V.
        is_backward: whether it reads texts from their end and predicts what stands before.

    Raises:
        UsageError: the model reads from both sides.
        ModelFileError: its n-grams are damaged.
    """

    def __init__(self, model: ModelFile) -> None:
        spec, weights = model.spec, model.weights
        if spec.sees_both_sides:
            raise UsageError(
                "this model reads from both sides: it predicts no character from those before it alone",
                "use a model whose `model.direction` is forward or backward",
            )
        self.num_symbols, self.is_backward = len(model.vocabulary), spec.is_backward
        self._cell = spec.recurrence
        layers = [
            {name: weights[f"layers.{layer}.{name}"] for name in self._cell.weight_shapes(1, 1)}
            for layer in range(spec.num_layers)
        ]
        # What each symbol adds to the gates of the first layer is computed once, here.
        first = layers[0]["weight_ih_l0"], layers[0]["bias_ih_l0"]
        if spec.embedding_size:
            self._table_VG = ExactLinear(*first)(ExactArray(weights["embedding.weight"].astype(np.float64)))
        else:
            self._table_VG = ExactArray(first[0].T.astype(np.float64) + first[1])
        self._inputs = [ExactLinear(layer["weight_ih_l0"], layer["bias_ih_l0"]) for layer in layers[1:]]
        self._recurrents = [_recurrent(self._cell, layer) for layer in layers]
        self._output = ExactLinear(weights["output.weight"], weights["output.bias"])
        zeros_PLH = np.zeros((len(self._cell.state), spec.num_layers, spec.hidden_size))
        start_PLH = weights.get("initial_state", zeros_PLH).astype(np.float64)
        self._start = [[part_LH[None, layer] for part_LH in start_PLH] for layer in range(spec.num_layers)]
        mixture = Mixture.of(model)
        self._counts = None if mixture is None else ExactCounts(mixture)

    def before(self, num_streams: int) -> ExactState:
        """Return the state before anything was read, not even the start of a text."""
        layers = tuple(tuple(ExactArray(part.repeat(num_streams, axis=0)) for part in layer) for layer in self._start)
        return ExactState(layers, self._counts.ngrams.start(num_streams) if self._counts else None)

    def advance(self, ids_B: NDArray[np.int64], state: ExactState) -> ExactState:
        """Read one character in each stream; the id V, one past the last symbol, is the start of a text."""
        x_BG = self._table_VG[ids_B]
        layers: list[tuple[ExactArray, ...]] = []
        for layer, (recurrent, layer_state) in enumerate(zip(self._recurrents, state.layers, strict=True)):
            if layer:
                x_BG = self._inputs[layer - 1](layers[-1][0])
            layers.append(self._cell.step(x_BG, recurrent, layer_state)[0])
        contexts_BK = state.contexts_BK
        if self._counts is not None and contexts_BK is not None:
            contexts_BK = self._counts.ngrams.step(ids_B, contexts_BK)
        return ExactState(tuple(layers), contexts_BK)

    def frequencies(self, state: ExactState) -> Frequencies:
        """Return how often each symbol is expected to come next, in proportion, shape (B, V); each at least once."""
        logits_BV = self._output(state.layers[-1][0]).values
        if self._counts is not None and state.contexts_BK is not None:
            logits_BV = self._counts.mix(logits_BV, state.contexts_BK)
        logits_BV = np.rint(logits_BV * float(1 << LOGIT_BITS))
        table = _frequency_table()
        distance_BV = np.minimum(logits_BV.max(axis=1, keepdims=True) - logits_BV, len(table) - 1)
        frequencies_BV: Frequencies = table.take(distance_BV.astype(np.intp))
        return frequencies_BV

    def probe(self) -> bytes:
        """Return a digest of the frequencies in some made-up texts: another machine must find the same."""
        digest = hashlib.sha256()
        state = self.before(PROBE_STREAMS)
        ids_B = np.full(PROBE_STREAMS, self.num_symbols)
        for step in range(PROBE_STEPS):
            state = self.advance(ids_B, state)
            digest.update(self.frequencies(state).astype("<i8").tobytes())
            # Multiples of a prime that is larger than any vocabulary.
            ids_B = (np.arange(1, PROBE_STREAMS + 1) * (step + 1) * 2_654_435_761 >> 8) % self.num_symbols
        return digest.digest()


class ExactCounts:
    """The n-grams beside a net, in logarithms.

    In a model file the logarithm of each probability is a whole number of tenths. So what `Ngrams` multiplies is added
    here. The sum of a distribution is not needed: it is the same for all symbols.

    Args:
        mixture: the n-grams and their weight.

    Attributes:
        ngrams: the n-grams.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.ngrams = ngrams = mixture.ngrams
        self._weight = mixture.weight
        # Rounding finds the number in the file, however the last bits of `exp` and `log` come out.
        self._codes_N, self._backoff_M = (
            np.rint(-CODES_PER_NAT * np.log(factors.astype(np.float64))) for factors in (ngrams.p_N, ngrams.backoff_M)
        )
        first = slice(ngrams.children_M.item(0))
        self._codes_V = np.full(
            ngrams.num_symbols, self._backoff_M[0] + CODES_PER_NAT * natural_logarithm(ngrams.num_symbols)
        )
        self._codes_V[ngrams.symbols_N[first]] = self._codes_N[first]
        # The least probability is a power of two.
        self._most = CODES_PER_NAT * (1 - math.frexp(MIN_PROBABILITY)[1]) * natural_logarithm(2)

    def mix(self, logits_BV: Float64s, contexts_BK: Contexts) -> Float64s:
        """Return the logits of the net and the n-grams together, shape (B, V)."""
        num_streams, num_lengths = contexts_BK.shape
        is_inner_BK, entries_C, ngrams_C = self.ngrams.seen_after(contexts_BK)
        backoff_BK = np.where(is_inner_BK, self._backoff_M[np.where(is_inner_BK, contexts_BK, 0)], 0)
        # A child of one context has the backoffs of all longer contexts added.
        scale_BK = np.zeros((num_streams, num_lengths + 1))
        scale_BK[:, :-1] = backoff_BK[:, ::-1].cumsum(axis=1)[:, ::-1]
        codes_BV = scale_BK[:, 1:2] + self._codes_V
        codes_C = self._codes_N[ngrams_C] + scale_BK[:, 1:].ravel()[entries_C]
        codes_BV[entries_C // num_lengths, self.ngrams.symbols_N[ngrams_C]] = codes_C
        np.minimum(codes_BV, self._most, out=codes_BV)
        mixed_BV: Float64s = logits_BV * (1 - self._weight) - codes_BV * (self._weight / CODES_PER_NAT)
        return mixed_BV


def _recurrent(cell: Cell, weights: Arrays) -> Recurrent:
    """Return the products of a layer with its state, one for each group of gates."""
    rows = cell.product_rows(len(weights["bias_ih_l0"]) // len(cell.gates))
    products = [ExactLinear(weights["weight_hh_l0"][part], weights["bias_hh_l0"][part]) for part in rows]
    peepholes = weights.get("peephole_l0")
    return Recurrent(products, None if peepholes is None else ExactArray(peepholes.astype(np.float64)))


@cache
def _frequency_table() -> Frequencies:
    """Return the frequencies by the distance of a logit from the largest one, down to one."""
    num = math.ceil(natural_logarithm(2 * LARGEST_FREQUENCY) * (1 << LOGIT_BITS))
    return np.maximum(np.rint(decayed(num, LOGIT_BITS) * LARGEST_FREQUENCY), 1).astype(np.int64)
