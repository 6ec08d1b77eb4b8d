"""The command that puts runs side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.curves import BLOCKS, curve_lines, sparklines
from charlm.cli.layout import Column, aligned, cells_of, screen_width, table_lines, wrapped
from charlm.cli.options import Json
from charlm.cli.pages import page_path, write_page
from charlm.cli.render import can_show, print_json, print_lines, say
from charlm.errors import counted, one_line

if TYPE_CHECKING:
    from charlm.evaluation.compare import Comparison, Figures, Group


def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders or model files; by default all runs in runs/.")
    ] = None,
    curves: Annotated[bool, typer.Option("--curves", help="Draw their validations over time in one picture.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page to look at: their curves in one picture, and the tables."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side in a table.

    Parameters, speed, and validation after equal time and equal steps. Runs of different texts or kinds have a table
    each.

    charlm compare runs/fables-lstm-1 runs/fables-gru-1 --curves

    charlm compare runs/fables-lstm-1 runs/fables-gru-1 --html page.html
    """
    from charlm.evaluation.compare import compare_runs, find_runs

    page = None if html is None else page_path(html)
    comparison = compare_runs(runs or find_runs(), are_named=bool(runs))
    show_comparison(comparison, curves, as_json)
    if page is not None:
        from charlm.web.comparison import SCRIPTS, comparison_view
        from charlm.web.page import render_page

        write_page(page, render_page("charlm compare", comparison_view(comparison), SCRIPTS))


def show_comparison(comparison: Comparison, draws_curves: bool, as_json: bool) -> None:
    """Print a comparison: tables and perhaps pictures for a person, or JSON, which has the curves in any case."""
    for note in comparison.notes:
        say(f"note: {note}")
    if as_json:
        print_json(comparison.to_json())
    elif sys.stdout.isatty():
        has_curves = can_show(BLOCKS) and os.environ.get("TERM") != "dumb"
        print_lines(to_lines(comparison, screen_width(sys.stdout), has_curves, draws_curves))
    else:
        print(to_markdown(comparison, draws_curves))
    if draws_curves and not as_json and not any(row.curve for row in comparison.rows):
        say("note: no run has a validation, so there are no curves to draw")
    if not as_json:
        say(legend(comparison))


def legend(comparison: Comparison) -> str:
    """Return how to read the tables."""
    units = " or ".join(dict.fromkeys(group.per for group in comparison.groups))
    text = (
        f"validation in bits per {units}, lower is better; `best` is measured after training, "
        "the others on the beginning of the held-out text"
    )
    is_cut = any(not row.finished for row in comparison.rows)
    return text + ("; * did not finish: interrupted, or still running" if is_cut else "")


def to_markdown(comparison: Comparison, draws_curves: bool = False) -> str:
    """Return a comparison as Markdown tables whose columns are aligned in plain text too, perhaps with pictures."""
    tables = []
    for group in comparison.groups:
        rows = [[cell.replace("|", "\\|") for cell in _cells(row, _has_ngrams(group))] for row in group.rows]
        table = markdown_table(_columns(group), rows)
        if draws_curves and (picture := curve_lines(group, None)):
            table += "\n\n" + "\n".join(["```text", *picture, "```"])
        tables.append(table if len(comparison.groups) == 1 else f"{_heading(group, comparison)}\n\n{table}")
    return "\n\n".join(tables)


def to_lines(comparison: Comparison, width: int | None, has_curves: bool, draws_curves: bool = False) -> list[str]:
    """Lay out a comparison for a terminal.

    Args:
        comparison: what to lay out.
        width: the most cells of a line.
        has_curves: whether the terminal can show a sparkline of each curve.
        draws_curves: whether there is a picture of all curves below each table.
    """
    lines: list[str] = []
    for group in comparison.groups:
        columns, rows = _columns(group), [_cells(row, _has_ngrams(group)) for row in group.rows]
        if has_curves and any(row.curve for row in group.rows):
            columns.append(Column("curve", rank=2))
            rows = [[*row, line] for row, line in zip(rows, sparklines(group.rows), strict=True)]
        if 0 < (num_finished := sum(row.finished for row in group.rows)) < len(rows):
            rows.insert(num_finished, [""] * len(columns))
        heading = wrapped(_heading(group, comparison), width)
        picture = curve_lines(group, width) if draws_curves else []
        lines += ["", *heading, *table_lines(columns, rows, width), *([""] if picture else []), *picture]
    return lines[1:]


def _heading(group: Group, comparison: Comparison) -> str:
    """Return what the runs of a table share; texts of the same name differ by their hashes."""
    namesakes = {other.sha256 for other in comparison.groups if other.text == group.text}
    text = group.text if len(namesakes) == 1 else f"{group.text} ({group.sha256[:8]})"
    return f"{one_line(text)}: {one_line(group.kind)}"


def _columns(group: Group) -> list[Column]:
    return [
        Column("run"),
        Column("cell", rank=1),
        Column("parameters", is_number=True, rank=5),
        Column(f"{group.unit}s/s", is_number=True, rank=7),
        Column("seconds", is_number=True, rank=6),
        Column("steps", is_number=True, rank=8),
        Column(f"at {group.equal_seconds:,.1f} s", is_number=True, rank=3),
        Column(f"at {counted(group.equal_steps, 'step')}", is_number=True, rank=4),
        Column("best", is_number=True),
        *([Column("its net", is_number=True, rank=2)] if _has_ngrams(group) else []),
    ]


def _has_ngrams(group: Group) -> bool:
    return any(row.net is not None for row in group.rows)


def _cells(row: Figures, has_ngrams: bool) -> list[str]:
    figures = [row.at_equal_time, row.at_equal_steps, row.best, *([row.net] if has_ngrams else [])]
    return [
        one_line(row.run) + ("" if row.finished else " *"),
        row.cell,
        f"{row.parameters:,}",
        "-" if row.characters_per_second is None else f"{row.characters_per_second:,.0f}",
        f"{row.seconds:,.1f}",
        f"{row.steps:,}",
        *("-" if bits is None else f"{bits:.4f}" for bits in figures),
    ]


def markdown_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned in plain text, too."""
    head = [column.name for column in columns]
    widths = [max(map(cells_of, cells)) for cells in zip(head, *rows, strict=True)]
    are_numbers = [column.is_number for column in columns]
    rule = ["-" * (width - is_number) + ":" * is_number for width, is_number in zip(widths, are_numbers, strict=True)]
    lines = [map(aligned, row, widths, are_numbers) for row in (head, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
