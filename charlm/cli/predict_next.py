"""The command that shows which character or which word may come next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json, Model, Unknown, model_file
from charlm.cli.render import print_json, say
from charlm.cli.texts import as_read, given_lines, given_text
from charlm.errors import CharlmError, UsageError, counted

if TYPE_CHECKING:
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.predict import Prediction
    from charlm.inference.prediction_comparison import ComparedCharacters, ComparedWords
    from charlm.inference.stepper import Stepper
    from charlm.inference.words import WordPrediction

TOP = 10


def predict_next(
    text: Annotated[
        str | None,
        typer.Argument(help="The text so far; - reads it from standard input, without its last line end."),
    ] = None,
    model: Model = None,
    top: Annotated[int | None, typer.Option(min=1, help=f"How many characters to list; {TOP} by default.")] = None,
    words: Annotated[int | None, typer.Option(min=1, help="List so many words instead of characters.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Another model: show what both predict, side by side.")] = None,
    unknown: Unknown = "error",
    recent: Annotated[
        bool, typer.Option("--recent", help="Also count what followed the same characters before in the text.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show which character may come next, or which word.

    Without TEXT, it lists the candidates at every keystroke: /help there lists its keys and commands. Where it cannot
    draw, as into a pipe, it answers each line. A backward model shows what may come before.

    charlm predict-next "To be or not to b"

    charlm predict-next "To be or not to b" --words 5

    charlm predict-next
    """
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.stepper import Stepper

    if top is not None and words is not None:
        raise UsageError("`--top` counts characters and `--words` counts words", "use one of them")
    is_typed = text is None and sys.stdin.isatty()
    if is_typed and words is not None:
        raise UsageError("`--words` needs a TEXT", f'for example: charlm predict-next "To be" --words {words}')
    steppers = {_name_of(model): Stepper(model_file(model))}
    if compare is not None:
        steppers = dict([*steppers.items(), (f"{compare}", _other(compare))])
