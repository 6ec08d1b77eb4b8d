"""The command that shows a cell's equations and parameters, and the way of a character through a model in numbers."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.layout import MAX_PROSE_WIDTH, Column, kept_together, paragraphs, screen_width, wrapped
from charlm.cli.options import Json, Model, Unknown, model_file
from charlm.cli.render import can_show, json_text, print_json, print_lines, print_table
from charlm.cli.texts import as_read, given_text
from charlm.errors import UsageError, as_given, did_you_mean
from charlm.run_folder import is_model

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.inference.explanation import CharacterStep, Explanation
    from charlm.inference.units import Layer
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
        str | None, typer.Option(help="Show in numbers how a model reads the end of this text; - is standard input.")
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            help="Show another character of the text: its number, from 1; 0 is the start of the text. through: all of "
            "them; on a terminal the arrow keys walk over characters, units and layers."
        ),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Write out this layer only, from 1; by default all.")] = None,
    unit: Annotated[
        str | None, typer.Option(help="Write out this unit: 37 of every layer, 1.37 of one; else the largest.")
    ] = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show a cell's equations, or a character's way in numbers.

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
    place: tuple[str | None, str | None, str | None],
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

    (read,) = as_read(file.vocabulary, given_text(text))
    explanation = Explanation(file, read, unknown)
    asked, *names = (None if name is None else as_given(name) for name in place)
    layers, unit = written_out(explanation.spec, *names)
    number = number_of_step(asked, explanation)
    if as_json:
        print_steps(explanation, asked, layers, unit)
    elif number is None and may_walk():
        walk(explanation, layers[0] if layers else None, unit)
    else:
        width = screen_width(sys.stdout)
        width = width and min(width, MAX_PROSE_WIDTH)
        chosen = explanation.steps() if number is None else [explanation.step(number)]
        print_lines(head_lines(explanation, width))
        for found in chosen:
            print_lines(["", *step_lines(explanation, found, layers, unit, width)])
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


def written_out(spec: ModelSpec, layer: str | None, unit: str | None) -> tuple[list[Layer], int | None]:
    """Return which layers are written out, none for all of them, and which of their units.

    Args:
        spec: the model.
        layer: the name of a layer; a number alone stands for both directions of a model that has two.
        unit: the number of a unit, or its name with its layer.

    Raises:
        UsageError: there is no such layer or unit, or the unit has a layer of its own beside another one.
    """
    from charlm.inference.units import layer_named, layers_of, unit_named

    if unit is not None and not re.fullmatch("(?a:[0-9]{1,9})", unit):
        found = unit_named(spec, unit)
        if layer is not None:
            raise UsageError("`--unit` and `--layer` exclude each other", "the name of a unit begins with its layer")
        return [found.layer], found.index
    if unit is not None and int(unit) >= spec.hidden_size:
        raise UsageError(f"this model has no unit {unit}", f"`--unit`: the units are 0 to {spec.hidden_size - 1}")
    named = [] if layer is None else [found for found in layers_of(spec) if str(found.number) == layer]
    if layer is not None and not named:
        named = [layer_named(spec, layer)]
    return named, None if unit is None else int(unit)


def print_steps(explanation: Explanation, asked: str | None, layers: list[Layer], unit: int | None) -> None:
    """Print all steps as JSON, or the one that was asked for, one at a time: together they may be very large."""
    from charlm.inference.cell_description import describe_cell

    number = number_of_step(asked, explanation)
    chosen = explanation.step(number)
    summary = explanation.of_unit(chosen, layers[0] if layers else None, unit).to_json()
    about = {"read": explanation.text, "has_ngrams": explanation.has_ngrams, "step": summary}
    head = json_text({**describe_cell(explanation.spec).to_json(), **about})
    print(f'{head[:-1]}, "steps": [', end="")
    every: Iterable[CharacterStep] = explanation.steps() if asked is None or number is None else [chosen]
    for index, found in enumerate(every):
        values = found.to_json()
        pairs = zip(values["layers"], found.layers, strict=True)
        values["layers"] = [plain for plain, of_layer in pairs if not layers or of_layer.layer in layers]
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
    meanings = {
        "V": "symbols: characters or bytes",
        "E": "numbers of an embedding",
        "H": "units of a layer",
        "L": "layers",
    }
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
        *wrapped("parameters; V + 1 counts the start of a text, which is an input, too", width),
        *wrapped(f"  {sizes}", width),
        *counts,
        f"  all: {description['parameters']['all']:,}",
        *wrapped(f"  {description['biases']}", width),
    ]
