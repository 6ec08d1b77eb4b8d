"""The command that shows which character may come next."""

from __future__ import annotations

import sys
from typing import Annotated

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


def predict_next(
    text: Annotated[str | None, typer.Argument(help="The text so far; - reads it from standard input.")] = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many characters to list.")] = 10,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show which character may come next.

    Without TEXT at every keystroke; with a backward model, which character may come before.

    charlm predict-next "To be or not to b"

    charlm predict-next
    """
    from charlm.cli import repl
    from charlm.inference.stepper import Stepper

    stepper = Stepper(model_file(model))
    if text is None and sys.stdin.isatty() and not as_json:
        repl.converse(repl.Reader(stepper), top)
        return
    if text is None:
        predictions = repl.answer_lines(stepper, top, unknown)
    else:
        (given,) = as_read(stepper.vocabulary, sys.stdin.read() if text == "-" else as_given(text))
        predictions = iter([repl.predict(stepper, given, top, unknown)])
    for prediction in predictions:
        if as_json:
            print_json(prediction.to_json())
        else:
            print("\n".join(prediction.lines(repl.bar_character())), flush=True)
