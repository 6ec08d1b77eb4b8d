"""What a cell is: its equations, what its gates are for, and its parameters."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from charlm.cells import CELLS, Cell
from charlm.inference.cell_texts import CELL_TEXTS
from charlm.inference.equations import suffixes
from charlm.spec import ModelSpec


class Count(NamedTuple):
    """How many parameters a part of a model has.

    Attributes:
        part: the part.
        formula: their number in letters; two letters side by side are multiplied.
        sizes: the same with the sizes of the model.
        number: their number.
    """

    part: str
    formula: str
    sizes: str
    number: int


@dataclass(frozen=True)
class Description:
    """The description of a cell.

    Attributes:
        cell: its name.
        text: its equations, their source, and notes on them.
        notation: how to read the equations.
        letters: the letter of each gate in the equations, by the gate's name.
        purposes: a sentence on what each letter is for, by the letter.
        drawing: the way of the data through the cell.
        lecture: the equations in the notation of lecture notes.
        lecture_notation: how to read them.
        parameters: how many parameters each part of a model of this cell has.
        counts: the same by layers, as formulas.
        sizes: the letters of the formulas.
        biases: why a gate has as many biases as it has.
    """

    cell: str
    text: str
    notation: str
    letters: dict[str, str]
    purposes: dict[str, str]
    drawing: str
    lecture: str
    lecture_notation: str
    parameters: dict[str, int]
    counts: list[Count]
    sizes: dict[str, int]
    biases: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self) | {"counts": [count._asdict() for count in self.counts]}


def cell_summaries() -> dict[str, str]:
    """Return the name of each cell and a sentence about it."""
    return {name: cell.text.partition("\n")[0] for name, cell in CELLS.items()}


def describe_cell(spec: ModelSpec) -> Description:
    """Describe the cell of a model, and count the model's parameters."""
    cell, words = spec.recurrence, CELL_TEXTS[spec.cell]
    counts = parameter_counts(spec)
    totals = {"embedding": 0, "recurrent layers": 0, "initial state": 0, "output": 0}
    for count in counts:
        totals["recurrent layers" if count.part.startswith("layer") else count.part] += count.number
    letters = cell.letters
    return Description(
        cell=spec.cell,
        text=cell.text.strip(),
        notation=notation_of(cell),
        letters=letters,
        purposes={letters[name]: purpose for name, purpose in words.purposes.items()},
        drawing=words.drawing.strip("\n"),
        lecture=words.lecture,
        lecture_notation=words.lecture_notation,
        parameters={part: total for part, total in totals.items() if total} | {"all": spec.num_parameters},
        counts=counts,
        sizes=sizes_of(spec),
        biases=words.biases,
    )


def notation_of(cell: Cell) -> str:
    """Return how to read the equations of a cell."""
    k = suffixes(cell)[0]
    rest = "; likewise for the others" if k else ""
    of_lstm = "c is the cell, the memory of a unit, and h is its output"
    state = of_lstm if "cell" in cell.state else "h is the state, which is memory and output of a unit at once"
    lines = [
        "x is the input of the layer: the numbers of a character, or the output of the layer below.",
        f"{state}. A prime marks the new value; without one it is the old value.",
        "* multiplies element by element.",
        f"u{k} is what the input adds{f' to {k[1:]}' if k else ''}: U{k} x + a{k}, a matrix times x plus a bias{rest}.",
    ]
    if cell.products:
        lines.append(f"R{k}(h) is what the old state adds: R{k} h + d{k}, a matrix times h plus a bias{rest}.")
    if cell.peepholes:
        lines.append("p_i, p_f and p_o are the weights through which the gates see the cell, one for each unit.")
    return "\n".join(lines)


def sizes_of(spec: ModelSpec) -> dict[str, int]:
    """Return the sizes of a model by the letters of its formulas."""
    sizes = {"V": spec.num_symbols, "E": spec.embedding_size, "H": spec.hidden_size, "L": spec.num_layers}
    return {letter: size for letter, size in sizes.items() if size}


def parameter_counts(spec: ModelSpec) -> list[Count]:
    """Return how many parameters each part of a model has, as a formula, with its sizes, and as a number."""
    cell, stacks = spec.recurrence, spec.num_stacks
    sizes = {letter: str(size) for letter, size in sizes_of(spec).items()}

    def layer(inputs: str, repeats: list[str]) -> str:
        inner = f"{inputs} H + H H + 2 H" if cell.products else f"{inputs} H + H"
        gates, peepholes = len(cell.gates), f" + {len(cell.peepholes)} H" if cell.peepholes else ""
        formula = f"{gates} ({inner}){peepholes}" if gates > 1 else inner
        repeated = [*(["2"] if stacks > 1 else []), *repeats]
        if repeated and (peepholes or gates == 1):
            formula = f"({formula})"
        return " * ".join([*repeated, formula])

    def count(part: str, formula: str) -> Count:
        product = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", formula)
        with_sizes = re.sub("[VEHL]", lambda letter: sizes[letter[0]], product)
        return Count(part, formula, with_sizes, numbers[part])

    numbers: dict[str, int] = {}
    upper = f"layer{'s' if spec.num_layers > 2 else ''} 2{f' to {spec.num_layers}' if spec.num_layers > 2 else ''}"
    for name, shape in spec.shapes.items():
        first, _, rest = name.partition(".")
        part = {"embedding": "embedding", "initial_state": "initial state", "output": "output"}.get(first)
        part = part or ("layer 1" if rest.startswith("0.") else upper)
        numbers[part] = numbers.get(part, 0) + math.prod(shape)
    formulas = {
        "embedding": "(V + 1) E",
        "layer 1": layer("E" if spec.embedding_size else "(V + 1)", []),
        upper: layer("H", ["(L - 1)"]),
        "initial state": " * ".join([*["2"] * (stacks > 1), *["2"] * (len(cell.state) > 1), "L H"]),
        "output": "2 V H + V" if stacks > 1 else "V H + V",
    }
    return [count(part, formula) for part, formula in formulas.items() if part in numbers]
