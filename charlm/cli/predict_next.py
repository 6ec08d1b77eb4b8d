"""The command that shows which character or which word may come next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json, Models, Unknown, predictor
from charlm.cli.render import print_json
from charlm.cli.texts import as_read, given_lines, given_text, read_by_both
from charlm.errors import CharlmError, UsageError

if TYPE_CHECKING:
    from charlm.inference.predict import Prediction
    from charlm.inference.prediction_comparison import ComparedCharacters, ComparedWords
    from charlm.inference.stepper import Predictor
    from charlm.inference.words import WordPrediction

    Shown = Prediction | WordPrediction | ComparedCharacters | ComparedWords

TOP = 10


def predict_next(
    text: Annotated[
        str | None,
        typer.Argument(help="The text so far; - reads it from standard input, without its last line end."),
    ] = None,
    model: Models = None,
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

    charlm predict-next "To be or not to b" --compare runs/other-1

    charlm predict-next "To be or not to b" -m runs/one-1 -m runs/other-1

    charlm predict-next
    """
    from charlm.run_folder import find_model

    if top is not None and words is not None:
        raise UsageError("`--top` counts characters and `--words` counts words", "use one of them")
    is_typed = text is None and sys.stdin.isatty()
    if is_typed and words is not None:
        raise UsageError("`--words` needs a TEXT", f'for example: charlm predict-next "To be" --words {words}')
    steppers = _opened(model, compare)
    # Several models are one predictor.
    name = " + ".join(map(str, model or ())) or (str(find_model(None)) if compare else "")
    names = [] if compare is None else [name, str(compare)]
    if is_typed:
        _converse(steppers, names, top or TOP, unknown, recent, as_json)
        return
    for each in given_lines("-") if text is None else [_read(steppers, given_text(text))]:
        shown = _predicted(steppers, names, each, top or TOP, words, unknown, recent)
        _show(each, shown, names, as_json)


def _opened(paths: list[Path] | None, other: Path | None) -> list[Predictor]:
    """Load the model, or several that predict together, and perhaps the one that is compared with them.

    Raises:
        UsageError: one of them predicts what comes next, and the other what stands before.
    """
    from charlm.inference.ensemble_model import named_stepper

    model = predictor(paths)
    if other is None:
        return [model]
    _, compared = named_stepper(other)
    if compared.is_backward != model.is_backward:
        raise UsageError(
            "one model predicts what comes next and the other what stands before",
            "compare two models of the same direction",
        )
    return [model, compared]


def _read(steppers: Sequence[Predictor], given: str) -> str:
    """Return a text as one model reads it, or two."""
    if len(steppers) == 1:
        return as_read(steppers[0].vocabulary, given)[0]
    return read_by_both(steppers[0].vocabulary, steppers[1].vocabulary, given)


def _predicted(
    steppers: Sequence[Predictor],
    names: Sequence[str],
    text: str,
    top: int,
    words: int | None,
    unknown: str,
    recent: bool,
) -> Shown:
    """Return what one model or two predict after a text."""
    from charlm.inference.predict import predict
    from charlm.inference.prediction_comparison import ComparedCharacters, ComparedWords
    from charlm.inference.words import predict_words

    if len(steppers) == 1:
        if words is not None:
            return predict_words(steppers[0], text, words, unknown, recent)
        return predict(steppers[0], text, top, unknown, recent)
    for stepper, name in zip(steppers, names, strict=True):
        try:
            stepper.vocabulary.encode(text, unknown)
        except CharlmError as error:
            raise type(error)(f"`{name}`: {error}", error.hint) from None
    if words is not None:
        return ComparedWords.of(steppers, text, words, unknown, recent)
    predictions = [predict(stepper, text, len(stepper.vocabulary), unknown, recent) for stepper in steppers]
    return ComparedCharacters.of(predictions, top)


def _show(text: str, shown: Shown, names: Sequence[str], as_json: bool) -> None:
    """Print a prediction.

    Args:
        text: the text before it.
        shown: what was predicted.
        names: of two models that are compared.
        as_json: whether programs read it.
    """
    from charlm.cli.prediction_table import comparison_table, prediction_table, word_table
    from charlm.inference.predict import Prediction
    from charlm.inference.words import WordPrediction

    if as_json:
        print_json({"text": text, **({"models": names} if names else {}), **shown.to_json()})
    elif isinstance(shown, Prediction):
        print(prediction_table(shown), flush=True)
    elif isinstance(shown, WordPrediction):
        print(word_table(shown), flush=True)
    else:
        print(comparison_table(shown, names), flush=True)


def _converse(
    steppers: Sequence[Predictor], names: Sequence[str], top: int, unknown: str, recent: bool, as_json: bool
) -> None:
    """Converse with a person at a terminal; the prompt is drawn only if the terminal can, and is at both ends."""
    from prompt_toolkit.utils import is_dumb_terminal

    from charlm.cli.repl import NAMES, converse, converse_in_lines
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.prediction_comparison import ComparedCharacters

    # A person who types sees which characters are unknown, and can continue.
    policy = "skip" if unknown == "error" else unknown
    reader, *others = [IncrementalReader(stepper, policy, recent) for stepper in steppers]

    def show(text: str, predictions: Sequence[Prediction], names: Sequence[str], top: int) -> None:
        alone = len(predictions) == 1
        shown = predictions[0] if alone else ComparedCharacters.of(predictions, top)
        _show(text, shown, [] if alone else names, as_json)

    first, second = names or NAMES
    other = others[0] if others else None
    if not as_json and sys.stdout.isatty() and not is_dumb_terminal():
        converse(reader, top, other, (first, second))
    else:
        converse_in_lines(reader, top, show, other, (first, second))
