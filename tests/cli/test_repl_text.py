"""The line that is typed, in rows."""

from __future__ import annotations

import math

import pytest
from prompt_toolkit.utils import get_cwidth

from charlm.cli.repl_text import Look, TextRows, shade_styles, text_rows, whole_words
from charlm.cli.shades import Style
from charlm.ramps import SEQUENTIAL

SHADES = shade_styles(Style(SEQUENTIAL, 256))


LINES = ["", "ba", "ba" * 30, "\u56fd\u738b" * 20, "a\u0301" * 30, "a\x1b[31mb\t\u202e", "ab\n\ncd\n"]


def laid_out(
    line: str, cursor: int | None = None, *, width: int = 20, max_rows: int = 8, ghost: str = "", bits: float = math.nan
) -> TextRows:
    """Lay out a line whose characters all cost the same, without colours if they cost nothing known."""
    look = Look(width, max_rows, [] if math.isnan(bits) else SHADES, is_monochrome=False)
    at = len(line) if cursor is None else cursor
    return text_rows(line, at, "> ", lambda start, end: [bits] * (end - start), "", ghost, look)


def plain(rows: TextRows) -> list[str]:
    """Return the rows without styles."""
    return ["".join(text for _, text in row) for row in rows.rows]


@pytest.mark.parametrize("width", [7, 20, 40])
@pytest.mark.parametrize(
    "line", ["", "ba", "ba" * 30, "\u56fd\u738b" * 20, "a\u0301" * 30, "a\x1b[31mb\t\u202e", "ab\n\ncd\n"]
)
def test_rows_fit_and_hold_the_whole_line(width: int, line: str) -> None:
    """Every character is shown once; none that a terminal would obey is shown as itself."""
    shown = laid_out(line, width=width, max_rows=100)
    assert all(get_cwidth(row) <= width for row in plain(shown))
    assert all(row.isprintable() for row in plain(shown))
    letters = "".join(plain(shown)).removeprefix("> ")
    assert [c for c in letters if c in line] == [c for c in line if c.isprintable()] or "\\x" in letters


@pytest.mark.parametrize("cursor", range(13))
def test_the_cursor_stands_on_its_character(cursor: int) -> None:
    """Also after wide characters and line ends; behind a full row it stands in the next one."""
    line = "ab\u56fdcd\u738b\nefghi"
    shown = laid_out(line, cursor, width=7)
    row, column = plain(shown)[shown.cursor_row], shown.cursor_column
    visible = {"\n": "\u21b5"}
    if cursor < len(line):
        assert row[column] == visible.get(line[cursor], line[cursor])
    else:
        assert (row[:column], row[column:]) == ("efghi", "")
    assert laid_out("abcde", width=7)[1:3] == (1, 0)


@pytest.mark.parametrize("length", [100, 10_000, 200_000])
@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_a_long_line_shows_the_rows_around_the_cursor(length: int, share: float) -> None:
    """The bits of no more than three screens of text are asked for, and what is hidden has a row of dots."""
    line = "".join(chr(ord("a") + number % 26) for number in range(length))
    cursor, asked = int(share * length), list[int]()

    def bits_of(start: int, end: int) -> list[float]:
        asked.append(end - start)
        return [1.0] * (end - start)

    shown = text_rows(line, cursor, "> ", bits_of, "", "", Look(20, 4, SHADES, is_monochrome=False))
    rows = plain(shown)
    assert len(rows) <= 4
    assert max(asked) <= 3 * 20 * 4
    if cursor < length:
        assert rows[shown.cursor_row][shown.cursor_column] == line[cursor]
    assert (rows[0] == "...") == (cursor > 60)
    assert (rows[-1] == "...") == (length - cursor > 60)


@pytest.mark.parametrize(
    ("bits", "style"), [(0.2, ""), (0.6, SHADES[1]), (8.9, SHADES[9]), (50.0, SHADES[9]), (math.nan, "")]
)
def test_a_character_has_the_shade_of_its_bits(bits: float, style: str) -> None:
    """The last shade stands for 9 bits or more, and what cost next to nothing has none."""
    assert laid_out("a", bits=bits).rows[0][-1] == (("", "> a") if not style else (style, "a"))


@pytest.mark.parametrize("num_colours", [256, 1 << 24])
def test_each_shade_sets_both_colours(num_colours: int) -> None:
    """So that it is readable on dark and on light terminals; terminals without colours get none."""
    assert all("bg:#" in shade and "fg:#" in shade for shade in shade_styles(Style(SEQUENTIAL, num_colours))[1:])
    assert shade_styles(Style(SEQUENTIAL, 0)) == []


@pytest.mark.parametrize("width", [20, 21, 30, 33, 40, 80])
@pytest.mark.parametrize("line", ["ba", "ba" * 15, "bad\nba", "\u56fd\u738b" * 5, "a\tb"])
@pytest.mark.parametrize("is_monochrome", [False, True])
def test_the_suggestion_ends_with_the_row(width: int, line: str, is_monochrome: bool) -> None:
    """Suggestions are not wrapped: they end with a whole word or beside a wide character."""
    for whole in ("ab cde fgh ijklmn opqr", "\u56fd\u738b\u8bf4ab\u56fd\u738b\u8bf4\u56fd\u738b\u8bf4"):
        look = Look(width, 8, [], is_monochrome)
        shown = text_rows(line, len(line), "> ", lambda start, end: [], "", whole, look)
        assert whole.startswith(shown.ghost)
        row = plain(shown)[-1]
        assert get_cwidth(row) < width
        assert row.endswith(f"[{shown.ghost}]" if is_monochrome and shown.ghost else shown.ghost)
        if shown.ghost and shown.ghost != whole:
            rest = whole[len(shown.ghost) - 1 :]
            assert any(character.isspace() or get_cwidth(character) == 2 for character in rest[:2])
    assert whole_words("ab cd", 4) == "ab "


def test_the_suggestion_is_shown_only_at_the_end_of_the_line() -> None:
    """Elsewhere it would stand between two characters of the line."""
    assert laid_out("ba", 1, ghost="nd").ghost == ""
    assert plain(laid_out("ba", ghost="nd")) == ["> band"]


def test_an_unknown_character_is_underlined() -> None:
    """The style has a name, so that it holds without colours too."""
    shown = text_rows(
        "aZ", 2, "> ", lambda start, end: [math.nan] * 2, "Z", "", Look(20, 8, SHADES, is_monochrome=False)
    )
    assert ("class:unknown", "Z") in [(style.strip(), text) for style, text in shown.rows[0]]
