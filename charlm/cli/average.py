"""The command that averages the weights of models."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.layout import Column, screen_width, table_lines, wrapped
from charlm.cli.options import Json
from charlm.cli.pages import check_folder
from charlm.cli.progress import ProgressLine
from charlm.cli.render import print_json, print_lines, say, tell_next
from charlm.errors import CharlmError, UsageError, counted, one_line

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.average import Measured, Measurement

ENDING = ".safetensors"
# An average that is worse by more than this is one of models that have nothing in common.
APART_BITS = 0.5


def average(
    models: Annotated[
        list[str],
        typer.Argument(help="Model files, run folders, folders of kept models, or globs: at least two models."),
    ],
    weights: Annotated[
        str | None, typer.Option(help="How much each model counts, as in 1,2,1; by default they count the same.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help=f"A new model file, which ends with {ENDING}, or a new run folder; by default in runs/."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Average the weights of models of one origin.

    They are checkpoints of a run, or copies that were trained further. The average and each model are measured on
    the text that was held out. Models that were trained apart have no useful average: `charlm sample -m A -m B`
    lets them predict together.

    charlm average runs/fables-lstm-1/kept

    charlm average runs/tuned-1 runs/tuned-2 --weights 1,2 --out mean.safetensors
    """
    from charlm.evaluation.average import average_models, with_figures
    from charlm.files import expanded
    from charlm.run_folder import RunFolder

    paths, counts = _paths_of(models), None if weights is None else _numbers(weights)
    _check_out(out)
    found = average_models(paths, counts)
    for note in found.notes:
        say(f"note: {note}")
    file, measurement = found.file, None
    try:
        measurement = _measure(found.file, paths)
        file = with_figures(file, measurement)
    except CharlmError as error:
        say(f"note: nothing is measured: {error}")
    if out and out.suffix == ENDING:
        made = path = expanded(out)
    else:
        run = RunFolder.create(out, "average")
        made, path = run.path, run.best
    file.save(path)
    if as_json:
        averaged = {"model": str(path), "averaged": file.metrics["averaged"]}
        print_json(averaged | {"measured": None if measurement is None else to_json(measurement, file.vocabulary.unit)})
    elif measurement is not None:
        print_lines(measurement_lines(measurement, file.vocabulary.unit, screen_width(sys.stdout)))
    if measurement is not None:
        say(verdict(measurement, file.vocabulary.unit))
    say(f"model {one_line(str(path))}, the average of {counted(len(paths), 'model')}")
    if not as_json and not file.spec.sees_both_sides:
        tell_next(made)


def _paths_of(names: Sequence[str]) -> list[Path]:
    """Return the models that names stand for.

    Raises:
        UsageError: a glob matches no model.
    """
    from charlm.evaluation.compare import models_of
    from charlm.files import expanded
    from charlm.run_folder import is_model

    paths: list[Path] = []
    for name in names:
        if glob.has_magic(name) and not expanded(name).exists():
            found = [Path(match) for match in sorted(glob.glob(str(expanded(name)))) if is_model(match)]
            if not found:
                raise UsageError(f"no model matches `{name}`", "a model is a run folder or one of its model files")
            paths += found
        else:
            paths += models_of(Path(name))
    return paths


def _numbers(weights: str) -> list[float]:
    """Read numbers with commas between them.

    Raises:
        UsageError: one is no number.
    """
    try:
        return [float(weight) for weight in weights.split(",")]
    except ValueError:
        raise UsageError(f"`{weights}` is not a list of numbers", "for example: `--weights 1,2`") from None


def _check_out(out: Path | None) -> None:
    """Refuse a place where something is, before the models are read.

    Raises:
        UsageError: there is something, or no folder for a file, or one that cannot be written to.
    """
    from charlm.files import expanded

    if out is None:
        return
    if expanded(out).exists() or expanded(out).is_symlink():
        raise UsageError(f"`{out}` is there already", "`--out` names another file or folder")
    if out.suffix == ENDING:
        check_folder(out)


def _measure(file: ModelFile, paths: Sequence[Path]) -> Measurement:
    """Score the average and each model, and show on a terminal how far that is."""
    from charlm.evaluation.average import measure_average

    with ProgressLine() as line:
        each = len(paths) + 1
        return measure_average(file, paths, lambda number: line.about(f"of the text, by model {number + 1} of {each}"))


def to_json(measurement: Measurement, unit: str) -> dict[str, Any]:
    """Return the figures as plain values, named by the unit."""
    per = f"bits_per_{unit}"

    def figures(model: Measured) -> dict[str, float | str]:
        return {"model": model.name, per: model.bits, f"net_{per}": model.net_bits}

    return {
        "corpus": measurement.text,
        f"{unit}s": measurement.characters,
        "average": figures(measurement.average),
        "models": [figures(member) for member in measurement.members],
    }


def measurement_lines(measurement: Measurement, unit: str, width: int | None) -> list[str]:
    """Lay out the average and its models side by side, the best one first."""
    rows = sorted([measurement.average, *measurement.members], key=lambda row: row.bits)
    has_nets = any(row.bits != row.net_bits for row in rows)
    nets = [Column("its net", is_number=True)] if has_nets else []
    columns = [Column("    bits", is_number=True), *nets, Column("by")]
    cells = [(f"{row.bits:.4f}", *([f"{row.net_bits:.4f}"] if has_nets else []), one_line(row.name)) for row in rows]
    number, total = measurement.characters, counted(measurement.total, unit)
    scored = total if number == measurement.total else f"{number:,} of {total}"
    head = f"{one_line(measurement.text)}, {scored}, in bits per {unit}; lower is better"
    return [*wrapped(head, width), *table_lines(columns, cells, width)]


def verdict(measurement: Measurement, unit: str) -> str:
    """Say whether the average is better than the best of its models."""
    average, best = measurement.average, measurement.best
    gain = round(best.net_bits - average.net_bits, 4)
    net_of = "the net of " if average.bits != average.net_bits or best.bits != best.net_bits else ""
    if gain > 0:
        return f"{net_of}the average needs {gain:.4f} bits per {unit} fewer than {net_of}the best, `{best.name}`"
    if not gain:
        return f"{net_of}the average is as good as {net_of}the best, `{best.name}`"
    text = f"warning: {net_of}the average needs {-gain:.4f} bits per {unit} more than {net_of}`{best.name}`"
    if -gain > APART_BITS:
        text += "; models that were trained apart have no useful average"
    return text
