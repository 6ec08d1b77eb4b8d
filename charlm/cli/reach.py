"""The command that measures how far back models see."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.layout import Column, screen_width, table_lines, wrapped
from charlm.cli.options import CorpusNames, Encoding, Json, Part, SkipUndecodable, Unknown, model_file
from charlm.cli.prediction_table import bar
from charlm.cli.progress import ProgressLine
from charlm.cli.render import print_json, print_lines
from charlm.cli.texts import how_to_read, load_text
from charlm.errors import ModelFileError, UsageError, counted, one_line

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.gradient import GradientSize
    from charlm.evaluation.scored_text import PartName, TextToScore
    from charlm.inference.reach import ChangeEffect, ContextLoss

BAR_WIDTH = 16
NUMBER_WIDTH = 8
# A model is said to see as far as the shortest context that costs so few bits more than the best one.
NEAR_BITS = 0.05
# The mean factor of a step is that of this distance; further back, little is left of the gradient of some cells.
FACTOR_DISTANCE = 64
WHY = (
    "in an rnn by the recurrent matrix and the slope of tanh; in the cell of an lstm by the forget gate alone, which "
    "keeps the gradient where it is near 1; z in a gru can do the same"
)


def reach(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders or model files, put side by side; by default the newest run in runs/."),
    ] = None,
    model: Annotated[
        list[Path] | None, typer.Option("--model", "-m", help="A model file or a run folder; may be repeated.")
    ] = None,
    part: Part = None,
    corpus: CorpusNames = None,
    context: Annotated[int, typer.Option(min=1, max=1 << 16, help="The longest context.")] = 1024,
    targets: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="How many characters to predict, and to replace.")
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Repeats the draw of the characters that replace others.")] = 1,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Also measure how far back the gradient reaches; needs torch.")
    ] = False,
    encoding: Encoding = None,
    skip_undecodable: SkipUndecodable = False,
    unknown: Unknown = "error",
    as_json: Json = False,
) -> None:
    """Measure how far back models see.

    On held-out text: what a character costs when only the 1, 2, 4, ... characters before it were read, and how much
    the prediction moves when the character so far back is replaced.

    charlm reach

    charlm reach runs/fables-lstm-1 runs/fables-rnn-1 --gradient

    charlm reach --corpus another.txt --json
    """
    reading = how_to_read(corpus, encoding, skip_undecodable)
    if gradient:
        from charlm.training.load_torch import load_torch

        load_torch()
    paths: list[Path | None] = [*(runs or ()), *(model or ())]
    files = [load_model(path) for path in paths or [None]]
    command = shlex.join(["charlm", "reach", *map(str, runs or ()), *(f"--model={path}" for path in model or ())])
    texts = load_texts(files, part, corpus, unknown, command, reading)
    with ProgressLine() as line:
        found = [
            measure(str(path or ""), file, text, context, targets, seed, gradient, line)
            for path, file, text in zip(paths or [None], files, texts, strict=True)
        ]
    if as_json:
        models = [each.to_json() for each in found]
        print_json({"corpus": texts[0].name, "unit": files[0].vocabulary.unit, "seed": seed, "models": models})
    else:
        print_lines(reach_lines(found, texts[0].name, screen_width(sys.stdout)))


@dataclass(frozen=True)
class Reach:
    """The results for a model.

    Attributes:
        name: how it was named on the command line; empty for the newest run.
        file: the model.
        losses: its loss by length of context.
        changes: the effect of a changed character.
        gradient: the size of the gradient; None if it was not measured.
    """

    name: str
    file: ModelFile
    losses: list[ContextLoss]
    changes: list[ChangeEffect]
    gradient: list[GradientSize] | None

    @property
    def reach(self) -> int:
        """The shortest context that costs the net hardly more than any other one."""
        bits = {row.context: net_bits(row) for row in self.losses if row.context}
        least = min(bits.values())
        return next(context for context, cost in bits.items() if cost < least + NEAR_BITS)

    @property
    def step_factor(self) -> float | None:
        """By how much a step further back multiplies the gradient on average."""
        far = [row for row in self.gradient or () if 1 < row.distance <= FACTOR_DISTANCE]
        return far[-1].relative ** (1 / (far[-1].distance - 1)) if far else None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, named by the units of the vocabulary."""
        spec, in_units = self.file.spec, self.file.vocabulary.in_units
        return {
            "model": self.name or None,
            "cell": spec.cell,
            "num_layers": spec.num_layers,
            "hidden_size": spec.hidden_size,
            "parameters": spec.num_parameters,
            "reach": self.reach,
            "contexts": [in_units(row.to_json()) for row in self.losses],
            "changes": [in_units(row.to_json()) for row in self.changes],
            "gradient": None if self.gradient is None else [row.to_json() for row in self.gradient],
            "gradient_factor_per_step": self.step_factor,
        }


def load_model(path: Path | None) -> ModelFile:
    """Load a model that reads in one direction.

    Raises:
        UsageError: it reads from both sides.
        ModelFileError: there is no model, or its file is damaged.
    """
    try:
        file = model_file(path)
    except ModelFileError as error:
        # A text is easily given in place of a model.
        if path is not None and path.suffix != ".safetensors" and path.is_file():
            raise ModelFileError(str(error), f"`--corpus {shlex.quote(str(path))}` reads it as a text") from error
        if path is not None and " " in path.name and not os.path.lexists(path):
            hint = "a text comes from a file, `--corpus FILE`, or from standard input, `--corpus -`"
            raise ModelFileError(str(error), hint) from error
        raise
    if file.spec.sees_both_sides:
        hint = "`charlm eval` measures it; this command is for models that read in one direction"
        raise UsageError("this model reads from both sides: all of a text is its context", hint)
    return file


def load_texts(
    files: Sequence[ModelFile],
    part: PartName | None,
    corpus: list[str] | None,
    unknown: str,
    command: str,
    reading: dict[str, Any],
) -> list[TextToScore]:
    """Read the text for each model, all of which must read the same characters.

    Raises:
        UsageError: they do not.
    """
    is_own = part is not None or not corpus
    texts: list[TextToScore] = []
    for file in files:
        earlier = [text for other, text in zip(files, texts, strict=False) if _read_alike(other, file, is_own)]
        if texts and not earlier and "-" in (corpus or ()):
            what = "these models differ in what they know of a text, and standard input is read once"
            raise UsageError(what, "`--corpus FILE` is read for each of them")
        texts += earlier[:1] or [load_text(file, part, corpus, unknown, command, reading)]
    read = {
        (
            file.vocabulary.kind,
            file.spec.is_backward,
            str(text.ids.bounds_S2.tolist()),
            str(file.corpus.get("sha256")) if is_own else "",
        )
        for file, text in zip(files, texts, strict=True)
    }
    if len(read) > 1:
        hint = "models of one direction and kind of vocabulary can be compared"
        hint += " on any text: `--corpus FILE` names it" if is_own else " if they know the same characters of the text"
        raise UsageError("these models do not read the same characters in the same order", hint)
    return texts


def _read_alike(one: ModelFile, other: ModelFile, is_own: bool) -> bool:
    """Return whether two models read the same ids, of any text or of the text that they learned."""
    own = [(file.config.get("data"), file.corpus, file.base) for file in (one, other)]
    return one.vocabulary == other.vocabulary and (not is_own or own[0] == own[1])


def measure(
    name: str,
    file: ModelFile,
    text: TextToScore,
    context: int,
    targets: int,
    seed: int,
    with_gradient: bool,
    line: ProgressLine,
) -> Reach:
    """Measure how far back a model sees in a text."""
    from charlm.inference.reach import change_effect, loss_by_context
    from charlm.inference.stepper import Stepper

    stepper, stretches, of_model = Stepper(file), text.ids.stretches, f" of {one_line(name)}" if name else ""
    losses = loss_by_context(stepper, stretches, context, targets, line.about(f"of the contexts{of_model}"))
    listener = line.about(f"of the changes{of_model}")
    changes = change_effect(stepper, stretches, num_changes=targets, seed=seed, progress=listener)
    gradient = None
    if with_gradient:
        from charlm.evaluation.gradient import gradient_by_distance
        from charlm.nn.runtime import use_threads

        use_threads()
        gradient = gradient_by_distance(file, stretches, progress=line.about(f"of the gradients{of_model}"))
    return Reach(name, file, losses, changes, gradient)


def net_bits(row: ContextLoss | ChangeEffect) -> float:
    """Return the figure of the net."""
    return row.bits if row.net_bits is None else row.net_bits


def reach_lines(found: Sequence[Reach], text: str, width: int | None) -> list[str]:
    """Lay out the results: one table of a single model, or a table of each measurement with a column for each model."""
    first, names = found[0], names_of(found, width)
    unit = first.file.vocabulary.unit
    side = "after" if first.file.spec.is_backward else "before"
    number = counted(first.losses[0].characters, unit)
    lines = [line for name, each in zip(names, found, strict=True) for line in wrapped(about(name, each), width)]
    lines += wrapped(f"{one_line(text)}: {number}; distances in {unit}s {side} each", width)
    lines += [""]
    tables = single_table(first, width) if len(found) == 1 else side_by_side(found, names, width)
    # A narrow terminal has not all columns.
    about_figures = [
        each for each in figures_explained(found, side) if any(each.partition(":")[0] in t for t in tables)
    ]
    texts = [*about_figures, "", *conclusions(found, names)]
    return [*lines, *tables, "", *(line for text in texts for line in wrapped(text, width))]


def names_of(found: Sequence[Reach], width: int | None) -> list[str]:
    """Return a short name for each model: its cell, or its number if cells are the same or too long for a table."""
    cells = [each.file.spec.cell for each in found]
    columns = [Column("distance"), *(Column(cell, width=NUMBER_WIDTH) for cell in cells)]
    (line,) = table_lines(columns, [])
    if len(set(cells)) == len(cells) and (width is None or len(line) <= width):
        return cells
    return [f"{number}" for number in range(1, len(found) + 1)]


def about(name: str, found: Reach) -> str:
    """Return a line about a model."""
    spec = found.file.spec
    size = f"{counted(spec.num_layers, 'layer')} of {counted(spec.hidden_size, 'unit')}"
    cell = "" if name == spec.cell else f"{spec.cell}, "
    ngrams = ", with n-grams" if found.losses[0].net_bits is not None else ""
    where = f"{one_line(found.name)}, " if found.name else ""
    return f"{name}: {where}{cell}{size}, {counted(spec.num_parameters, 'parameter')}{ngrams}"


def single_table(found: Reach, width: int | None) -> list[str]:
    """Lay out all measurements of a model, a row for each distance."""
    has_ngrams = found.losses[0].net_bits is not None
    losses = {row.context: row for row in found.losses}
    changes: dict[int | None, ChangeEffect] = {row.distance: row for row in found.changes}
    gradient: dict[int | None, GradientSize] = {row.distance: row for row in found.gradient or ()}
    highest = max(map(net_bits, found.losses))
    columns = [
        Column("distance", is_number=True),
        Column("bits", is_number=True),
        *([Column("its net", is_number=True, rank=1)] if has_ngrams else []),
        Column("", rank=4, width=BAR_WIDTH),
        Column("change", is_number=True),
        Column("state", is_number=True, rank=3),
        *([Column("gradient", is_number=True)] if gradient else []),
    ]
    rows = []
    for distance in sorted({*losses, *changes, *gradient}, key=lambda each: (each is None, each)):
        loss, change, size = losses.get(distance), changes.get(distance), gradient.get(distance)
        rows.append(
            [
                named(distance),
                f"{loss.bits:.4f}" if loss else "",
                *([f"{net_bits(loss):.4f}" if loss else ""] if has_ngrams else []),
                bar(net_bits(loss) / highest if highest else 0.0, BAR_WIDTH) if loss else "",
                f"{net_bits(change):.4f}" if change else "",
                f"{change.state_share:.1%}" if change else "",
                *([small(size.relative) if size else ""] if gradient else []),
            ]
        )
    return table_lines(columns, rows, width)


def side_by_side(found: Sequence[Reach], names: Sequence[str], width: int | None) -> list[str]:
    """Lay out a table for each measurement, with a column for each model."""
    tables: list[tuple[str, list[list[tuple[int | None, str]]]]] = [
        ("bits of the net", [[(row.context, f"{net_bits(row):.4f}") for row in each.losses] for each in found]),
        (
            "bits of net and n-grams together",
            [[(row.context, f"{row.bits:.4f}") for row in each.losses if row.net_bits is not None] for each in found],
        ),
        ("change", [[(row.distance, f"{net_bits(row):.4f}") for row in each.changes] for each in found]),
        ("state", [[(row.distance, f"{row.state_share:.1%}") for row in each.changes] for each in found]),
        ("gradient", [[(row.distance, small(row.relative)) for row in each.gradient or ()] for each in found]),
    ]
    lines: list[str] = []
    for title, models in tables:
        of_models = [dict(cells) for cells in models]
        distances = [distance for distance, _ in max(models, key=len)]
        if distances:
            columns = [
                Column("distance", is_number=True),
                *(Column(name, is_number=True, width=NUMBER_WIDTH) for name in names),
            ]
            rows = [[named(each), *(cells.get(each, "-") for cells in of_models)] for each in distances]
            lines += ["", title, *table_lines(columns, rows, width)]
    return lines[1:]


def figures_explained(found: Sequence[Reach], side: str) -> list[str]:
    """Explain each figure, by its name in the tables."""
    unit = found[0].file.vocabulary.unit
    return [
        f"bits: the cost of a {unit} if only so many {unit}s {side} it were read",
        "its net: the same without the n-grams",
        f"change: bits by which the net's prediction moves if another {unit} is there (KL divergence)",
        "state: the share of the difference between both states that is left",
        "gradient: of the net's loss, at the input so far away; 1 is the nearest",
    ]


def conclusions(found: Sequence[Reach], names: Sequence[str]) -> list[str]:
    """Say what the figures show."""

    def of_each(figures: Sequence[str]) -> str:
        marked = [f"{figure} ({name})" for name, figure in zip(names, figures, strict=True)]
        return ", ".join(figures if len(found) == 1 else marked)

    reaches = of_each([f"{each.reach:,}" for each in found])
    lines = [f"contexts longer than {reaches} gain the net less than {NEAR_BITS} bits"]
    factors = [each.step_factor for each in found]
    if known := [f"{factor:.3f}" for factor in factors if factor is not None]:
        lines.append(f"a step multiplies the gradient by {of_each(known)} on average: {WHY}")
    return lines


def named(distance: int | None) -> str:
    """Return the name of a distance."""
    return "all" if distance is None else f"{distance:,}"


def small(value: float) -> str:
    """Return a number that may be very small."""
    return f"{value:.4f}" if value >= 5e-4 or not value else f"{value:.0e}"
