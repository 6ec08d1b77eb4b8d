"""Predictions as tables with bars."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from charlm.cli.layout import GAP, UNLIMITED_WIDTH, aligned, cells_of, screen_width, wrapped
from charlm.cli.render import can_show
from charlm.cli.shades import standing_alone, visible
from charlm.errors import counted, one_line

if TYPE_CHECKING:
    from charlm.inference.predict import Candidate, Prediction
    from charlm.inference.prediction_comparison import ComparedCandidate, ComparedCharacters, ComparedWords
    from charlm.inference.words import WordPrediction

# Cells of a bar for 100 %, and the fewest that still show a difference.
BAR_WIDTH = 30
MIN_BAR_WIDTH = 5
# A bar ends in a part of a cell, if standard output can show one. Each row goes from an empty cell to a full one.
BAR_CHARACTERS = (" \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588", " \u2588", " #")

# Stands for a space before a word.
OPEN_BOX = "\u2423"
# A percentage, and the gaps around it.
SHARE_WIDTH = len(" 100.00%")


def prediction_table(prediction: Prediction) -> str:
    """Return a line with a bar for each candidate, a line for all others, and the entropy.

    A bar of full width is a probability of 100 %. On a narrow terminal bars are shorter or dropped, and so are the
    long names of code points.
    """
    room, candidates = _room(), prediction.candidates
    rows = list(zip(names_within(candidates, room - SHARE_WIDTH), (c.probability for c in candidates), strict=True))
    others = f"{prediction.remaining_probability:7.2%}  {counted(prediction.num_others, 'character')}"
    lines = _with_bars(rows, others if prediction.num_others else "", room)
    return "\n".join([*lines, f"entropy {prediction.entropy_bits:.2f} bits"])


def word_table(prediction: WordPrediction) -> str:
    """Return a line with a bar for each word, a line for all others, and perhaps that the search ended early."""
    room = _room()
    rows = [(word_within(word.word, room - SHARE_WIDTH), word.probability) for word in prediction.words]
    lines = _with_bars(rows, f"{prediction.remaining_probability:7.2%}", room)
    if not prediction.is_complete:
        bound = f"the search ended early: another word may have up to {prediction.others_at_most:.2%}"
        lines += wrapped(bound, screen_width(sys.stdout), "")
    return "\n".join(lines)


def _room() -> int:
    return screen_width(sys.stdout) or UNLIMITED_WIDTH


def _with_bars(rows: Sequence[tuple[str, float]], others: str, room: int) -> list[str]:
    """Return a line for each name and its share, and perhaps a line for the others."""
    width = max(map(cells_of, ["others", *(name for name, _ in rows)]))
    bar_width = min(BAR_WIDTH, room - width - SHARE_WIDTH - len(GAP))
    lines = [f"{aligned(name, width)} {share:7.2%}{GAP}{_bar(share, bar_width)}".rstrip() for name, share in rows]
    return [*lines, f"{aligned('others', width)} {others}"] if others else lines


def comparison_table(compared: ComparedCharacters | ComparedWords, models: Sequence[str]) -> str:
    """Return a table with a column for each model, whose names stand above it.

    What is not in the vocabulary of a model has a dash there.

    Args:
        compared: what the models predict.
        models: the name of each.
    """
    from charlm.inference.prediction_comparison import ComparedWords

    room = _room()
    names_room = room - len(models) * SHARE_WIDTH
    if isinstance(compared, ComparedWords):
        rows = [(word_within(word.word, names_room), word.probabilities) for word in compared.words]
        ended = "the search ended early: other words may be more probable"
        foot = [] if compared.is_complete else wrapped(ended, screen_width(sys.stdout), "")
    else:
        names = names_within(compared.candidates, names_room)
        rows = list(zip(names, (candidate.probabilities for candidate in compared.candidates), strict=True))
        foot = [f"entropy {' and '.join(f'{bits:.2f}' for bits in compared.entropy_bits)} bits"]
    width = max(map(cells_of, ["others", *(name for name, _ in rows)]))
    bar_width = min(BAR_WIDTH, (room - width) // len(models) - SHARE_WIDTH - len(GAP))

    def cell(text: str, share: float | None = None) -> str:
        drawn = GAP + aligned(_bar(share or 0.0, bar_width), bar_width) if bar_width >= MIN_BAR_WIDTH else ""
        return f" {text:>7}{drawn}"

    def line(name: str, cells: Iterable[str]) -> str:
        return (aligned(name, width) + "".join(cells)).rstrip()

    numbers = [f"{number}" for number in range(1, len(models) + 1)]
    return "\n".join(
        [
            *(f"{number}: {one_line(model)}" for number, model in zip(numbers, models, strict=True)),
            line("", map(cell, numbers)),
            *(
                line(name, (cell("-") if share is None else cell(f"{share:.2%}", share) for share in shares))
                for name, shares in rows
            ),
            line("others", (cell(f"{share:.2%}") for share in compared.remaining_probabilities)),
            *foot,
        ]
    )


def _bar(share: float, width: int) -> str:
    return bar(share, width) if width >= MIN_BAR_WIDTH else ""


def word_within(word: str, room: int) -> str:
    """Return how a word is shown; one that needs more room loses its end."""
    box = OPEN_BOX if can_show(OPEN_BOX) else " "
    shown = "".join(visible(c) if number else standing_alone(c) for number, c in enumerate(word)).replace(" ", box)
    if cells_of(shown) <= room:
        return shown
    while shown and cells_of(shown) > room - len("..."):
        shown = shown[:-1]
    return shown + "..."


def bar(share: float, width: int) -> str:
    """Return a bar for a share of 1, made of characters that standard output can show."""
    characters = next((row for row in BAR_CHARACTERS if can_show(row)), BAR_CHARACTERS[-1])
    steps = len(characters) - 1
    full, rest = divmod(round(share * width * steps), steps)
    return characters[-1] * full + characters[rest].strip()


def names_within(candidates: Iterable[Candidate | ComparedCandidate], room: int) -> list[str]:
    """Return the names of candidates; of a code point only its number if the name needs more room."""
    return [c.name.split()[0] if c.name.startswith("U+") and len(c.name) > room else c.name for c in candidates]
