"""An ONNX graph that is written down by computing with values that stand for its tensors. Knows no models."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Graph:
    """A graph that is being written.

    Attributes:
        nodes: in the order in which they are computed.
        constants: by name.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: Value, name: str = "", size: int | None = None, **attributes: Any) -> Value:
        """Add a node.

        Args:
            operator: one of ONNX.
            inputs: what it takes.
            name: of its only output, if that matters.
            size: of the last axis of the output; by default that of its widest input.
            attributes: what else it takes.
        """
        name = name or f"{operator}_{len(self.nodes)}"
        names = [value.name for value in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], f"{name}_node", **attributes))
        return Value(self, name, max(value.size for value in inputs) if size is None else size)

    def constant(self, name: str, array: NDArray[Any]) -> Value:
        """Add a constant, unless there is one of this name already."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return Value(self, name, array.shape[-1] if array.ndim else 1)

    def integers(self, values: Sequence[int]) -> Value:
        """Add whole numbers, one axis of them."""
        return self.constant("_".join(["integers", *map(str, values)]), np.array(values, np.int64))

    def number(self, value: float) -> Value:
        """Add a number."""
        return self.constant(f"number_{value}", np.array(value, np.float32))


class Value:
    """A tensor of a graph, in place of an array: what is done to it becomes nodes.

    It has those operators and methods of NumPy and torch that the equations of the cells need.

    Args:
        graph: where the nodes go.
        name: of the tensor.
        size: of its last axis.
    """

    def __init__(self, graph: Graph, name: str, size: int) -> None:
        self.graph, self.name, self.size = graph, name, size

    @property
    def shape(self) -> tuple[int]:
        """The size of the last axis alone: the others are not known."""
        return (self.size,)

    def __getitem__(self, key: tuple[EllipsisType, slice]) -> Value:
        """Return a part of the last axis."""
        _, part = key
        bounds = (self.graph.integers([bound]) for bound in (part.start, part.stop, -1))
        return self.graph.add("Slice", self, *bounds, size=part.stop - part.start)

    def __add__(self, other: Value | float) -> Value:
        return self._and("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._and("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self.graph.add("Sub", self.graph.number(other), self)

    def __mul__(self, other: Value | float) -> Value:
        return self._and("Mul", other)

    def __neg__(self) -> Value:
        return self.graph.add("Neg", self)

    def _and(self, operator: str, other: Value | float) -> Value:
        return self.graph.add(operator, self, other if isinstance(other, Value) else self.graph.number(other))

    def tanh(self) -> Value:
        """Hyperbolic tangent."""
        return self.graph.add("Tanh", self)

    def sigmoid(self) -> Value:
        """1 / (1 + exp(-x))."""
        return self.graph.add("Sigmoid", self)

    def relu(self) -> Value:
        """The larger of x and 0."""
        return self.graph.add("Relu", self)

    def new_zeros(self, shape: tuple[()]) -> float:
        """Return zero."""
        return 0.0

    def logaddexp(self, other: float) -> Value:
        """log(exp(x) + exp(0)), the only sum of this kind in the cells."""
        assert other == 0.0
        return self.graph.add("Softplus", self)

    def linear(self, weight_OI: Value, bias_O: Value) -> Value:
        """W x + b."""
        return self.graph.add("Gemm", self, weight_OI, bias_O, size=bias_O.size, transB=1)

    def select(self, rows: Value, axis: int = 0) -> Value:
        """Return some entries along an axis, by their numbers."""
        return self.graph.add("Gather", self, rows, size=self.size, axis=axis)
