"""`charlm bench --distributed`: what several processes gain here, and what would limit them on GPUs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import typer

from charlm.cli.layout import Column, screen_width, wrapped
from charlm.cli.render import print_json, print_lines, print_table
from charlm.machine import process_place

# Started if nobody else has started several processes.
PROCESSES = 2


def bench_distributed(rounds: int, as_json: bool) -> None:
    """Measure in the processes of torchrun; without one, start it with two processes."""
    if process_place().size == 1:
        options = ["--rounds", str(rounds), *(["--json"] if as_json else [])]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
        done = subprocess.run([*launcher, "-m", "charlm", "bench", "--distributed", *options], check=False)
        raise typer.Exit(done.returncode)
    from charlm.nn.runtime import keep_freed_memory
    from charlm.training.distributed import join
    from charlm.training.scaling import LINKS, SIZES, estimate, measure_scaling, pays_from

    keep_freed_memory()
    with join() as world:
        rows = [measure_scaling(world, rounds, units).to_json() for units in SIZES]
    block = {"block_characters": 64 * 64, "block_size": 64}
    estimates = [estimate(link, row["parameters"], **block) | {"units": row["units"]} for link in LINKS for row in rows]
    pays = {link.name: pays_from(link, **block) for link in LINKS}
    if as_json:
        print_json({"processes": world.size, "rows": rows, "estimates": estimates, "pays_from_units": pays})
    else:
        _print(world.size, rows, estimates, pays)


def _print(processes: int, rows: list[dict[str, Any]], estimates: list[dict[str, Any]], pays: dict[str, Any]) -> None:
    width = screen_width(sys.stdout)
    heading = (
        f"{processes} processes share blocks of 64 x 64 characters; milliseconds a block, medians. "
        "share: the work of a process without the exchange of gradients"
    )
    print_lines(wrapped(heading, width))
    names = ["lstm", "alone", "together", "share", "all-reduce", "speed"]
    table = [
        [
            f"1x{row['units']}",
            *(f"{1e3 * row[name]:,.1f}" for name in ("alone", "together", "share", "exchange")),
            f"{row['speed_up']:.2f}",
        ]
        for row in rows
    ]
    print_table([Column(name, is_number=index > 0) for index, name in enumerate(names)], table)
    print()
    print_lines(wrapped("By the arithmetic of docs/distributed.md, for GPUs that were not measured:", width))
    for found in estimates:
        line = (
            f"1x{found['units']} on {found['machine']}: {found['speed_up']:.2f} times as fast as on one; "
            f"{found['gradient_bytes'] / 1e6:,.1f} MB of gradients; the limit is {found['limit']}"
        )
        print_lines(wrapped(line, width, "  "))
    for name, units in pays.items():
        line = f"{name} are twice as fast as one from " + (f"1x{units:,} on" if units else "no size on")
        print_lines(wrapped(line, width, "  "))
