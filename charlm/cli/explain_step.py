"""Lays out the way of a character through a model: embedding, each layer with its arithmetic, logits, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from charlm.cli.layout import MAX_PROSE_WIDTH, UNLIMITED_WIDTH, Column, kept_together, table_lines, whole_items, wrapped
from charlm.errors import counted

if TYPE_CHECKING:
    from charlm.inference.explanation import CharacterStep, Explanation, LayerStep
    from charlm.inference.units import Layer

# So many predicted characters are listed.
TOP = 5
# So many of the characters before a step are shown.
MAX_BEFORE = 60


def head_lines(explanation: Explanation, width: int | None) -> list[str]:
    """Lay out what is needed to read the steps: what the letters mean."""
    from charlm.inference.cell_description import notation_of

    spec = explanation.spec
    sizes = f"{counted(spec.num_layers, 'layer')} of {counted(spec.hidden_size, 'unit')}"
    if spec.num_stacks > 1:
        sizes += " in each direction"
    notation = notation_of(spec.recurrence).split("\n")
    terms = "u and R(h) are each" if spec.recurrence.products else "u is"
    rounded = f"Below, {terms} written as a sum: the product with a row of the matrix, plus the bias."
    lines = [f"{spec.cell}: {sizes}", *notation, f"{rounded} Numbers are rounded."]
    return [line for part in lines for line in wrapped(part, width)]


def tail_lines(explanation: Explanation, width: int | None) -> list[str]:
    """Lay out what is said below the last step."""
    lines = [f"`charlm explain {explanation.spec.cell}` says what each letter is for"]
    if explanation.has_ngrams:
        lines.append("these are the numbers of the net; `charlm predict-next` mixes in the n-grams of this model")
    return ["", *(line for part in lines for line in wrapped(part, width))]


def step_lines(
    explanation: Explanation, step: CharacterStep, layers: Sequence[Layer], unit: int | None, width: int | None
) -> list[str]:
    """Lay out a step.

    Args:
        explanation: the text and the model.
        step: the step.
        layers: which layers are written out; none for all.
        unit: which unit; without one, that with the largest output in each layer.
        width: the most cells of a line.
    """
    lines = wrapped(f"step {step.number} of {explanation.num_steps}: {reading(explanation, step.layers[0])}", width)
    lines += embedding_lines(explanation, step, width)
    for of_layer in step.layers:
        if not layers or of_layer.layer in layers:
            lines += ["", *layer_lines(explanation, of_layer, unit, width)]
        else:
            largest = of_layer.largest_unit
            output = f"{float(of_layer.new_state['hidden'][largest]):+.6f}"
            where = f"{place(explanation, of_layer)}: unit {largest} has the largest absolute output, {output}"
            lines += ["", *wrapped(where, width)]
    return [*lines, "", *prediction_lines(explanation, step, width)]


def reading(explanation: Explanation, layer: LayerStep) -> str:
    """Return what a layer reads in a step, and after which text."""
    if not layer.position:
        return f"it reads {layer.name}"
    text = explanation.before(layer)
    if len(text) > MAX_BEFORE:
        text = f"{text[:MAX_BEFORE]}..." if layer.reads_backward else f"...{text[-MAX_BEFORE:]}"
    before = f"after {text!r}" if text else f"after the {'end' if layer.reads_backward else 'start'} of the text"
    return f"{'from the right, ' if layer.reads_backward else ''}{before} it reads {layer.name}"


def place(explanation: Explanation, layer: LayerStep, total: str = "") -> str:
    """Return the name of a layer, perhaps with the number of layers, and with its direction if there are two."""
    direction = f" from the {'right' if layer.reads_backward else 'left'}" if explanation.spec.num_stacks > 1 else ""
    return f"layer {layer.layer.number}{total}{direction}"


def embedding_lines(explanation: Explanation, step: CharacterStep, width: int | None) -> list[str]:
    """Lay out what a character becomes at the input."""
    from charlm.inference.equations import shown

    if step.embedding is None:
        size = explanation.spec.num_inputs
        return wrapped(f"one-hot: x has {size} numbers, a 1 at place {step.id} and 0 elsewhere", width)
    size = len(step.embedding)
    line = f"embedding: x is row {step.id} of the table, {counted(size, 'number')}"
    numbers = [shown(float(number)) for number in step.embedding]
    row = whole_items(numbers, min(width or UNLIMITED_WIDTH, 80) - len("  x =  ..."), "  ")
    return [*wrapped(line, width), f"  x = {row}{' ...' if len(row.split()) < size else ''}"]


def layer_lines(explanation: Explanation, layer: LayerStep, unit: int | None, width: int | None) -> list[str]:
    """Lay out a step of a layer with the arithmetic of one unit."""
    index = layer.largest_unit if unit is None else unit
    others = f" of 0 to {explanation.spec.hidden_size - 1}"
    which = ", which has the largest absolute output" if unit is None else others
    lines = wrapped(f"{place(explanation, layer)}, unit {index}{which}", width)
    if layer.layer.is_from_the_right:
        lines += wrapped(f"  {reading(explanation, layer)}", width)
    if layer.layer.number > 1:
        lines += wrapped(f"  x is the output of layer {layer.layer.number - 1}", width)
    lines += summary_lines(layer.numbers(index), layer.cell.letters, width, ("old_state",))
    lines += arithmetic_lines(layer, index, width)
    return lines + summary_lines(layer.numbers(index), layer.cell.letters, width, ("gates", "new_state"))


def arithmetic_lines(layer: LayerStep, unit: int, width: int | None) -> list[str]:
    """Lay out the equations of a layer with the numbers of a unit, and what each gate does."""
    effects, lines = layer.effects(unit), list[str]()
    for equation, steps in layer.arithmetic(unit):
        if effect := effects.get(equation.partition(" = ")[0]):
            steps[-1] += f": {effect}"
        lines += wrapped(f"  {equation}", width, hanging=" " * 6)
        lines += kept_together("    ", steps, min(width or MAX_PROSE_WIDTH, MAX_PROSE_WIDTH))
    return lines


def summary_lines(
    numbers: dict[str, Any],
    letters_of_gates: dict[str, str],
    width: int | None,
    parts: tuple[str, ...] = ("old_state", "gates", "new_state"),
) -> list[str]:
    """Lay out state and gates of one unit with six decimals, before and after it reads a character."""
    from charlm.inference.explanation import LETTERS_OF_STATE

    letters, lines = LETTERS_OF_STATE | letters_of_gates, list[str]()
    for part in parts:
        start = f"  {part.replace('_', ' '):<9}  "
        items = [f"{name} {letters[name]} = {value:+.6f}" for name, value in numbers[part].items()]
        lines += kept_together(start, items, width, "   ", " " * len(start)) if items else []
    return lines


def prediction_lines(explanation: Explanation, step: CharacterStep, width: int | None) -> list[str]:
    """Lay out logits, softmax and the most probable characters."""
    from charlm.inference.equations import shown

    last = [layer for layer in step.layers if layer.layer.number == explanation.spec.num_layers]
    ends = " and ".join(place(explanation, layer) for layer in last)
    best = step.scores[0]
    lines = [
        f"logits: for each of the {counted(len(step.logits), explanation.unit)} its row of the output matrix times h' "
        f"of {ends}, plus its bias",
        "softmax: exp = e to the power of the logit less the largest logit; "
        f"probability = exp / {shown(step.total)}, the sum of all",
        f"predicted {where(explanation, step)}: {best.name}, with {best.probability:.2%}",
    ]
    columns = [
        Column(explanation.unit),
        Column("row * h'", True, 3),
        Column("bias", True, 4),
        Column("logit", True, 1),
        Column("exp", True, 2),
        Column("probability", True),
    ]
    rows = [
        [
            f"  {score.name}",
            *(shown(number) for number in (score.product, score.bias, score.logit, score.exp)),
            f"{score.probability:.2%}",
        ]
        for score in step.scores[:TOP]
    ]
    return [*(line for part in lines for line in wrapped(part, width)), *table_lines(columns, rows, width)]


def where(explanation: Explanation, step: CharacterStep) -> str:
    """Return where the predicted character stands."""
    spec = explanation.spec
    if spec.sees_both_sides:
        right = next(layer for layer in step.layers if layer.layer.is_from_the_right)
        left = step.layers[0].name
        return f"between {left} and {right.name}"
    return "before it" if spec.is_backward else "next"
