"""How well a text is predicted without a neural net: uniform, unigram, Kneser-Ney, compressors. Knows no models.

A model with more bits per character than Kneser-Ney has learned less than a table of counts of its training text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module

import numpy as np

from charlm.data.holdout import Part
from charlm.inference.kneser_ney import count, longest_order, smooth, trie
from charlm.vocab import Ids, Vocabulary

MAX_ORDER = 7
# Only the end of a longer training text, or of each of its stretches, is counted or compressed: it is next to the text
# that is scored.
MAX_COUNTED = 5_000_000
MAX_COMPRESSED = 2_000_000
# Only the beginning of a longer text, or of each of its stretches, is scored: each character takes much memory.
MAX_SCORED = 2_000_000


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
        text: the text to score, of at least one character; at most `MAX_SCORED` of them are scored.
        vocabulary: of both.
    """
    train, text = Part.of(train), Part.of(text).beginnings(MAX_SCORED)
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
    """Score a text with modified Kneser-Ney models counted on another.

    Args:
        train: ids to count, N in all. No n-gram reaches from one stretch into the next.
        text: ids to score, M in all; the context of a character is what stands before it in its stretch.
        num_symbols: V; the lowest order falls back to 1 / V.
        max_order: the longest n-gram.

    Returns:
        nats per character for every order from 1 to `max_order`, or to the longest that can be counted.
    """
    levels = count(Part.of(train).stretches, num_symbols, min(max_order, longest_order(num_symbols)))
    nats = []
    for order in range(1, len(levels) + 1):
        shorter = levels[:order]
        ngrams = trie(shorter, smooth(shorter, num_symbols), num_symbols)
        p_M = np.concatenate([ngrams.score(stretch) for stretch in Part.of(text).stretches])
        nats.append(float(-np.log(p_M).mean()))
    return nats
