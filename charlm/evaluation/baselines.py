"""How well a text is predicted without a neural net: uniform, unigram, Kneser-Ney, compressors. Knows no models.

A model with more bits per character than Kneser-Ney has learned less than a table of counts of its training text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from charlm.data.holdout import Part
from charlm.vocab import Ids, Vocabulary

MAX_ORDER = 7
# Only the end of a longer training text, or of each of its stretches, is counted or compressed: it is next to the text
# that is scored.
MAX_COUNTED = 5_000_000
MAX_COMPRESSED = 2_000_000


@dataclass(frozen=True)
class Baseline:
    """The score of one baseline.

    Attributes:
        name: of the baseline.
        bits_per_character: on the text that the model was scored on.
        characters_seen: how many characters of the training text it has read.
    """

    name: str
    bits_per_character: float
    characters_seen: int

    def to_json(self) -> dict[str, str | float | int]:
        """Return its fields by name."""
        return asdict(self)


def baselines(train: Ids | Part, text: Ids | Part, vocabulary: Vocabulary) -> Iterator[Baseline]:
    """Score a text with each baseline: uniform, unigram, the best order of Kneser-Ney, then the compressors.

    Args:
        train: the text to learn from, of at least one character.
        text: the text to score, of at least one character.
        vocabulary: of both.
    """
    train, text = Part.of(train), Part.of(text)
    yield Baseline("uniform", math.log2(len(vocabulary)), 0)
    counted = train.endings(MAX_COUNTED)
    nats = kneser_ney(counted, text, len(vocabulary), MAX_ORDER)
    # With a single symbol the sum is -0.0.
    yield Baseline("unigram", max(0.0, nats[0] / math.log(2)), len(counted))
    best = int(np.argmin(nats))
    yield Baseline(f"{best + 1}-gram Kneser-Ney", nats[best] / math.log(2), len(counted))
    seen = train.endings(MAX_COMPRESSED)
    before, after = (vocabulary.decode(part.joined()).encode("utf-8", "surrogatepass") for part in (seen, text))
    for name in ("xz", "bz2"):
        try:
            num_bytes = _compressed_size(name, before + after) - _compressed_size(name, before)
        except ImportError:
            # A Python that was built without their libraries lacks them.
            continue
        # A longer text is sometimes compressed to fewer bytes; such a result is meaningless.
        if num_bytes > 0:
            yield Baseline(name, 8 * num_bytes / len(text), len(seen))


def _compressed_size(name: str, data: bytes) -> int:
    if name == "bz2":
        return len(import_module("bz2").compress(data, 9))
    lzma = import_module("lzma")
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def kneser_ney(train: Ids | Part, text: Ids | Part, num_symbols: int, max_order: int) -> list[float]:
    """Score a text with interpolated modified Kneser-Ney models counted on another.

    Args:
        train: ids to count, N in all. No n-gram reaches from one stretch into the next.
        text: ids to score, M in all; the context of a character is what stands before it in its stretch.
        num_symbols: V; the lowest order falls back to 1 / V.
        max_order: the longest n-gram.

    Returns:
        nats per character for every order from 1 to `max_order`.

    Source: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3.
    """
    tables, text = _count(Part.of(train), num_symbols, max_order), Part.of(text)
    ids_M, begins_M = text.joined(), _places_in_stretch(text) == 0
    nats = []
    for order in range(1, max_order + 1):
        # The longest n-grams are counted by occurrence, shorter ones by how many different symbols precede them.
        p_M = np.full(len(ids_M), 1 / num_symbols)
        contexts_M = np.zeros(len(ids_M), dtype=np.int64)
        for length in range(1, order + 1):
            table = tables[length - 1]
            counts = table.occurrences if length == order else table.predecessors
            found_M = table.find(contexts_M, ids_M)
            p_M = _interpolate(table, counts, contexts_M, found_M, p_M)
            # The next longer context of a character is the n-gram that ends right before it.
            contexts_M = np.where(begins_M, -1, np.roll(found_M, 1))
        nats.append(float(-np.log(p_M).mean()))
    return nats


@dataclass(frozen=True)
class _Table:
    """All n-grams of one length. An n-gram is a context, the number of an n-gram that is one shorter, and a symbol.

    Attributes:
        keys: context * V + symbol, sorted; the index of a key is the number of its n-gram.
        contexts: the context of each n-gram.
        num_symbols: V.
        num_contexts: how many n-grams are one shorter.
        occurrences: how often each n-gram occurs in the text.
        predecessors: how many different symbols precede each n-gram.
    """

    keys: NDArray[np.int64]
    contexts: NDArray[np.int64]
    num_symbols: int
    num_contexts: int
    occurrences: NDArray[np.int64]
    predecessors: NDArray[np.int64]

    def find(self, contexts_M: NDArray[np.int64], symbols_M: Ids) -> NDArray[np.int64]:
        """Return the number of each n-gram, or -1 if it or its context was never seen."""
        if not len(self.keys):
            return np.full(len(symbols_M), -1)
        keys_M = contexts_M * self.num_symbols + symbols_M.astype(np.int64)
        places_M = np.minimum(np.searchsorted(self.keys, keys_M), len(self.keys) - 1)
        return np.where((contexts_M >= 0) & (self.keys[places_M] == keys_M), places_M, -1)


def _places_in_stretch(part: Part) -> NDArray[np.int64]:
    """Return how many characters of its stretch stand before each character."""
    return np.concatenate([np.arange(0), *map(np.arange, part.lengths_S)])


def _count(train: Part, num_symbols: int, max_order: int) -> list[_Table]:
    symbols_N, places_N = train.joined().astype(np.int64), _places_in_stretch(train)
    tables: list[_Table] = []
    # For each character: the number of the n-gram before it, and of the n-gram, one shorter, that ends with it.
    contexts_N, shorter_N = np.zeros(len(train), dtype=np.int64), None
    num_contexts = 1
    for length in range(1, max_order + 1):
        keys, first, numbers_N, occurrences = np.unique(
            contexts_N * num_symbols + symbols_N, return_index=True, return_inverse=True, return_counts=True
        )
        if shorter_N is not None:
            # Each different n-gram counts as one predecessor of the n-gram without its first symbol.
            suffixes = shorter_N[first]
            tables[-1].predecessors[:] = np.bincount(suffixes, minlength=len(tables[-1].keys))
        tables.append(
            _Table(keys, keys // num_symbols, num_symbols, num_contexts, occurrences, np.zeros_like(occurrences))
        )
        num_contexts = len(keys)
        # Only what is farther from the start of its stretch ends a longer n-gram.
        is_inside_N = places_N >= length
        shorter_N, contexts_N = numbers_N[is_inside_N], numbers_N[np.roll(is_inside_N, -1)]
        symbols_N, places_N = symbols_N[is_inside_N], places_N[is_inside_N]
    return tables


def _interpolate(
    table: _Table,
    counts: NDArray[np.int64],
    contexts_M: NDArray[np.int64],
    found_M: NDArray[np.int64],
    lower_M: NDArray[np.float64],
) -> NDArray[np.float64]:
    if not len(counts):
        return lower_M
    discounts = _discounts(counts)
    kinds = np.minimum(counts, 3)
    discounted = counts - discounts[kinds]
    totals = np.bincount(table.contexts, weights=counts, minlength=table.num_contexts)
    spared = np.bincount(table.contexts, weights=discounts[kinds], minlength=table.num_contexts)
    known_M = (contexts_M >= 0) & (totals[contexts_M] > 0)
    totals_M = np.where(known_M, totals[contexts_M], 1.0)
    share_M = np.zeros(len(found_M))
    share_M[found_M >= 0] = discounted[found_M[found_M >= 0]]
    share_M /= totals_M
    return np.where(known_M, share_M + spared[contexts_M] / totals_M * lower_M, lower_M)


def _discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the discounts of counts of 0, 1, 2, and 3 or more, estimated from how often each count occurs."""
    ones, twos, threes, fours = (max(1, int((counts == k).sum())) for k in (1, 2, 3, 4))
    y = ones / (ones + 2 * twos)
    estimates = np.array([0, 1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes])
    # In a text of a few characters the estimates can exceed their bounds.
    clipped: NDArray[np.float64] = np.clip(estimates, [0, 0.1, 0.1, 0.1], [0, 0.9, 1.9, 2.9])
    return clipped
