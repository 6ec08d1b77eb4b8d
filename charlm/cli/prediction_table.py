"""A prediction as a table with bars, and rows that drop what does not fit."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len

from charlm.errors import counted

if TYPE_CHECKING:
    from charlm.inference.predict import Candidate, Prediction

# Wider than any line.
UNLIMITED_WIDTH = 1 << 16
# Cells of a bar for 100 %, and the fewest that still show a difference.
BAR_WIDTH = 30
MIN_BAR_WIDTH = 5
# A bar ends in a part of a cell, if standard output can show one. Each row goes from an empty cell to a full one.
BAR_CHARACTERS = (" \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588", " \u2588", " #")


def prediction_table(prediction: Prediction) -> str:
    """Return a line with a bar for each candidate, a line for all others, and the entropy.

    A bar of full width is a probability of 100 %. On a narrow terminal bars are shorter or dropped, and so are the
    long names of code points.
    """
    room, candidates = columns(), prediction.candidates
    names = names_within(candidates, room - len(" 100.00%"))
    # Chinese characters are two cells wide.
    width = max(map(cell_len, ["others", *names]))
    bar_width = min(BAR_WIDTH, room - width - len(" 100.00%  "))
    bars = [bar(c.probability, bar_width) if bar_width >= MIN_BAR_WIDTH else "" for c in candidates]
    rows = list(zip(names, [c.probability for c in candidates], bars, strict=True))
    if prediction.num_others:
        rows.append(("others", prediction.remaining_probability, counted(prediction.num_others, "character")))
    lines = [f"{padded(name, width)} {share:7.2%}  {rest}".rstrip() for name, share, rest in rows]
    return "\n".join([*lines, f"entropy {prediction.entropy_bits:.2f} bits"])


def bar(share: float, width: int) -> str:
    """Return a bar for a share of 1, made of characters that standard output can show."""
    characters = next((row for row in BAR_CHARACTERS if can_show(row)), BAR_CHARACTERS[-1])
    steps = len(characters) - 1
    full, rest = divmod(round(share * width * steps), steps)
    return characters[-1] * full + characters[rest].strip()


def can_show(text: str) -> bool:
    """Say whether standard output can show a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def columns(stream: TextIO | None = None) -> int:
    """Return how many cells a line may take on a stream, standard output by default; a pipe or file has no limit."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return UNLIMITED_WIDTH
    # Standard output, which `shutil` asks, may be a pipe while standard error is a terminal.
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((80, 24))
    return shutil.get_terminal_size(fallback=size).columns


def padded(text: str, width: int) -> str:
    """Add spaces to a text up to a width in cells."""
    return text + " " * (width - cell_len(text))


def names_within(candidates: Iterable[Candidate], room: int) -> list[str]:
    """Return the names of candidates; of a code point only its number if the name needs more room."""
    return [c.name.split()[0] if c.name.startswith("U+") and len(c.name) > room else c.name for c in candidates]


def whole_items(items: Iterable[str], width: int, separator: str = "   ") -> str:
    """Join the first items that fit into a width in cells; no item is cut."""
    row = ""
    for item in items:
        longer = row + separator + item if row else item
        if cell_len(longer) > width:
            break
        row = longer
    return row
