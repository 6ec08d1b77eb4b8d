"""The parts of a text that are trained on and held out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.holdout import split_at_end

FRACTIONS = st.integers(0, 45).map(lambda percent: percent / 100)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), FRACTIONS, FRACTIONS)
def test_the_parts_of_a_text_are_contiguous_and_complete(length: int, validation: float, test: float) -> None:
    """Train, validation and test follow one another and together make up the text."""
    ids = np.arange(length, dtype=np.uint16)
    parts = split_at_end(ids, validation, test)
    assert np.array_equal(ids, np.concatenate([part.joined() for part in parts]))
    assert len(parts.train) >= 1
    if not validation:
        assert len(parts.validation) == 0
    if not test:
        assert len(parts.test) == 0


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3_000_000), FRACTIONS, FRACTIONS)
def test_the_parts_of_a_text_have_the_sizes_of_the_fractions(length: int, validation: float, test: float) -> None:
    """The borders are the exact products of the length and the decimal fractions, rounded down."""
    parts = split_at_end(np.zeros(length, dtype=np.uint8), validation, test)
    exact_validation, exact_test = Fraction(str(validation)), Fraction(str(test))
    train_end = max(1, int(length * (1 - exact_validation - exact_test)))
    validation_end = max(train_end, int(length * (1 - exact_test)))
    assert [train_end, validation_end - train_end, length - validation_end] == [len(part) for part in parts]


def test_tiny_shakespeare_is_split_as_in_other_programs() -> None:
    """1,115,394 characters at 0.1 give the 1,003,854 and 111,540 that other programs report."""
    ids = np.zeros(1_115_394, dtype=np.uint8)
    assert [len(part) for part in split_at_end(ids, 0.1, 0.0)] == [1_003_854, 111_540, 0]


@pytest.mark.parametrize(
    ("length", "validation", "test", "sizes"),
    [
        (10, 0.0, 0.0, [10, 0, 0]),
        (10, 0.1, 0.0, [9, 1, 0]),
        (10, 0.0, 0.1, [9, 0, 1]),
        (10, 0.1, 0.1, [8, 1, 1]),
        (10, 0.2, 0.3, [5, 2, 3]),
        (1, 0.0, 0.0, [1, 0, 0]),
        (1, 0.1, 0.0, [1, 0, 0]),
        (1, 0.4, 0.4, [1, 0, 0]),
        (2, 0.5, 0.0, [1, 1, 0]),
        (3, 0.1, 0.1, [2, 0, 1]),
    ],
)
def test_a_small_text_is_split(length: int, validation: float, test: float, sizes: list[int]) -> None:
    """The training part is never empty, for any fraction and any length."""
    ids = np.arange(length, dtype=np.uint8)
    assert sizes == [len(part) for part in split_at_end(ids, validation, test)]


def test_the_parts_of_a_text_are_views() -> None:
    """Splitting copies nothing, so that a memory-mapped text stays on disk."""
    ids = np.arange(10, dtype=np.uint8)
    assert all(part.joined().base is ids for part in split_at_end(ids, 0.2, 0.2))
