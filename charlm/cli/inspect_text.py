"""A text coloured by a unit, and strips of shades beneath a text: what units and gates do at each character."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from charlm.checkpoint import ModelFile
from charlm.cli.layout import Column, aligned, cells_of, kept_together, table_lines, wrapped
from charlm.cli.shades import Style, shaded_lines, style_for, visible
from charlm.errors import counted
from charlm.inference.activations import Activations, characters_of, read_activations, rows_of_characters, shown_values
from charlm.inference.gate_statistics import ALWAYS, CLOSED, OPEN, GateStatistics, gate_statistics, keeping
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Progress
from charlm.inference.units import Layer, Unit, gates_of, parts_of
from charlm.ramps import DIVERGING, SEQUENTIAL
from charlm.vocab import Ids

STRIP_CHARACTERS = 400
# Strips have this width where a line may have any.
STRIP_WIDTH = 80


def style_of(lowest: int) -> Style:
    """Return how standard output shows values from 0 to 1, or from -1 to 1."""
    return style_for(sys.stdout, DIVERGING if lowest else SEQUENTIAL)


def legend(lowest: int) -> str:
    """Return all shades in order, with the values of the first and the last one."""
    style = style_of(lowest)
    steps = np.linspace(lowest, 1, len(style.ramp.marks)).tolist()
    return f"{lowest} {shaded_lines([(' ', step) for step in steps], None, style)[-1]} 1"


def strip_lines(text: str, rows: Sequence[tuple[str, Sequence[float], int]], width: int | None) -> list[str]:
    """Lay out a text in lines, and beneath each line a strip of shades for each row.

    Args:
        text: the text.
        rows: a name, a value for each character, and where the scale begins, at 0 or -1.
        width: the most cells of a line.
    """
    margin = max(cells_of(name) for name, _, _ in rows) + 2
    room = max((width or STRIP_WIDTH) - margin, 8)
    shown = [visible(character) for character in text]
    lines: list[str] = []
    start = 0
    while start < len(shown):
        end = start + 1
        while end < len(shown) and cells_of("".join(shown[start : end + 1])) <= room:
            end += 1
        lines += ["", " " * margin + "".join(shown[start:end])]
        for name, values, lowest in rows:
            pieces = [
                (" " * cells_of(each), value) for each, value in zip(shown[start:end], values[start:end], strict=True)
            ]
            lines.append((aligned(name, margin) + shaded_lines(pieces, None, style_of(lowest))[-1]).rstrip())
        start = end
    return lines


def _joined(file: ModelFile, texts: Sequence[Ids]) -> tuple[str, list[int]]:
    """Return the characters of texts, and how many symbols each of them is."""
    read = [characters_of(file.vocabulary, ids_T) for ids_T in texts]
    return "".join(text for text, _ in read), np.concatenate([lengths for _, lengths in read]).tolist()


@dataclass(frozen=True, eq=False)
class UnitView:
    """One unit in a text.

    Attributes:
        file: the model.
        texts: each is read from its own start.
        unit: the unit.
        part: which part of its state, or which gate.
        is_part_given: whether this part alone is asked for.
        progress: called as the texts are read.
    """

    file: ModelFile
    texts: list[Ids]
    unit: Unit
    part: str
    is_part_given: bool
    progress: Progress | None = None

    @cached_property
    def activations(self) -> Activations:
        """What all units of its layer do."""
        parts = [self.part] if self.is_part_given else None
        (found,) = read_activations(self.file, self.texts, parts, [self.unit.layer], self.progress)
        return found

    def values(self, part: str) -> Floats:
        """Return a part of its state or a gate at each symbol."""
        return self.activations.parts[part][:, self.unit.index]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        text, _ = _joined(self.file, self.texts)
        parts = {part: self.values(part).tolist() for part in self.activations.parts}
        return {"unit": str(self.unit), "text": text, "values": parts}

    def lines(self, width: int | None) -> list[str]:
        """Lay out the text coloured by the part, and, if no part was asked for, a strip for each part."""
        cell = self.file.spec.recurrence
        text, lengths = _joined(self.file, self.texts)
        rows = rows_of_characters(lengths, self.activations.reads_backward)
        values, lowest, change = shown_values(cell, self.part, self.values(self.part))
        title = f"unit {self.unit}, {self.part}{f' ({change})' if change else ''}, after each character:"
        lines = [*wrapped(title, width), f"  {legend(lowest)}", ""]
        lines += shaded_lines(list(zip(text, values[rows].tolist(), strict=True)), width, style_of(lowest))
        parts = [part for part in parts_of(cell) if part in self.activations.parts]
        if len(parts) == 1:
            return lines
        strips = []
        for part in parts:
            shown, lowest, _ = shown_values(cell, part, self.values(part))
            strips.append((part, shown[rows[:STRIP_CHARACTERS]].tolist(), lowest))
        what = "its state and its gates" if gates_of(cell) else "its state"
        lines += ["", *wrapped(_first(text, what), width)]
        lines += [f"  {legend(0)}  gates"] if gates_of(cell) else []
        lines += [f"  {legend(-1)}  state, candidate"]
        return lines + strip_lines(text[:STRIP_CHARACTERS], strips, width)


def _first(text: str, what: str) -> str:
    if len(text) <= STRIP_CHARACTERS:
        return f"{what}:"
    return f"{what} in the first {STRIP_CHARACTERS} of {counted(len(text), 'character')}:"


@dataclass(frozen=True, eq=False)
class LayerView:
    """The units of a layer in a text.

    Attributes:
        file: the model.
        texts: each is read from its own start.
        layer: the layer.
        part: which part of the state, or which gate.
        num_units: how many units to show, those that vary most.
        progress: called as the texts are read.
    """

    file: ModelFile
    texts: list[Ids]
    layer: Layer
    part: str
    num_units: int
    progress: Progress | None = None

    @cached_property
    def activations(self) -> Activations:
        """What all units of the layer do."""
        (found,) = read_activations(self.file, self.texts, [self.part], [self.layer], self.progress)
        return found

    @cached_property
    def statistics(self) -> GateStatistics:
        """How the gates of all layers behave."""
        return gate_statistics(self.file, self.texts, self.progress)

    @cached_property
    def units(self) -> list[int]:
        """The units that vary most on the scale of the shades, most of all first."""
        shown_TH, _, _ = shown_values(self.file.spec.recurrence, self.part, self.activations.parts[self.part])
        order = np.argsort(-shown_TH.std(axis=0, dtype=np.float64), kind="stable")
        return [int(unit) for unit in order[: self.num_units]]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        text, _ = _joined(self.file, self.texts)
        values_TH = self.activations.parts[self.part]
        units = {f"{self.layer}.{unit}": values_TH[:, unit].tolist() for unit in self.units}
        return {"text": text, "part": self.part, "units": units, **self.statistics.to_json()}

    def lines(self, width: int | None) -> list[str]:
        """Lay out a strip for each unit, and tables of the gates and of the memory of all layers."""
        text, lengths = _joined(self.file, self.texts)
        rows = rows_of_characters(lengths, self.activations.reads_backward)[:STRIP_CHARACTERS]
        shown_TH, lowest, change = shown_values(self.file.spec.recurrence, self.part, self.activations.parts[self.part])
        strips = [(f"{self.layer}.{unit}", shown_TH[rows, unit].tolist(), lowest) for unit in self.units]
        what = f"{self.part}{f' ({change})' if change else ''} of the {counted(len(self.units), 'unit')} of layer "
        what += f"{self.layer} that vary most"
        title = wrapped(_first(text, what), width)
        statistics = statistics_lines(self.statistics, self.file.spec.cell, self.file.vocabulary.unit, width)
        return [*title, f"  {legend(lowest)}", *strip_lines(text[:STRIP_CHARACTERS], strips, width), *statistics]


def statistics_lines(statistics: GateStatistics, cell: str, symbol: str, width: int | None) -> list[str]:
    """Lay out how often gates are closed or open, and how long units remember; nothing for a net without gates."""
    if not statistics.saturation:
        return []
    columns = [
        Column("layer"),
        Column("gate"),
        Column("below 0.1", is_number=True),
        Column("above 0.9", is_number=True),
        Column("units below", is_number=True, rank=2),
        Column("units above", is_number=True, rank=1),
    ]
    rows = [
        (
            row.layer,
            row.gate,
            f"{row.closed:.1%}",
            f"{row.open:.1%}",
            f"{row.units_closed:.1%}",
            f"{row.units_open:.1%}",
        )
        for row in statistics.saturation
    ]
    about = f"saturation: how often a gate is closed (below {CLOSED}) or open (above {OPEN}), over all units and "
    about += f"{symbol}s; and how many units are so at more than {ALWAYS:.0%} of the {symbol}s"
    lines = ["", *wrapped(about, width), *table_lines(columns, rows, width), ""]
    about = f"how long units remember (time constant): at each {symbol} a unit keeps a share of its state, "
    about += f"{keeping(cell)}. With the mean of this share, 37% (1/e) is left after so many {symbol}s. "
    about += "A quarter, half and three quarters of the units remember no longer than:"
    lines += wrapped(about, width)
    names = ("layer", "a quarter", "half", "three quarters")
    times = [(memory.layer, *map(_time, memory.quartiles)) for memory in statistics.memory]
    lines += table_lines([Column(name, is_number=name != "layer") for name in names], times, width)
    for memory in statistics.memory:
        longest = [f"{unit} {_time(time)}" for unit, time in memory.longest.items()]
        lines += kept_together(f"longest in layer {memory.layer}: ", longest, width)
    return lines


def _time(time: float | None) -> str:
    return "forgets nothing" if time is None else f"{time:,.1f}"
