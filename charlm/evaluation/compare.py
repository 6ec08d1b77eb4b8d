"""Runs side by side: what each is, how fast it learned, how well it did after equal time and equal steps.

Reads run folders; never imports torch, and trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.errors import RunError, one_line
from charlm.files import expanded
from charlm.run_folder import RUNS_FOLDER, RunFolder, best_in

MAX_METRICS_BYTES = 1 << 28
# Nothing that a run counts or measures comes near.
LARGEST = 1e15


@dataclass(frozen=True)
class Figures:
    """One run.

    Attributes:
        run: its folder.
        cell: its recurrence, with layers and units.
        parameters: how many numbers it learned.
        characters_per_second: median of its records.
        seconds: how long it learned.
        steps: how many blocks.
        at_equal_time: validation in bits per character when the shortest of the runs compared ended.
        at_equal_steps: the same at the last step that all of them reached.
        best: of the best model, on all of the held-out text or a sample spread over it.
    """

    run: str
    cell: str
    parameters: int
    characters_per_second: float | None
    seconds: float
    steps: int
    at_equal_time: float | None
    at_equal_steps: float | None
    best: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        rows: the runs, the best one first; those that are not over, or hold nothing out, come last.
        equal_seconds: after so many seconds all of them are looked at.
        equal_steps: after so many steps.
        unit: what is counted per second.
        per: what the bits are per.
        notes: what makes them hard to compare.
    """

    rows: list[Figures]
    equal_seconds: float
    equal_steps: int
    unit: str
    per: str
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return a table that people can read as it is."""
        head = ["run", "cell", "parameters", f"{self.unit}s/s", "seconds", "steps"]
        head += [f"at {self.equal_seconds:,.1f} s", f"at {self.equal_steps:,} steps", "best"]
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
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        # The first two are words, the others numbers.
        rules = ["-" * width if index < 2 else "-" * (width - 1) + ":" for index, width in enumerate(widths)]

        def line(cells: Sequence[str]) -> str:
            padded = [f"{c:<{w}}" if i < 2 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
            return f"| {' | '.join(padded)} |"

        return "\n".join([line(head), line(rules), *map(line, rows)])


@dataclass(frozen=True)
class _Run:
    name: str
    model: ModelFile
    records: list[dict[str, Any]]
    seconds: float
    steps: int

    def validation_at(self, axis: str, place: float) -> float | None:
        """Return the validation at a place between two of them, on the straight line between these."""
        points = [(record[axis], bits) for record in self.records if (bits := _validation(record)) is not None]
        if not points or place < points[0][0]:
            return None
        places, validations = zip(*points, strict=True)
        return float(np.interp(place, places, validations))


def compare(paths: Sequence[Path]) -> Comparison:
    """Compare runs.

    Raises:
        RunError: a folder holds no run, or nothing of it can be read.
        ModelFileError: its best model is damaged.
    """
    runs = [_read(path) for path in paths]
    seconds, steps = min(run.seconds for run in runs), min(run.steps for run in runs)
    rows = []
    for run in runs:
        spec = run.model.spec
        names = ("characters_per_second", "bytes_per_second")
        paces = [record[name] for record in run.records for name in names if _is_number(record.get(name))]
        rows.append(
            Figures(
                run=run.name,
                cell=f"{spec.cell} {spec.num_layers}x{spec.hidden_size}"
                + ("" if spec.direction == "forward" else f" {spec.direction}"),
                parameters=sum(array.size for array in run.model.weights.values()),
                characters_per_second=median(paces) if paces else None,
                seconds=run.seconds,
                steps=run.steps,
                at_equal_time=run.validation_at("seconds", seconds),
                at_equal_steps=run.validation_at("step", steps),
                best=_validation(run.model.metrics),
            )
        )
    rows.sort(key=lambda row: (row.best is None, row.best))
    unit = runs[0].model.vocabulary.unit
    is_masked = all(run.model.spec.sees_both_sides for run in runs)
    return Comparison(rows, seconds, steps, unit, f"masked {unit}" if is_masked else unit, _differences(runs))


def all_runs() -> list[Path]:
    """Return the runs in the folder that runs are made in.

    Raises:
        RunError: there are none.
    """
    found = sorted(path for path in Path(RUNS_FOLDER).glob("*") if best_in(path))
    if not found:
        raise RunError(f"there is no run here to compare: `{RUNS_FOLDER}/` holds none", "`charlm train` makes one")
    return found


def _differences(runs: Sequence[_Run]) -> list[str]:
    """Return why the figures of these runs are not quite of the same thing."""

    def differ(values: Sequence[Any]) -> bool:
        return any(value != values[0] for value in values)

    models = [run.model for run in runs]
    directions = [model.spec.sees_both_sides for model in models]
    data = [model.config.get("data") for model in models]
    fractions = ("validation_fraction", "test_fraction")
    held_out = [[part.get(name) for name in fractions] if isinstance(part, dict) else None for part in data]
    train = [model.config.get("train") for model in models]
    amounts = [part.get("evaluation_characters") if isinstance(part, dict) else None for part in train]
    reasons = {
        "they learned different texts": differ([model.corpus.get("sha256") for model in models]),
        "they hold out different parts": differ(held_out),
        "they count different symbols": differ([model.vocabulary for model in models]),
        "some see both sides of what they predict": differ(directions),
        "they validated on different amounts on the way": differ(amounts),
        "they ran with another device, precision, torch or threads": differ([model.runtime for model in models]),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _read(path: Path) -> _Run:
    folder = expanded(path)
    if folder.is_file():  # a model file stands for its run
        folder = folder.parent
    file = best_in(folder)
    if file is None:
        raise RunError(f"there is no run in `{path}`", "a run folder holds `best.safetensors`")
    model, records = load_checkpoint(file), _records(RunFolder(folder))
    ends = [model.metrics, *records]
    seconds = max((end["seconds"] for end in ends if _is_number(end.get("seconds"))), default=0.0)
    steps = max((end["step"] for end in ends if _is_number(end.get("step"))), default=0)
    return _Run(str(path), model, records, float(seconds), int(steps))


def _records(run: RunFolder) -> list[dict[str, Any]]:
    """Return the records of a run, without lines that are none."""
    try:
        if not run.metrics.is_file() or run.metrics.stat().st_size > MAX_METRICS_BYTES:
            return []
        lines = run.metrics.read_bytes().splitlines()
    except OSError as error:
        raise RunError(f"`{run.metrics}` cannot be read: {error.strerror or error}") from error
    records = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and all(_is_number(record.get(name)) for name in ("step", "seconds")):
                records.append(record)
    return sorted(records, key=lambda record: record["step"])


def _validation(values: dict[str, Any]) -> float | None:
    """Return the bits of a validation, whatever they are per."""
    found = (value for name, value in values.items() if name.startswith("validation_bits_per_") and _is_number(value))
    return next(found, None)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST
