"""Units that are held at a value while a model reads and writes, which shows what they do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from charlm.cells import Cell, Gates, Recurrent, State
from charlm.errors import UsageError, did_you_mean
from charlm.inference.units import Unit, unit_named
from charlm.spec import ModelSpec

HOW = "`1.17=0.9` holds unit 17 of layer 1 at 0.9, `1.17.cell=2` holds its cell"
# The state of a trained model stays far below it, and products with it do not overflow.
MAX_VALUE = 1e6

Step = Callable[[Any, Recurrent, State], tuple[State, Gates]]


class Clamp(NamedTuple):
    """A unit that is held at a value.

    Attributes:
        unit: the unit.
        part: the part of its state, `hidden` or `cell`.
        value: the value after every step.
    """

    unit: Unit
    part: str
    value: float


def read_clamps(assignments: Iterable[str]) -> dict[str, float]:
    """Read values by the names of units, each written as `LAYER.UNIT=VALUE` or `LAYER.UNIT.cell=VALUE`.

    The names are not checked: `clamps_of` does that.

    Raises:
        UsageError: one has no value, or a name comes twice.
    """
    values: dict[str, float] = {}
    for assignment in assignments:
        name, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UsageError(f"`{assignment}` does not name a unit and its value", HOW)
        if name in values:
            raise UsageError(f"the unit `{name}` is held at two values", "give each unit once")
        try:
            values[name] = float(value)
        except ValueError:
            raise UsageError(f"the unit `{name}` cannot be held at `{value}`, which is not a number", HOW) from None
    return values


def clamps_of(spec: ModelSpec, values: Mapping[str, float]) -> list[Clamp]:
    """Check that a model has the units that are to be held.

    Args:
        spec: the model.
        values: by unit, `LAYER.UNIT` or `LAYER.UNIT.cell`.

    Raises:
        UsageError: the model has no such unit, a value is out of its bounds, or a unit is named twice.
    """
    clamps: dict[tuple[Unit, str], Clamp] = {}
    for name, value in values.items():
        start, _, end = name.rpartition(".")
        of_unit, part = (start, end) if start and end.isalpha() else (name, "hidden")
        unit = unit_named(spec, of_unit)
        if part not in spec.recurrence.state:
            parts = " and ".join(spec.recurrence.state)
            hint = did_you_mean(part, spec.recurrence.state) or f"the state of a unit is its {parts}"
            raise UsageError(f"a unit of the cell {spec.cell} has no `{part}`", hint)
        if not (math.isfinite(value) and abs(value) <= MAX_VALUE):
            bounds = f"from {-MAX_VALUE:,.0f} to {MAX_VALUE:,.0f}"
            raise UsageError(f"the unit `{name}` cannot be held at {value}", f"a value is a number {bounds}")
        if (unit, part) in clamps:
            raise UsageError(f"the unit `{name}` is held at two values", "give each unit once")
        clamps[unit, part] = Clamp(unit, part, float(value))
    return list(clamps.values())


def holding(cell: Cell, clamps: Sequence[Clamp], dtype: np.dtype[Any]) -> Step:
    """Return the step of a layer after which some of its units have their values.

    If the cell of an LSTM is held, what the unit shows follows from it: h = o * tanh(c), with the output gate of that
    step. The values are set before the next layer reads them.

    Args:
        cell: the recurrence.
        clamps: the units of this layer.
        dtype: that of the state.
    """
    # The cell comes first, because a held hidden state does not follow from it.
    of_part = [(cell.state.index(part), [clamp for clamp in clamps if clamp.part == part]) for part in cell.state[::-1]]
    held = [
        (index, [clamp.unit.index for clamp in some], np.array([clamp.value for clamp in some], dtype))
        for index, some in of_part
        if some
    ]

    def step(x_BG: Any, recurrent: Recurrent, state: State) -> tuple[State, Gates]:
        after, gates = cell.step(x_BG, recurrent, state)
        parts = [part_BH.copy() for part_BH in after]
        for index, units_K, values_K in held:
            parts[index][:, units_K] = values_K
            if index:
                parts[0][:, units_K] = gates["output"][:, units_K] * np.tanh(values_K)
        return tuple(parts), gates

    return step
