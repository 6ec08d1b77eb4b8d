"""Counts the n-grams of a text, smooths them (modified Kneser-Ney) and prunes them.

Sources: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3;
Stolcke 1998, "Entropy-based pruning of backoff language models".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.inference.ngrams import Ngrams
from charlm.vocab import Ids

Ints = NDArray[np.int32]
Doubles = NDArray[np.float64]
# The bits of a number that holds the symbols of a whole n-gram.
NUM_BITS = 63
# So many characters of a text are looked at together.
PIECE = 1 << 18
LEAST_THRESHOLD = 0.01


@dataclass(frozen=True)
class Level:
    """All n-grams of one length n that occur in a text, in order.

    Attributes:
        contexts_N: for each, which n-gram of length n - 1 it extends.
        suffixes_N: for each, which n-gram of length n - 1 is left without its first symbol; zeros for n = 1.
        symbols_N: its last symbol.
        occurrences_N: how often it occurs in the text.
        predecessors_N: how many different symbols precede it.
        num_contexts: how many n-grams are one shorter.
    """

    contexts_N: Ints
    suffixes_N: Ints
    symbols_N: Ints
    occurrences_N: Ints
    predecessors_N: Ints
    num_contexts: int


@dataclass(frozen=True)
class Smoothed:
    """The probabilities of all n-grams of one length.

    Attributes:
        p_N: p(last symbol | the symbols before it).
        lower_N: the same without the first of these symbols.
        backoff_C: for each context, the share of its probability that goes to the shorter context.
    """

    p_N: Doubles
    lower_N: Doubles
    backoff_C: Doubles


def longest_order(num_symbols: int) -> int:
    """Return the length of the longest n-grams that can be counted."""
    return NUM_BITS // num_symbols.bit_length()


def count(stretches: Sequence[Ids], num_symbols: int, order: int) -> list[Level]:
    """Count all n-grams of a text, or of several that do not continue one another.

    Every position becomes a number whose digits are the symbols that start there. In the sorted numbers the n-grams of
    each length stand in order, equal ones side by side.

    Args:
        stretches: the texts, with at least one character together.
        num_symbols: V.
        order: the longest n-grams, at most `longest_order(V)`.

    Returns:
        the n-grams of the lengths 1 to `order`.
    """
    digit_bits = num_symbols.bit_length()
    numbers = _numbers(stretches, digit_bits, order)
    numbers.sort()
    levels: list[Level] = []
    before = np.zeros(1, np.int64)
    for length in range(1, order + 1):
        shift = digit_bits * (order - length)
        first = _firsts(numbers, shift)
        # There are many n-grams, and 32 bits are enough for all of these numbers but the keys.
        occurrences_N, keys_N = np.diff(first, append=len(numbers)).astype(np.int32), numbers[first] >> shift
        is_whole = keys_N & ((1 << digit_bits) - 1) > 0
        keys_N, occurrences_N = keys_N[is_whole], occurrences_N[is_whole]
        symbols_N = ((keys_N & ((1 << digit_bits) - 1)) - 1).astype(np.int32)
        contexts_N = np.searchsorted(before, keys_N >> digit_bits).astype(np.int32)
        suffixes_N = np.searchsorted(before, keys_N & ((1 << digit_bits * (length - 1)) - 1)).astype(np.int32)
        if levels:
            # Each different n-gram is one predecessor of the n-gram without its first symbol.
            levels[-1].predecessors_N[:] = np.bincount(suffixes_N, minlength=len(before))
        counts = (occurrences_N, np.zeros_like(occurrences_N))
        levels.append(Level(contexts_N, suffixes_N, symbols_N, *counts, len(before)))
        before = keys_N
    return levels


def _numbers(stretches: Sequence[Ids], digit_bits: int, order: int) -> NDArray[np.int64]:
    """Return a number for each position of the texts, whose digits are the symbols that start there."""
    numbers = np.zeros(sum(map(len, stretches)), np.int64)
    left = numbers
    for ids in stretches:
        for start in range(0, len(ids), PIECE):
            here, left = np.split(left, [min(PIECE, len(ids) - start)])
            digits = ids[start : start + len(here) + order - 1].astype(np.int64) + 1
            # Digit 0 stands for nothing, after the end of a text.
            digits = np.pad(digits, (0, len(here) + order - 1 - len(digits)))
            for place in range(order):
                here <<= digit_bits
                here |= digits[place : place + len(here)]
    return numbers


def _firsts(numbers: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Return where sorted numbers begin to differ from those before them in the digits above the lowest bits."""
    found = [np.zeros(1, np.int64)]
    for start in range(1, len(numbers), PIECE):
        here = numbers[start - 1 : start + PIECE]
        found.append(start + np.flatnonzero((here[1:] ^ here[:-1]) >> shift))
    return np.concatenate(found)


def smooth(levels: list[Level], num_symbols: int) -> list[Smoothed]:
    """Give every n-gram its interpolated modified Kneser-Ney probability.

    With the count a of an n-gram "c s", the sum of all counts after c, and the discount D of a count,

        p(s | c) = (a(c s) - D(a(c s))) / sum(c) + backoff(c) p(s | c')
        backoff(c) = sum over all s of D(a(c s)) / sum(c)

    where c' is c without its first symbol, and 1/V stands below the empty context. The longest n-grams are counted by
    occurrence, the shorter ones by how many different symbols precede them.
    """
    smoothed: list[Smoothed] = []
    for length, level in enumerate(levels, start=1):
        smoothed.append(smooth_level(level, length == len(levels), smoothed[-1] if smoothed else None, num_symbols))
    return smoothed


def smooth_level(level: Level, is_longest: bool, shorter: Smoothed | None, num_symbols: int) -> Smoothed:
    """Give the n-grams of one length their probabilities, see `smooth`.

    Args:
        level: the n-grams.
        is_longest: whether there are no longer ones.
        shorter: the probabilities of the n-grams that are one shorter; None if there are none.
        num_symbols: V.
    """
    counts = level.occurrences_N if is_longest else level.predecessors_N
    discounts_N = _discounts(counts)[np.minimum(counts, 3)]
    totals_C = _sums(level, counts)
    lower_N = shorter.p_N[level.suffixes_N] if shorter else np.full(len(counts), 1 / num_symbols)
    backoff_C = np.where(totals_C > 0, _sums(level, discounts_N) / np.maximum(totals_C, 1), 1.0)
    # In place, because there are many n-grams.
    shares_N = np.subtract(counts, discounts_N, out=discounts_N)
    shares_N /= np.maximum(totals_C, 1)[level.contexts_N]
    p_N = backoff_C[level.contexts_N]
    p_N *= lower_N
    p_N += shares_N
    return Smoothed(p_N, lower_N, backoff_C)


def trie(
    levels: list[Level],
    smoothed: list[Smoothed],
    num_symbols: int,
    threshold: float = -1.0,
    max_ngrams: int | None = None,
) -> Ngrams:
    """Join the levels to one trie without the n-grams that matter least.

    Args:
        levels: as `count` returned them.
        smoothed: as `smooth` returned them.
        num_symbols: V.
        threshold: the nats that an n-gram must save on the text that was counted; negative keeps every n-gram.
        max_ngrams: how many n-grams there may be; a higher threshold is taken if there are more.
    """
    savings = [_savings(level, values) for level, values in zip(levels, smoothed, strict=True)]
    kept = _kept(levels, savings, threshold)
    while max_ngrams and len(levels) > 1 and sum(map(np.count_nonzero, kept)) > max(max_ngrams, len(kept[0])):
        threshold = max(threshold, LEAST_THRESHOLD) * 1.2
        kept = _kept(levels, savings, threshold)
    symbols, probabilities, backoffs, children = [], [], [], []
    was_kept = np.ones(1, bool)
    for level, values, is_kept in zip(levels, smoothed, kept, strict=True):
        p_N, lower_N = values.p_N * is_kept, values.lower_N * is_kept
        numbers_C = np.bincount(level.contexts_N, is_kept, level.num_contexts).astype(np.int64)
        is_whole_C = numbers_C == np.bincount(level.contexts_N, minlength=level.num_contexts)
        rest_C, lower_rest_C = 1 - _sums(level, p_N), 1 - _sums(level, lower_N)
        backoff_C = np.where(is_whole_C, values.backoff_C, rest_C / np.maximum(lower_rest_C, 1e-9))
        backoffs.append(np.maximum(backoff_C, 1e-9)[was_kept])
        children.append(numbers_C[was_kept])
        symbols.append(level.symbols_N[is_kept])
        probabilities.append(values.p_N[is_kept])
        was_kept = is_kept
    return Ngrams(
        np.concatenate(symbols),
        np.concatenate(probabilities),
        np.concatenate(backoffs),
        np.concatenate(children),
        num_symbols,
    )


def _kept(levels: list[Level], savings: list[Doubles], threshold: float) -> list[NDArray[np.bool_]]:
    """Decide which n-grams stay: those that save enough, and the contexts of those that stay."""
    kept: list[NDArray[np.bool_]] = []
    needed = np.zeros(len(levels[-1].symbols_N), bool)
    for level, savings_N in zip(reversed(levels), reversed(savings), strict=True):
        kept.append((savings_N > threshold) | needed)
        needed = np.zeros(level.num_contexts, bool)
        # A walk through the trie reaches a context only over the n-grams that it ends with.
        needed[level.contexts_N[kept[-1]]] = True
        needed[level.suffixes_N[kept[-1]]] = True
    kept[-1][:] = True  # single symbols
    return kept[::-1]


def _savings(level: Level, values: Smoothed) -> Doubles:
    """Return how many nats the text costs more without each n-gram alone: Stolcke's equation 4 times the text's length.

    Without an n-gram its probability is that of the shorter context times the backoff, and the backoff changes.
    """
    context = level.contexts_N
    p_N, lower_N = values.p_N, values.lower_N
    rest_N = np.maximum(1 - _sums(level, p_N), 1e-12)[context]
    lower_rest_N = np.maximum(1 - _sums(level, lower_N), 1e-12)[context]
    log_backoff_N = np.log(rest_N / lower_rest_N)
    log_backoff_without_N = np.log((rest_N + p_N) / (lower_rest_N + lower_N))
    change_N = p_N * (np.log(lower_N) + log_backoff_without_N - np.log(p_N))
    change_N += (log_backoff_without_N - log_backoff_N) * rest_N
    savings_N: Doubles = -_sums(level, level.occurrences_N)[context] * change_N
    return savings_N


def _sums(level: Level, values_N: NDArray[np.generic]) -> Doubles:
    """Add up values of n-grams with the same context."""
    return np.bincount(level.contexts_N, values_N, level.num_contexts).astype(np.float64)


def _discounts(counts: Ints) -> Doubles:
    """Return the discounts of counts of 0, 1, 2, and 3 or more, estimated from how often each count occurs."""
    ones, twos, threes, fours = (max(1, int((counts == k).sum())) for k in (1, 2, 3, 4))
    y = ones / (ones + 2 * twos)
    estimates = np.array([0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes])
    # In a text of a few characters the estimates can exceed their bounds.
    clipped: Doubles = np.clip(estimates, [0, 0.1, 0.1, 0.1], [0, 0.9, 1.9, 2.9])
    return clipped
