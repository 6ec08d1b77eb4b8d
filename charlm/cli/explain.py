"""The command that shows a cell's equations and parameters, and the way of a character through a model in numbers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.layout import MAX_PROSE_WIDTH, Column, kept_together, paragraphs, screen_width, wrapped
from charlm.cli.options import Json, Model, Unknown, model_file
from charlm.cli.render import can_show, json_text, print_json, print_lines, print_table
from charlm.cli.texts import as_read
from charlm.errors import UsageError, as_given, did_you_mean
from charlm.run_folder import is_model

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.inference.explanation import CharacterStep, Explanation
    from charlm.spec import ModelSpec

# The value of `--step` that shows all of them, on a terminal one by one.
THROUGH = "through"
COMBINING_TILDE = "\u0303"


def explain(
    cell: Annotated[str | None, typer.Argument(help="A cell by name; without one, all of them are listed.")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, max=16384, help="Units of a layer; 512.")] = None,
    embedding_size: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Numbers of an embedding, 0 for one-hot; 64.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, max=16, help="Layers; 1.")] = None,
    symbols: Annotated[int | None, typer.Option(min=1, max=0x110000, help="Different characters; 65.")] = None,
    model: Model = None,
    text: Annotated[
        str | None, typer.Option(help="Let a model read this, and show the way of its last character in numbers.")
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="Show another character of the text: its number, from 1; 0 is the start of the text. through: all of "
            "them; on a terminal the arrow keys walk over characters, units and layers."
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(min=1, help="Write out this layer only; by default all.")] = None,
    unit: Annotated[
        int | None, typer.Option(min=0, help="Write out this unit; by default the one with the largest output.")
    ] = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show a cell's equations, and the way of a character in numbers.

    For a cell: what each gate is for, its equations in two notations, and the number of parameters as a formula. With a
    trained model and a text: embedding, each layer, logits, softmax and the predicted characters, with the arithmetic
    of one unit. N-grams beside a net are not shown.

    charlm explain gru --hidden-size 128

    charlm explain --model runs/fables-lstm-1 --text "The old fo"

    charlm explain --text "The old fo" --step through
    """
    from charlm.inference.cell_description import cell_summaries, describe_cell
    from charlm.spec import ModelSpec

    sizes, place = (hidden_size, embedding_size, layers, symbols), (step, layer, unit)
    cell = None if cell is None else known_cell(cell)
    is_of_model = model is not None or text is not None
    if (cell is None or is_of_model) and any(size is not None for size in sizes):
        raise UsageError("sizes are for a cell without a model", "a model has its own; without one, name a cell")
    if text is None and place != (None, None, None):
        raise UsageError("a step, a layer or a unit is of a model that reads a text", "`--text` gives the text")
    if text is not None:
        explain_text(model_of(model, cell), text, unknown, place, as_json)
    elif is_of_model:
        print_description(describe_cell(model_of(model, cell).spec).to_json(), as_json)
    elif cell is not None:
        embedding = 64 if embedding_size is None else embedding_size
        spec = ModelSpec(cell, symbols or 65, embedding, hidden_size or 512, layers or 1)
        print_description(describe_cell(spec).to_json(), as_json)
    else:
        print_summaries(cell_summaries(), as_json)


def known_cell(given: str) -> str:
    """Return the name of a cell, which may be given in any case."""
    from charlm.inference.cell_description import cell_summaries

    cells = cell_summaries()
    if given.lower() in cells:
        return given.lower()
    hint = did_you_mean(given.lower(), cells) or f"there are {', '.join(cells)}"
    if is_model(given):
        hint = f"`charlm explain --model {shlex.quote(given)}` explains a model"
    raise UsageError(f"there is no cell `{given.lower()}`", hint)


def model_of(path: Path | None, cell: str | None) -> ModelFile:
    """Load a model, which must be of a cell if one is named."""
    file = model_file(path)
    if cell not in (None, file.spec.cell):
        raise UsageError(f"this model is of the cell {file.spec.cell}, not {cell}", "omit the name of the cell")
    return file


def print_description(description: dict[str, Any], as_json: bool) -> None:
    """Print what a cell is."""
    if as_json:
        print_json({**description, "step": None})
    else:
        print_lines(explanation_lines(description, screen_width(sys.stdout)))


def explain_text(
    file: ModelFile,
    text: str,
    unknown: str,
    place: tuple[str | None, int | None, int | None],
    as_json: bool,
) -> None:
    """Let a model read a text, and show one step of it, or all of them.

    Args:
        file: the model.
        text: the text.
        unknown: what to do about unknown characters.
        place: the step, the layer and the unit that were asked for.
        as_json: whether to print JSON.
    """
    from charlm.cli.explain_step import head_lines, step_lines, tail_lines
    from charlm.cli.explain_walk import walk
    from charlm.inference.explanation import Explanation

    (given_text,) = as_read(file.vocabulary, as_given(text))
    explanation = Explanation(file, given_text, unknown)
    asked, layer, unit = place
    refuse_missing(explanation.spec, layer, unit)
    number = number_of_step(asked, explanation)
    if as_json:
        print_steps(explanation, asked, layer, unit)
    elif number is None and may_walk():
        walk(explanation, layer, unit)
    else:
        width = screen_width(sys.stdout)
        width = width and min(width, MAX_PROSE_WIDTH)
        print_lines(head_lines(explanation, width))
        for found in explanation.steps() if number is None else [explanation.step(number)]:
            print_lines(["", *step_lines(explanation, found, layer, unit, width)])
        print_lines(tail_lines(explanation, width))


def may_walk() -> bool:
    """Return whether a person is at both ends of a terminal that can draw."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    from prompt_toolkit.utils import is_dumb_terminal

    return not is_dumb_terminal()


def number_of_step(asked: str | None, explanation: Explanation) -> int | None:
    """Return which step was asked for, or None for all of them."""
    last = explanation.num_steps
    if asked is None:
        return last
    if asked.lower() == THROUGH:
        return None
    if not asked.isdecimal() or len(asked) > 9 or int(asked) > last:
        raise UsageError(
            f"there is no step `{asked}`", f"the steps are 0, the start of the text, to {last}; {THROUGH} shows all"
        )
    return int(asked)


def refuse_missing(spec: ModelSpec, layer: int | None, unit: int | None) -> None:
    """Refuse a layer or a unit that a model does not have."""
    if layer is not None and layer > spec.num_layers:
        has = f"are 1 to {spec.num_layers}" if spec.num_layers > 1 else "is 1 alone"
        raise UsageError(f"this model has no layer {layer}", f"`--layer`: there {has}")
    if unit is not None and unit >= spec.hidden_size:
        raise UsageError(f"this model has no unit {unit}", f"`--unit`: the units are 0 to {spec.hidden_size - 1}")


def print_steps(explanation: Explanation, asked: str | None, layer: int | None, unit: int | None) -> None:
    """Print all steps as JSON, or the one that was asked for, one at a time: together they may be very large."""
    from charlm.inference.cell_description import describe_cell

    number = number_of_step(asked, explanation)
    chosen = explanation.step(number)
    summary = explanation.of_unit(chosen, layer, unit).to_json()
    head = json_text({**describe_cell(explanation.spec).to_json(), "read": explanation.text, "step": summary})
    print(f'{head[:-1]}, "steps": [', end="")
    every: Iterable[CharacterStep] = explanation.steps() if asked is None or number is None else [chosen]
    for index, found in enumerate(every):
        values = found.to_json()
        values["layers"] = [of_layer for of_layer in values["layers"] if layer in (None, of_layer["layer"])]
        print(",\n" if index else "", json_text(values), sep="", end="")
    print("]}", flush=True)


def print_summaries(summaries: dict[str, str], as_json: bool) -> None:
    """Print each cell with a sentence about it."""
    if as_json:
        print_json(summaries)
        return
    columns = [Column("cell"), Column("about", least=20)]
    print_table(columns, list(summaries.items()), has_header=False)


def explanation_lines(description: dict[str, Any], width: int | None) -> list[str]:
    """Lay out a description of a cell."""
    width = width and min(width, MAX_PROSE_WIDTH)
    notation = [line for part in description["notation"].split("\n") for line in wrapped(part, width)]
    purposes = [
        line
        for letter, purpose in description["purposes"].items()
        for line in wrapped(f"  {letter:<2} {purpose}", width, hanging=" " * 5)
    ]
    lecture = [*description["lecture"].split("\n"), description["lecture_notation"]]
    lines = [
        *paragraphs(f"{description['cell']}: {description['text']}", width),
        "",
        *notation,
        "",
        "what each letter is for",
        *purposes,
        "",
        "the way of the data",
        *description["drawing"].split("\n"),
        "",
        "in the notation of lecture notes",
        *(line for part in lecture for line in wrapped(f"  {part}", width, hanging=" " * 4)),
        "",
        *parameter_lines(description, width),
    ]
    return lines if can_show(COMBINING_TILDE) else [line.replace(COMBINING_TILDE, "~") for line in lines]


def parameter_lines(description: dict[str, Any], width: int | None) -> list[str]:
    """Lay out the number of parameters of a model: for each part a formula, the sizes in it, and the number."""
    meanings = {"V": "characters", "E": "numbers of an embedding", "H": "units of a layer", "L": "layers"}
    sizes = ", ".join(f"{letter} = {size:,} ({meanings[letter]})" for letter, size in description["sizes"].items())
    counts = [
        line
        for count in description["counts"]
        for line in kept_together(
            f"  {count['part']}: ",
            [count["formula"], f"= {count['sizes']}", f"= {count['number']:,}"],
            width,
            separator=" ",
        )
    ]
    return [
        *wrapped("parameters, with one input more than there are symbols: the start of a text", width),
        *wrapped(f"  {sizes}", width),
        *counts,
        f"  all: {description['parameters']['all']:,}",
        *wrapped(f"  {description['biases']}", width),
    ]
