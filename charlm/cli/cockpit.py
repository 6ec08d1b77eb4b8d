"""The screen of a run that trains: how far it is, its curves, what it writes, and what to make of it.

Everything is laid out from the lines of `metrics.jsonl`, for a number of columns and rows. It knows no terminal and no
model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from rich.text import Text

from charlm.cli.layout import cells_of, clock_text, wrapped
from charlm.cli.plot import ASCII_DASH, COUNTS, DASH, MARGIN, QUIET, Curve, plot_lines
from charlm.cli.run_history import MAX_SAMPLES, History
from charlm.cli.shades import Style, shaded_lines
from charlm.errors import one_line
from charlm.training.events import Baseline

BAR, REST_OF_BAR = "\u2501", "\u2500"
ASCII_BAR, ASCII_REST_OF_BAR = "#", "-"
# Blue and orange are different for everybody, and can be read on dark and on light backgrounds, as grey can.
TRAIN, VALIDATION = QUIET, "color(32)"
STATES = {"falling": "color(29)", "flat": QUIET, "overfitting": COUNTS}
# A character of so many bits or more has the last shade, as in `charlm score`.
MAX_BITS = 9
# From so many columns on, there is room on the right for what the model wrote before.
LEAST_WIDTH_OF_TWO, LEAST_HEIGHT_OF_TWO = 120, 16
LONGEST_SAMPLE_LINE = 76
MEANING_OF_SHADES = "; lighter: less expected"
MIN_PLOT, MIN_SAMPLE = 4, 3
# The rows of the curves that remain on the screen after a run, and their columns.
PLOT_OF_SUMMARY, WIDEST_SUMMARY = 8, 100
SPACE = " " * 3


class Judged(NamedTuple):
    """What to make of the curves: a state, perhaps `unclear`, and a sentence."""

    state: str
    sentence: str


@dataclass
class View:
    """What the screen shows.

    Attributes:
        title: the run, its model, its text.
        unit: `character` or `byte`.
        per: what the bits are counted for: the unit, or what a model that sees both sides predicts.
        of_net: ` of the net` if the curves are of the net alone, without the n-grams beside it.
        end: the number of steps, or the seconds of a timed run, after which the run is over.
        is_timed: whether these are seconds.
        shades: the shades of the samples.
        is_unicode: whether the terminal can show bars and dots.
        history: the run so far, also from before it was resumed.
        baseline: the model of counts to beat.
        step: blocks learned so far.
        share: how much of the run is done, from 0 to 1.
        times: how long it has taken and how long it will still take, in words.
        activity: what is done apart from learning, and how far that is.
        note: what the user has to know now.
        judged: what to make of the curves; None if that is not known yet.
        drawn: the lines of the curves and samples, with what they depend on.
    """

    title: Sequence[str]
    unit: str
    per: str
    of_net: str
    end: float
    is_timed: bool
    shades: Style
    is_unicode: bool = True
    history: History = field(default_factory=History)
    baseline: Baseline | None = None
    step: int = 0
    share: float = 0.0
    times: Sequence[str] = ()
    activity: str = ""
    note: str = ""
    judged: Judged | None = None
    drawn: tuple[object, list[Text]] = (None, [])


def cockpit_lines(view: View, columns: int, rows: int) -> list[Text]:
    """Lay out the screen; the curves and the samples take what the figures leave.

    Args:
        view: what it shows.
        columns: the cells of a line.
        rows: the number of lines.
    """
    margin = 1 if columns >= 60 else 0
    width = columns - 2 * margin
    has_gaps = rows >= 22
    gap = [Text()] if has_gaps else []
    top = [*_title(view, width), *_progress(view, width), *_activity(view, width, has_gaps)]
    top += [*_figures(view, width), *gap]
    bottom = [*gap, *_judgement(view, width)[: max(rows // 4, 2)]]
    room = max(rows - len(top) - len(bottom), 0)
    key = view.history.version, view.baseline, columns, room
    if view.drawn[0] != key:
        is_wide = columns >= LEAST_WIDTH_OF_TWO and room >= LEAST_HEIGHT_OF_TWO
        middle = (_two_columns if is_wide else _one_column)(view, width, room, gap)
        view.drawn = key, _placed([*middle, *[Text()] * room][:room], margin, width)
    # On a terminal that is too low the beginning of the judgement stays.
    top = top[: max(rows - len(bottom), 0)]
    return [*_placed(top, margin, width), *view.drawn[1], *_placed(bottom, margin, width)][:rows]


def _placed(lines: Sequence[Text], margin: int, width: int) -> list[Text]:
    return [Text(" " * margin).append_text(_cut(line, width)) for line in lines]


def summary_lines(view: View, columns: int) -> list[Text]:
    """Lay out what remains on the terminal after a run: its curves, its best validation, and the model to beat."""
    columns = min(columns, WIDEST_SUMMARY)
    if not view.history.train and not view.history.validations:
        return []
    lines = [*_legend(view, columns), *_plot(view, columns, PLOT_OF_SUMMARY), *_best(view, columns)]
    return [_cut(line, columns) for line in lines]


def _one_column(view: View, width: int, room: int, gap: list[Text]) -> list[Text]:
    legend, best = _legend(view, width), _best(view, width)
    left = room - len(legend) - len(best)
    sample = _samples(view, width, 1)
    limit = max(left // 3, MIN_SAMPLE)
    if len(sample) > limit:
        # Without the line ends of the text there is room for more of it.
        sample = _samples(view, width, 1, is_broken=False)[:limit]
    sample = [*gap, *sample] if sample else []
    if left - len(sample) < MIN_PLOT:
        sample = []
    return [*legend, *_plot(view, width, left - len(sample)), *best, *sample]


def _two_columns(view: View, width: int, room: int, gap: list[Text]) -> list[Text]:
    right = min(LONGEST_SAMPLE_LINE, width * 2 // 5)
    left = width - right - 2 * len(SPACE)
    legend, best = _legend(view, left), _best(view, left)
    main = [*legend, *_plot(view, left, room - len(legend) - len(best) - len(gap)), *gap, *best]
    samples = _samples(view, right, MAX_SAMPLES, room)
    lines = []
    for row in range(room):
        line = _cut(main[row], left) if row < len(main) else Text()
        if row < len(samples):
            line.pad_right(left - line.cell_len + 2 * len(SPACE))
            line.append_text(samples[row])
        lines.append(line)
    return lines


def _cut(line: Text, width: int) -> Text:
    line = line.copy()
    line.truncate(width)
    return line


def _title(view: View, width: int) -> list[Text]:
    first, *others = map(one_line, view.title)
    title = Text.assemble((first, "bold"))
    for other in others:
        if title.cell_len + len(SPACE) + cells_of(other) <= width:
            title.append(SPACE).append(other, QUIET)
    return [title]


def _progress(view: View, width: int) -> list[Text]:
    """Return a bar with how far the run is; on a narrow terminal, the times have a line of their own."""
    percent, times = f"{view.share:4.0%}", SPACE.join(view.times)
    is_wide = width >= 60
    facts = f"{percent}{SPACE}{times}" if is_wide else percent
    size = max(width - cells_of(facts) - 2, 0)
    done = round(size * view.share)
    bar, rest = (BAR, REST_OF_BAR) if view.is_unicode else (ASCII_BAR, ASCII_REST_OF_BAR)
    line = Text.assemble((bar * done, VALIDATION), (rest * (size - done), QUIET), "  ", (facts, "bold"))
    return [line] if is_wide or not times else [line, Text(times)]


def _activity(view: View, width: int, is_kept: bool) -> list[Text]:
    """Return what the user has to know now, or what is done now; a free line in its place, if there is room."""
    if view.note:
        return [Text(line, f"bold {COUNTS}") for line in wrapped(one_line(view.note), width)]
    if view.activity:
        return [Text(view.activity, QUIET)]
    return [Text()] if is_kept else []


def _figures(view: View, width: int) -> list[Text]:
    """Return the step, the pace, the learning rate and the norm of the gradient, each with room to grow."""
    history = view.history
    pace, epoch = history.figure("characters_per_second", "bytes_per_second"), history.figure("epoch")
    rate, norm, skipped = (history.figure(name) for name in ("learning_rate", "gradient_norm", "skipped"))
    of = "" if view.is_timed else f" of {view.end:,.0f}"

    def items(is_short: bool) -> list[Text]:
        unit = ("char" if view.unit == "character" else view.unit) if is_short else view.unit
        found = [
            _item("step ", f"{view.step:,}{of}", 6 if view.is_timed else 2 * len(of) - 4),
            _item("", "-" if pace is None else f"{pace:,.0f}", 7, f" {unit}s/s"),
            _item("rate " if is_short else "learning rate ", "-" if rate is None else f"{rate:.2g}", 7),
            _item("gradient " if is_short else "gradient norm ", "-" if norm is None else f"{norm:.2g}", 5),
            _item("epoch ", "-" if epoch is None else f"{epoch:.2f}", 5),
        ]
        return [*found, _item("skipped ", f"{skipped:,.0f}", 1)] if skipped else found

    for is_short, space in ((False, SPACE), (True, SPACE), (True, "  ")):
        row = Text(space).join(items(is_short))
        if row.cell_len <= width:
            return [row]
    # Where there is less room, the epoch, which is in `metrics.jsonl` too, has no place.
    cells = [item for item in items(True) if not item.plain.startswith("epoch")]
    row = Text("  ").join(cells)
    if row.cell_len <= width:
        return [row]
    half = max(cell.cell_len for cell in cells[::2]) + 2
    for cell in cells[::2]:
        cell.pad_right(half - cell.cell_len)
    return [Text.assemble(*cells[start : start + 2]) for start in range(0, len(cells), 2)]


def _item(name: str, value: str, size: int, unit: str = "") -> Text:
    """Return a figure with room for so many cells, so that what is beside it stays where it is."""
    item = Text.assemble((name, QUIET), (value, "bold"), (unit, QUIET))
    item.pad_right(max(size - cells_of(value), 0))
    return item


def _legend(view: View, width: int) -> list[Text]:
    """Return the newest figures of the curves, with their colours."""
    mark = 2 * (BAR if view.is_unicode else "")
    train, validations, baseline = view.history.train, view.history.validations, view.baseline
    items = []
    for name, points, style, letter in (("train", train, TRAIN, "."), ("validation", validations, VALIDATION, "o")):
        bits = f"{points[-1].bits:.3f}" if points else "-"
        if points or view.history.validations or name == "train":
            items.append(Text.assemble((f"{mark or letter} ", style), name, " ", (f"{bits:<5}", f"bold {style}")))
    if baseline:
        dash = 2 * (DASH if view.is_unicode else ASCII_DASH)
        bits = f"{baseline.bits_per_character:.3f}"
        items.append(Text.assemble((f"{dash} ", COUNTS), f"{baseline.order}-gram ", (bits, f"bold {COUNTS}")))
    return _flowing(items, width)


def _flowing(items: Sequence[Text], width: int) -> list[Text]:
    """Return items in as many lines as they need."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + len(SPACE) + item.cell_len <= width:
            lines[-1].append(SPACE).append_text(item)
        else:
            lines.append(item.copy())
    return lines


def _plot(view: View, width: int, rows: int) -> list[Text]:
    """Return the curves, with their axis if there is room for it."""
    history, index = view.history, 1 if view.is_timed else 0
    curves = [
        Curve([(point[index], point.bits) for point in points], style, letter)
        for points, style, letter in ((history.train, TRAIN, "."), (history.validations, VALIDATION, "o"))
    ]
    if rows < 2 or not any(curve.points for curve in curves):
        return [Text()] * max(rows, 0)
    end = max(view.end, *(curve.points[-1][0] for curve in curves if curve.points))
    has_axis = rows >= 5
    level = view.baseline.bits_per_character if view.baseline else None
    lines = plot_lines(curves, level, end, width, rows - has_axis, view.is_unicode)
    return [*lines, _axis(view, end, width)] if has_axis else lines


def _axis(view: View, end: float, width: int) -> Text:
    """Return the first and the last place of the curves, and between them what the bits are counted for."""
    first, last = ("0:00", clock_text(end)) if view.is_timed else ("0", f"step {end:,.0f}")
    room = width - MARGIN - len(first) - len(last)
    short = view.per.replace("character", "char")
    meanings = f"bits per {view.per}{view.of_net}, lower is better", f"bits per {view.per}{view.of_net}"
    meaning = next((each for each in (*meanings, f"bits per {short}{view.of_net}") if len(each) + 4 <= room), "")
    return Text(f"{' ' * MARGIN}{first}{meaning:^{room}}{last}", QUIET)


def _best(view: View, width: int) -> list[Text]:
    """Return the best validation with its time, and how it compares with the model of counts."""
    best, baseline = view.history.best, view.baseline
    items: list[Text] = []
    if best:
        when = f" at step {best.step:,}, {clock_text(best.seconds)}"
        items.append(Text.assemble("best ", (f"{best.bits:.3f}", f"bold {VALIDATION}"), when))
    if best and baseline:
        lead = baseline.bits_per_character - best.bits
        verb = "better than" if lead >= 0 else "worse than"
        items.append(Text.assemble((f"{abs(lead):.3f}", "bold"), f" {verb} the {baseline.name} model"))
        if items[-1].cell_len > width:
            items[-1] = Text.assemble((f"{abs(lead):.3f}", "bold"), f" {verb} {baseline.order}-grams")
    return _flowing(items, width)


def _samples(view: View, width: int, number: int, rows: int = 0, *, is_broken: bool = True) -> list[Text]:
    """Return what the model wrote last, on backgrounds by the bits of each character, the newest first.

    Args:
        view: what the screen shows.
        width: the cells of a line.
        number: how many samples.
        rows: how many lines there are for all samples but the newest; 0 for any number.
        is_broken: whether the line ends of the text also end lines.
    """
    lines: list[Text] = []
    for step, text, bits in reversed(view.history.written[-number:]):
        heading = Text(f"it wrote at step {step:,}" if lines else f"it writes, at step {step:,}")
        if not lines and bits and heading.cell_len + len(MEANING_OF_SHADES) <= width:
            heading.append(MEANING_OF_SHADES, QUIET)
        shown = text if is_broken else text.replace("\n", "\u21b5")
        drawn = _shaded(shown, bits, min(width, LONGEST_SAMPLE_LINE), view.shades)
        if lines and rows and len(lines) + 2 + len(drawn) > rows:
            break
        lines += [*([Text()] if lines else []), heading, *drawn]
    return lines


@lru_cache(maxsize=2 * MAX_SAMPLES)
def _shaded(text: str, bits: tuple[float, ...], width: int, style: Style) -> list[Text]:
    """Return a text on backgrounds; the lines are shared, and nobody changes them."""
    shades = [min(cost / MAX_BITS, 1.0) for cost in bits] or [math.nan] * len(text)
    lines = shaded_lines(list(zip(text, shades, strict=True)), width, style)
    # Without colours every second line has marks.
    return [Text.from_ansi(line) for line in (lines if style.num_colours else lines[::2])]


def _judgement(view: View, width: int) -> list[Text]:
    if view.judged is None:
        return []
    state, sentence = view.judged
    lines = [Text(line) for line in wrapped(sentence, width)]
    if state in STATES:
        lines = [Text(line) for line in wrapped(f"{state}: {sentence}", width)]
        lines[0].stylize(f"bold {STATES[state]}", 0, len(state) + 1)
    return lines
