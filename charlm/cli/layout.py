"""Lays out lines and tables for the width of a terminal: words stay whole, and columns are dropped before letters."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TextIO

# The width of a terminal that does not say how wide it is.
DEFAULT_WIDTH = 80
# Longer lines of prose are hard to read, however wide the terminal is.
MAX_PROSE_WIDTH = 100
# Wider than any line.
UNLIMITED_WIDTH = 1 << 16
GAP = "  "


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: its heading.
        is_number: whether it is aligned on the right.
        rank: a table that is too wide drops its column of the highest rank first, and never one of rank 0.
        least: to how many cells its texts are wrapped before a column is dropped; 0 if each stays in one line.
        width: how wide it is at least, for tables that are printed row by row.
    """

    name: str
    is_number: bool = False
    rank: int = 0
    least: int = 0
    width: int = 0


class Field(NamedTuple):
    """A part of a line.

    Attributes:
        text: what it shows; it may be empty.
        rank: a line that is too long drops its field of the highest rank first, and never one of rank 0.
        size: for how many cells there is room, so that the lines of a report drop the same fields.
    """

    text: str
    rank: int = 0
    size: int = 0


def cells_of(text: str) -> int:
    """Return how many columns a text takes: two for a Chinese character, for example."""
    if text.isascii():
        return len(text)
    # Only for such texts, because `--help` is to be instant.
    from rich.cells import cell_len

    return cell_len(text)


def screen_width(stream: TextIO) -> int | None:
    """Return how many columns the terminal behind a stream has, or None if it is a pipe or a file."""
    if not stream.isatty():
        return None
    with suppress(ValueError):
        if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
            return columns
    with suppress(OSError, ValueError):
        if (columns := os.get_terminal_size(stream.fileno()).columns) > 0:
            return columns
    return DEFAULT_WIDTH


def clock_text(seconds: float) -> str:
    """Return seconds as minutes and seconds, with hours if there are any: `0:08`, `1:02:03`; or as many days."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24:,} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def wrapped(text: str, width: int | None, hanging: str = GAP) -> list[str]:
    """Break a line of prose at spaces. Without a width it stays whole.

    A word that is longer than the width is not broken. Text in backticks is there to be copied, so it stays together if
    it fits. Wide characters, as of Chinese, need no space between them.

    Args:
        text: one line.
        width: the most cells of a line.
        hanging: in front of every line but the first.
    """
    if width is None or cells_of(text) <= width:
        return [text]
    line = text[: len(text) - len(text.lstrip())]
    lines, gap = [], ""
    for piece, space in _pieces(text, width - cells_of(hanging)):
        if line.strip() and cells_of(line + gap + piece) > width:
            lines.append(line)
            line, gap = hanging, ""
        line += gap + piece
        gap = space
    return [*lines, line]


def _pieces(text: str, longest: int) -> Iterator[tuple[str, str]]:
    """Yield what stays together, and the space after it."""
    for word, space in re.findall(r"((?:`[^`]*`|[^ ])+)( *)", text):
        if " " in word and cells_of(word) > longest:
            yield from re.findall(r"([^ ]+)( *)", word + space)
        elif cells_of(word) > len(word):
            # Each wide character alone, and everything between two of them.
            *parts, last = re.findall(r"[\u1100-\U0010ffff]|[^\u1100-\U0010ffff]+", word)
            yield from ((part, "") for part in parts)
            yield last, space
        else:
            yield word, space


def kept_together(
    start: str, items: Iterable[str], width: int | None, separator: str = ", ", hanging: str = ""
) -> list[str]:
    """Lay out a start and items in lines; an item is broken only if it is longer than a line, then before its `=`.

    Args:
        start: what stands before the first item.
        items: the items.
        width: the most cells of a line.
        separator: what stands between two items.
        hanging: in front of every line but the first; by default the indentation of the start, and a gap.
    """
    hanging = hanging or " " * (len(start) - len(start.lstrip())) + GAP
    room = (width or UNLIMITED_WIDTH) - len(hanging + separator.rstrip())

    def joined(item: str) -> str:
        # No-break spaces keep together what fits.
        return item.replace(" ", "\xa0") if cells_of(item) <= room else item

    parts = [[item] if cells_of(item) <= room else re.split(" (?==)", item) for item in items]
    text = start + separator.join(" ".join(map(joined, pieces)) for pieces in parts)
    return [line.replace("\xa0", " ") for line in wrapped(text, width, hanging)]


def paragraphs(text: str, width: int | None) -> list[str]:
    """Lay out prose whose paragraphs are divided by empty lines. Lines of equations stay lines of their own."""
    width = width and min(width, MAX_PROSE_WIDTH)
    lines: list[str] = []
    for block in text.split("\n\n"):
        is_of_lines = all(re.match(r"[\w']+ = ", line) for line in block.split("\n"))
        parts = block.split("\n") if is_of_lines or width is None else [" ".join(block.split())]
        lines += ["", *(line for part in parts for line in wrapped(part, width, GAP if is_of_lines else ""))]
    return lines[1:]


def fitted(fields: Sequence[Field], width: int | None) -> str:
    """Join the fields of a line, without those of the highest ranks if there is no room for them."""
    kept = list(fields)
    while width is not None and _total([max(cells_of(field.text), field.size) for field in kept]) > width:
        worst = max(kept, key=lambda field: field.rank)
        if not worst.rank:
            break
        kept.remove(worst)
    return GAP.join(field.text for field in kept if field.text)


def whole_items(items: Iterable[str], width: int, separator: str = "   ") -> str:
    """Join the first items that fit into a width; no item is cut."""
    row = ""
    for item in items:
        longer = row + separator + item if row else item
        if cells_of(longer) > width:
            break
        row = longer
    return row


def aligned(text: str, width: int, is_number: bool = False) -> str:
    """Add spaces to a text up to a width: after it, or before a number."""
    space = " " * (width - cells_of(text))
    return space + text if is_number else text + space


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None, has_header: bool = True
) -> list[str]:
    """Lay out a table whose columns are two spaces apart, without those of the highest ranks if there is no room.

    Args:
        columns: its columns.
        rows: their texts.
        width: the most cells of a line; None for any number.
        has_header: whether the names of the columns are its first line.
    """
    table = [tuple(column.name for column in columns), *rows] if has_header else list(rows)
    natural = [max([column.width, *(cells_of(row[index]) for row in table)]) for index, column in enumerate(columns)]
    kept = _kept(columns, natural, width)
    widths = {index: natural[index] for index in kept}
    excess = 0 if width is None else _total(list(widths.values())) - width
    flexible = next((index for index in kept if columns[index].least), None) if excess > 0 else None
    if flexible is not None:
        widths[flexible] = max(natural[flexible] - excess, 1)
    lines: list[str] = []
    for row in table:
        cells = {index: wrapped(row[index], widths[index], "") if index == flexible else [row[index]] for index in kept}
        for number in range(max(map(len, cells.values()))):
            texts = {index: (*cells[index][number : number + 1], "")[0] for index in kept}
            row_cells = (aligned(texts[index], widths[index], columns[index].is_number) for index in kept)
            lines.append(GAP.join(row_cells).rstrip())
    return lines


def _kept(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """Return the indices of the columns for which there is room."""
    least = [min(size, column.least) if column.least else size for column, size in zip(columns, natural, strict=True)]
    kept = list(range(len(columns)))
    while width is not None and _total([least[index] for index in kept]) > width:
        worst = max(kept, key=lambda index: columns[index].rank)
        if not columns[worst].rank:
            break
        kept.remove(worst)
    return kept


def _total(sizes: Sequence[int]) -> int:
    """Return the width of columns of these widths, with the gaps between them."""
    present = [size for size in sizes if size]
    return sum(present) + len(GAP) * (len(present) - 1)
