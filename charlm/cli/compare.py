"""The command that puts runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import (
    Json,
)
from charlm.cli.render import print_json, say


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders; by default all in runs/.")] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side in a table.

    Parameters, speed, and validation after equal time and equal steps.

    charlm compare runs/fables-lstm-1 runs/fables-gru-1
    """
    from charlm.evaluation import compare as comparison

    compared = comparison.compare(runs or comparison.all_runs())
    for note in compared.notes:
        say(f"note: {note}")
    if as_json:
        print_json(compared.to_json())
    else:
        print(compared.to_markdown())
        say(f"validation in bits per {compared.per}; `best` as measured at the end, the others on the beginning")
