"""Counting what was read lately follows its equation, and makes repeated text cheap."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.inference.recent import CAUTION, CONTEXT_LENGTHS, MAX_FOLLOWERS, Recent

V = 3
MODEL = np.array([0.5, 0.3, 0.2])


@given(st.lists(st.integers(0, V - 1), max_size=80))
def test_the_distribution_follows_its_equation(text: list[int]) -> None:
    """Counting over dictionaries of all contexts gives the same distribution after every symbol."""
    recent = Recent()
    seen: dict[tuple[int, ...], Counter[int]] = {}
    for place, symbol in enumerate(text):
        contexts = [tuple(text[place - length : place]) for length in CONTEXT_LENGTHS if length <= place]
        expected = MODEL.copy()
        for context in contexts:
            if context not in seen:
                break
            n, d = sum(seen[context].values()), len(seen[context])
            weight = n / (n + CAUTION * d)
            expected = np.array([weight * seen[context][s] / n + (1 - weight) * expected[s] for s in range(V)])
        found = recent.predict(MODEL)
        assert found == pytest.approx(expected)
        assert found.sum() == pytest.approx(1)
        recent.read(symbol)
        for context in contexts:
            is_new = context not in seen
            seen.setdefault(context, Counter())[symbol] += 1
            if is_new:
                break


def test_a_phrase_that_comes_again_is_expected() -> None:
    """The third time a phrase is read, its symbols are far more probable than the model alone finds them."""
    recent = Recent()
    phrase = np.random.default_rng(0).integers(60, size=40).tolist()
    for symbol in phrase * 6:
        recent.read(symbol)
    flat = np.full(60, 1 / 60)
    for symbol in phrase[:20]:
        assert recent.predict(flat)[symbol] > 0.3
        recent.read(symbol)


def test_nothing_read_changes_nothing() -> None:
    """Before the first context has come again, the prediction is the model's own."""
    recent = Recent()
    for symbol in (0, 1, 2, 0, 1):
        assert recent.predict(MODEL).tolist() == MODEL.tolist()
        recent.read(symbol)


def test_only_the_last_symbols_after_a_context_count() -> None:
    """A context forgets what followed it long ago."""
    recent = Recent()
    for symbol in [0] * 10 + [1] * (MAX_FOLLOWERS + 30):
        recent.read(symbol)
    assert recent.predict(MODEL)[0] < 0.02
