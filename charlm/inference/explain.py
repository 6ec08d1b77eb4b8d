"""A cell's equations and parameters, and one step of a trained model in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import OVERFLOW, ModelFileError, UsageError
from charlm.inference.stepper import Stack
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

NOTATION_OF_INPUT = "x_i is what the input adds to gate i, W_i x + b_i; * goes element by element; h' is the new h."
NOTATION = f"R_i(h) is what the state adds to gate i, R_i h + r_i;\n{NOTATION_OF_INPUT}"


@dataclass(frozen=True)
class Description:
    """The description of a cell.

    Attributes:
        cell: its name.
        text: its equations, their source, and notes on them.
        notation: how to read the equations.
        letters: the letter of each gate in the equations, by the gate's name.
        parameters: how many parameters each part of a model of this cell has.
    """

    cell: str
    text: str
    notation: str
    letters: dict[str, str]
    parameters: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """One step of the last layer, in the numbers of one unit: the one with the largest output.

    Attributes:
        before: the text that was read before this step; a backward model read it from its end.
        name: how to show the character that is read in this step.
        layer: which layer, from 1.
        unit: which of its units, from 0.
        old_state: each part of the state before, by name.
        gates: each gate, by name.
        new_state: each part of the state after.
    """

    before: str
    name: str
    layer: int
    unit: int
    old_state: dict[str, float]
    gates: dict[str, float]
    new_state: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def cell_summaries() -> dict[str, str]:
    """Return the name of each cell and a sentence about it."""
    return {name: cell.text.partition("\n")[0] for name, cell in CELLS.items()}


def describe_cell(spec: ModelSpec) -> Description:
    """Describe the cell of a model, and count the model's parameters."""
    parts = {"embedding": ("embedding.",), "recurrent layers": ("layers.", "backward_layers.")}
    parts["initial state"] = ("initial_state",)
    counts = dict.fromkeys([*parts, "output"], 0)
    for name, shape in spec.shapes.items():
        part = next((part for part, prefixes in parts.items() if name.startswith(prefixes)), "output")
        counts[part] += math.prod(shape)
    counts = {part: count for part, count in counts.items() if count}
    notation = NOTATION if spec.recurrence.products else NOTATION_OF_INPUT
    text, letters = spec.recurrence.text.strip(), spec.recurrence.letters
    return Description(spec.cell, text, notation, letters, counts | {"all": spec.num_parameters})


def take_step(model: ModelFile, text: str, unknown: str = "error") -> Step:
    """Let a model read a text, and return its last step; if it reads both sides, that of the layers from the left.

    Raises:
        UsageError: the text is empty.
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """
    vocabulary: Vocabulary = model.vocabulary
    ids_T = vocabulary.encode(text, unknown)
    if not len(ids_T):
        raise UsageError("there is no character to read", "`--text` gives the text, its last character is looked at")
    is_backward = model.spec.is_backward
    read = vocabulary.decode(ids_T[1:] if is_backward else ids_T[:-1])
    if is_backward:
        ids_T = ids_T[::-1]
    stack = Stack(model)
    before = stack.read([len(vocabulary), *ids_T[:-1]], stack.start(1))
    after, gates = stack.look(ids_T[-1:], before)
    if not all(np.isfinite(part).all() for part in after[-1]):
        raise ModelFileError(*OVERFLOW)
    unit = int(abs(after[-1][0][0]).argmax())
    names = stack.cell.state

    def of_unit(parts: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(part[0, unit]) for name, part in parts.items()}

    return Step(
        before=read,
        name=vocabulary.name(int(ids_T[-1])),
        layer=len(after),
        unit=unit,
        old_state=of_unit(dict(zip(names, before[-1], strict=True))),
        gates=of_unit(gates[-1]),
        new_state=of_unit(dict(zip(names, after[-1], strict=True))),
    )
