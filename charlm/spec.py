"""The description of a model: its cell, its sizes and its reading direction. Shapes and counts follow from these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast, get_args

from charlm.cells import CELLS, Cell

Direction = Literal["forward", "backward", "both"]
InitialState = Literal["zero", "learned"]
Shapes = dict[str, tuple[int, ...]]

MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class ModelSpec:
    """A model without its weights: Embedding -> recurrent layers -> Linear.

    There is one input more than there are symbols: the last, id V, stands for the start of a text, or for its end if
    the text is read from the right. A model that sees both sides has two stacks of layers, which meet at the output.

    Attributes:
        cell: the name in `CELLS` of the layers' cell.
        num_symbols: V, the size of the vocabulary.
        embedding_size: E, the size of a character's embedding at the input; 0 for one-hot inputs.
        hidden_size: H, units of each layer.
        num_layers: L, layers of each stack.
        direction: `forward` reads from the left, `backward` from the right, `both` from both sides.
        initial_state: the state before the first character: `zero` or `learned`.
    """

    cell: str
    num_symbols: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    direction: Direction = "forward"
    initial_state: InitialState = "zero"

    @classmethod
    def of_settings(cls, model: Mapping[str, Any], num_symbols: int) -> ModelSpec:
        """Build a spec from the `model` group of settings, which may come from an untrusted file.

        Files written before `direction` and `initial_state` were settings lack them; the defaults apply.

        Raises:
            KeyError: the cell is unknown, or a size is missing.
            ValueError: a size is out of bounds, or another setting has an unknown value.
        """
        sizes = [model[name] for name in ("embedding_size", "hidden_size", "num_layers")]
        if not all(type(size) is int and 0 <= size <= MAX_SIZE for size in sizes) or not sizes[1] or not sizes[2]:
            raise ValueError(f"describes no model: no model has the sizes {sizes}")
        choices = {"direction": get_args(Direction), "initial_state": get_args(InitialState)}
        chosen = {name: model.get(name, values[0]) for name, values in choices.items()}
        for name, values in choices.items():
            if chosen[name] not in values:
                raise ValueError(f"describes a model whose {name} is not one of {', '.join(values)}")
        cell = model["cell"]
        if cell not in CELLS:
            raise KeyError(cell)
        direction, initial_state = cast(Direction, chosen["direction"]), cast(InitialState, chosen["initial_state"])
        embedding_size, hidden_size, num_layers = sizes
        return cls(cell, num_symbols, embedding_size, hidden_size, num_layers, direction, initial_state)

    @property
    def recurrence(self) -> Cell:
        """The cell: its equations, its gates and the parts of its state."""
        return CELLS[self.cell]

    @property
    def start_id(self) -> int:
        """The id of the start of a text, one past the last symbol."""
        return self.num_symbols

    @property
    def num_inputs(self) -> int:
        """How many inputs the first layer has."""
        return self.embedding_size or self.num_symbols + 1

    @property
    def is_backward(self) -> bool:
        """Whether it reads a text from its end and predicts the character before those it has read."""
        return self.direction == "backward"

    @property
    def sees_both_sides(self) -> bool:
        """Whether it reads the text on both sides of a character: it fills blanks, but cannot continue a text."""
        return self.direction == "both"

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks of layers, each by the prefix of its weights' names."""
        return ("layers", "backward_layers") if self.sees_both_sides else ("layers",)

    @property
    def num_stacks(self) -> int:
        """How many stacks of layers there are."""
        return len(self.stacks)

    @cached_property
    def shapes(self) -> Shapes:
        """Name and shape of every weight."""
        shapes: Shapes = {}
        if self.embedding_size:
            shapes["embedding.weight"] = (self.num_symbols + 1, self.embedding_size)
        for stack in self.stacks:
            for layer in range(self.num_layers):
                num_inputs = self.hidden_size if layer else self.num_inputs
                layer_shapes = self.recurrence.weight_shapes(num_inputs, self.hidden_size)
                shapes |= {f"{stack}.{layer}.{name}": shape for name, shape in layer_shapes.items()}
        if self.initial_state == "learned":
            shapes["initial_state"] = (len(self.recurrence.state), self.num_stacks * self.num_layers, self.hidden_size)
        shapes["output.weight"] = (self.num_symbols, self.num_stacks * self.hidden_size)
        return shapes | {"output.bias": (self.num_symbols,)}

    @property
    def num_parameters(self) -> int:
        """How many trainable parameters it has."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def recurrent_matrices(self) -> list[str]:
        """The names of the matrices inside its layers; a matrix that multiplies one-hot inputs is an embedding."""
        names = [name for name in self.shapes if ".weight_" in name]
        return [name for name in names if self.embedding_size or not name.endswith("layers.0.weight_ih_l0")]
