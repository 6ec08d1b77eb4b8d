"""Shades are readable and can be told apart; marks are aligned; nothing of a text reaches the terminal as a command."""

from __future__ import annotations

import io
import itertools
import math
import re

import pytest
from rich.cells import cell_len

from charlm.cli.shades import Style, shaded_lines, style_for
from charlm.ramps import DIVERGING, SEQUENTIAL, Ramp
from tests.helpers.terminal import Terminal

COLOUR = re.compile(r"\x1b\[38;([\d;]+);48;([\d;]+)m|\x1b\[0m")
NAN = math.nan
STYLES = [Style(ramp, colours) for ramp in (SEQUENTIAL, DIVERGING) for colours in (0, 256, 1 << 24)]
# How red-blind and green-blind people see linear RGB (Machado, Oliveira and Fernandes, 2009).
RED_BLIND = [(0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)]
GREEN_BLIND = [(0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)]


def rgb(code: str) -> tuple[int, ...]:
    """Return the colour of an escape sequence: `2;R;G;B`, or `5;N` of the palette of xterm."""
    kind, *numbers = map(int, code.split(";"))
    if kind == 2:
        return tuple(numbers)
    (index,) = numbers
    if index >= 232:
        return (8 + 10 * (index - 232),) * 3
    levels = (0, 95, 135, 175, 215, 255)
    return levels[(index - 16) // 36], levels[(index - 16) // 6 % 6], levels[(index - 16) % 6]


def linear(colour: tuple[int, ...]) -> list[float]:
    """Return the light of a colour in sRGB."""
    return [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]


def brightness(colour: tuple[int, ...]) -> float:
    """Return the relative luminance of a colour."""
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def shades(ramp: Ramp, colours: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return foreground and background of each shade."""
    steps = len(ramp.marks) - 1
    values = [ramp.lowest + (1 - ramp.lowest) * step / steps for step in range(steps + 1)]
    (line,) = shaded_lines([("x", value) for value in values], None, Style(ramp, colours))
    return [(rgb(found[1]), rgb(found[2])) for found in COLOUR.finditer(line) if found[1]]


@pytest.mark.parametrize("colours", [256, 1 << 24])
@pytest.mark.parametrize("ramp", [SEQUENTIAL, DIVERGING])
def test_text_on_every_shade_is_readable(ramp: Ramp, colours: int) -> None:
    """The contrast is at least 4.5 to 1, as the WCAG ask for, whatever the colours of the terminal are."""
    pairs = shades(ramp, colours)
    assert len(pairs) == len(ramp.marks)
    for pair in pairs:
        dark, light = sorted(map(brightness, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("colours", [256, 1 << 24])
def test_shades_differ_in_lightness(colours: int) -> None:
    """A reader who sees no hues can tell them apart; a diverging ramp is lightest in its middle."""
    rising = [brightness(back) for _, back in shades(SEQUENTIAL, colours)]
    assert all(a < b for a, b in itertools.pairwise(rising))
    both = [brightness(back) for _, back in shades(DIVERGING, colours)]
    middle = len(both) // 2
    assert both[: middle + 1] == sorted(both[: middle + 1])
    assert both[middle:] == sorted(both[middle:], reverse=True)
    assert len(set(both)) == len(both)


@pytest.mark.parametrize("colours", [256, 1 << 24])
@pytest.mark.parametrize("seen_as", [RED_BLIND, GREEN_BLIND])
def test_both_sides_differ_for_the_colour_blind(seen_as: list[tuple[float, ...]], colours: int) -> None:
    """Who is red-blind or green-blind sees one side of the diverging ramp as blue and the other as yellow."""
    sides = []
    for _, back in shades(DIVERGING, colours):
        red, _, blue = (sum(a * b for a, b in zip(row, linear(back), strict=True)) for row in seen_as)
        sides.append(blue - red)
    assert all(side > 0.05 for side in sides[:5])
    assert all(side < -0.05 for side in sides[6:])


@pytest.mark.parametrize("style", STYLES, ids=str)
@pytest.mark.parametrize("width", [1, 2, 7, 40, None])
def test_lines_fit_and_lose_no_character(style: Style, width: int | None) -> None:
    """A line has at most its width, unless one character is wider; all characters are there in order."""
    text = "ab \u72d0\u72f8cd e\u0301fgh\u3000ij"
    lines = shaded_lines([(text, 0.3), ("k", NAN), ("lm", 1.0)], width, style)
    shown = lines if style.num_colours else lines[::2]
    plain = [COLOUR.sub("", line) for line in shown]
    assert "".join(plain) == text + "klm"
    assert all(cell_len(line) <= max(width or 99, 2) for line in plain)
    assert all(line.endswith("\x1b[0m") or "\x1b" not in line for line in lines)


def test_a_mark_stands_beneath_each_cell() -> None:
    """A wide character has two, a combining one shares that of its letter, and no value has none."""
    pieces = [("a", 1.0), ("\u72d0", 5 / 9), ("e", 0.0), ("\u0301", 8 / 9), ("b", NAN), ("c", 1 / 9)]
    assert shaded_lines(pieces, None, Style(SEQUENTIAL, 0)) == ["a\u72d0e\u0301bc", "9558 1"]
    values = [("x", value) for value in (-1.0, -0.2, 0.0, 0.2, 1.0, -9.0, 9.0)]
    assert shaded_lines(values, None, Style(DIVERGING, 0)) == ["xxxxxxx", "ea AEeE"]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_no_text_can_command_the_terminal(style: Style) -> None:
    """Control characters, marks of direction and lone surrogates are spelled out; line ends and tabs are visible."""
    hostile = "a\x1b[31mb\x07\x9b2J\u202ec\u200bd\ud800\x7f\te\r\nf\rg\n"
    lines = shaded_lines([(hostile, 0.0)], None, style)
    plain = [COLOUR.sub("", line) for line in lines]
    assert all(line.isprintable() for line in plain)
    shown = plain if style.num_colours else plain[::2]
    assert shown == [r"a\x1b[31mb\x07\x9b2J\u202ec\u200bd\ud800\x7f→   e\r↵", r"f\r", "g↵"]


def test_a_combining_character_alone_has_a_carrier() -> None:
    """At the start of a line there is no letter to carry it."""
    lines = shaded_lines([("\u0301a\n\u0301", 1.0)], None, Style(SEQUENTIAL, 0))
    assert lines == ["\u25cc\u0301a↵", "999", "\u25cc\u0301", "9"]


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_no_text_has_no_lines(style: Style) -> None:
    """Nothing in, nothing out."""
    assert shaded_lines([], 80, style) == shaded_lines([("", 1.0)], 80, style) == []


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm-256color"}, 256),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, 1 << 24),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, 0),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, 0),
        ({"TERM": "linux"}, 0),
    ],
)
def test_the_terminal_decides_about_colours(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colours: int
) -> None:
    """It gets those that it has; without them, as in a pipe, there are marks."""
    for name in ("NO_COLOR", "COLORTERM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert style_for(Terminal()) == Style(SEQUENTIAL, colours)
    assert style_for(io.StringIO(), DIVERGING) == Style(DIVERGING, 0)
