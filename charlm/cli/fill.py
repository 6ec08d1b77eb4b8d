"""The command that fills blanks in a text."""

from __future__ import annotations

import sys
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
from charlm.cli.render import ESCAPED, print_json
from charlm.errors import UsageError


def fill(
    text: Annotated[str, typer.Argument(help="The text with its blanks; - reads it from standard input.")],
    model: Model = None,
    blank: Annotated[str, typer.Option(help="What stands for one character that is not known.")] = "_",
    top: Annotated[int, typer.Option(min=1, help="How many characters to list for each blank.")] = 5,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Fill the blanks in a text.

    It takes a model that reads from both sides: charlm train --set model.direction=both

    charlm fill "the clo_ds are in the sk_"
    """
    from charlm.inference.fill import Filler

    filler = Filler(model_file(model))
    given, mark = sys.stdin.read() if text == "-" else as_given(text), as_given(blank)
    if len(mark) != 1:
        raise UsageError(f"`{mark}` is not one character", "`--blank` names what stands for one unknown character")
    if mark not in given:
        raise UsageError(f"there is no blank in this text, no `{mark}`", "`--blank` names another character for it")
    filling = filler.fill(as_read(filler.vocabulary, *given.split(mark)), top, unknown)
    if as_json:
        print_json(filling.to_json())
    else:
        print_filling(filling.to_json())


def print_filling(filling: dict[str, Any]) -> None:
    """Print a text with its blanks filled, and a line for each blank."""
    print(filling["text"].translate(ESCAPED) if sys.stdout.isatty() else filling["text"])
    for blank in filling["blanks"]:
        candidates = "   ".join(f"{c['name']} {c['probability']:.1%}" for c in blank["candidates"])
        print(f"{blank['place']:>6}  {candidates}")
