"""Counted n-grams give the distributions of their equations, and pruning drops what matters least."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.inference.kneser_ney import Level, Smoothed, count, longest_order, smooth, trie
from charlm.inference.ngrams import Ngrams

V = 4
TEXT = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 2, 0, 1, 2, 0, 3, 3, 1, 0, 1, 2] * 3, dtype=np.uint8)
short_texts = st.lists(st.integers(0, V - 1), min_size=1, max_size=50).map(lambda ids: np.array(ids, dtype=np.uint8))


def ngrams(ids: np.ndarray, order: int = 3, threshold: float = -1.0) -> Ngrams:
    """Return the smoothed and pruned n-grams of a short text."""
    levels = count([ids], V, order)
    return trie(levels, smooth(levels, V), V, threshold)


@given(short_texts, st.integers(1, 5))
def test_every_n_gram_is_counted_as_often_as_it_occurs(ids: np.ndarray, order: int) -> None:
    """The counts are those of a dictionary, and each level stands in the order of its n-grams."""
    grams: list[tuple[int, ...]] = [()]
    for length, level in enumerate(count([ids], V, order), start=1):
        text = ids.tolist()
        expected = Counter(tuple(text[start : start + length]) for start in range(len(text) - length + 1))
        found = [(*grams[context], symbol) for context, symbol in zip(level.contexts_N, level.symbols_N, strict=True)]
        assert dict(zip(found, level.occurrences_N.tolist(), strict=True)) == expected
        assert found == sorted(found)
        assert [gram[1:] for gram in found] == [grams[suffix] for suffix in level.suffixes_N]
        grams = found


@settings(deadline=None)
@given(short_texts, short_texts, st.integers(1, 5), st.sampled_from([-1.0, 0.05, 0.5]))
def test_a_walk_gives_the_probabilities_of_a_whole_text(
    ids: np.ndarray, text: np.ndarray, order: int, threshold: float
) -> None:
    """The distribution after each symbol, one at a time, has the probability that `score` finds for the next one."""
    counted = ngrams(ids, order, threshold)
    contexts = counted.start(1)
    found = []
    for symbol in text:
        (p_V,) = counted.probabilities(contexts)
        assert p_V.sum() == pytest.approx(1, abs=1e-5)
        found.append(p_V[symbol])
        contexts = counted.step(np.array([symbol]), contexts)
    assert found == pytest.approx(counted.score(text).tolist(), rel=1e-4)


def test_streams_side_by_side_are_bit_for_bit_single_ones() -> None:
    """A distribution does not depend on the streams beside it."""
    counted = ngrams(TEXT)
    together = counted.start(5)
    alone = [counted.start(1) for _ in range(5)]
    for ids_B in np.random.default_rng(0).integers(V, size=(10, 5)):
        together = counted.step(ids_B, together)
        alone = [counted.step(ids_B[row : row + 1], contexts) for row, contexts in enumerate(alone)]
        expected = np.concatenate([counted.probabilities(contexts) for contexts in alone])
        assert np.array_equal(counted.probabilities(together), expected)


def test_the_start_of_a_text_empties_the_context() -> None:
    """After the start symbol the distribution is that of single symbols."""
    counted = ngrams(TEXT)
    read = counted.step(np.array([0]), counted.start(1))
    assert not np.array_equal(counted.probabilities(read), counted.probabilities(counted.start(1)))
    assert np.array_equal(counted.step(np.array([V]), read), counted.start(1))


def test_pruning_keeps_the_probabilities_of_what_stays() -> None:
    """An n-gram that stays has its probability, and every distribution still adds up to one."""
    whole, pruned = ngrams(TEXT), ngrams(TEXT, threshold=0.3)
    assert V < pruned.num_ngrams < whole.num_ngrams
    for symbol in range(V):
        context = whole.step(np.array([symbol]), whole.start(1))
        expected = whole.probabilities(context)[0]
        found = pruned.probabilities(pruned.step(np.array([symbol]), pruned.start(1)))[0]
        assert found.sum() == pytest.approx(1)
        same = np.isclose(found, expected, rtol=1e-5)
        # What is dropped gets the same multiple of the shorter context's probability.
        shorter = pruned.probabilities(pruned.start(1))[0]
        ratios = found[~same] / shorter[~same]
        assert ratios == pytest.approx([ratios[0]] * len(ratios)) if len(ratios) else same.all()


def test_the_savings_of_an_n_gram_are_what_its_loss_costs() -> None:
    """Stolcke's equation equals the divergence of two distributions, with and without one bigram, times the count."""
    levels = count([TEXT], V, 2)
    smoothed = smooth(levels, V)
    p_V = ngrams(TEXT, 2).probabilities(ngrams(TEXT, 2).start(1))[0].astype(float)
    level, values = levels[1], smoothed[1]
    savings = [_cost_without(level, values, p_V, gram) for gram in range(len(level.symbols_N))]
    for threshold in (0.01, 0.1, 0.3, 1.0):
        kept = trie(levels, smoothed, V, threshold).num_ngrams - len(levels[0].symbols_N)
        assert kept == sum(value > threshold for value in savings)


def _cost_without(level: Level, values: Smoothed, p_V: np.ndarray, gram: int) -> float:
    context, symbol = level.contexts_N[gram], level.symbols_N[gram]
    members = [(level.symbols_N[k], values.p_N[k]) for k in np.flatnonzero(level.contexts_N == context)]
    seen = {s for s, _ in members}
    before = np.array([dict(members).get(s, p_V[s] * values.backoff_C[context]) for s in range(V)])
    rest = 1 - sum(p for s, p in members if s != symbol)
    lower = sum(p_V[s] for s in range(V) if s not in seen or s == symbol)
    after = np.array([before[s] if s in seen and s != symbol else p_V[s] * rest / lower for s in range(V)])
    times = sum(level.occurrences_N[k] for k in np.flatnonzero(level.contexts_N == context))
    return float(times * sum(p * math.log(p / q) for p, q in zip(before, after, strict=True)))


@pytest.mark.parametrize(("num_symbols", "order"), [(1, 63), (65, 9), (255, 7), (256, 7), (5000, 4), (1_114_112, 3)])
def test_the_longest_order_depends_on_the_vocabulary(num_symbols: int, order: int) -> None:
    """An n-gram fits into 63 bits, even if all its symbols have the highest id."""
    assert longest_order(num_symbols) == order
    order = min(order, 9)
    ids = np.full(12, num_symbols - 1, dtype=np.uint32)
    assert [len(level.symbols_N) for level in count([ids], num_symbols, order)] == [1] * order
