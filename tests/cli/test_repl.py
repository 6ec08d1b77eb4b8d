"""The prompt of `charlm predict-next`, with and without a terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from charlm.checkpoint import ModelFile
from charlm.cli.prediction_table import prediction_table
from charlm.cli.repl import GHOST_LENGTH, converse, toolbar_text
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.stepper import Stepper


def test_the_toolbar_shows_candidates_and_unknown_characters(make_model: Callable[..., ModelFile]) -> None:
    """The toolbar names the characters of the line that the model does not know."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    reader.read("ba\U0001f600d")
    best = predict(stepper, "bad", 1).candidates[0]
    assert toolbar_text(reader).startswith("unknown, left out: '\U0001f600'")
    assert f"{best.name} {best.probability:.0%}" in toolbar_text(reader)


@pytest.mark.parametrize("typed", ["bad\rexit\r", "bad\r\x04", "\x03bad\rquit\r"])
def test_the_prompt_answers_enter_and_ends_by_word_or_key(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    """Enter prints the table of what comes after the line; `exit`, `quit` and Ctrl-D leave; Ctrl-C clears the line."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed)
        converse(IncrementalReader(Stepper(make_model())), 3)
    table = prediction_table(predict(Stepper(make_model()), "bad", 3))
    assert capsys.readouterr().out.splitlines()[1:] == table.splitlines()


def test_the_grey_text_returns_after_a_backspace(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Backspace, right arrow and Enter give the table of the shortened line plus its continuation."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    reader.read("ba")
    continuation = reader.continuation(GHOST_LENGTH)
    assert continuation
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("bad\x7f\x1b[C\rexit\r")
        converse(IncrementalReader(stepper), 3)
    table = prediction_table(predict(stepper, "ba" + continuation, 3))
    assert capsys.readouterr().out.splitlines()[1:] == table.splitlines()
