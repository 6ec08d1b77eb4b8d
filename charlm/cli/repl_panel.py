"""What stands below the line that is typed into the prompt: candidates, words, gates, and what the keys do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from charlm.cli.layout import UNLIMITED_WIDTH, aligned, cells_of, whole_items
from charlm.cli.prediction_table import BAR_WIDTH, MIN_BAR_WIDTH, bar, names_within, word_within
from charlm.cli.render import can_show
from charlm.cli.repl_commands import COMMANDS, command_in, commands_starting, usage
from charlm.cli.repl_text import Row, shade_of
from charlm.errors import one_line
from charlm.inference.prediction_comparison import ComparedCharacters
from charlm.inference.word_boundaries import Kind, kind_of
from charlm.ramps import SEQUENTIAL

if TYPE_CHECKING:
    from charlm.cli.instrument import Figures, Instrument
    from charlm.inference.incremental import IncrementalReader
    from charlm.inference.layer_changes import LayerChange
    from charlm.inference.words import Word

# From this width on, words stand beside the characters.
WIDE = 64
LEFT_WIDTH = 44
WORD_WIDTH = 20
# A percentage and the space before it.
SHARE_WIDTH = len(" 100.0%")
# The toolbar names so many unknown characters.
MAX_UNKNOWN = 5
HISTOGRAM = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
NUM_BINS = 10
NUM_CHANGED = 3
# Candidates below an empty line.
NUM_IN_A_ROW = 10
MODEL_STYLES = ("class:first", "class:second")


def panel_rows(instrument: Instrument, width: int, height: int, shades: Sequence[str] = ()) -> list[Row]:
    """Lay out everything below the line, in at most so many rows of at most so many cells.

    Below an empty line there is little, so that what was printed before stays on the screen.

    Args:
        instrument: what is shown.
        width: cells of a row.
        height: how many rows there is room for.
        shades: the styles of the bits; none without colours.
    """
    if command := command_in(instrument.line):
        return [[("", command_help(command[0], width))]][:height]
    if instrument.error:
        return [[("", whole_items(instrument.error.split(), width, " "))]][:height]
    if instrument.is_far_behind:
        return [[("class:quiet", f"reading {instrument.num_missing:,} more ...")]][:height]
    rows = title_rows(instrument, width, shades)
    if not instrument.figures or not instrument.line:
        return rows[:height]
    gates = gate_rows(instrument.last, instrument.changes, width, height - len(rows) - 2)
    words = [] if width >= WIDE and len(instrument.readers) == 1 else word_rows(instrument, width)
    # The candidates have at least a row of their own; the others make room for it.
    room = max(1, height - len(rows) - len(words) - len(gates))
    if len(instrument.readers) > 1:
        rows += compared_rows(instrument, width, room)
    elif width >= WIDE:
        rows += side_by_side(candidate_rows(instrument, LEFT_WIDTH, room), words_column(instrument), LEFT_WIDTH, width)
    else:
        rows += candidate_rows(instrument, width, room)
    gap: list[Row] = [[]] if gates and len(rows) + len(words) + len(gates) < height else []
    return [*rows, *words, *gap, *gates][:height]


def title_rows(instrument: Instrument, width: int, shades: Sequence[str]) -> list[Row]:
    """Return a row for each model: how uncertain it is, what the last character cost, and the mean of all."""
    conversation, rows = instrument.conversation, list[Row]()
    note = unknown_note(conversation.reader, width // 2)
    are_compared = len(instrument.readers) > 1
    for number, figures in enumerate(instrument.figures):
        items = [note] if note and not number else []
        if are_compared:
            items.append(f"{number + 1} {within(one_line(conversation.names[number]), width // 4)}")
        if conversation.reader.temperature != 1 and not number:
            items.append(f"temperature {conversation.reader.temperature:g}")
        if instrument.line:
            items += figure_items(figures, _cost(figures, instrument))
        else:
            items.append(f"entropy {figures.prediction.entropy_bits:.2f} bits")
            items += [f"{c.name} {_share(c.probability)}" for c in figures.prediction.candidates[:NUM_IN_A_ROW]]
        style, row = MODEL_STYLES[number] if are_compared else "", whole_items(items, width)
        cost = _cost(figures, instrument) if instrument.line else ""
        before, found, after = row.partition(cost) if cost else (row, "", "")
        # The colour says what the colours of the text mean.
        rows.append([(style, before), (shade_of(figures.last_bits, shades) or style, found), (style, after)])
    return rows


def figure_items(figures: Figures, cost: str) -> list[str]:
    """Return the figures of one model in words."""
    mean = "" if math.isnan(figures.mean_bits) else f"mean {figures.mean_bits:.2f}"
    return [f"entropy {figures.prediction.entropy_bits:.2f} bits", *([cost] if cost else []), *([mean] if mean else [])]


def _cost(figures: Figures, instrument: Instrument) -> str:
    """Return what the last character cost."""
    last = instrument.last
    name = last.split()[0] if last.startswith("U+") else last
    return "" if math.isnan(figures.last_bits) else f"{name} cost {figures.last_bits:.2f}"


def candidate_rows(instrument: Instrument, width: int, room: int) -> list[Row]:
    """Return a row with a bar for each candidate, and one for all others if there is room."""
    prediction = instrument.figures[0].prediction
    candidates = prediction.candidates[:room]
    names = names_within(candidates, width - SHARE_WIDTH)
    name_width = max(map(cells_of, ["others", *names]))
    bar_width = min(BAR_WIDTH, width - name_width - SHARE_WIDTH - 2)
    rows: list[Row] = []
    for name, candidate in zip(names, candidates, strict=True):
        row = [("", f"{aligned(name, name_width)} {candidate.probability:6.1%}")]
        if bar_width >= MIN_BAR_WIDTH:
            row.append(("class:first", "  " + bar(candidate.probability, bar_width)))
        rows.append(row)
    if prediction.num_others and len(rows) < room:
        rows.append([("class:quiet", f"{aligned('others', name_width)} {prediction.remaining_probability:6.1%}")])
    return rows


def compared_rows(instrument: Instrument, width: int, room: int) -> list[Row]:
    """Return a row for each candidate with its share, and a bar, by both models."""
    predictions = [figures.prediction for figures in instrument.figures]
    compared = ComparedCharacters.of(predictions, instrument.conversation.top)
    candidates = compared.candidates[:room]
    names = names_within(candidates, width - 2 * SHARE_WIDTH)
    name_width = min(max(map(cells_of, names)), width - 2 * SHARE_WIDTH)
    bar_width = min(BAR_WIDTH, (width - name_width) // 2 - SHARE_WIDTH - 2)
    rows: list[Row] = []
    for name, candidate in zip(names, candidates, strict=True):
        row = [("", aligned(name[:name_width], name_width))]
        for style, share in zip(MODEL_STYLES, candidate.probabilities, strict=True):
            row.append(("", f" {'-':>6}" if share is None else f" {share:6.1%}"))
            if bar_width >= MIN_BAR_WIDTH:
                row.append((style, "  " + aligned(bar(share or 0.0, bar_width), bar_width)))
        rows.append(row)
    return rows


def words_column(instrument: Instrument) -> list[Row]:
    """Return a row for each of the most probable words, with the key that inserts it."""
    found = instrument.words[0] if instrument.words else None
    if not found or not found.words:
        return []
    style = "class:quiet" if instrument.are_words_old else ""
    shown = [word_within(_shown(word), WORD_WIDTH) for word in found.words]
    name_width = max(map(cells_of, shown))
    return [
        [(style, f"{aligned(name, name_width)} {word.probability:6.1%}"), ("class:quiet", f"  {key}")]
        for name, word, key in zip(shown, found.words, ("Tab", "Alt-2", "Alt-3", "Alt-4", "Alt-5"), strict=False)
    ]


def word_rows(instrument: Instrument, width: int) -> list[Row]:
    """Return a row for each model with its most probable words."""
    rows: list[Row] = []
    style = "class:quiet" if instrument.are_words_old else ""
    for number, found in enumerate(instrument.words):
        if found and found.words:
            items = [f"{word_within(_shown(word), width // 2)} {_share(word.probability)}" for word in found.words]
            head = "Tab" if not number else "2  "
            rows.append([("class:quiet", head + " "), (style, whole_items(items, width - len(head) - 1))])
    return rows


def _shown(word: Word) -> str:
    """Return a whole word; of the one after a word that is complete, only what is added."""
    return word.text if kind_of(word.text[0]) == Kind.OTHER else word.word


def _share(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.0995 else f"{probability:.1%}"


def side_by_side(left: Sequence[Row], right: Sequence[Row], left_width: int, width: int) -> list[Row]:
    """Join rows; what does not fit is dropped as a whole row."""
    rows: list[Row] = []
    for first, second in zip_longest(left, right[: len(left)], fillvalue=None):
        used = sum(cells_of(text) for _, text in first or [])
        fits = second and left_width + 2 + sum(cells_of(text) for _, text in second) <= width
        rows.append([*(first or []), *([("", " " * (left_width + 2 - used)), *second] if second and fits else [])])
    return rows


def gate_rows(last: str, changes: Sequence[LayerChange], width: int, room: int) -> list[Row]:
    """Return what the last character did in each layer: the means of the gates, and the units that changed most."""
    if not changes or room < 2:
        return []
    rows = [row for change in changes for row in _full_rows(change)]
    what = "the mean of each gate, its units from 0 to 1, and the largest changes"
    if width < WIDE or len(rows) + 1 > room:
        rows = [row for change in changes for row in _short_rows(change, width)]
        what = "gates and largest changes"
    title: Row = [("class:quiet", whole_items([f"{last}:", *what.split()], width, " "))]
    if len(rows) + 1 > room:
        rows = [*rows[: room - 2], [("class:quiet", "...")]]
    return [title, *rows][:room]


def _full_rows(change: LayerChange) -> list[Row]:
    """Return a row for each gate, with a histogram, beside the units."""
    gates = [f"{name:9} {values.mean():4.2f}  {histogram(values.tolist())}" for name, values in change.gates.items()]
    arrow = "\u2192" if can_show("\u2192") else "to"
    units = [
        f"{unit!s:>7} {change.old_H[unit.index]:+5.2f} {arrow} {change.new_H[unit.index]:+5.2f}"
        for unit in change.most_changed(max(NUM_CHANGED, len(gates)))
    ]
    heads = [f"layer {change.layer}"]
    gate_width = max(map(cells_of, gates), default=0)
    return [
        [("class:quiet", f"{head:8} "), ("", f"{aligned(gate, gate_width)}  {unit}")]
        for head, gate, unit in zip_longest(heads, gates, units, fillvalue="")
    ]


def _short_rows(change: LayerChange, width: int) -> list[Row]:
    """Return the same in two rows."""
    gates = [f"{name} {values.mean():.2f}" for name, values in change.gates.items()]
    units = [
        f"{unit} {change.new_H[unit.index] - change.old_H[unit.index]:+.2f}"
        for unit in change.most_changed(NUM_CHANGED)
    ]
    heads = [f"{change.layer}", " " * len(str(change.layer))] if gates else [f"{change.layer}"]
    return [
        [("", whole_items([head, *items], width, "  "))]
        for head, items in zip(heads, [gates, units] if gates else [units], strict=True)
    ]


def histogram(values: Sequence[float]) -> str:
    """Return how many of some values from 0 to 1 are in each of ten parts, as bars beside one another."""
    marks = HISTOGRAM if can_show(HISTOGRAM) else SEQUENTIAL.marks
    counts, _ = np.histogram(values, bins=NUM_BINS, range=(0, 1))
    # Whatever is not empty can be seen.
    return "".join(marks[math.ceil(count / max(1, counts.max()) * (len(marks) - 1))] for count in counts.tolist())


def unknown_note(reader: IncrementalReader, width: int = UNLIMITED_WIDTH) -> str:
    """Return which characters of the text the model does not know, or an empty string."""
    unknown = reader.unknown_characters
    if not unknown:
        return ""
    done = "left out" if reader.unknown == "skip" else "replaced"
    note = f"unknown, {done}: {unknown[:MAX_UNKNOWN]!r}{'...' if len(unknown) > MAX_UNKNOWN else ''}"
    return note if cells_of(note) <= width else f"{len(unknown)} unknown"


def command_help(name: str, width: int) -> str:
    """Return one line on the commands that start with a name."""
    found = commands_starting(name)
    if not found:
        return whole_items(f"no command /{name}".split(), width, " ")
    if len(found) == 1 or name in found:
        exact = name if name in found else found[0]
        return whole_items(f"{usage(exact)}: {COMMANDS[exact][1]}".split(), width, " ")
    return whole_items([usage(command) for command in found], width)


def key_line(instrument: Instrument, width: int) -> str:
    """Return what the keys do, in few words."""
    reader = instrument.conversation.reader
    right = "\u2192" if can_show("\u2192") else "Right"
    grey = [] if reader.is_backward else [f"{right} grey text"]
    gates, short_gates = (["Ctrl-G gates"], ["^G gates"]) if reader.has_gates else ([], [])
    line = "   ".join(["Tab word", *grey, *gates, "Enter table", "/help"])
    short = ["Tab word", *grey, *short_gates, "/help"]
    return line if cells_of(line) <= width else whole_items(short, width, "  ")


def within(text: str, width: int) -> str:
    """Return a text, or its end where it is longer."""
    if cells_of(text) <= width:
        return text
    while text and cells_of(text) > width - len("..."):
        text = text[1:]
    return "..." + text
