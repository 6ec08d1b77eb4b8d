"""What stands below the line that is typed into the prompt: candidates, words, gates, and what the keys do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from charlm.cli.layout import cells_of, whole_items
from charlm.cli.repl_commands import command_in
from charlm.cli.repl_text import Row

if TYPE_CHECKING:
    from charlm.cli.instrument import Instrument

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
MODEL_STYLES = ("class:first", "class:second")


def panel_rows(instrument: Instrument, width: int, height: int) -> list[Row]:
    """Lay out everything below the line, in at most so many rows of at most so many cells."""
    if command := command_in(instrument.line):
        return [[("", command_help(command[0], width))]][:height]
    if instrument.error:
        return [[("", whole_items(instrument.error.split(), width, " "))]][:height]
    rows = title_rows(instrument, width)
    if not instrument.figures:
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


def title_rows(instrument: Instrument, width: int) -> list[Row]:
    """Return a row for each model: how uncertain it is, what the last character cost, and the mean of all."""
    conversation, rows = instrument.conversation, list[Row]()
    note = unknown_note(conversation.reader, width // 2)
    if missing := instrument.num_missing:
        rows.append([("class:quiet", whole_items([f"reading {missing:,} more characters ..."], width))])
    are_compared = len(instrument.readers) > 1
    for number, figures in enumerate(instrument.figures):
        grey = [] if reader.is_backward else [f"{right} grey text"]
    line = "   ".join(["Tab word", *grey, "Ctrl-G gates", "Enter table", "/help"])
    short = ["Tab word", *grey, "^G gates", "/help"]
    return line if cells_of(line) <= width else whole_items(short, width, "  ")


def within(text: str, width: int) -> str:
    """Return a text, or its end where it is longer."""
    if cells_of(text) <= width:
        return text
    while text and cells_of(text) > width - len("..."):
        text = text[1:]
    return "..." + text
