"""Predictions drawn as tables."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from types import SimpleNamespace

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


def table_of(*shares: float) -> list[str]:
    """Return the lines of a table of candidates with these probabilities."""
    return prediction_table(Prediction([Candidate("a", "'a'", share) for share in shares], 0.0, 0, 1.0)).splitlines()


def test_bars_are_as_long_as_the_probabilities() -> None:
    """A bar of the full width is 100 %, whatever the most probable character has; a part of a cell is an eighth."""
    block = "\u2588"
    assert [line.partition("%")[2].strip() for line in table_of(0.999, 0.5, 0.17, 0.004, 0.0)[:-1]] == [
        block * BAR_WIDTH,
        block * (BAR_WIDTH // 2),
        block * 5 + "\u258f",
        "\u258f",
        "",
    ]


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", "#####"), ("cp437", "\u2588" * 5), (None, "#####")])
def test_bars_are_of_characters_the_console_shows(
    monkeypatch: pytest.MonkeyPatch, encoding: str | None, expected: str
) -> None:
    """Without parts of a cell, bars are rounded to whole cells; without blocks, to number signs."""
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding=encoding, isatty=lambda: False))
    assert table_of(0.17)[0].endswith(f"17.00%  {expected}")


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """On a narrow terminal bars are shorter or missing, code points lose their long names, and numbers stay whole."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["'\u7684'", "U+0301 COMBINING ACUTE ACCENT", "U+202E RIGHT-TO-LEFT OVERRIDE"]
    candidates = [Candidate("?", name, 0.5**k) for k, name in enumerate(names, 1)]
    lines = prediction_table(Prediction(candidates, 0.125, 812, 2.0)).splitlines()
    assert max(map(cells, lines[:3])) <= width
    assert [line.split("%")[0].split()[-1] for line in lines[:4]] == ["50.00", "25.00", "12.50", "12.50"]
    assert len({cells(line.partition("%")[0]) for line in lines[:4]}) == 1
    assert (names[1] in lines[1]) == (width > 30)
    assert lines[1].startswith("U+0301 ")


@pytest.mark.parametrize(("num", "words"), [(1, "1 character"), (2, "2 characters")])
def test_one_other_character_is_in_the_singular(num: int, words: str) -> None:
    """The row of the others counts one character, or several characters."""
    table = prediction_table(Prediction([Candidate("a", "'a'", 0.5)], 0.5, num, 1.0))
    assert table.splitlines()[1].endswith(f"  {words}")


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
    block = "\u2588"
    assert table.splitlines() == [
        f"'a'     50.00%  {block * 15}",
        f"'b'     25.00%  {block * 7}\u258c",
        "others  25.00%  7 characters",
        "entropy 1.50 bits",
    ]
