"""Runs side by side: what each is, how fast it was, how well it predicted after equal time and equal steps.

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
from charlm.errors import RunError
from charlm.files import expanded
from charlm.run_folder import RUNS_FOLDER, RunFolder, best_in

MAX_METRICS_BYTES = 1 << 28
# Larger numbers in a record are not believable.
LARGEST = 1e15


@dataclass(frozen=True)
class Figures:
    """The results of one run.

    Attributes:
        run: its folder.
        cell: the cell of its model, with layers, units and direction.
        parameters: of its model.
        characters_per_second: median of its records.
        seconds: how long it trained.
        steps: how many steps it trained.
        at_equal_time: validation in bits per character at the time when the shortest of the runs ended.
        at_equal_steps: the same at the last step that all of the runs reached.
        best: of the best model, on the whole held-out text or a sample spread over it.
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
        rows: the runs, the best one first, those without a figure for their best model last.
        equal_seconds: the time of the column `at_equal_time`.
        equal_steps: the step of the column `at_equal_steps`.
        unit: `character` or `byte`: one symbol.
        per: the unit of the bits, `masked character` if all models see both sides.
        notes: reasons why the figures are hard to compare.
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


@dataclass(frozen=True)
class _Run:
    name: str
    model: ModelFile
    records: list[dict[str, Any]]
    seconds: float
    steps: int

    def validation_at(self, axis: str, place: float) -> float | None:
        """Return the validation at a time or step, interpolated between the validations before and after it."""
        points = [(record[axis], bits) for record in self.records if (bits := _validation(record)) is not None]
        if not points or place < points[0][0]:
            return None
        places, validations = zip(*points, strict=True)
        return float(np.interp(place, places, validations))


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Put runs side by side.

    Raises:
        RunError: a folder holds no run, or cannot be read.
        ModelFileError: the best model of a run is damaged.
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
    per = f"masked {unit}" if all(run.model.spec.sees_both_sides for run in runs) else unit
    return Comparison(rows, seconds, steps, unit, per, _differences(runs))


def find_runs() -> list[Path]:
    """Return all runs in the folder `runs`.

    Raises:
        RunError: there are none.
    """
    found = sorted(path for path in Path(RUNS_FOLDER).glob("*") if best_in(path))
    if not found:
        raise RunError(f"there is no run here to compare: `{RUNS_FOLDER}/` holds none", "`charlm train` makes one")
    return found


def _differences(runs: Sequence[_Run]) -> list[str]:
    """Return the reasons why the figures of these runs do not measure quite the same thing."""

    def differ(values: Sequence[Any]) -> bool:
        return any(value != values[0] for value in values)

    models = [run.model for run in runs]
    directions = [model.spec.sees_both_sides for model in models]
    data = [model.config.get("data") for model in models]
    fractions = ("validation_fraction", "test_fraction")
    held_out = [[part.get(name) for name in fractions] if isinstance(part, dict) else None for part in data]
    is_same_text = not differ([model.corpus.get("sha256") for model in models])
    holds_out_other = differ(held_out) or (is_same_text and differ([model.corpus.get("held_out") for model in models]))
    train = [model.config.get("train") for model in models]
    amounts = [part.get("evaluation_characters") if isinstance(part, dict) else None for part in train]
    reasons = {
        "they learned different texts": not is_same_text,
        "they hold out different parts": holds_out_other,
        "they count different symbols": differ([model.vocabulary for model in models]),
        "some see both sides of what they predict": differ(directions),
        "they validated on different amounts on the way": differ(amounts),
        "they ran with another device, precision, torch or threads": differ([model.runtime for model in models]),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _read(path: Path) -> _Run:
    folder = expanded(path)
    if folder.is_file():  # the model file of a run
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
    """Return the valid records of a run."""
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
    """Return the bits of a validation, whatever their unit is."""
    found = (value for name, value in values.items() if name.startswith("validation_bits_per_") and _is_number(value))
    return next(found, None)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= LARGEST
