"""The command that shows a cell's equations, and a step in numbers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from charlm.cli.options import (
    Json,
    Model,
    Unknown,
    as_given,
    as_read,
    model_file,
)
from charlm.cli.render import print_json
from charlm.errors import UsageError, did_you_mean


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

    How many parameters a model of given sizes has, and for a trained model and a text every gate of one unit.

    charlm explain gru --hidden-size 128

    charlm explain --model runs/fables-lstm-1 --text "The old fo"
    """
    from charlm.inference import explain as explanation
    from charlm.spec import ModelSpec

    known = explanation.cells()
    if cell is not None and cell not in known:
        raise UsageError(f"there is no cell `{cell}`", did_you_mean(cell, known) or f"there are {', '.join(known)}")
    is_of_model = model is not None or text is not None
    has_sizes = any(size is not None for size in (hidden_size, embedding_size, layers, symbols))
    if has_sizes and (cell is None or is_of_model):
        raise UsageError("sizes are for a cell without a model", "a model has its own; without one, name a cell")
    if cell is None and not is_of_model:
        if as_json:
            print_json(known)
        else:
            print("\n".join(f"{name:<18}{line}" for name, line in known.items()))
        return
    step = None
    if not is_of_model:
        embedding = 64 if embedding_size is None else embedding_size
        spec = ModelSpec(str(cell), symbols or 65, embedding, hidden_size or 512, layers or 1)
    else:
        file = model_file(model)
        spec = file.spec
        if cell not in (None, spec.cell):
            raise UsageError(f"this model is of the cell {spec.cell}, not {cell}", "leave the cell away")
        if text is not None:
            (given_text,) = as_read(file.vocabulary, as_given(text))
            step = explanation.take_step(file, given_text, unknown).to_json()
    description = explanation.describe(spec).to_json()
    if as_json:
        print_json({**description, "step": step})
    else:
        print_explanation(description, step)


def print_explanation(description: dict[str, Any], step: dict[str, Any] | None) -> None:
    """Print a cell's equations, what a model of it is made of, and a step in numbers."""
    print(f"{description['cell']}: {description['text']}\n\n{description['notation']}\n")
    print("parameters, for one input more than there are symbols: the start of a text")
    for part, count in description["parameters"].items():
        print(f"{part:>20} {count:>14,}")
    if step:
        letters = {"hidden": "h", "cell": "c"}
        print(
            f"\none step of layer {step['layer']}, in its unit {step['unit']}, whose output is the largest, up or down:"
        )
        before = f"after {step['before']!r}" if step["before"] else "after the start of the text"
        print(f"{before} it reads {step['name']}")
        for title, values in (("old state", "old_state"), ("gates", "gates"), ("new state", "new_state")):
            called = letters if values != "gates" else description["letters"]
            parts = [f"{name} {called[name]} = {value:+.6f}" for name, value in step[values].items()]
            print(f"{title:>20}   {'   '.join(parts)}")
