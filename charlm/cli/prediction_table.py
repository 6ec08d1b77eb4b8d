"""A prediction as a table with bars."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.cells import cell_len

from charlm.errors import counted

if TYPE_CHECKING:
    from charlm.inference.predict import Prediction

BAR_WIDTH = 30


def prediction_table(prediction: Prediction) -> str:
    """Return a line with a bar for each candidate, a line for all others, and the entropy."""
    bar, largest = bar_character(), prediction.candidates[0].probability
    rows = [(c.name, c.probability, bar * round(BAR_WIDTH * c.probability / largest)) for c in prediction.candidates]
    if prediction.num_others:
        rows.append(("others", prediction.remaining_probability, counted(prediction.num_others, "character")))
    # Chinese characters are two cells wide.
    width = max(map(cell_len, ["others", *(name for name, _, _ in rows)]))
    lines = [f"{name}{' ' * (width - cell_len(name))} {share:7.2%}  {rest}".rstrip() for name, share, rest in rows]
    return "\n".join([*lines, f"entropy {prediction.entropy_bits:.2f} bits"])


def bar_character() -> str:
    """Return the character to draw bars with, one that standard output can show."""
    try:
        "\u2588".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "\u2588"
