"""The names of layers, of units, and of what a unit has: the parts of its state, and its gates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from charlm.cells import Cell
from charlm.errors import UsageError, did_you_mean
from charlm.spec import ModelSpec

# The layers from right to left of a model of both sides are named after this; all others need no name.
FROM_THE_RIGHT = "right"


@dataclass(frozen=True, order=True)
class Layer:
    """One recurrent layer of a model.

    Attributes:
        number: which one, from 1.
        is_from_the_right: whether it is one of the layers from right to left of a model that reads from both sides.
    """

    number: int
    is_from_the_right: bool = False

    @property
    def stack(self) -> str:
        """The name of its stack in a model file."""
        return "backward_layers" if self.is_from_the_right else "layers"

    def __str__(self) -> str:
        return f"{FROM_THE_RIGHT}.{self.number}" if self.is_from_the_right else str(self.number)


@dataclass(frozen=True)
class Unit:
    """One unit of a layer. Its name is the layer and a number: `2.37`, or `right.2.37` if the layer is named so.

    Attributes:
        layer: the layer.
        index: which unit, from 0.
    """

    layer: Layer
    index: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.index}"


def parts_of(cell: Cell) -> tuple[str, ...]:
    """Return the names of the parts of a cell's state and of its gates. An RNN has no gates."""
    return (*cell.state, *gates_of(cell), *(("candidate",) if len(cell.gates) > 1 else ()))


def gates_of(cell: Cell) -> tuple[str, ...]:
    """Return the names of the gates of a cell, whose values are from 0 to 1; the candidate is none of them."""
    return tuple(gate for gate in cell.gates if gate != "candidate")


def layers_of(spec: ModelSpec) -> list[Layer]:
    """Return the layers of a model, those from right to left of a model of both sides last."""
    sides = (False, True)[: spec.num_stacks]
    return [Layer(number, side) for side in sides for number in range(1, spec.num_layers + 1)]


def part_named(cell: Cell, name: str | None) -> str:
    """Return the name of a part of the state or of a gate: for None the part of the state that is kept longest.

    Raises:
        UsageError: the cell has no such part.
    """
    names = parts_of(cell)
    if name is None:
        return cell.state[-1]
    if name not in names:
        hint = did_you_mean(name, names) or f"it has {', '.join(names)}"
        raise UsageError(f"a unit of this model has no `{name}`", hint)
    return name


def layer_named(spec: ModelSpec, name: str) -> Layer:
    """Return the layer that a name stands for: `2`, or `right.2` of a model that reads from both sides.

    Raises:
        UsageError: there is no such layer.
    """
    layers = {str(layer): layer for layer in layers_of(spec)}
    if name not in layers:
        *others, last = layers
        hint = f"its layers are {', '.join(others)} and {last}" if others else f"its only layer is {last}"
        raise UsageError(f"this model has no layer `{name}`", hint)
    return layers[name]


def unit_named(spec: ModelSpec, name: str) -> Unit:
    """Return the unit that a name stands for: `2.37`, or `right.2.37` of a model that reads from both sides.

    Raises:
        UsageError: this is no name of a unit, or there is no such unit.
    """
    if not (parts := re.fullmatch(r"(?a:(.*)\.(\d{1,9}))", name)):
        last = f"{layers_of(spec)[-1]}.{spec.hidden_size - 1}"
        raise UsageError(f"`{name}` is not a unit", f"a unit is a layer and a number: `1.0`, and the last is `{last}`")
    layer, index = layer_named(spec, parts[1]), int(parts[2])
    if index >= spec.hidden_size:
        last = f"{layer}.{spec.hidden_size - 1}"
        raise UsageError(f"this model has no unit `{name}`", f"the last one of this layer is `{last}`")
    return Unit(layer, index)
