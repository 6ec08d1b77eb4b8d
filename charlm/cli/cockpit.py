"""The screen of a run that trains: how far it is, its curves, what it writes now, and what to make of it.

Everything here is laid out from figures, for a number of columns and rows; it knows no terminal and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.text import Text

from charlm.cli.curves import BLOCKS, scale_of
from charlm.cli.layout import GAP, cells_of, wrapped
from charlm.cli.shades import SEQUENTIAL, Style, shaded_lines
from charlm.errors import one_line
from charlm.evaluation.compare import is_number
from charlm.training.events import Baseline, Record

BAR, LINE = "\u2501", "\u2500"
# In place of the blocks, the bar and the line on a terminal without Unicode.
ASCII = str.maketrans({**dict(zip(BLOCKS, ".:-=+*%#", strict=True)), BAR: "=", LINE: "-"})
LEVELS = len(BLOCKS)
# A character of so many bits or more has the last shade, as in `charlm score`.
MAX_BITS = 9
LONGEST_SAMPLE_LINE = 100
MIN_CHART, MAX_CHART = 1, 12
MIN_SAMPLE, MAX_SAMPLE = 2, 8
# Columns in front of a chart for the figures of its scale, and from how many on there is room for them.
SCALE_WIDTH, LEAST_WIDTH_WITH_SCALE = 5, 30
TRAIN, VALIDATION, COUNTS = "cyan", "green", "magenta"


class Point(NamedTuple):
    """The figures of a record that are drawn."""

    step: int
    seconds: float
    train: float | None
    validation: float | None

    @classmethod
    def of_record(cls, record: Record) -> Point:
        """Return those of an event."""
        figures = record.train_bits_per_character, record.validation_bits_per_character
        return cls(record.step, record.seconds, *figures)

    @classmethod
    def of_line(cls, line: dict[str, Any]) -> Point:
        """Return those of a line of `metrics.jsonl`, which is untrusted."""

        def bits(prefix: str) -> float | None:
            found = (value for name, value in line.items() if name.startswith(prefix) and is_number(value))
            return next(found, None)

        return cls(line["step"], line["seconds"], bits("train_bits_per_"), bits("validation_bits_per_"))


@dataclass
class View:
    """What the screen of a run shows.

    Attributes:
        title: the run and its model.
        unit: `character` or `byte`.
        per: what the bits are counted for: the unit, or what a model of both sides predicts.
        shows: whether the terminal can show a text.
        shades: the shades of the sample.
        share: how much of the run is done, from 0 to 1.
        budget: how much of what ends the run is done: `0:26 of 1:00` or `step 120 of 2,000`.
        left: how long the rest will take; empty if that is not known.
        activity: what is done apart from learning, and how far that is.
        notice: what the user has to know now.
        points: the run so far, also from before it was resumed.
        record: the last record.
        written: the last record with a sample.
        baseline: the model of counts to beat.
        judgement: what to make of the curves, in a sentence.
    """

    title: str
    unit: str
    per: str
    shows: Callable[[str], bool]
    shades: Style
    share: float = 0.0
    budget: str = ""
    left: str = ""
    activity: str = ""
    notice: str = ""
    points: list[Point] = field(default_factory=list)
    record: Record | None = None
    written: Record | None = None
    baseline: Baseline | None = None
    judgement: str = ""

    @property
    def best(self) -> Point | None:
        """The best validation."""
        found = [point for point in self.points if point.validation is not None]
        return min(found, key=lambda point: point.validation or 0.0, default=None)


def clock_text(seconds: float) -> str:
    """Return seconds as minutes and seconds, with hours if there are any: `0:08`, `1:02:03`; or as many days."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24:,} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def cockpit_lines(view: View, columns: int, rows: int) -> list[Text]:
    """Lay out the screen.

    Args:
        view: what it shows.
        columns: the most cells of a line.
        rows: the most lines; the charts and the sample take what the figures leave.
    """
    top = [*_progress(view, columns), *_figures(view, columns)]
    bottom = [*_sentences(view.judgement, columns, "bold"), *_sentences(view.notice, columns, "bold reverse")]
    around = [*_comparisons(view, columns)]
    sample = _sample(view, columns)
    room = rows - len(top) - len(bottom) - len(around)
    num_gaps = 3 if room >= 12 else 0
    num_sample = min(len(sample), max(min(MIN_SAMPLE + 1, room - 3), room - num_gaps - 1 - MAX_CHART, 0))
    num_sample = num_sample if num_sample > 1 else 0
    num_chart = min(max(room - num_gaps - num_sample - 1, MIN_CHART), MAX_CHART)
    charts = _charts(view, columns, num_chart)
    gap = [Text()] if num_gaps else []
    sections = [top, [*charts, *around], sample[:num_sample], bottom]
    lines = [line for section in sections if section for line in [*gap, *section]][len(gap) :]
    for line in lines:
        line.truncate(columns)
    # On a terminal that is too low the judgement and the notice stay.
    return lines if len(lines) <= rows else [*lines[: max(rows - len(bottom), 0)], *bottom][:rows]


def _progress(view: View, columns: int) -> list[Text]:
    """Return the title, and a bar with how far the run is."""
    facts = f"{view.share:4.0%}  {view.budget}{f', {view.left} left' if view.left else ''}"
    width = max(min(columns - cells_of(facts) - len(GAP), 60), 0)
    done = round(width * view.share)
    bar = Text()
    if width >= 8:
        bar.append(BAR * done, "green").append(BAR * (width - done), "bright_black").append(GAP)
    bar.append(facts if width >= 8 else facts.strip(), "bold")
    title = Text()
    title.append(one_line(view.title), "bold")
    return [title, _shown(bar, view)]


def _figures(view: View, columns: int) -> list[Text]:
    """Return the step, the pace, the learning rate and the norm of the gradient, in as many lines as they need."""
    record = view.record
    if record is None:
        items = [("", view.activity or "the first figures are on their way")]
    else:
        items = [
            ("step", f"{record.step:,}"),
            ("epoch", f"{record.epoch:.2f}"),
            (f"{view.unit}s/s", f"{record.characters_per_second:,.0f}"),
            ("rate", f"{record.learning_rate:.2g}"),
            *([] if record.gradient_norm is None else [("gradient", f"{record.gradient_norm:.3g}")]),
            *([("skipped", f"{record.skipped:,}")] if record.skipped else []),
            *([("", view.activity)] if view.activity else []),
        ]
    lines: list[Text] = []
    for name, value in items:
        item = Text()
        item.append(f"{name} " if name else "", "dim").append(value)
        if lines and lines[-1].cell_len + len(GAP) + item.cell_len <= columns:
            lines[-1].append(GAP).append_text(item)
        else:
            lines.append(item)
    return lines


def _charts(view: View, columns: int, rows: int) -> list[Text]:
    """Return the curves of training and validation side by side, on one scale, with a heading each."""
    curves = [
        (name, style, [(point.step, bits) for point in view.points if (bits := point[index]) is not None])
        for name, style, index in (("train", TRAIN, 2), ("validation", VALIDATION, 3))
    ]
    curves = [curve for curve in curves if curve[2]]
    if not curves:
        return []
    line = view.baseline.bits_per_character if view.baseline else None
    low, high = scale_of([[bits for _, bits in points] for _, _, points in curves], [True] * len(curves))
    low, high = min(low, low if line is None else line), max(high, low if line is None else line)
    width = (columns - 2 * len(GAP)) // len(curves) if len(curves) > 1 else columns
    charts = [_chart(points, width, rows, (low, high), line, style, view) for _, style, points in curves]
    headings = [_heading(name, points[-1][1], width, style) for name, style, points in curves]
    space = " " * 2 * len(GAP)
    return [Text(space).join(parts) for parts in zip(*([heading, *chart] for heading, chart in zip(headings, charts, strict=True)), strict=True)]


def _heading(name: str, bits: float, width: int, style: str) -> Text:
    heading = Text()
    short = name if len(name) + 6 <= width else name[:5]
    heading.append(f"{short} ", "dim").append(f"{bits:.3f}", f"bold {style}")
    heading.pad_right(max(width - heading.cell_len, 0))
    return heading


def _chart(
    points: Sequence[tuple[int, float]],
    width: int,
    rows: int,
    scale: tuple[float, float],
    line: float | None,
    style: str,
    view: View,
) -> list[Text]:
    """Return a curve over the steps so far, as columns of blocks, with the line of the baseline."""
    import numpy as np

    margin = SCALE_WIDTH if width >= LEAST_WIDTH_WITH_SCALE and rows > 1 else 0
    (low, high), num_columns = scale, (width - margin if len(points) > 1 else 1)
    steps, bits = zip(*points, strict=True)
    values = np.interp(np.linspace(steps[0], steps[-1], num_columns), steps, bits)
    most = rows * LEVELS

    def level(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 1.0
        return 1 + round(min(max(share, 0.0), 1.0) * (most - 1))

    levels = [level(value) for value in values.tolist()]
    line_row = -1 if line is None or rows == 1 else (level(line) - 1) // LEVELS
    lines = []
    for row in reversed(range(rows)):
        drawn = Text()
        figure = high if row == rows - 1 else low if row == 0 else None
        drawn.append(f"{'' if figure is None else f'{figure:.2f}':>{SCALE_WIDTH - 1}} " if margin else "", "dim")
        for text, kind in _runs(levels, row, width - margin, is_line=row == line_row):
            drawn.append(text, {"curve": style, "line": COUNTS, "both": f"{COUNTS} on {style}", "": ""}[kind])
        lines.append(_shown(drawn, view))
    return lines


def _runs(levels: Sequence[int], row: int, width: int, is_line: bool) -> list[tuple[str, str]]:
    """Return a row of a chart as texts of one kind each: of the curve, of the line, or of both."""
    runs: list[tuple[str, str]] = []
    for column in range(width):
        height = min(max((levels[column] if column < len(levels) else 0) - row * LEVELS, 0), LEVELS)
        if is_line and height in (0, LEVELS):
            character, kind = LINE, "both" if height else "line"
        else:
            character, kind = (BLOCKS[height - 1], "curve") if height else (" ", "")
        if runs and runs[-1][1] == kind:
            runs[-1] = (runs[-1][0] + character, kind)
        else:
            runs.append((character, kind))
    return runs


def _comparisons(view: View, columns: int) -> list[Text]:
    """Return the best validation with its time, and how it compares with the model of counts."""
    best, baseline = view.best, view.baseline
    items: list[Text] = []
    if best and best.validation is not None:
        item = Text()
        item.append("best ", "dim").append(f"{best.validation:.3f}", f"bold {VALIDATION}")
        items.append(item.append(f" at step {best.step:,}, {clock_text(best.seconds)}"))
    if baseline:
        item = Text()
        item.append(f"{LINE}{LINE} ", COUNTS).append(f"{baseline.name} ", "dim")
        item.append(f"{baseline.bits_per_character:.3f}", f"bold {COUNTS}")
        if best and best.validation is not None:
            lead = baseline.bits_per_character - best.validation
            item.append(f", beaten by {lead:.3f}" if lead > 0 else f", {-lead:.3f} to go")
        items.append(_shown(item, view))
    if items and sum(item.cell_len for item in items) + 2 * len(GAP) <= columns:
        items = [Text(" " * 2 * len(GAP)).join(items)]
    if view.points:
        legend = f"bits per {view.per}, lower is better"
        if items and items[-1].cell_len + 2 * len(GAP) + cells_of(legend) <= columns:
            items[-1].append(" " * 2 * len(GAP)).append(legend, "dim")
    return items


def _sample(view: View, columns: int) -> list[Text]:
    """Return what the model wrote last, on backgrounds by the bits of each character, below a heading."""
    record = view.written
    if record is None or not record.sample:
        return []
    bits = record.sample_bits or ()
    shades = [number / MAX_BITS for number in bits] if len(bits) == len(record.sample) else [0.0] * len(record.sample)
    shown = (character if view.shows(character) else ascii(character)[1:-1] for character in record.sample)
    width = min(columns, LONGEST_SAMPLE_LINE)
    lines = shaded_lines(list(zip(shown, shades, strict=True)), width, view.shades)
    heading = Text()
    heading.append(f"it writes, at step {record.step:,}; lighter: less expected", "dim")
    # Without colours, every second line has marks.
    return [heading, *map(Text.from_ansi, lines[:MAX_SAMPLE] if view.shades.num_colours else lines[: 2 * MAX_SAMPLE : 2])]


def _sentences(text: str, columns: int, style: str) -> list[Text]:
    lines = []
    for line in wrapped(text, columns) if text else []:
        drawn = Text()
        lines.append(drawn.append(line, style))
    return lines


def _shown(text: Text, view: View) -> Text:
    """Return a text without Unicode if the terminal cannot show it."""
    if not view.shows(BLOCKS + BAR + LINE):
        text.plain = text.plain.translate(ASCII)
    return text
