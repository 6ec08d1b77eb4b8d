"""The line that is typed into the prompt, in rows: each character coloured by what it cost, and the suggestion."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from prompt_toolkit.utils import get_cwidth

from charlm.cli.score import MAX_BITS
from charlm.cli.shades import DOTTED_CIRCLE, Style, palette_colour, visible
from charlm.ramps import is_dark

# Styles and texts, as prompt_toolkit takes them.
Row = list[tuple[str, str]]


class TextRows(NamedTuple):
    """A line in rows.

    Attributes:
        rows: what each row shows.
        cursor_row: in which of them the cursor is.
        cursor_column: after how many characters of the row.
        ghost: as much of the suggestion as is shown.
    """

    rows: list[Row]
    cursor_row: int
    cursor_column: int
    ghost: str


class Look(NamedTuple):
    """How the line is drawn.

    Attributes:
        width: cells of a row.
        max_rows: at most so many rows are shown, those around the cursor.
        shades: the style of each shade of bits; none of them where there are no colours.
        is_monochrome: whether the suggestion stands in brackets.
    """

    width: int
    max_rows: int
    shades: list[str]
    is_monochrome: bool


def shade_styles(style: Style) -> list[str]:
    """Return the style of each shade: a background, and a foreground that is readable on it.

    What cost nearly nothing has no background, so that the surprises stand out.
    """
    if not style.num_colours:
        return []
    colours = style.ramp.colours if style.num_colours > 256 else [palette_colour(index) for index in style.ramp.indices]
    shades = [f"bg:#{colour:06x} fg:{'#ffffff' if is_dark(colour) else '#000000'}" for colour in colours]
    return ["", *shades[1:]]


def shade_of(bits: float, shades: Sequence[str]) -> str:
    """Return the style of what cost so many bits: none for NaN, and where there are no colours."""
    # Of NaN no comparison is true.
    return shades[min(len(shades) - 1, int(bits / MAX_BITS * (len(shades) - 1) + 0.5))] if shades and bits >= 0 else ""


def text_rows(
    line: str,
    cursor: int,
    prompt: str,
    bits_of: Callable[[int, int], list[float]],
    unknown: str,
    ghost: str,
    look: Look,
) -> TextRows:
    """Lay out a line. Only the rows around the cursor are computed, however long it is.

    Args:
        line: what was typed.
        cursor: after how many characters the cursor is.
        prompt: what stands before it.
        bits_of: returns what each character of a part of the line cost.
        unknown: the characters that the model does not know.
        ghost: what is suggested at the end of the line.
        look: how it is drawn.
    """
    screen = look.width * look.max_rows
    # The part that is laid out changes only now and then, so that rows stay calm.
    block = (screen + 1) // 2
    start, end = max(0, cursor - screen) // block * block, min(len(line), cursor + screen)
    rows = _Rows(look.width)
    for character in prompt if not start else "":
        rows.add("", character)
    bits = bits_of(start, end) if look.shades else [math.nan] * (end - start)
    at = rows.end
    for number, (character, cost) in enumerate(zip(line[start:end], bits, strict=True), start):
        rows.add(_style(character, cost, unknown, look), character)
        if number == cursor:
            at = rows.start_of_last
        if character == "\n":
            rows.break_row()
    shown = ""
    if cursor == len(line):
        at = rows.end = rows.place_for_next()
        room = look.width - rows.used - (3 if look.is_monochrome else 1)
        shown = whole_words(ghost, room)
        brackets = "[]" if look.is_monochrome else ("", "")
        for character in f"{brackets[0]}{shown}{brackets[1]}" if shown else "":
            rows.add("class:quiet", character)
    return _around(rows.rows, *at, shown, look, num_before=start, num_after=len(line) - end)


def whole_words(text: str, room: int) -> str:
    """Return as much of a text as there is room for: whole words, or up to a wide character."""
    cells = 0
    for end, character in enumerate(text):
        cells += _shown(character)[1]
        if cells > room:
            around = text[max(0, end - 1) : end + 1]
            is_in_word = len(around) == 2 and all(not c.isspace() and get_cwidth(c) == 1 for c in around)
            return re.sub(r"\S+$", "", text[:end]) if is_in_word else text[:end]
    return text


@cache
def _shown(character: str) -> tuple[str, int]:
    """Return how a character is shown, and in how many cells."""
    return visible(character), get_cwidth(visible(character))


def _style(character: str, bits: float, unknown: str, look: Look) -> str:
    shade = shade_of(bits, look.shades)
    return f"class:unknown {shade}" if character in unknown else shade


class _Rows:
    """Rows that are filled cell by cell.

    Attributes:
        rows: those so far; neighbours of the same style are one piece.
        used: how many cells of the last row.
        end: the last row, and how many characters it has.
        start_of_last: where the character that was added last begins.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self.rows: list[Row] = [[]]
        self.used = 0
        self.end = self.start_of_last = (0, 0)

    def add(self, style: str, character: str) -> None:
        """Add a character as it is shown; one that combines with the character before it stays in its cell."""
        shown, cells = _shown(character)
        if not cells and not self.used:
            shown, cells = DOTTED_CIRCLE + shown, 1
        if self.used + cells > self._width and self.used:
            self.break_row()
        row = self.rows[-1]
        self.start_of_last = self.end
        if row and (row[-1][0] == style or not cells):
            row[-1] = row[-1][0], row[-1][1] + shown
        else:
            row.append((style, shown))
        self.used += cells
        self.end = len(self.rows) - 1, self.end[1] + len(shown)

    def break_row(self) -> None:
        """Start a new row."""
        self.rows.append([])
        self.used, self.end = 0, (len(self.rows) - 1, 0)

    def place_for_next(self) -> tuple[int, int]:
        """Return where the next character will be: in a new row if the last one is full."""
        if self.used >= self._width:
            self.break_row()
        return self.end


def _around(
    rows: list[Row], row: int, column: int, ghost: str, look: Look, num_before: int, num_after: int
) -> TextRows:
    """Return the rows around the cursor, and in place of the others a row that says so."""
    if len(rows) <= look.max_rows and not num_before and not num_after:
        return TextRows(rows, row, column, ghost)
    first = max(0, min(row - look.max_rows + 2, len(rows) - look.max_rows))
    shown = rows[first : first + look.max_rows]
    if (first or num_before) and look.max_rows > 2 and row > first:
        shown[0] = [("class:quiet", "...")]
    if (first + look.max_rows < len(rows) or num_after) and look.max_rows > 2 and row < first + len(shown) - 1:
        shown[-1] = [("class:quiet", "...")]
    return TextRows(shown, row - first, column, ghost)
