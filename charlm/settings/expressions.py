"""Regular expressions in settings: checked, so that no expression takes forever. Knows no texts."""

from __future__ import annotations

import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

# An expression is matched with at most so many characters of a line, in at most so many ways.
MAX_CHARACTERS = 200
MAX_WAYS = 100_000
REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)


def compile_line_start(expression: str) -> re.Pattern[str]:
    """Compile an expression that is matched with the start of a line.

    Raises:
        ValueError: it is not valid, or there are so many ways to match it that it could take forever.
    """
    try:
        pattern = re.compile(expression)
        ways = _ways(_parser.parse(expression))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if ways > MAX_WAYS:
        raise ValueError("can be matched in too many ways, which takes too long: use fewer of `*`, `+`, `?` and `|`")
    return pattern


def _ways(items: Any) -> int:
    """Return an upper bound of the number of ways in which a parsed expression can be tried at one place."""
    total = 1
    for code, argument in items:
        total *= min(_ways_of(code, argument), MAX_WAYS + 1)
        if total > MAX_WAYS:
            break
    return total


def _ways_of(code: Any, argument: Any) -> int:
    if code in REPEATS:
        least, most, inner = argument
        most = min(int(most), MAX_CHARACTERS)
        # With several ways at each repetition their number is multiplied.
        each = _ways(inner)
        return int(max(1, most - least + 1) * each ** min(most, 20))
    if code is codes.BRANCH:
        return sum(map(_ways, argument[1]))
    if code is codes.SUBPATTERN:
        return _ways(argument[-1])
    if code in (codes.ASSERT, codes.ASSERT_NOT):
        return _ways(argument[1])
    if code is codes.ATOMIC_GROUP:
        return _ways(argument)
    if code is codes.GROUPREF_EXISTS:
        return sum(_ways(branch) for branch in argument[1:] if branch)
    return 1
