"""Draws the curves of a run over its time or its steps, in dots of Braille, or in letters without Unicode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

from charlm.cli.curves import scale_of

# The bit of each dot of a Braille character, by row and column.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BRAILLE, DASH = 0x2800, "\u254c"
ASCII_DASH = "-"
# Columns in front of a plot for the figures of its scale.
MARGIN = 6
# Quiet text, and what stands for the model of counts: both can be read on dark and on light backgrounds.
QUIET, COUNTS = "color(244)", "color(166)"


class Curve(NamedTuple):
    """A curve of a plot.

    Attributes:
        points: places from left to right, with their bits.
        style: its colour.
        letter: what it is drawn with on a terminal without Unicode.
    """

    points: Sequence[tuple[float, float]]
    style: str
    letter: str


def plot_lines(
    curves: Sequence[Curve], level: float | None, end: float, columns: int, rows: int, is_unicode: bool
) -> list[Text]:
    """Draw curves on one scale. Where two of them meet, the last one is on top.

    Args:
        curves: of which at least one has points.
        level: a horizontal line; None for none.
        end: the place at the right edge.
        columns: the cells of each line.
        rows: the number of lines.
        is_unicode: whether the terminal can show Braille.
    """
    low, high = _scale(curves, level)
    cells: dict[tuple[int, int], tuple[str, str]] = {}
    dots: dict[tuple[int, int], int] = {}
    width, (down, across) = columns - MARGIN, (4, 2) if is_unicode else (1, 1)
    row_of_level = None
    if level is not None:
        row_of_level = _places([level], low, high, rows)[0]
        cells |= {(row_of_level, column): (DASH if is_unicode else ASCII_DASH, COUNTS) for column in range(width)}
    for curve in curves:
        for x, y in _pixels(curve.points, end, width * across, rows * down, (low, high)):
            place = y // down, x // across
            dots[place] = dots.get(place, 0) | DOTS[y % down][x % across]
            cells[place] = chr(BRAILLE + dots[place]) if is_unicode else curve.letter, curve.style
    labels = {0: (f"{high:.2f}", QUIET), rows - 1: (f"{low:.2f}", QUIET)}
    if level is not None and row_of_level is not None:
        labels[row_of_level] = (f"{level:.2f}", COUNTS)
    return [_line(cells, labels.get(row, ("", "")), row, width) for row in range(rows)]


def _line(cells: dict[tuple[int, int], tuple[str, str]], label: tuple[str, str], row: int, width: int) -> Text:
    text, style = label
    line = Text(f"{text:>{MARGIN - 1}} ", style)
    for style, group in groupby((cells.get((row, column), (" ", "")) for column in range(width)), lambda cell: cell[1]):
        line.append("".join(character for character, _ in group), style)
    return line


def _scale(curves: Sequence[Curve], level: float | None) -> tuple[float, float]:
    """Return the lowest and highest value, rounded so that they seldom change while the curves grow."""
    values = [[bits for _, bits in curve.points] for curve in curves if curve.points]
    low, high = scale_of(values, [True] * len(values))
    if level is not None:
        low, high = min(low, level), max(high, level)
    unit = max(0.01, 10 ** math.floor(math.log10(max(high - low, 0.02))) / 5)
    low, high = math.floor(low / unit) * unit, math.ceil(high / unit) * unit
    return low, max(high, low + unit)


def _places(values: Sequence[float], low: float, high: float, number: int) -> list[int]:
    """Return the row of each value, counted from above; those above the scale have negative ones."""
    return [math.floor((high - value) / (high - low) * (number - 1) + 0.5) for value in values]


def _pixels(
    points: Sequence[tuple[float, float]], end: float, width: int, height: int, scale: tuple[float, float]
) -> list[tuple[int, int]]:
    """Return the pixels of a curve, as column and row, so that each touches the next."""
    import numpy as np

    if not points:
        return []
    places = [min(place / end, 1.0) * (width - 1) if end > 0 else 0.0 for place, _ in points]
    columns = range(round(places[0]), round(places[-1]) + 1)
    rows = _places(np.interp(columns, places, [bits for _, bits in points]).tolist(), *scale, height)
    found: list[tuple[int, int]] = []
    before = rows[0]
    for column, row in zip(columns, rows, strict=True):
        between = range(min(row, before + 1), max(row, before - 1) + 1)
        found += [(column, each) for each in between if 0 <= each < height]
        before = row
    return found
