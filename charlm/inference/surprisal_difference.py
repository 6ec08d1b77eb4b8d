"""One text scored by two models: which of them likes which passage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.inference.surprisal import Surprisal, finite, lines_of

# A longer line is divided, after a space if there is one.
PASSAGE = re.compile(r"[\s\S]{1,80}\Z|[\s\S]{1,79}\s|[\s\S]{1,80}")


@dataclass(frozen=True)
class Passage:
    """A line of a text, or a part of a long line.

    Attributes:
        line: the number of the line, from 1.
        position: the place of its first character in the text, from 0.
        text: its characters.
        compared: how many of them both models know.
        bits: what those cost the model.
        other_bits: what they cost the other model.
    """

    line: int
    position: int
    text: str
    compared: int
    bits: float
    other_bits: float

    @property
    def difference(self) -> float:
        """How many bits fewer the other model needs; negative if it needs more."""
        return self.bits - self.other_bits


@dataclass(frozen=True)
class SurprisalDifference:
    """The same characters scored by two models.

    Only characters that both models know are compared, so that the sums are those of the same characters.

    Attributes:
        model: the text scored by the model.
        other: the same text scored by the other model.

    Raises:
        UsageError: these are scores of different texts, or of different units.
    """

    model: Surprisal
    other: Surprisal

    def __post_init__(self) -> None:
        if self.model.text != self.other.text:
            raise UsageError("the two models do not read the same characters of this text")
        if self.model.unit != self.other.unit:
            raise UsageError(
                f"one model has bits per {self.model.unit}, the other one bits per {self.other.unit}",
                "compare models that both read in one direction, or both from both sides",
            )
        if not self.is_compared_C.any():
            raise UsageError("there is no character in this text that both models know")

    @cached_property
    def is_compared_C(self) -> NDArray[np.bool_]:
        """Which characters both models know."""
        return self.model.is_known_C & self.other.is_known_C

    @cached_property
    def differences_C(self) -> NDArray[np.float64]:
        """How many bits fewer the other model needs for each character; NaN where one of them does not know it."""
        # A model of an untrusted file may exclude a character, which then costs infinitely many bits.
        with np.errstate(invalid="ignore"):
            return np.where(self.is_compared_C, self.model.bits_C - self.other.bits_C, np.nan)

    def totals(self) -> dict[str, float | int]:
        """Return the bits of both models, averaged over the same characters."""
        unit = self.model.unit.replace(" ", "_")
        num_units = float(self.model.units_C[self.is_compared_C].sum())
        sums = [float(scored.bits_C[self.is_compared_C].sum()) for scored in (self.model, self.other)]
        return {
            "characters": int(self.is_compared_C.sum()),
            "dropped_characters": int((~self.is_compared_C).sum()),
            f"bits_per_{unit}": sums[0] / num_units,
            f"other_bits_per_{unit}": sums[1] / num_units,
        }

    def passages(self) -> list[Passage]:
        """Return the passages that have characters which are compared, in the order of the text."""
        found = []
        for line, position, text in _passages_of(self.model.text):
            places = position + np.flatnonzero(self.is_compared_C[position : position + len(text)])
            if len(places):
                sums = [float(scored.bits_C[places].sum()) for scored in (self.model, self.other)]
                found.append(Passage(line, position, text, len(places), *sums))
        return found

    def liked_by_model(self, top: int = 5) -> list[Passage]:
        """Return the passages for which the model needs fewer bits, the one with the largest difference first."""
        return [each for each in sorted(self.passages(), key=lambda each: each.difference) if each.difference < 0][:top]

    def liked_by_other(self, top: int = 5) -> list[Passage]:
        """Return the passages for which the other model needs fewer bits, in the same order."""
        ranked = sorted(self.passages(), key=lambda each: -each.difference)
        return [each for each in ranked if each.difference > 0][:top]

    def to_json(self, top: int = 5) -> dict[str, Any]:
        """Return it as plain values."""
        values = {
            "text": self.model.text,
            **self.totals(),
            "liked_by_model": list(map(asdict, self.liked_by_model(top))),
            "liked_by_other": list(map(asdict, self.liked_by_other(top))),
            "bits_of_characters": self.model.bits_C.tolist(),
            "other_bits_of_characters": self.other.bits_C.tolist(),
        }
        return dict(finite(values))


def _passages_of(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the number of the line, the position and the text of each passage."""
    for line in lines_of(text):
        for part in PASSAGE.finditer(line.text):
            yield line.number, line.start + part.start(), part[0]
