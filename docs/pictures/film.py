"""Draws what a terminal shows over time as an animated SVG, which needs no script, no font and no other file."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from charlm.cli.layout import cells_of
from charlm.cli.shades import palette_colour

MONOSPACE = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
SANS = "system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif"
WIDTH = 830
# A cell of a terminal, the place of the letters in it, and the size of the letters that fill it.
CELL, ROW, BASELINE, FONT = 9, 20, 15, 15
MARGIN, TITLE = 16, 34
BACKGROUND, FOREGROUND = "#10151d", "#d5dbe5"
NAMED = (
    "#3a4351", "#f27d72", "#73bf69", "#e0b252", "#62a8f5", "#c297f2", "#4fc9d1", "#c3cad5",
    "#7b8798", "#ff9d93", "#8fd685", "#f2cb74", "#85bfff", "#d8b8ff", "#76e0e6", "#f2f5f9",
)  # fmt: skip
# Block elements as shares of a cell: left, top, width, height.
BLOCKS = {"█": (0.0, 0.0, 1.0, 1.0), "▀": (0.0, 0.0, 1.0, 0.5), "▐": (0.5, 0.0, 0.5, 1.0)}
BLOCKS |= {chr(0x2580 + eighths): (0.0, 1 - eighths / 8, 1.0, eighths / 8) for eighths in range(1, 8)}
BLOCKS |= {chr(0x2590 - eighths): (0.0, 0.0, eighths / 8, 1.0) for eighths in range(1, 8)}
# Lines that meet in the middle of a cell: to the left, to the right, up, down.
LINES = {
    "─": "lr", "│": "ud", "╭": "rd", "╮": "ld", "╰": "ru", "╯": "lu", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu",
    "├": "rud", "┤": "lud", "┬": "lrd", "┴": "lru", "┼": "lrud", "╴": "l", "╶": "r", "╵": "u", "╷": "d",
    "━": "LR", "╸": "L", "╺": "R",
}  # fmt: skip
SHADES = {"░": 0.25, "▒": 0.5, "▓": 0.75}
# Where the dots of Braille stand in a cell, from the lowest bit on.
BRAILLE, DOTS = 0x2800, ((1, 3), (1, 8), (1, 13), (6, 3), (6, 8), (6, 13), (1, 18), (6, 18))
DASHED = "╌"


class Frame(NamedTuple):
    """A screen of a film.

    Attributes:
        seconds: when it is first seen.
        caption: what stands above it.
        screen: its lines, with escape sequences for their colours.
        cursor: the column and the row of the cursor, or None if it is hidden.
    """

    seconds: float
    caption: str
    screen: str
    cursor: tuple[int, int] | None


class Style(NamedTuple):
    """How a character of a terminal looks."""

    colour: str | None = None
    background: str | None = None
    is_bold: bool = False
    is_dim: bool = False
    is_italic: bool = False
    is_underlined: bool = False
    is_reversed: bool = False

    def colours(self) -> tuple[str, str | None]:
        """Return the colour of the letter, and that of its background if it has one of its own."""
        colour, background = self.colour or FOREGROUND, self.background
        if self.is_reversed:
            colour, background = background or BACKGROUND, colour
        if self.is_dim:
            colour = mixed(colour, background or BACKGROUND, 0.4)
        return colour, background


def mixed(first: str, second: str, share: float) -> str:
    """Return a colour between two colours, `share` of the way to the second."""
    pairs = [(int(first[at : at + 2], 16), int(second[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def number(value: float) -> str:
    """Return a number in few characters."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


FLAGS = {1: "is_bold", 2: "is_dim", 3: "is_italic", 4: "is_underlined", 7: "is_reversed"}
ENDS = {22: ("is_bold", "is_dim"), 23: ("is_italic",), 24: ("is_underlined",), 27: ("is_reversed",)}


def after(style: Style, codes: Sequence[int]) -> Style:
    """Return the style after the codes of an escape sequence."""
    rest = iter(codes)
    changed: dict[str, Any]
    for code in rest:
        if code == 0:
            changed = Style()._asdict()
        elif code in FLAGS:
            changed = {FLAGS[code]: True}
        elif code in ENDS:
            changed = dict.fromkeys(ENDS[code], False)
        elif 30 <= code <= 49 or 90 <= code <= 107:
            name = "colour" if code < 40 or 90 <= code < 100 else "background"
            changed = {name: _colour(code, rest)}
        else:
            continue
        style = style._replace(**changed)
    return style


def _colour(code: int, rest: Iterator[int]) -> str | None:
    if code in (38, 48):
        if next(rest) == 2:
            return "#" + "".join(f"{next(rest):02x}" for _ in range(3))
        index = next(rest)
        return NAMED[index] if index < 16 else f"#{palette_colour(index):06x}"
    return None if code % 10 == 9 else NAMED[code % 10 + (8 if code >= 90 else 0)]


def cells(screen: str, cursor: tuple[int, int] | None) -> list[list[tuple[int, str, Style]]]:
    """Return for each line of a screen its characters, with the columns and the styles that they have."""
    rows, style = [], Style()
    for y, line in enumerate(screen.split("\n")):
        row: list[tuple[int, str, Style]] = []
        x = 0
        for codes, character in re.findall(r"\x1b\[([\d;]*)m|([^\x00-\x1f])", line):
            if not character:
                style = after(style, [int(code or 0) for code in codes.split(";")])
            elif cells_of(character) or not row:
                row.append((x, character, style))
                x += cells_of(character)
            else:
                row[-1] = (row[-1][0], row[-1][1] + character, style)
        if cursor and cursor[1] == y:
            row += [(column, " ", Style()) for column in range(x, cursor[0] + 1)]
            row = [(x, each, of._replace(is_reversed=x == cursor[0] or of.is_reversed)) for x, each, of in row]
        rows.append(row)
    return rows


class Sheet:
    """The styles and the lines of a film, each of them once."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}
        self.lines: dict[str, str] = {}

    def line(self, row: Sequence[tuple[int, str, Style]]) -> str:
        """Return the name of a line, drawn with its top at 0."""
        drawn = "".join([*self._backgrounds(row), *self._shapes(row), *self._strokes(row), *self._texts(row)])
        return self.lines.setdefault(drawn, f"l{len(self.lines)}")

    def _class(self, rules: str) -> str:
        return self.classes.setdefault(rules, f"c{len(self.classes)}")

    def _rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> str:
        place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        return f'<rect {place} class="{self._class(f"fill:{colour}")}"/>'

    def _backgrounds(self, row: Sequence[tuple[int, str, Style]]) -> Iterator[str]:
        for colour, group in groupby(row, lambda cell: cell[2].colours()[1]):
            if colour:
                (first, *_), (last, text, _) = (members := list(group))[0], members[-1]
                yield self._rectangle(first * CELL, 0, (last - first + cells_of(text)) * CELL, ROW, colour)

    def _shapes(self, row: Sequence[tuple[int, str, Style]]) -> Iterator[str]:
        """Draw blocks and lines as rectangles, so that they touch in every font; neighbours become one."""
        shapes: list[tuple[float, float, float, float, str]] = []
        for x, character, style in row:
            colour, background = style.colours()
            for left, top, width, height, share in _rectangles(character):
                start, fill = x * CELL + left, mixed(background or BACKGROUND, colour, share)
                if shapes and (shapes[-1][1], *shapes[-1][3:]) == (top, height, fill):
                    before, _, reached, *_ = shapes[-1]
                    if abs(before + reached - start) < 0.01:
                        shapes[-1] = (before, top, reached + width, height, fill)
                        continue
                shapes.append((start, top, width, height, fill))
        for shape in shapes:
            yield self._rectangle(*shape)

    def _strokes(self, row: Sequence[tuple[int, str, Style]]) -> Iterator[str]:
        """Draw dots of Braille and dashes as lines, because many fonts have none that are as wide as a letter."""
        stroked = [cell for cell in row if _strokes_of(cell[1])]
        for colour, group in groupby(stroked, lambda cell: cell[2].colours()[0]):
            strokes = [(x * CELL + left, y, wide) for x, each, _ in group for left, y, wide in _strokes_of(each)]
            drawn = "".join(f"M{left} {y}h{wide}" for left, y, wide in strokes)
            yield f'<path d="{drawn}" class="{self._class(f"stroke:{colour};stroke-width:2")}"/>'

    def _texts(self, row: Sequence[tuple[int, str, Style]]) -> Iterator[str]:
        letters = [cell for cell in row if cell[1][0] not in BLOCKS | LINES | SHADES and not _strokes_of(cell[1])]
        runs: list[list[tuple[int, str, Style]]] = []
        for cell in letters:
            if runs and _follows(cell, runs[-1][-1]):
                runs[-1].append(cell)
            else:
                runs.append([cell])
        for run in runs:
            x, style = run[0][0], run[0][2]
            # Two spaces end a text: what comes after them has its own place.
            for part in re.finditer(r"\S+(?: \S+)*", text := "".join(each for _, each, _ in run)):
                colour = style.colours()[0]
                rules = f"fill:{colour}" + (";font-weight:700" if style.is_bold else "")
                rules += ";font-style:italic" if style.is_italic else ""
                rules += ";text-decoration:underline" if style.is_underlined else ""
                start, width = x + cells_of(text[: part.start()]), cells_of(part[0])
                place = f'x="{start * CELL}" y="{BASELINE}" textLength="{width * CELL}"'
                yield f'<text {place} class="{self._class(rules)}">{html.escape(part[0], quote=False)}</text>'


def _follows(cell: tuple[int, str, Style], before: tuple[int, str, Style]) -> bool:
    """Return whether a character can be drawn with the one before it: same style, same width, no gap."""
    same = cell[2]._replace(background=None) == before[2]._replace(background=None)
    return same and cells_of(cell[1]) == cells_of(before[1]) and cell[0] == before[0] + cells_of(before[1])


def _strokes_of(character: str) -> list[tuple[int, int, int]]:
    """Return the strokes of a dash or of dots: left, middle, width."""
    if character == DASHED:
        return [(1, ROW // 2, 3), (5, ROW // 2, 3)]
    bits = ord(character[0]) - BRAILLE
    return [(*place, 2) for bit, place in enumerate(DOTS) if bits >> bit & 1] if 0 <= bits < 256 else []


def _rectangles(character: str) -> Iterator[tuple[float, float, float, float, float]]:
    """Return the rectangles of a block or a line: left, top, width, height, and how strong their colour is."""
    if character in BLOCKS:
        left, top, width, height = BLOCKS[character]
        yield left * CELL, top * ROW, width * CELL, height * ROW, 1.0
    elif character in SHADES:
        yield 0.0, 0.0, CELL, ROW, SHADES[character]
    for arm in LINES.get(character, ""):
        half = 1.5 if arm.isupper() else 0.6
        x, y = CELL / 2, ROW / 2
        if arm in "lLrR":
            yield (0.0 if arm in "lL" else x), y - half, x, 2 * half, 1.0
        else:
            yield x - half, (0.0 if arm == "u" else y), 2 * half, y, 1.0


def film(frames: Sequence[Frame], seconds: float, columns: int, rows: int) -> str:
    """Draw screens one after another, again and again; where nothing may move, the last of them.

    Each row of the screen is a window on a strip, which holds all that the row ever shows and is moved to what it
    shows now.

    Args:
        frames: the screens.
        seconds: how long one round takes.
        columns: how wide a screen is.
        rows: how high it is.
    """
    sheet = Sheet()
    shown = [[sheet.line(row) for row in cells(frame.screen, frame.cursor)] for frame in frames]
    shown = [[*lines, *[sheet.line([])] * rows][:rows] for lines in shown]
    times = [frame.seconds / seconds for frame in frames]
    width, height = columns * CELL + 2 * MARGIN, rows * ROW + TITLE + MARGIN
    body, rules = [], []
    captions = [f'<text x="{width / 2}" y="22" class="t">{html.escape(frame.caption)}</text>' for frame in frames]
    names = {text: f"t{index}" for index, text in enumerate(dict.fromkeys(captions))}
    strips = [(0, TITLE, 0, width, [names[text] for text in captions])]
    strips += [(MARGIN, ROW, TITLE + y * ROW, columns * CELL, [lines[y] for lines in shown]) for y in range(rows)]
    for index, (x, tall, y, wide, versions) in enumerate(strips):
        different = list(dict.fromkeys(versions))
        # The strips have gaps, so that no row shows the edge of its neighbour.
        uses = "".join(f'<use href="#{name}" y="{2 * tall * k}"/>' for k, name in enumerate(different))
        places = [2 * tall * different.index(name) for name in versions]
        if len(different) > 1:
            moves = "".join(
                f"{number(100 * share)}%{{transform:translateY({-place}px)}}"
                for share, place, before in zip(times, places, [None, *places], strict=False)
                if place != before
            )
            rules.append(f"@keyframes r{index}{{{moves}}}#r{index}{{animation-name:r{index}}}")
            uses = f'<g id="r{index}" class="r" transform="translate(0 {-places[-1]})">{uses}</g>'
        body.append(f'<svg x="{x}" y="{y}" width="{wide}" height="{tall}">{uses}</svg>')
    defined = "".join(f'<g id="{name}">{drawn}</g>' for drawn, name in [*sheet.lines.items(), *names.items()])
    style = "".join(f".{name}{{{rule}}}" for rule, name in sheet.classes.items()) + "".join(rules)
    style += f".r{{animation-duration:{number(seconds)}s;animation-timing-function:step-end;"
    style += "animation-iteration-count:infinite}@media (prefers-reduced-motion:reduce){.r{animation:none!important}}"
    style += f"text{{font:{FONT}px {MONOSPACE}}}.t{{font:13px {SANS};fill:#8793a5;text-anchor:middle}}"
    style += "rect,path{shape-rendering:crispEdges}"
    buttons = "".join(f'<circle cx="{20 + 18 * k}" cy="17" r="5" fill="#323b49"/>' for k in range(3))
    frame = f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="9" fill="{BACKGROUND}" '
    frame += 'stroke="#323b49" style="shape-rendering:auto"/>'
    return svg(width, height, style, f"<defs>{defined}</defs>{frame}{buttons}{''.join(body)}")


def svg(width: float, height: float, style: str, body: str) -> str:
    """Return a picture with its style, as wide as a page."""
    size = f'viewBox="0 0 {number(width)} {number(height)}" width="{WIDTH}" height="{number(WIDTH * height / width)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{body}</svg>\n'
