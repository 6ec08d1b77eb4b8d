"""The command that fills blanks in a text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json, Model, Unknown, as_given, as_read, given_text, model_file
from charlm.cli.render import escaped, print_json

if TYPE_CHECKING:
    from charlm.inference.fill import Filling


def fill(
    text: Annotated[
        str,
        typer.Argument(help="The text with its blanks; - reads it from standard input, without its last line end."),
    ],
    model: Model = None,
    blank: Annotated[str, typer.Option(help="The character that stands for one that is not known.")] = "_",
    top: Annotated[int, typer.Option(min=1, help="How many characters to list for each blank.")] = 5,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Fill the blanks in a text.

    The model must read from both sides: charlm train --set model.direction=both

    charlm fill "the clo_ds are in the sk_"
    """
    from charlm.inference.fill import Filler, split_at_blanks

    parts = split_at_blanks(given_text(text), as_given(blank))
    filler = Filler(model_file(model))
    filling = filler.fill(as_read(filler.vocabulary, *parts), top, unknown)
    if as_json:
        print_json(filling.to_json())
    else:
        print_filling(filling)


def print_filling(filling: Filling) -> None:
    """Print a text with its blanks filled, and a line for each blank."""
    print(escaped(filling.text) if sys.stdout.isatty() else filling.text)
    for place, blank in zip(filling.places, filling.blanks, strict=True):
        print(f"{place:>6}  {'   '.join(f'{c.name} {c.probability:.1%}' for c in blank.candidates)}")
