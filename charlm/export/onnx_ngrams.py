"""The n-grams beside a net as a part of an ONNX graph: what `ngrams.py` does, in operators of ONNX."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from charlm.export.onnx_values import Graph, Value
from charlm.inference.ngrams import MIN_PROBABILITY, Ngrams


class OnnxNgrams:
    """N-grams whose tables are constants of a graph.

    Letters: `K` lengths of contexts, `L` those of them that are not empty, `W` the most children of such a context.

    Args:
        graph: where its nodes go.
        ngrams: the n-grams.

    Attributes:
        num_lengths: K.
    """

    def __init__(self, graph: Graph, ngrams: Ngrams) -> None:
        self._graph, self._num_symbols = graph, ngrams.num_symbols
        self.num_lengths = max(1, ngrams.order)
        children_M, symbols_N = ngrams.children_M, ngrams.symbols_N
        self._num_inner = len(children_M)
        self._width = int(children_M[1:].max(initial=0))
        # The number of the first n-gram below each context; n-gram n is node n + 1.
        self._first = graph.constant("ngrams.first", (children_M.cumsum() - children_M).astype(np.int32))
        self._children = graph.constant("ngrams.children", _narrow(children_M))
        self._backoff = _Codes(graph, "ngrams.backoff", ngrams.backoff_M)
        self._symbols = graph.constant("ngrams.symbols", _narrow(symbols_N))
        self._p = _Codes(graph, "ngrams.p", ngrams.p_N)
        # Below the empty context: the node of each symbol, and the distribution. After the symbols come V for the start
        # of a text, which follows no context, and V + 1 for no symbol.
        nodes = np.full(ngrams.num_symbols + 1, -1)
        nodes[symbols_N[: children_M[0]]] = 1 + np.arange(children_M[0])
        self._root_nodes = graph.constant("ngrams.root_nodes", nodes)
        p = np.full(ngrams.num_symbols + 2, ngrams.backoff_M[0] / ngrams.num_symbols, np.float32)
        p[symbols_N[: children_M[0]]] = ngrams.p_N[: children_M[0]]
        self._root_p = graph.constant("ngrams.root_p", p)

    def step(self, ids: Value, contexts_BK: Value) -> Value:
        """Return the contexts after one more symbol, (B, K)."""
        graph = self._graph
        nodes = [contexts_BK[..., 0:1], self._unsqueezed(self._root_nodes.select(ids), 1)][: self.num_lengths]
        if self.num_lengths > 2:
            below = self._below(contexts_BK[..., 1 : self.num_lengths - 1])
            is_symbol = graph.add("Equal", below.symbols_BLW, self._unsqueezed(ids, 1, 2))
            one, none = graph.integers([1]), graph.integers([-1])
            found = graph.add("Where", is_symbol, below.places_BLW + one, none)
            nodes.append(graph.add("ReduceMax", found, axes=[2], keepdims=0))
        return graph.add("Concat", *nodes, axis=1, size=self.num_lengths)

    def log_probabilities(self, contexts_BK: Value) -> Value:
        """Return the logarithms of the distribution of the next symbol, (B, V); never less than that of 2^-24."""
        graph, p = self._graph, self._root_p
        if self.num_lengths > 1:
            below = self._below(contexts_BK[..., 1 : self.num_lengths])
            p_BLW = self._p.select(below.places_BLW)
            for length in range(self.num_lengths - 1):
                # What a longer context has seen takes the place of what the shorter ones say.
                number = graph.constant(f"length_{length}", np.array(length))
                symbols_BW, p_BW = (part.select(number, axis=1) for part in (below.symbols_BLW, p_BLW))
                p = p * below.backoff_BL[..., length : length + 1]
                p = graph.add("ScatterElements", p, symbols_BW, p_BW, axis=1)
        p = p[..., 0 : self._num_symbols]
        total = graph.add("ReduceSum", p, graph.integers([-1]), size=1)
        p = graph.add("Max", graph.add("Div", p, total), graph.number(MIN_PROBABILITY))
        return graph.add("Log", p)

    def _below(self, contexts_BL: Value) -> _Below:
        """Look up all children of contexts that are not empty."""
        graph, zero, most = self._graph, self._graph.integers([0]), self._graph.integers([self._num_inner])
        is_seen = graph.add("GreaterOrEqual", contexts_BL, zero)
        is_inner = graph.add("And", is_seen, graph.add("Less", contexts_BL, most))
        inner_BL = graph.add("Where", is_inner, contexts_BL, zero)
        number_BL = graph.add("Where", is_inner, _whole(self._children.select(inner_BL)), zero)
        slots_W = graph.constant("ngrams.slots", np.arange(self._width))
        is_child = graph.add("Less", slots_W, self._unsqueezed(number_BL, 2))
        first_BL1 = self._unsqueezed(_whole(self._first.select(inner_BL)), 2)
        places_BLW = graph.add("Where", is_child, first_BL1 + slots_W, zero)
        no_symbol = graph.integers([self._num_symbols + 1])
        symbols_BLW = graph.add("Where", is_child, _whole(self._symbols.select(places_BLW)), no_symbol)
        backoff_BL = graph.add("Where", is_inner, self._backoff.select(inner_BL), graph.number(1.0))
        return _Below(places_BLW, symbols_BLW, backoff_BL)

    def _unsqueezed(self, value: Value, *axes: int) -> Value:
        return self._graph.add("Unsqueeze", value, self._graph.integers(axes))


class _Below(NamedTuple):
    """What is below some contexts.

    Attributes:
        places_BLW: the number of the n-gram of each child.
        symbols_BLW: its symbol; V + 1 where there is no child.
        backoff_BL: of each context.
    """

    places_BLW: Value
    symbols_BLW: Value
    backoff_BL: Value


class _Codes:
    """Numbers of which few are different, as in a model file: a short code for each."""

    def __init__(self, graph: Graph, name: str, numbers: NDArray[Any]) -> None:
        values, codes = np.unique(numbers.astype(np.float32), return_inverse=True)
        self._codes = graph.constant(f"{name}.codes", _narrow(codes))
        self._values = graph.constant(f"{name}.values", values)

    def select(self, places: Value) -> Value:
        """Return some of the numbers, by their places."""
        return self._values.select(_whole(self._codes.select(places)))


def _narrow(integers: NDArray[Any]) -> NDArray[Any]:
    """Return integers in the smallest type that holds them, so that the file is small."""
    return integers.astype(np.min_scalar_type(int(integers.max(initial=0))))


def _whole(value: Value) -> Value:
    return value.graph.add("Cast", value, to=TensorProto.INT64)
