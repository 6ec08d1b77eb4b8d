"""How well a text is predicted without a neural net: uniform, unigram, Kneser-Ney, compressors. Knows no models.

A model with more bits per character than Kneser-Ney has learned less than a table of counts of its training text.
"""

from __future__ import annotations

import bz2
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from charlm.inference.kneser_ney import count, longest_order, smooth, trie
from charlm.vocab import Ids, Vocabulary

MAX_ORDER = 7
# Only the end of a longer training text is counted or compressed: it is next to the text that is scored.
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


def baselines(train: Ids, text: Ids, vocabulary: Vocabulary) -> Iterator[Baseline]:
    """Score a text with each baseline: uniform, unigram, the best order of Kneser-Ney, then the compressors.

    Args:
        train: the text to learn from, shape (N,).
        text: the text to score, shape (M,), M at least 1.
        vocabulary: of both.
    """
    yield Baseline("uniform", math.log2(len(vocabulary)), 0)
    counted = train[-MAX_COUNTED:]
    nats = kneser_ney(counted, text, len(vocabulary), MAX_ORDER)
    # With a single symbol the sum is -0.0.
    yield Baseline("unigram", max(0.0, nats[0] / math.log(2)), len(counted))
    best = int(np.argmin(nats))
    yield Baseline(f"{best + 1}-gram Kneser-Ney", nats[best] / math.log(2), len(counted))
    seen = train[-MAX_COMPRESSED:]
    before, after = (vocabulary.decode(part).encode("utf-8", "surrogatepass") for part in (seen, text))
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
        "bz2": lambda data: bz2.compress(data, 9),
    }
    for name, compress in compressors.items():
        num_bytes = len(compress(before + after)) - len(compress(before))
        # A longer text is sometimes compressed to fewer bytes; such a result is meaningless.
        if num_bytes > 0:
            yield Baseline(name, 8 * num_bytes / len(text), len(seen))


def kneser_ney(train: Ids, text: Ids, num_symbols: int, max_order: int) -> list[float]:
    """Score a text with modified Kneser-Ney models counted on another.

    Args:
        train: ids to count, shape (N,).
        text: ids to score, shape (M,); the context of a character is the part of this text before it.
        num_symbols: V; the lowest order falls back to 1 / V.
        max_order: the longest n-gram.

    Returns:
        nats per character for every order from 1 to `max_order`, or to the longest that can be counted.
    """
    levels = count(train, num_symbols, min(max_order, longest_order(num_symbols)))
    nats = []
    for order in range(1, len(levels) + 1):
        shorter = levels[:order]
        p_M = trie(shorter, smooth(shorter, num_symbols), num_symbols).score(text)
        nats.append(float(-np.log(p_M).mean()))
    return nats
