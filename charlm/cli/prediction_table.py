"""A prediction as a table with bars."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from charlm.cli.layout import UNLIMITED_WIDTH, aligned, cells_of, screen_width
from charlm.cli.render import can_show
from charlm.errors import counted

if TYPE_CHECKING:
    from charlm.inference.predict import Candidate, Prediction

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
    room, candidates = screen_width(sys.stdout) or UNLIMITED_WIDTH, prediction.candidates
    names = names_within(candidates, room - len(" 100.00%"))
    width = max(map(cells_of, ["others", *names]))
    bar_width = min(BAR_WIDTH, room - width - len(" 100.00%  "))
    bars = [bar(c.probability, bar_width) if bar_width >= MIN_BAR_WIDTH else "" for c in candidates]
    rows = list(zip(names, [c.probability for c in candidates], bars, strict=True))
    if prediction.num_others:
        rows.append(("others", prediction.remaining_probability, counted(prediction.num_others, "character")))
    lines = [f"{aligned(name, width)} {share:7.2%}  {rest}".rstrip() for name, share, rest in rows]
    return "\n".join([*lines, f"entropy {prediction.entropy_bits:.2f} bits"])


def bar(share: float, width: int) -> str:
    """Return a bar for a share of 1, made of characters that standard output can show."""
    characters = next((row for row in BAR_CHARACTERS if can_show(row)), BAR_CHARACTERS[-1])
    steps = len(characters) - 1
    full, rest = divmod(round(share * width * steps), steps)
    return characters[-1] * full + characters[rest].strip()


def names_within(candidates: Iterable[Candidate], room: int) -> list[str]:
    """Return the names of candidates; of a code point only its number if the name needs more room."""
    return [c.name.split()[0] if c.name.startswith("U+") and len(c.name) > room else c.name for c in candidates]
