"""The corpus `recall`: a task that needs memory, by a stated rule and seed. Knows no files and no models.

The rule: each line is a key, one of eight letters; 10 to 17 random bits; a question mark; and the key again. All
choices are uniform and independent. Only the key after the question mark depends on a character that is more than ten
characters back: without memory it costs 3 bits, with memory none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

KEYS = "abcdefgh"
QUESTION = "?"
SHORTEST = 10
# How many lines `recall.txt` has, and from which seed.
NUM_LINES, SEED = 16_000, 1


def recall_text(num_lines: int = NUM_LINES, seed: int = SEED) -> str:
    r"""Return the text of the task: lines such as `b11011000111100?b`.

    >>> recall_text(2)
    'b11011000111100?b\ng0001000000100111?g\n'

    Args:
        num_lines: how many lines; the first ones of a seed are always the same.
        seed: another one gives a text that no model has seen.
    """
    return "".join(islice(_lines(seed), num_lines))


def _lines(seed: int) -> Iterator[str]:
    # `getrandbits` draws the same numbers in every version of Python.
    draw = random.Random(seed).getrandbits
    while True:
        key, distance = KEYS[draw(3)], SHORTEST + draw(3)
        yield f"{key}{draw(distance):0{distance}b}{QUESTION}{key}\n"
