"""Runs side by side: what each is, how fast it was, how well it predicted after equal time and equal steps.

Reads run folders and model files; never imports torch, and trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.errors import ModelFileError, RunError
from charlm.files import expanded
from charlm.run_folder import KEPT_FOLDER, RUNS_FOLDER, RunFolder, best_in, did_you_mean_run

MAX_METRICS_BYTES = 1 << 28
# A record with a larger number is damaged or false.
LARGEST = 1e15


@dataclass(frozen=True)
class Figures:
    """The results of one run, or of one model file.

    Attributes:
        run: its folder or file.
        cell: the cell of its model, with layers, units and direction.
        parameters: of its model.
        characters_per_second: median of its records.
        seconds: how long it trained.
        steps: how many steps it trained.
        finished: whether it was neither interrupted nor is still running.
        at_equal_time: validation in bits per character at the time when the shortest finished run of its group ended.
        at_equal_steps: the same at the last step that all finished runs of its group reached.
        best: of the best model, on the whole held-out text or a sample spread over it; of a model that was kept on the
            way, what its run had at that step.
        net: the same of the net alone, if the best model also has n-grams; the curve and the columns at equal time and
            at equal steps are of the net alone.
        curve: step, seconds and bits of each validation during training.
    """

    run: str
    cell: str
    parameters: int
    characters_per_second: float | None
    seconds: float
    steps: int
    finished: bool
    at_equal_time: float | None
    at_equal_steps: float | None
    best: float | None
    net: float | None
    curve: list[tuple[int, float, float]]


@dataclass(frozen=True)
class Group:
    """Runs whose figures can be compared: they predict the same characters from the same side.

    Attributes:
        text: the name of their text.
        sha256: the hash of that text.
        kind: what else they share: symbols, direction, held-out part.
        unit: `character` or `byte`: one symbol.
        per: the unit of the bits, `masked character` if the models see both sides.
        equal_seconds: the time of the column `at_equal_time`.
        equal_steps: the step of the column `at_equal_steps`.
        rows: finished runs, the best one first, then the others.
    """

    text: str
    sha256: str
    kind: str
    unit: str
    per: str
    equal_seconds: float
    equal_steps: int
    rows: list[Figures]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        groups: those that can be compared, together.
        notes: reasons why figures are hard to compare, also between groups.
    """

    groups: list[Group]
    notes: list[str]

    @property
    def rows(self) -> list[Figures]:
        """The runs of all groups."""
        return [row for group in self.groups for row in group.rows]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; what a group shares is also given for the first one alone."""
        groups = [asdict(group) for group in self.groups]
        rows = [row for group in groups for row in group["rows"]]
        first = {name: groups[0][name] for name in ("equal_seconds", "equal_steps", "unit", "per")}
        named = [group | {"rows": [row["run"] for row in group["rows"]]} for group in groups]
        return {"rows": rows, **first, "notes": self.notes, "groups": named}


@dataclass(frozen=True)
class ReadRun:
    """A run, or a model file, as it is on disk.

    Attributes:
        name: its path, as it was given.
        model: its best model.
        records: the lines of its `metrics.jsonl`, by step.
        seconds: how long it trained.
        steps: how many steps it trained.
        is_finished: whether it was neither interrupted nor is still running.
        is_file: whether the model is neither the best nor the last one of a run.
    """

    name: str
    model: ModelFile
    records: list[dict[str, Any]]
    seconds: float
    steps: int
    is_finished: bool
    is_file: bool = False

    @property
    def curve(self) -> list[tuple[int, float, float]]:
        """Step, seconds and bits of each validation."""
        found = [(record["step"], record["seconds"], bits_of(record)) for record in self.records]
        return [(int(step), float(seconds), bits) for step, seconds, bits in found if bits is not None]

    def validation_at(self, axis: int, place: float) -> float | None:
        """Return the validation at a step (axis 0) or time (axis 1), interpolated between those before and after it.

        After its last validation a finished run stays what it is; an unfinished one has no figure.
        """
        points = [(point[axis], point[2]) for point in self.curve]
        if not points or place < points[0][0] or (place > points[-1][0] and not self.is_finished):
            return None
        places, validations = zip(*points, strict=True)
        return float(np.interp(place, places, validations))


def compare_runs(paths: Sequence[Path], *, are_named: bool = True) -> Comparison:
    """Put runs side by side, those that can be compared together.

    Args:
        paths: run folders, folders of kept models, or model files.
        are_named: whether someone asked for these, so that notes also say why some are in different groups.

    Raises:
        RunError: a folder holds no run, or cannot be read.
        ModelFileError: a model is damaged.
    """
    members: dict[tuple[Any, ...], list[ReadRun]] = {}
    for run in map(read_run, [model for path in paths for model in models_of(path)]):
        members.setdefault(_key(run.model), []).append(run)
    groups = list(members.values())
    notes = _differences([run for group in groups for run in group])
    if not are_named:
        notes = [f"{_fact(group[0].model, 'name')}: {note}" for group in groups for note in _differences(group)]
    return Comparison([_group(group) for group in groups], notes)


def _group(runs: Sequence[ReadRun]) -> Group:
    # A run that was interrupted early would leave nothing to compare the others at; so would an early model file.
    in_folders = [run for run in runs if not run.is_file] or runs
    whole = [run for run in in_folders if run.is_finished] or in_folders
    seconds, steps = min(run.seconds for run in whole), min(run.steps for run in whole)
    rows = [_figures(run, seconds, steps) for run in runs]
    rows.sort(key=lambda row: (not row.finished, row.best is None, row.best))
    model = runs[0].model
    return Group(
        text=_fact(model, "name"),
        sha256=_fact(model, "sha256"),
        kind=_kind(model),
        unit=model.vocabulary.unit,
        per=model.vocabulary.scored_unit(model.spec.sees_both_sides),
        equal_seconds=seconds,
        equal_steps=steps,
        rows=rows,
    )


def _figures(run: ReadRun, seconds: float, steps: int) -> Figures:
    spec, measured = run.model.spec, bits_of(run.model.metrics)
    names = ("characters_per_second", "bytes_per_second")
    paces = [record[name] for record in run.records for name in names if is_number(record.get(name))]
    return Figures(
        run=run.name,
        cell=f"{spec.cell} {spec.num_layers}x{spec.hidden_size}"
        + ("" if spec.direction == "forward" else f" {spec.direction}"),
        parameters=sum(array.size for array in run.model.weights.values()),
        characters_per_second=median(paces) if paces else None,
        seconds=run.seconds,
        steps=run.steps,
        finished=run.is_finished,
        at_equal_time=run.validation_at(1, seconds),
        at_equal_steps=run.validation_at(0, steps),
        best=run.validation_at(0, run.steps) if measured is None and run.is_file else measured,
        net=bits_of(run.model.metrics, "validation_net_bits_per_"),
        curve=run.curve,
    )


def find_runs() -> list[Path]:
    """Return all runs in the folder `runs`.

    Raises:
        RunError: there are none.
    """
    found = sorted(path for path in Path(RUNS_FOLDER).glob("*") if best_in(path))
    if not found:
        raise RunError(f"there is no run here to compare: `{RUNS_FOLDER}/` holds none", "`charlm train` makes one")
    return found


def _fact(model: ModelFile, name: str) -> str:
    """Return a fact about the text of a model, which is untrusted and may be of any type."""
    value = model.corpus.get(name)
    return value if isinstance(value, str) else ""


def _held_out(model: ModelFile) -> tuple[float | None, float | None, str]:
    """Return which part of the text is held out: its shares, and its blocks, or nothing if it is the end of the text.

    Settings and facts are untrusted, too.
    """
    data = model.config.get("data")
    values = data if isinstance(data, dict) else {}
    fractions = (values.get("validation_fraction"), values.get("test_fraction"))
    validation, test = (fraction if is_number(fraction) else None for fraction in fractions)
    blocks = ""
    with suppress(RecursionError):
        blocks = repr(model.corpus.get("held_out") or "")
    return validation, test, blocks


def learned_part(model: ModelFile) -> tuple[Any, ...]:
    """Return what is equal for models that learned the same part of the same text."""
    return _fact(model, "sha256") or _fact(model, "name"), _held_out(model)


def _kind(model: ModelFile) -> str:
    """Describe what runs on one text must share to be comparable."""
    (validation, _, _), vocabulary, direction = _held_out(model), model.vocabulary, model.spec.direction
    symbols = vocabulary.kind + ("" if vocabulary.filter == "none" else f" ({vocabulary.filter} only)")
    reading = "read from both sides" if direction == "both" else f"read {direction}"
    if not validation:
        return f"{symbols}, {reading}, nothing held out"
    where = " in blocks" if model.corpus.get("held_out") else ""
    return f"{symbols}, {reading}, {100 * validation:.3g}% held out{where}"


def _key(model: ModelFile) -> tuple[Any, ...]:
    """Return what is equal for runs that can be compared."""
    return *learned_part(model), model.vocabulary.kind, model.vocabulary.filter, model.spec.direction


def _differences(runs: Sequence[ReadRun]) -> list[str]:
    """Return the reasons why the figures of these runs do not measure quite the same thing."""

    def differ(values: Sequence[Any]) -> bool:
        return any(value != values[0] for value in values)

    models = [run.model for run in runs]
    directions, both = [model.spec.direction for model in models], [model.spec.sees_both_sides for model in models]
    train = [model.config.get("train") for model in models]
    amounts = [part.get("evaluation_characters") if isinstance(part, dict) else None for part in train]
    reasons = {
        "`best` of a model that was kept on the way is the validation of its run at that step": any(
            run.is_file and bits_of(run.model.metrics) is None and run.curve for run in runs
        ),
        "they learned different texts": differ([model.corpus.get("sha256") for model in models]),
        "they hold out different parts": differ([_held_out(model) for model in models]),
        "they count different symbols": differ([model.vocabulary for model in models]),
        "some see both sides of what they predict": differ(both),
        "some read forward, some backward": differ(directions) and not differ(both),
        "they validated on different amounts on the way": differ(amounts),
        "they ran with another device, precision, torch or threads": differ([model.runtime for model in models]),
    }
    return [reason for reason, holds in reasons.items() if holds]


def models_of(path: Path) -> list[Path]:
    """Return the kept models of a run if this is their folder, or else the path itself."""
    folder = expanded(path)
    if folder.name != KEPT_FOLDER or best_in(folder):
        return [path]
    return [path / file.name for file in RunFolder(folder.parent).kept_models().values()] or [path]


def read_run(path: Path) -> ReadRun:
    """Read a run folder, or a model file.

    Raises:
        RunError: a folder holds no run, or cannot be read.
        ModelFileError: the model is damaged.
    """
    folder = expanded(path)
    if folder.is_file():
        run = RunFolder(folder.parent)
        if folder not in (run.best, run.last):
            return _read_file(path)
        folder = folder.parent
    file = best_in(folder)
    if file is None:
        hint = did_you_mean_run(folder) or "a run folder holds `best.safetensors`"
        raise RunError(f"there is no run in `{path}`", hint)
    model, records = load_checkpoint(file), read_records(RunFolder(folder))
    seconds, steps = _reached([model.metrics, *records])
    # An average or an imported model was not trained: it has no end, and others are not compared at its time and steps.
    is_file = "averaged" in model.metrics or "imported_from" in model.runtime
    is_finished = is_file or _is_finished(RunFolder(folder), model)
    return ReadRun(str(path), model, records, seconds, steps, is_finished, is_file)


def _read_file(path: Path) -> ReadRun:
    """Read a model file that is not the best or the last one of a run, as the run was when it was kept."""
    model, folder = load_checkpoint(expanded(path)), expanded(path).absolute().parent
    seconds, steps = _reached([model.metrics])
    records = read_records(RunFolder(folder.parent)) if folder.name == KEPT_FOLDER else []
    before = [record for record in records if record["step"] <= steps]
    return ReadRun(str(path), model, before, seconds, steps, is_finished=True, is_file=True)


def _reached(ends: Sequence[dict[str, Any]]) -> tuple[float, int]:
    """Return the largest seconds and steps."""
    seconds = max((end["seconds"] for end in ends if is_number(end.get("seconds"))), default=0.0)
    steps = max((end["step"] for end in ends if is_number(end.get("step"))), default=0)
    return float(seconds), int(steps)


def _is_finished(run: RunFolder, best: ModelFile) -> bool:
    """Return whether a run ended by itself: its last model says so, and without one the score of its best model."""
    with suppress(ModelFileError):
        if run.last.is_file():
            return bool(load_checkpoint(run.last).metrics.get("finished"))
    return bits_of(best.metrics) is not None


def read_records(run: RunFolder) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` that have a step and a time, by step; the other values are untrusted.

    Raises:
        RunError: the file cannot be read.
    """
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
            if isinstance(record, dict) and all(is_number(record.get(name)) for name in ("step", "seconds")):
                records.append(record)
    return sorted(records, key=lambda record: record["step"])


def bits_of(values: Mapping[str, Any], prefix: str = "validation_bits_per_") -> float | None:
    """Return the bits of a validation, or of another figure by its prefix, whatever their unit is."""
    found = (value for name, value in values.items() if name.startswith(prefix) and is_number(value))
    return next(found, None)


def is_number(value: Any) -> bool:
    """Return whether a figure of a run, which is untrusted, is a number that may be one."""
    return type(value) in (int, float) and 0 <= value <= LARGEST
