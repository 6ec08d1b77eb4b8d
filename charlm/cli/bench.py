"""The command that measures how fast charlm is on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm.cli.layout import Column, screen_width, wrapped
from charlm.cli.options import Json
from charlm.cli.render import print_json, print_lines, print_table
from charlm.cli.scaling import bench_distributed
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.nn.model import CharModel
    from charlm.nn.runtime import Runtime
    from charlm.training.optimizer import Optimizer


def bench(
    only: Annotated[
        Literal["training", "sampling", "texts", "starting"] | None,
        typer.Option(case_sensitive=False, help="Measure only this part."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each figure is the median of this many measurements.")] = 5,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Measure what several processes gain, by torchrun.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure how fast charlm is on this machine.

    Charlm and plain torch take turns, so that both meet the same machine.

    charlm bench

    charlm bench --distributed

    charlm bench --only sampling --json
    """
    from charlm.training.load_torch import load_torch

    if distributed and only:
        raise UsageError("`--distributed` measures training alone", "leave out `--only`")
    load_torch()
    if distributed:
        bench_distributed(rounds, as_json)
        return
    from charlm.evaluation.bench import PARTS, WORKLOAD, describe_machine, measure
    from charlm.nn.runtime import Runtime, keep_freed_memory

    # As `charlm train` does it.
    keep_freed_memory()
    machine = describe_machine(Runtime.choose("auto", "auto", None))
    rows = (row.to_json() for row in measure([only] if only else PARTS, rounds, make_optimizer, WORKLOAD))
    command = f"charlm bench {f'--only {only} ' if only else ''}--rounds {rounds}"
    if as_json:
        print_json({"machine": machine, "command": command, "rows": list(rows)})
    else:
        print_bench(machine, command, rows)


def make_optimizer(model: CharModel, runtime: Runtime) -> Optimizer:
    """Make the optimiser that a run has by default."""
    from charlm.settings.config import TrainConfig
    from charlm.training.optimizer import Optimizer

    return Optimizer(model, TrainConfig(), runtime.dtype)


def print_bench(machine: dict[str, str | int], command: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print the machine, and the results one by one, as soon as each is measured."""
    width = screen_width(sys.stdout)
    method = "medians, without the first measurement; beside it the same without charlm: a ratio above 1 favours charlm"
    print_lines(wrapped(f"{command}: {method}", width))
    print_lines(wrapped(", ".join(f"{name} {value}" for name, value in machine.items() if value != ""), width))
    part = ""
    for row in rows:
        columns = bench_columns(row["part"])
        if row["part"] != part:
            part = row["part"]
            print()
            print_table(columns, [])
        print_table(columns, [bench_row(row)], has_header=False)


def bench_columns(part: str) -> list[Column]:
    """Return columns of fixed widths, so that rows can be printed before the next ones are known."""
    extra = ("layers", "GEMM", "arithmetic") if part == "training" else ("", "", "")
    return [
        Column(part, least=17, width=29),
        Column("charlm", is_number=True, width=11),
        Column("beside", is_number=True, rank=2, width=11),
        Column("", rank=3, width=12),
        Column("ratio", is_number=True, rank=1, width=6),
        Column(extra[0], is_number=True, rank=4, width=6),
        Column(extra[1], is_number=True, rank=5, width=5),
        Column(extra[2], rank=6, width=18),
    ]


def bench_row(row: dict[str, Any]) -> list[str]:
    """Return the cells of a result."""
    return [
        row["name"],
        _figure(row["charlm"]),
        "" if row["beside"] is None else _figure(row["beside"]),
        row["unit"],
        "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        "" if row["layers_ratio"] is None else f"{row['layers_ratio']:.2f}",
        "" if row["gemm_share"] is None else f"{row['gemm_share']:.0%}",
        row["arithmetic"] or "",
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
