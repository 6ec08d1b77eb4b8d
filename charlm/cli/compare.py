"""The command that puts runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json
from charlm.cli.render import print_json, say
from charlm.errors import counted, one_line

if TYPE_CHECKING:
    from charlm.evaluation.compare import Comparison


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; by default all in runs/.")] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side in a table.

    Parameters, speed, and validation after equal time and equal steps.

    charlm compare runs/fables-lstm-1 runs/fables-gru-1
    """
    from charlm.evaluation.compare import compare_runs, find_runs

    comparison = compare_runs(runs or find_runs())
    for note in comparison.notes:
        say(f"note: {note}")
    if as_json:
        print_json(comparison.to_json())
    else:
        print(to_markdown(comparison))
        say(
            f"validation in bits per {comparison.per}; `best` is measured after training, "
            "the others on the beginning of the held-out text"
        )


def to_markdown(comparison: Comparison) -> str:
    """Return a comparison as a Markdown table whose columns are aligned in plain text too."""
    head = ["run", "cell", "parameters", f"{comparison.unit}s/s", "seconds", "steps"]
    head += [f"at {comparison.equal_seconds:,.1f} s", f"at {counted(comparison.equal_steps, 'step')}", "best"]
    rows = [
        [
            one_line(row.run).replace("|", "\\|"),
            row.cell,
            f"{row.parameters:,}",
            "-" if row.characters_per_second is None else f"{row.characters_per_second:,.0f}",
            f"{row.seconds:,.1f}",
            f"{row.steps:,}",
            *("-" if bits is None else f"{bits:.4f}" for bits in (row.at_equal_time, row.at_equal_steps, row.best)),
        ]
        for row in comparison.rows
    ]
    return markdown_table(head, rows, num_texts=2)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], num_texts: int) -> str:
    """Return a Markdown table; the first `num_texts` columns are aligned on the left, the others on the right."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width if index < num_texts else "-" * (width - 1) + ":" for index, width in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        texts = [cell + gap for cell, gap in zip(cells, gaps, strict=True)][:num_texts]
        numbers = [gap + cell for cell, gap in zip(cells, gaps, strict=True)][num_texts:]
        return f"| {' | '.join([*texts, *numbers])} |"

    return "\n".join([line(head), line(rule), *map(line, rows)])
