"""The command that measures how fast charlm is on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm.cli.options import Json
from charlm.cli.render import plain_table, print_json, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from charlm.nn.model import CharModel
    from charlm.nn.runtime import Runtime
    from charlm.training.optimizer import Optimizer


def bench(
    only: Annotated[
        Literal["training", "sampling", "texts", "starting"] | None, typer.Option(help="Measure only this part.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each figure is the median of this many measurements.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure how fast charlm is on this machine.

    Charlm and plain torch take turns, so that both meet the same machine.

    charlm bench

    charlm bench --only sampling --json
    """
    from charlm.training.load_torch import load_torch

    load_torch()
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
    from charlm.config import TrainConfig
    from charlm.training.optimizer import Optimizer

    return Optimizer(model, TrainConfig(), runtime.dtype)


def print_bench(machine: dict[str, str | int], command: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print the machine, and the results one by one, as soon as each is measured."""
    print(f"{command}: medians, without the first measurement; a ratio above 1 favours charlm")
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value != ""))
    part = ""
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            print()
            print_table(_bench_table(part))
        table = _bench_table(part, has_header=False)
        table.add_row(
            row["name"],
            _figure(row["charlm"]),
            "" if row["beside"] is None else _figure(row["beside"]),
            row["unit"],
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            "" if row["layers_ratio"] is None else f"{row['layers_ratio']:.2f}",
            "" if row["gemm_share"] is None else f"{row['gemm_share']:.0%}",
            row["arithmetic"] or "",
        )
        print_table(table)


def _bench_table(part: str, has_header: bool = True) -> Table:
    """Make a table of fixed widths, so that rows can be printed before the next ones are known."""
    from rich.table import Column

    extra = ("layers", "GEMM", "arithmetic") if part == "training" else ("", "", "")
    return plain_table(
        Column(part, width=29),
        Column("charlm", width=11, justify="right"),
        Column("beside", width=11, justify="right"),
        Column("", width=12),
        Column("ratio", width=6, justify="right"),
        Column(extra[0], width=6, justify="right"),
        Column(extra[1], width=5, justify="right"),
        Column(extra[2], width=18),
        has_header=has_header,
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
