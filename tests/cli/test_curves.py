"""The picture of curves has each run at its place, fits its width, and draws nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from charlm.cli.curves import HEIGHT, curve_lines, scale_of
from charlm.evaluation.compare import Figures, Group
from tests.helpers.commands import HARE_AND_FOX, SHORT, call

Curve = list[tuple[int, float, float]]


def group(*curves: Curve, names: tuple[str, ...] = (), finished: bool = True, net: float | None = None) -> Group:
    """Make a group of runs with these curves."""
    rows = [
        Figures(
            names[index] if names else f"runs/{index}",
            "lstm 1x8",
            100,
            None,
            1.0,
            1,
            finished,
            None,
            None,
            2.0,
            net,
            curve,
        )
        for index, curve in enumerate(curves)
    ]
    return Group("text", "0" * 64, "characters", "character", "character", 1.0, 1, rows)


def line(start: float, end: float, seconds: float = 10.0) -> Curve:
    """Make a straight curve of eleven validations from 0 s on."""
    return [(step, step * seconds / 10, start + (end - start) * step / 10) for step in range(11)]


def drawn(lines: list[str]) -> list[str]:
    """Return the rows of a picture, without the labels."""
    return [text.partition("|")[2] for text in lines if "|" in text]


def test_a_straight_curve_is_a_diagonal() -> None:
    """The letters fall from the left to the right, and the last one is in the last column of the lowest row."""
    picture = drawn(curve_lines(group(line(4.0, 2.0)), 60))
    assert len(picture) == HEIGHT
    places = [(row.index("a"), len(row)) for row in picture if "a" in row]
    assert places == sorted(places)
    assert picture[-1].endswith("a")
    # The first fifth is above the scale, which ends at the third of eleven validations.
    assert places[0][0] > max(map(len, picture)) // 8


def test_the_labels_are_the_values_of_their_rows() -> None:
    """The first row is the worst value after a quarter, the last row the best; the axis ends at the last time."""
    lines = curve_lines(group(line(4.0, 2.0), line(4.0, 3.0, seconds=20.0)), 60)
    labels = [float(text.partition("|")[0]) for text in lines if re.match(r" *\d", text) and "|" in text]
    assert labels == pytest.approx([3.8, 3.2, 2.6, 2.0])
    assert any(text.split() == ["0", "20.0", "s"] for text in lines)


def test_a_shorter_run_ends_where_its_time_ends() -> None:
    """Half the time is half the width."""
    picture = drawn(curve_lines(group(line(3.0, 3.0, seconds=5.0), line(2.0, 2.0)), 86))
    widths = [max(row.rfind(letter) for row in picture) for letter in "ab"]
    assert widths[0] == pytest.approx(widths[1] / 2, abs=1)


def test_runs_that_meet_take_turns() -> None:
    """Two equal curves are both seen, and the legend names both."""
    lines = curve_lines(group(line(3.0, 2.0), line(3.0, 2.0)), 60)
    text = "".join(drawn(lines))
    assert abs(text.count("a") - text.count("b")) <= 2
    assert [text.split()[:2] for text in lines[-2:]] == [["a", "runs/0"], ["b", "runs/1"]]


@pytest.mark.parametrize("curve", [[(1, 1.0, 2.0)], [(1, 0.0, 0.0)], line(2.0, 2.0), [(1, 1.0, 1e15), (2, 1e15, 0.0)]])
def test_odd_curves_are_drawn(curve: Curve) -> None:
    """One validation, the time 0, a constant, and the largest numbers that a record may have."""
    lines = curve_lines(group(curve), 80)
    assert "a" in "".join(drawn(lines))
    assert max(map(len, lines)) <= 80


def test_runs_without_validations_are_not_drawn() -> None:
    """Without any there is no picture; a run without has no letter."""
    assert curve_lines(group([]), 80) == []
    assert sum("runs/" in text for text in curve_lines(group([], line(3.0, 2.0)), 80)) == 1


def test_curves_that_cannot_be_drawn_are_reported() -> None:
    """A run that holds nothing out has a table and a note; without `--curves` there is no note."""
    Path("text.txt").write_text(HARE_AND_FOX)
    given = ["--corpus", "text.txt", *SHORT, "--set", "data.validation_fraction=0", "--out", "run"]
    assert call("train", *given).exit_code == 0
    note = "note: no run has a validation, so there are no curves to draw"
    assert [note in call("compare", "run", *options).stderr for options in ([], ["--curves"])] == [False, True]
    assert note not in call("compare", "run", "--curves", "--json").stderr


def test_more_runs_than_letters_are_counted() -> None:
    """The first 26 are drawn, and the others are counted in the last line."""
    lines = curve_lines(group(*[line(3.0, 2.0)] * 28), 80)
    assert lines[-1] == "and 2 runs not drawn"
    assert lines[-2].startswith("z")


def test_an_unfinished_run_is_on_the_scale() -> None:
    """Runs that are all unfinished are drawn, too, and a better one of them is not below the scale."""
    assert "a" in "".join(drawn(curve_lines(group(line(4.0, 2.0), finished=False), 80)))
    assert scale_of([[3.0, 2.0], [9.0]], [True, False]) == (2.0, 3.0)


def test_pictures_with_ngrams_say_that_they_are_of_the_net() -> None:
    """The curves are those of the net alone."""
    assert curve_lines(group(line(3.0, 2.0), net=2.1), 80)[0].startswith("validation of the net in bits per character")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("name", ["runs/a-long-name-of-a-run-1", "狐狸-gru-1", "a\x1b[31m", "a\nb"])
def test_a_picture_fits_its_width(width: int, name: str) -> None:
    """No line is wider than the terminal, and no name breaks a line."""
    lines = curve_lines(group(line(3.0, 2.0), line(2.0, 1.0), names=(name, "b")), width)
    assert all(text.isprintable() for text in lines)
    if width >= 40:
        assert max(map(len, lines)) <= width
