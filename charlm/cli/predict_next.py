"""The command that shows which character may come next."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from charlm.cli.options import Json, Model, Unknown, as_read, given_lines, given_text, model_file
from charlm.cli.render import print_json


def predict_next(
    text: Annotated[
        str | None,
        typer.Argument(help="The text so far; - reads it from standard input, without its last line end."),
    ] = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many characters to list.")] = 10,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Show which character may come next.

    Without TEXT, it lists the candidates at every keystroke. A backward model shows which character may come before.

    charlm predict-next "To be or not to b"

    charlm predict-next
    """
    from charlm.cli.prediction_table import prediction_table
    from charlm.cli.repl import converse
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.predict import predict
    from charlm.inference.stepper import Stepper

    stepper = Stepper(model_file(model))
    if text is None and sys.stdin.isatty() and not as_json:
        converse(IncrementalReader(stepper), top)
        return
    for each in given_lines("-") if text is None else as_read(stepper.vocabulary, given_text(text)):
        prediction = predict(stepper, each, top, unknown)
        if as_json:
            print_json({"text": each, **prediction.to_json()})
        else:
            print(prediction_table(prediction), flush=True)
