"""The units that follow something in a text, as a table, and a stretch of the text coloured by each of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.checkpoint import ModelFile
from charlm.cli.inspect_text import legend, style_of
from charlm.cli.layout import Column, table_lines, wrapped
from charlm.cli.shades import shaded_lines
from charlm.errors import one_line
from charlm.inference.activations import rows_of_characters, shown_values
from charlm.inference.unit_search import MIN_OF_EACH, Finding, Search

STRETCH_CHARACTERS = 240


@dataclass(frozen=True, eq=False)
class SearchView:
    """The units that follow something in a text.

    Attributes:
        file: the model.
        name: that of the text.
        search: what was found.
    """

    file: ModelFile
    name: str
    search: Search

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"text": self.name, **self.search.to_json()}

    def lines(self, width: int | None) -> list[str]:
        """Lay out a table for each measure, what was left out, and the text of the best unit of each hypothesis."""
        search, unit = self.search, self.file.vocabulary.unit
        total = int(search.lengths_C.sum())
        first, second = search.num_chosen_on, total - search.num_chosen_on
        title = f"{self.name}: units are chosen on the first {first:,} {unit}s and measured on the other {second:,}"
        found = [finding for finding in search.findings if finding.followers]
        by_figure = sorted(found, key=lambda finding: -finding.followers[0].figure)
        truths = [finding for finding in by_figure if not finding.hypothesis.is_number]
        numbers = [finding for finding in by_figure if finding.hypothesis.is_number]
        lines = wrapped(title, width)
        if truths:
            about = f"AUC: take a {unit} where the hypothesis is true and one where it is false; how often is the unit "
            about += "higher at the first (lower, for a unit that is low where it is true)? 0.5 is chance, 1 is always"
            lines += ["", *wrapped(about, width), *_table(truths, "AUC", width)]
        if numbers:
            about = "r: the correlation of the unit with a number; 0 is chance, 1 is perfect"
            lines += ["", *wrapped(about, width), *_table(numbers, "r", width)]
        left_out = [
            f"{one_line(finding.hypothesis.name)} ({finding.counts[0]:,} and {finding.counts[1]:,})"
            for finding in search.findings
            if not finding.followers
        ]
        if left_out:
            reason = f"fewer than {MIN_OF_EACH} {unit}s of a kind in one half, so no unit is named: "
            lines += ["", *wrapped(reason + ", ".join(left_out), width)]
        for finding in [*truths, *numbers]:
            lines += ["", *self._stretch_lines(finding, width)]
        return lines

    def _stretch_lines(self, finding: Finding, width: int | None) -> list[str]:
        """Lay out a stretch of the second half of the text, coloured by the best unit of a hypothesis."""
        search, best = self.search, finding.followers[0]
        activations = next(layer for layer in search.activations if layer.layer == best.unit.layer)
        values_T = activations.parts[best.part][:, best.unit.index]
        shown_T, lowest, change = shown_values(self.file.spec.recurrence, best.part, values_T)
        start, end = stretch_of(search, finding, activations.reads_backward)
        rows = rows_of_characters(search.lengths_C.tolist(), activations.reads_backward)[start:end]
        text = "".join(search.texts)[start:end]
        measure = "r" if finding.hypothesis.is_number else "AUC"
        title = f"{one_line(finding.hypothesis.name)}: unit {best.unit}, {best.part}{f' ({change})' if change else ''}"
        heading = wrapped(f"{title}, {measure} {best.figure:.3f}", width)
        pieces = list(zip(text, shown_T[rows].tolist(), strict=True))
        return [*heading, f"  {legend(lowest)}", *shaded_lines(pieces, width, style_of(lowest))]


def _table(findings: list[Finding], measure: str, width: int | None) -> list[str]:
    is_number = measure == "r"
    columns = [
        Column("hypothesis"),
        Column(measure, is_number=True),
        Column("unit"),
        Column("part"),
        Column("as it grows" if is_number else "where true", rank=2),
        Column("not 0 at" if is_number else "true at", is_number=True, rank=1),
        Column("what it is", rank=3, least=24),
    ]
    words = {1: "rises", -1: "falls"} if is_number else {1: "high", -1: "low"}
    rows = []
    for finding in findings:
        best, hypothesis = finding.followers[0], finding.hypothesis
        cells = (f"{best.figure:.3f}", str(best.unit), best.part, words[best.sign], f"{finding.counts[1]:,}")
        rows.append((one_line(hypothesis.name), *cells, hypothesis.about))
    return table_lines(columns, rows, width)


def stretch_of(search: Search, finding: Finding, reads_backward: bool) -> tuple[int, int]:
    """Return where a stretch of the second half begins and ends, in characters, in which a hypothesis varies most."""
    track_C = np.concatenate([finding.hypothesis.seen(text, reads_backward) for text in search.texts])
    sums, squares = (np.concatenate([[0.0], np.cumsum(track_C**power)]) for power in (1, 2))
    first = int((np.cumsum(search.lengths_C) <= search.num_chosen_on).sum())
    best, best_variance, offset = (first, min(first + STRETCH_CHARACTERS, len(track_C))), -1.0, 0
    for text in search.texts:
        starts = [match.start() for match in re.finditer(r"^.", text, re.MULTILINE)]
        if len(starts) * 2 * STRETCH_CHARACTERS < len(text):
            # Lines are so long that a stretch starts anywhere.
            starts = list(range(0, len(text), STRETCH_CHARACTERS))
        for start in starts:
            size = min(STRETCH_CHARACTERS, len(text) - start)
            left, right = offset + start, offset + start + size
            if left < first or size < min(STRETCH_CHARACTERS, len(text)):
                continue
            variance = (squares[right] - squares[left]) / size - ((sums[right] - sums[left]) / size) ** 2
            if variance > best_variance:
                best, best_variance = (left, right), variance
        offset += len(text)
    return best
