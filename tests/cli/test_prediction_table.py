"""Predictions drawn as tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest

from charlm.checkpoint import ModelFile
from charlm.cli.prediction_table import BAR_WIDTH, prediction_table
from charlm.inference.predict import Candidate, Prediction, predict
from charlm.inference.stepper import Stepper


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def test_white_space_is_shown_by_name(make_model: Callable[..., ModelFile]) -> None:
    """A space and a newline have rows of their own names."""
    lines = prediction_table(predict(Stepper(make_model()), "a", 10)).splitlines()
    assert any(line.startswith("space ") for line in lines)
    assert any(line.startswith("newline ") for line in lines)


def test_bars_are_as_long_as_the_probabilities(make_model: Callable[..., ModelFile]) -> None:
    """The first bar has the full width; the entropy is the last line."""
    prediction = predict(Stepper(make_model()), "a", 10)
    lines = prediction_table(prediction).splitlines()
    largest = prediction.candidates[0].probability
    expected = [round(BAR_WIDTH * candidate.probability / largest) for candidate in prediction.candidates]
    assert [line.count("\u2588") for line in lines[:-1]] == expected
    assert expected[0] == BAR_WIDTH
    assert lines[-1] == f"entropy {prediction.entropy_bits:.2f} bits"


@pytest.mark.parametrize("num_others", [0, 812])
def test_wide_and_narrow_characters_stand_in_line(num_others: int) -> None:
    """Every percentage ends in the same cell of the terminal, also beside Chinese characters and emoji."""
    names = ["'\u7684'", "'a'", "space", "'\U0001f98a'", "carriage return", "'\uff0c'"]
    candidates = [Candidate(name, name, 0.9 * 0.5**k) for k, name in enumerate(names)]
    lines = prediction_table(Prediction(candidates, 0.1, num_others, 2.0)).splitlines()[:-1]
    assert len(lines) == len(names) + bool(num_others)
    assert len({cells(line.partition("%")[0]) for line in lines}) == 1


def test_a_prediction_table_has_its_exact_form() -> None:
    """Each candidate has name, percentage and bar; the last lines are the other characters and the entropy."""
    table = prediction_table(Prediction([Candidate("a", "'a'", 0.5), Candidate("b", "'b'", 0.25)], 0.25, 7, 1.5))
    bar = "\u2588" * 15
    assert table.splitlines() == [
        f"'a'     50.00%  {bar}{bar}",
        f"'b'     25.00%  {bar}",
        "others  25.00%  7 characters",
        "entropy 1.50 bits",
    ]
