"""Text on coloured backgrounds, one shade for each value; where there is no colour, marks beneath the text.

Each background comes with its own foreground, so that the text is readable on dark and on light terminals.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from charlm.cli.layout import cells_of
from charlm.cli.render import can_show, may_colour
from charlm.ramps import SEQUENTIAL, Ramp, is_dark

# Terminals of 16 colours, in which the shades could not be told apart.
FEW_COLOURS = ("linux", "ansi", "cygwin", "vt100", "vt102", "vt220")
TRUECOLOR = ("truecolor", "24bit")
RESET = "\x1b[0m"
LINE_ENDS = ("\n", "\r")
# What stands for a character that cannot be seen, if standard output can show it.
VISIBLE = {"\n": "\u21b5", "\t": "\u2192   "}
# Carries a combining character that has no letter before it.
DOTTED_CIRCLE = "\u25cc"


class Style(NamedTuple):
    """How shades are shown.

    Attributes:
        ramp: the shades.
        num_colours: how many colours the terminal has; 0 for marks.
    """

    ramp: Ramp
    num_colours: int


def style_for(stream: TextIO, ramp: Ramp = SEQUENTIAL) -> Style:
    """Return how to show shades on a stream: in its colours, or as marks if it has none or the user wants none."""
    if not may_colour(stream) or os.environ.get("TERM") in FEW_COLOURS:
        return Style(ramp, 0)
    is_true = os.environ.get("COLORTERM") in TRUECOLOR or "WT_SESSION" in os.environ
    return Style(ramp, 1 << 24 if is_true else 256)


def shaded_lines(pieces: Sequence[tuple[str, float]], width: int | None, style: Style) -> list[str]:
    """Lay out a text whose parts are shaded.

    A new line starts after each line end of the text, and where the next character does not fit. Line ends, tabs and
    control characters are shown by visible characters, so that the terminal obeys none of them. As marks, a line of
    the text is followed by a line with one mark for each cell.

    Args:
        pieces: texts of any length with their values, in order: from 0 to 1, or from -1 to 1 if the ramp is
            `DIVERGING`. NaN stands for no value, and for no shade.
        width: the most cells of a line; None for any number.
        style: colours or marks, of which ramp.
    """
    lines: list[list[tuple[str, int | None]]] = [[]]
    used = 0
    for shown, shade, ends_line in _characters(pieces, style.ramp):
        cells = cells_of(shown)
        if width is not None and used and used + cells > width:
            lines.append([])
            used = 0
        lines[-1].append((shown, shade))
        used += cells
        if ends_line:
            lines.append([])
            used = 0
    draw = _coloured if style.num_colours else _marked
    return [drawn for line in (lines if lines[-1] else lines[:-1]) for drawn in draw(line, style)]


def visible(character: str) -> str:
    """Return how a character is shown: itself, or something that can be seen and that no terminal obeys."""
    shown = VISIBLE.get(character, character)
    if shown.isprintable() and can_show(shown):
        return shown
    return character if character == "\u3000" and can_show(character) else ascii(character)[1:-1]


def standing_alone(character: str) -> str:
    """Return how a character is shown at the beginning: one that combines with the character before it has a circle."""
    shown = visible(character)
    return shown if cells_of(shown) else DOTTED_CIRCLE + shown


def _characters(pieces: Iterable[tuple[str, float]], ramp: Ramp) -> list[tuple[str, int | None, bool]]:
    """Return what stands together in a cell or two, its shade, and whether a line ends after it."""
    found: list[tuple[str, int | None, bool]] = []
    values: list[float] = []
    last = ""
    for text, value in pieces:
        for character in text:
            if last == "\r" and character != "\n":
                found[-1] = (*found[-1][:2], True)
            shown = visible(character)
            if not cells_of(shown) and (not found or last in LINE_ENDS):
                shown = standing_alone(character)
            if cells_of(shown):
                values.append(value)
                found.append((shown, None if math.isnan(value) else ramp.shade(value), character == "\n"))
            else:
                # A combining character shares the cell of its letter, and the cell has the stronger of both shades.
                values[-1] = max(values[-1], value, key=lambda each: -1 if math.isnan(each) else abs(each))
                found[-1] = (found[-1][0] + shown, None if math.isnan(values[-1]) else ramp.shade(values[-1]), False)
            last = character
    return found


def _coloured(line: Sequence[tuple[str, int | None]], style: Style) -> list[str]:
    """Return a line with its colours; neighbours of the same shade share one escape sequence."""
    drawn, before = "", None
    for shown, shade in line:
        if shade != before:
            drawn += RESET if shade is None else _escape_sequence(style, shade)
        drawn += shown
        before = shade
    return [drawn if before is None else drawn + RESET]


def _marked(line: Sequence[tuple[str, int | None]], style: Style) -> list[str]:
    """Return a line, and beneath it the marks."""
    marks = "".join((" " if shade is None else style.ramp.marks[shade]) * cells_of(shown) for shown, shade in line)
    return ["".join(shown for shown, _ in line), marks.rstrip()]


def _escape_sequence(style: Style, shade: int) -> str:
    """Return what sets the background to a shade, and the foreground to what is readable on it."""
    colour = style.ramp.colours[shade]
    if style.num_colours == 256:
        foreground_index = 231 if is_dark(palette_colour(style.ramp.indices[shade])) else 16
        return f"\x1b[38;5;{foreground_index};48;5;{style.ramp.indices[shade]}m"
    foreground = "255;255;255" if is_dark(colour) else "0;0;0"
    return f"\x1b[38;2;{foreground};48;2;{colour >> 16};{colour >> 8 & 255};{colour & 255}m"


CUBE = (0, 95, 135, 175, 215, 255)


def palette_colour(index: int) -> int:
    """Return a colour of the palette of 256, from 16 on, as 0xRRGGBB."""
    if index >= 232:
        return (8 + 10 * (index - 232)) * 0x010101
    red, green, blue = (CUBE[(index - 16) // step % 6] for step in (36, 6, 1))
    return red << 16 | green << 8 | blue
