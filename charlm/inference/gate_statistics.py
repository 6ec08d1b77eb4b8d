"""How the gates of a net behave in a text: how often they are closed or open, and how long units remember.

Letters: H units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.activations import moments
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Progress
from charlm.inference.units import Layer, gates_of, layers_of
from charlm.vocab import Ids

# The bounds of Karpathy, Johnson and Fei-Fei 2015.
CLOSED, OPEN = 0.1, 0.9
# A unit whose gate is closed, or open, at more than this share of the symbols counts as always so.
ALWAYS = 0.9
NUM_LONGEST = 10


@dataclass(frozen=True)
class Saturation:
    """How often one gate of a layer is saturated.

    Attributes:
        layer: the name of the layer.
        gate: the name of the gate.
        closed: the share of all its values, of every unit at every symbol, that are below 0.1.
        open: the share that are above 0.9.
        units_closed: the share of units whose gate is below 0.1 at more than nine tenths of the symbols.
        units_open: the share of units whose gate is above 0.9 at more than nine tenths of the symbols.
    """

    layer: str
    gate: str
    closed: float
    open: float
    units_closed: float
    units_open: float


@dataclass(frozen=True)
class Memory:
    """How long the units of one layer remember.

    A unit keeps a share of its state at each symbol: f of an LSTM, z of a GRU, 1 - z of a minimal GRU. With the mean
    share m, the share that is left after N symbols is m^N on average, if the shares of different symbols are
    independent. This is 1/e, about 37 %, after `time = -1 / log(m)` symbols. (The mean of log(share) would not do: a
    unit that keeps everything and is emptied at every hundredth symbol would seem to remember for a few symbols.)

    Attributes:
        layer: the name of the layer.
        quartiles: the times that a quarter, half and three quarters of the units do not exceed, in symbols.
        longest: the units that remember longest, by name, with their times; None for one that forgets nothing.
    """

    layer: str
    quartiles: tuple[float | None, float | None, float | None]
    longest: dict[str, float | None]


@dataclass(frozen=True)
class GateStatistics:
    """How the gates of a net behave in a text; empty for a net without gates.

    Attributes:
        saturation: for each layer and gate.
        memory: for each layer.
    """

    saturation: list[Saturation]
    memory: list[Memory]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def kept_share(cell: str, gates: dict[str, Floats]) -> Floats:
    """Return the share of the old state that each unit keeps, for a cell with gates."""
    if "forget" in gates:
        return gates["forget"]
    # Their letter z has opposite meanings.
    return 1 - gates["update"] if cell == "mingru" else gates["update"]


def gate_statistics(model: ModelFile, texts: Sequence[Ids], progress: Progress | None = None) -> GateStatistics:
    """Let a net read texts, each from its own start, and count how its gates behave. No memory grows with the text.

    Args:
        model: the model; its n-grams have no part in it.
        texts: the texts.
        progress: called after each step with how many symbols of how many were read.

    Raises:
        UsageError: there is nothing to read.
        ModelFileError: the weights are so large that a state overflows.
    """
    spec, gates = model.spec, gates_of(model.spec.recurrence)
    total = sum(map(len, texts))
    if not total:
        raise UsageError("there is no character to read")
    if not gates:
        return GateStatistics([], [])
    num_closed: dict[tuple[Layer, str], Any] = defaultdict(lambda: np.zeros(spec.hidden_size, np.int64))
    num_open: dict[tuple[Layer, str], Any] = defaultdict(lambda: np.zeros(spec.hidden_size, np.int64))
    kept: dict[Layer, Any] = defaultdict(lambda: np.zeros(spec.hidden_size))
    for moment in moments(model, texts, progress):
        for gate in gates:
            values_BH = moment.parts[gate]
            num_closed[moment.layer, gate] += (values_BH < CLOSED).sum(axis=0)
            num_open[moment.layer, gate] += (values_BH > OPEN).sum(axis=0)
        kept[moment.layer] += kept_share(spec.cell, moment.parts).sum(axis=0, dtype=np.float64)
    saturation = [
        Saturation(
            str(layer),
            gate,
            float(num_closed[layer, gate].mean() / total),
            float(num_open[layer, gate].mean() / total),
            float((num_closed[layer, gate] > ALWAYS * total).mean()),
            float((num_open[layer, gate] > ALWAYS * total).mean()),
        )
        for layer in layers_of(spec)
        for gate in gates
    ]
    return GateStatistics(saturation, [_memory(layer, kept[layer] / total) for layer in layers_of(spec)])


def _memory(layer: Layer, mean_shares_H: NDArray[np.float64]) -> Memory:
    with np.errstate(divide="ignore"):
        times_H = -1 / np.log(np.minimum(mean_shares_H, 1))
    times_H[mean_shares_H >= 1] = np.inf
    order = np.argsort(-times_H, kind="stable")[:NUM_LONGEST].tolist()
    # Without interpolation, which is not defined between a number and infinity.
    first, second, third = np.quantile(times_H, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    return Memory(
        str(layer),
        (_finite(first), _finite(second), _finite(third)),
        {f"{layer}.{unit}": _finite(float(times_H[unit])) for unit in order},
    )


def _finite(time: float) -> float | None:
    return time if np.isfinite(time) else None
