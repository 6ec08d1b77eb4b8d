"""What reading one symbol does in each layer of a net: its gates, and which units change most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from charlm.errors import OVERFLOW, ModelFileError
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Stack, StepperState
from charlm.inference.units import Layer, Unit, gates_of, layers_of


@dataclass(frozen=True, eq=False)
class LayerChange:
    """One step of one layer.

    Attributes:
        layer: the layer.
        old_H: the output of its units before the step.
        new_H: the same after it.
        gates: each gate by name, (H,), from 0 to 1; none for a cell that has none.
    """

    layer: Layer
    old_H: Floats
    new_H: Floats
    gates: dict[str, Floats]

    def most_changed(self, num: int) -> list[Unit]:
        """Return the units whose output changes most, the one that changes most first."""
        order = np.argsort(-abs(self.new_H - self.old_H), kind="stable")[:num]
        return [Unit(self.layer, int(index)) for index in order]


def layer_changes(stack: Stack, index: int, state: StepperState) -> list[LayerChange]:
    """Return what each layer does when it reads a symbol.

    Args:
        stack: the layers.
        index: the id of the symbol.
        state: the state of the net before it, of one stream.

    Raises:
        ModelFileError: the weights are so large that a state overflows.
    """
    new_state, gates = stack.look(np.array([index]), state)
    if not all(np.isfinite(part_BH).all() for layer_state in new_state for part_BH in layer_state):
        raise ModelFileError(*OVERFLOW)
    names = gates_of(stack.cell)
    return [
        LayerChange(layer, old[0][0], new[0][0], {name: layer_gates[name][0] for name in names})
        for layer, old, new, layer_gates in zip(layers_of(stack.spec), state, new_state, gates, strict=True)
    ]
