"""What `metrics.jsonl` tells of a run: its curves, its samples, its last record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from charlm.evaluation.compare import bits_of, is_number

# The last samples that are remembered, and how many of their characters.
MAX_SAMPLES, MAX_SAMPLE = 12, 400


class Point(NamedTuple):
    """A figure of a record, in bits."""

    step: int
    seconds: float
    bits: float


class Written(NamedTuple):
    """A text that the model wrote, with the bits of each of its characters, as far as they are known."""

    step: int
    text: str
    bits: tuple[float, ...]


class History:
    """What `metrics.jsonl` tells of a run, line by line; its values are untrusted.

    Attributes:
        train: the losses.
        validations: the validations.
        written: the last samples.
        last: the last record; empty before the first one.
        since: how many validations there were when the text last changed.
        version: differs after each change.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]] = ()) -> None:
        self.train: list[Point] = []
        self.validations: list[Point] = []
        self.written: list[Written] = []
        self.last: Mapping[str, Any] = {}
        self.since = self.version = 0
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        self.version += 1
        step, seconds = int(line["step"]), float(line["seconds"])
        if line.get("new_text"):
            self.since = len(self.validations)
        for points, prefix in ((self.train, "train_bits_per_"), (self.validations, "validation_bits_per_")):
            if (value := bits_of(line, prefix)) is not None:
                points.append(Point(step, seconds, value))
        text, bits = line.get("sample"), line.get("sample_bits")
        if isinstance(text, str) and text:
            is_known = isinstance(bits, list) and len(bits) == len(text) and all(map(is_number, bits))
            self.write(Written(step, text, tuple(map(float, bits)) if is_known and bits else ()))
        if "learning_rate" in line:
            self.last = line

    def write(self, written: Written) -> None:
        """Add a sample."""
        self.version += 1
        step, text, bits = written
        self.written = [*self.written, Written(step, text[:MAX_SAMPLE], bits[:MAX_SAMPLE])][-MAX_SAMPLES:]

    def rewind(self, step: int) -> None:
        """Forget what was after a step."""
        self.version += 1
        self.train, self.validations = (
            [point for point in points if point.step <= step] for points in (self.train, self.validations)
        )
        self.written = [written for written in self.written if written.step <= step]
        self.since = min(self.since, len(self.validations))

    def figure(self, *names: str) -> float | None:
        """Return a figure of the last record, by the first of some names that it has."""
        return next((self.last[name] for name in names if is_number(self.last.get(name))), None)

    @property
    def best(self) -> Point | None:
        """The best validation on this text."""
        return min(self.validations[self.since :], key=lambda point: point.bits, default=None)
