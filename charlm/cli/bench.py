"""The command that measures how fast charlm is on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import typer

from charlm.cli.options import (
    Json,
)
from charlm.cli.render import print_json


def bench(
    only: Annotated[
        Literal["training", "sampling", "texts", "starting"] | None, typer.Option(help="Measure this part alone.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each figure is the median of so many.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure how fast charlm is on this machine.

    Beside torch as one would write it, in turns.

    charlm bench

    charlm bench --only sampling --json
    """
    from charlm.evaluation import bench as benchmark
    from charlm.nn.runtime import Runtime, keep_freed_memory

    # As `charlm train` does it.
    keep_freed_memory()
    runtime = Runtime.choose("auto", "auto", None)
    machine = benchmark.machine(runtime)
    rows = benchmark.rows(runtime, [only] if only else benchmark.PARTS, rounds)
    command = f"charlm bench {f'--only {only} ' if only else ''}--rounds {rounds}"
    if as_json:
        print_json({"machine": machine, "command": command, "rows": [row.to_json() for row in rows]})
    else:
        print_bench(machine, command, (row.to_json() for row in rows))


def print_bench(machine: dict[str, str | int], command: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print figures as they are measured, under what they depend on."""
    print(f"{command}: medians, the first run of each left out; a ratio above 1 is in charlm's favour")
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value != ""))
    part = None
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            of_training = "   layers    GEMM" if part == "training" else ""
            print(f"\n{part:<30}{'charlm':>12}{'beside':>12}  {'':<13}{'ratio':>6}{of_training}")
        beside = "" if row["beside"] is None else _figure(row["beside"])
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        share = ""
        if row["gemm_share"] is not None:
            share = f"{row['layers_ratio']:9.2f}{row['gemm_share']:8.0%}  {row['arithmetic']}"
        line = f"{row['name']:<30}{_figure(row['charlm']):>12}{beside:>12}  {row['unit']:<13}{ratio:>6}{share}"
        print(line.rstrip(), flush=True)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
