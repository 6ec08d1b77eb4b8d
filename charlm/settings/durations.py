"""Times and intervals, as people write them."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

NUMBER = r"[0-9]++(?:\.[0-9]*+)?|\.[0-9]++"
UNITS_SECONDS = {
    r"h(?:(?:ou)?rs?)?": 3600,
    r"m(?:in(?:ute)?s?)?": 60,
    r"s(?:ec(?:ond)?s?)?": 1,
}
TIME = re.compile(
    r",?\s*".join(rf"(?:({NUMBER})\s*{unit}(?![a-z]))?" for unit in UNITS_SECONDS), re.ASCII | re.IGNORECASE
)
INTERVAL = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(steps?|epochs?)", re.IGNORECASE)
MIN_INTERVAL, MAX_INTERVAL = 1e-6, 1e9


def parse_seconds(value: Any) -> Any:
    """Turn `90`, `"90s"`, `"1.5 minutes"` or `"1h30m"` into seconds; leave anything else as it is."""
    if not isinstance(value, str) or not (text := value.strip()):
        return value
    if re.fullmatch(NUMBER, text):
        return float(text)
    numbers = found.groups() if (found := TIME.fullmatch(text)) else ()
    if not any(numbers):
        return value
    return sum(float(number or 0) * unit for number, unit in zip(numbers, UNITS_SECONDS.values(), strict=True))


class Interval(NamedTuple):
    """How often something happens in a run.

    Attributes:
        amount: of steps, epochs or seconds.
        unit: which of these.
    """

    amount: float
    unit: Literal["steps", "epochs", "seconds"]

    @classmethod
    def parse(cls, value: int | str) -> Interval:
        """Read `500`, `"500 steps"`, `"0.5 epochs"` or `"30s"`.

        Raises:
            ValueError: it is none of these, or too small or too large.
        """
        text = f"{value} steps" if type(value) is int else str(value)
        if found := INTERVAL.fullmatch(text):
            interval = cls(float(found[1]), "steps" if found[2].lower().startswith("step") else "epochs")
        else:
            seconds = None if re.fullmatch(NUMBER, text.strip()) else parse_seconds(text)
            interval = cls(seconds if isinstance(seconds, float) else 0.0, "seconds")
        is_whole = interval.unit != "steps" or interval.amount % 1 == 0
        if not (is_whole and MIN_INTERVAL <= interval.amount <= MAX_INTERVAL):
            raise ValueError("should be steps, epochs or a time, as in 500, `0.5 epochs` or `30s`")
        return interval
