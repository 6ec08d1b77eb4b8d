"""The command that shows a cell's equations and parameters, and one step of a model in numbers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.layout import Column, paragraphs, screen_width, table_lines, wrapped
from charlm.cli.options import Json, Model, Unknown, as_read, model_file
from charlm.cli.render import print_json, print_lines, print_table
from charlm.errors import UsageError, as_given, did_you_mean
from charlm.run_folder import is_model

if TYPE_CHECKING:
    from charlm.spec import ModelSpec


def explain(
    cell: Annotated[str | None, typer.Argument(help="A cell by name; without one, all of them are listed.")] = None,
    hidden_size: Annotated[int | None, typer.Option(min=1, max=16384, help="Units of a layer; 512.")] = None,
    embedding_size: Annotated[
        int | None, typer.Option(min=0, max=4096, help="Numbers of an embedding, 0 for one-hot; 64.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, max=16, help="Layers; 1.")] = None,
    symbols: Annotated[int | None, typer.Option(min=1, max=0x110000, help="Different characters; 65.")] = None,
    model: Model = None,
    text: Annotated[str | None, typer.Option(help="Let a model read this, and show its last step in numbers.")] = None,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show a cell's equations, and a step in numbers.

    Also how many parameters a model of given sizes has. With a trained model and a text: every gate of one unit.

    charlm explain gru --hidden-size 128

    charlm explain --model runs/fables-lstm-1 --text "The old fo"
    """
    from charlm.inference.explain import cell_summaries, describe_cell
    from charlm.spec import ModelSpec

    summaries, sizes = cell_summaries(), (hidden_size, embedding_size, layers, symbols)
    cell, given = cell.lower() if cell else cell, cell
    if cell is not None and cell not in summaries:
        hint = did_you_mean(cell, summaries) or f"there are {', '.join(summaries)}"
        if given and is_model(given):
            hint = f"`charlm explain --model {shlex.quote(given)}` explains a model"
        raise UsageError(f"there is no cell `{cell}`", hint)
    is_of_model = model is not None or text is not None
    if (cell is None or is_of_model) and any(size is not None for size in sizes):
        raise UsageError("sizes are for a cell without a model", "a model has its own; without one, name a cell")
    step = None
    if is_of_model:
        spec, step = read_by_model(model, cell, text, unknown)
    elif cell is not None:
        embedding = 64 if embedding_size is None else embedding_size
        spec = ModelSpec(cell, symbols or 65, embedding, hidden_size or 512, layers or 1)
    else:
        print_summaries(summaries, as_json)
        return
    description = describe_cell(spec).to_json()
    if as_json:
        print_json({**description, "step": step})
    else:
        print_explanation(description, step)


def read_by_model(
    model: Path | None, cell: str | None, text: str | None, unknown: str
) -> tuple[ModelSpec, dict[str, Any] | None]:
    """Return a description of a model, and, if there is a text, the model's last step in it."""
    from charlm.inference.explain import take_step

    file = model_file(model)
    if cell not in (None, file.spec.cell):
        raise UsageError(f"this model is of the cell {file.spec.cell}, not {cell}", "omit the name of the cell")
    if text is None:
        return file.spec, None
    (given_text,) = as_read(file.vocabulary, as_given(text))
    return file.spec, take_step(file, given_text, unknown).to_json()


def print_summaries(summaries: dict[str, str], as_json: bool) -> None:
    """Print each cell with a sentence about it."""
    if as_json:
        print_json(summaries)
        return
    columns = [Column("cell"), Column("about", least=20)]
    print_table(columns, list(summaries.items()), has_header=False)


def print_explanation(description: dict[str, Any], step: dict[str, Any] | None) -> None:
    """Print a cell's equations, the parameters of a model with that cell, and a step in numbers."""
    print_lines(explanation_lines(description, step, screen_width(sys.stdout)))


def explanation_lines(description: dict[str, Any], step: dict[str, Any] | None, width: int | None) -> list[str]:
    """Lay out a description of a cell, and perhaps a step in numbers."""
    notation = [line for part in description["notation"].split("\n") for line in wrapped(part, width)]
    sizes = [(f"  {part}", f"{count:,}") for part, count in description["parameters"].items()]
    return [
        *paragraphs(f"{description['cell']}: {description['text']}", width),
        "",
        *notation,
        "",
        *wrapped("parameters, with one input more than there are symbols: the start of a text", width),
        *table_lines([Column("part"), Column("number", is_number=True)], sizes, width, has_header=False),
        *(step_lines(step, description["letters"], width) if step else ()),
    ]


def step_lines(step: dict[str, Any], letters_of_gates: dict[str, str], width: int | None) -> list[str]:
    """Lay out the state and gates of one unit, before and after it reads a character."""
    where = f"one step of layer {step['layer']}, unit {step['unit']}, which has the largest absolute output:"
    before = f"after {step['before']!r}" if step["before"] else "after the start of the text"
    lines = ["", *wrapped(where, width), *wrapped(f"{before} it reads {step['name']}", width)]
    letters = {"hidden": "h", "cell": "c"} | letters_of_gates
    for title, values in (("old state", "old_state"), ("gates", "gates"), ("new state", "new_state")):
        # No-break spaces keep a name and its number together.
        parts = [f"{name} {letters[name]} = {value:+.6f}".replace(" ", "\xa0") for name, value in step[values].items()]
        row = wrapped(f"  {title:<9}  {'   '.join(parts)}", width, hanging=" " * 13)
        lines += [line.replace("\xa0", " ") for line in row]
    return lines
