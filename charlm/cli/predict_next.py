"""The command that shows which character may come next."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json, Model, Unknown, model_file
from charlm.cli.render import print_json
from charlm.cli.texts import as_read, given_lines, given_text

if TYPE_CHECKING:
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.predict import Prediction


def predict_next(
    text: Annotated[
        str | None,
        typer.Argument(help="The text so far; - reads it from standard input, without its last line end."),
    ] = None,
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, help="How many characters to list.")] = 10,
    unknown: Unknown = "error",
    recent: Annotated[
        bool, typer.Option("--recent", help="Also count what followed the same characters before in the text.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which character may come next.

    Without TEXT, it lists the candidates at every keystroke: /help there lists its keys and commands. Where it cannot
    draw, as into a pipe, it answers each line. A backward model shows which character may come before.

    charlm predict-next "To be or not to b"

    charlm predict-next
    """
    from charlm.cli.prediction_table import prediction_table
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.predict import predict
    from charlm.inference.stepper import Stepper

    def show(text: str, prediction: Prediction) -> None:
        if as_json:
            print_json({"text": text, **prediction.to_json()})
        else:
            print(prediction_table(prediction), flush=True)

    stepper = Stepper(model_file(model))
    if text is None and sys.stdin.isatty():
        # A person who types sees which characters are unknown, and can continue.
        reader = IncrementalReader(stepper, "skip" if unknown == "error" else unknown, recent)
        prompt(reader, top, show, draws=not as_json)
        return
    for each in given_lines("-") if text is None else as_read(stepper.vocabulary, given_text(text)):
        show(each, predict(stepper, each, top, unknown, recent))


def prompt(reader: IncrementalReader, top: int, show: Callable[[str, Prediction], None], draws: bool) -> None:
    """Converse with a person at a terminal; the prompt is drawn only if the terminal can, and is at both ends."""
    from prompt_toolkit.utils import is_dumb_terminal

    from charlm.cli.repl import converse, converse_in_lines

    if draws and sys.stdout.isatty() and not is_dumb_terminal():
        converse(reader, top)
    else:
        converse_in_lines(reader, top, show)
