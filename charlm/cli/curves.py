"""Draws the curves of several runs: each as a sparkline, or all in one picture, with a letter for each run."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase
from typing import TYPE_CHECKING

from charlm.cli.layout import MAX_PROSE_WIDTH, Column, cells_of, table_lines, wrapped
from charlm.errors import counted, one_line

if TYPE_CHECKING:
    from charlm.evaluation.compare import Figures, Group

# The heights of a sparkline, and how many there are in one.
BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
SPARKLINE_WIDTH = 8
# With a table of three runs above it, a picture of so many rows fits into a terminal of 24 lines.
HEIGHT = 10
LABEL_EVERY = 3
WIDTH_IN_A_PIPE = 80


def scale_of(curves: Sequence[Sequence[float]], are_whole: Sequence[bool]) -> tuple[float, float]:
    """Return the lowest and the highest value to draw, so that the differences at the end can be seen.

    The scale ends at what the worst of the runs has after a quarter of its curve. The first validations, of a model
    that knows nothing, are higher than it.

    Args:
        curves: the values of each run; some may be empty.
        are_whole: whether each run finished. An aborted run has only the high beginning of a curve.
    """
    whole = [curve for curve, is_whole in zip(curves, are_whole, strict=True) if curve and is_whole]
    whole = whole or [curve for curve in curves if curve]
    low = min((min(curve) for curve in whole), default=0.0)
    return low, max((curve[len(curve) // 4] for curve in whole), default=low)


def sparklines(rows: Sequence[Figures]) -> list[str]:
    """Draw each curve of validations over its time. All of a table have one scale."""
    import numpy as np

    curves: list[list[float]] = []
    for row in rows:
        seconds, bits = [point[1] for point in row.curve], [point[2] for point in row.curve]
        num_places = SPARKLINE_WIDTH if len(bits) > 1 else len(bits)
        places = np.linspace(seconds[0], seconds[-1], num_places) if bits else np.array([])
        curves.append(np.interp(places, seconds, bits).tolist() if bits else [])
    low, high = scale_of(curves, [row.finished for row in rows])
    scale = (len(BLOCKS) - 1) / max(high - low, 1e-9)
    heights = [[round(min(max(bits - low, 0.0) * scale, len(BLOCKS) - 1)) for bits in curve] for curve in curves]
    return ["".join(BLOCKS[height] for height in curve) for curve in heights]


def curve_lines(group: Group, width: int | None) -> list[str]:
    """Draw the validations of the runs of a group over their time; nothing if there are none.

    Each run is a letter. Where several runs meet, their letters take turns. Values above the scale are not drawn.

    Args:
        group: runs that can be compared.
        width: the most cells of a line; None for a pipe or file.
    """
    rows = [row for row in group.rows if row.curve][: len(ascii_lowercase)]
    if not rows:
        return []
    width = WIDTH_IN_A_PIPE if width is None else min(width, MAX_PROSE_WIDTH)
    curves = [[point[2] for point in row.curve] for row in rows]
    _, high = scale_of(curves, [row.finished for row in rows])
    low = min(map(min, curves))
    labels = [f"{high - (high - low) * index / (HEIGHT - 1):.3f} " for index in range(HEIGHT)]
    margin = max(map(len, labels))
    num_columns, end = max(width - margin - 1, 8), max(row.curve[-1][1] for row in rows)
    picture = _picture(rows, num_columns, end, low, high)
    shown = [label if index % LABEL_EVERY == 0 else "" for index, label in enumerate(labels)]
    of_net = " of the net" if any(row.net is not None for row in rows) else ""
    last = f"{end:,.1f} s"
    return [
        *wrapped(f"validation{of_net} in bits per {group.per}, over time:", width),
        *(f"{label:>{margin}}|{line}".rstrip() for label, line in zip(shown, picture, strict=True)),
        f"{'':>{margin}}+{'-' * num_columns}",
        f"{'':>{margin}} 0{last:>{num_columns - 1}}",
        *_legend(rows, width),
        *([f"and {counted(len(group.rows) - len(rows), 'run')} not drawn"] if len(rows) < len(group.rows) else []),
    ]


def _picture(rows: Sequence[Figures], num_columns: int, end: float, low: float, high: float) -> list[str]:
    """Return the lines of the picture, the highest values first."""
    import numpy as np

    found: dict[tuple[int, int], list[str]] = {}
    for letter, row in zip(ascii_lowercase, rows, strict=False):
        seconds, bits = [point[1] for point in row.curve], [point[2] for point in row.curve]
        places = [round(second / max(end, 1e-9) * (num_columns - 1)) for second in seconds]
        for column in range(places[0], places[-1] + 1):
            value = float(np.interp(column / max(num_columns - 1, 1) * end, seconds, bits))
            share = (high - value) / (high - low) if high > low else float(value <= high)
            if (line := round(share * (HEIGHT - 1))) in range(HEIGHT):
                found.setdefault((line, column), []).append(letter)
    return [
        "".join(
            letters[column % len(letters)] if (letters := found.get((line, column))) else " "
            for column in range(num_columns)
        )
        for line in range(HEIGHT)
    ]


def _legend(rows: Sequence[Figures], width: int) -> list[str]:
    """Return which run each letter is."""
    names = [(letter, one_line(row.run), row.cell) for letter, row in zip(ascii_lowercase, rows, strict=False)]
    longest = max(cells_of(name) for _, name, _ in names)
    columns = [Column("letter"), Column("run", least=min(longest, max(width // 3, 8))), Column("cell")]
    return table_lines(columns, names, width, has_header=False)
