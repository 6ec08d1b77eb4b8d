"""Which part of a text is trained on and which is held out."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from charlm.vocab import Ids


class Split(NamedTuple):
    """Three contiguous parts of a corpus, in the order in which they stand in it."""

    train: Ids
    validation: Ids
    test: Ids


def split_ids(ids: Ids, validation_fraction: float, test_fraction: float) -> Split:
    """Cut ids into train, validation and test, contiguous and in this order; train keeps at least one character."""
    # In decimals as written: in binary 1 - 0.05 - 0.05 is less than 0.9, and a character would change sides.
    validation, test = Fraction(str(validation_fraction)), Fraction(str(test_fraction))
    train_end = max(1, int(len(ids) * (1 - validation - test)))
    validation_end = max(train_end, int(len(ids) * (1 - test)))
    return Split(ids[:train_end], ids[train_end:validation_end], ids[validation_end:])
