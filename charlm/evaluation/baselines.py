"""How well a text is predicted without a neural net: uniform, unigram, Kneser-Ney, compressors. Knows no models.

A model with more bits per character than Kneser-Ney has learned less than a table of counts of its training text.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.formats import module_for
from charlm.data.holdout import Part
from charlm.inference.kneser_ney import Level, count, longest_order, smooth
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
    for name, program in (("xz", "xz"), ("bz2", "bzip2")):
        try:
            num_bytes = compressed_size(program, [before, after]) - compressed_size(program, [before])
        except ImportError:
            # A Python that was built without their libraries lacks them.
            continue
        # A longer text is sometimes compressed to fewer bytes; such a result is meaningless.
        if num_bytes > 0:
            yield Baseline(name, 8 * num_bytes / len(text), len(seen))


def compressed_size(name: str, pieces: Iterable[bytes]) -> int:
    """Return how many bytes a general compressor needs at its best: `gzip`, `bzip2`, `xz` or `zstd`.

    Raises:
        ImportError: this Python lacks it.
    """
    compressor = _compressor(name)
    return sum(len(compressor.compress(piece)) for piece in pieces) + len(compressor.flush())


def _compressor(name: str) -> Any:
    if name == "gzip":
        return zlib.compressobj(9, wbits=31)
    module = module_for(name)
    if name == "bzip2":
        return module.BZ2Compressor(9)
    if name == "zstd":
        return module.ZstdCompressor(level=19)
    return module.LZMACompressor(preset=9 | module.PRESET_EXTREME)


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
    return [float(nats_M.mean()) for nats_M in nats_by_order(levels, Part.of(text), num_symbols)]


def nats_by_order(levels: list[Level], text: Part, num_symbols: int) -> Iterator[NDArray[np.float64]]:
    """Score a text with the Kneser-Ney model of each order.

    Args:
        levels: the counts, of the lengths 1 to the longest order.
        text: ids to score, M in all.
        num_symbols: V.

    Yields:
        for each order, the shortest first, the nats of each character, shape (M,).
    """
    walks = [_walk(levels, stretch.astype(np.int64), num_symbols) for stretch in text.stretches]
    places = [tuple(map(np.concatenate, zip(*of_level, strict=True))) for of_level in zip(*walks, strict=True)]
    for order in range(1, len(levels) + 1):
        p_M = np.full(len(text), 1 / num_symbols)
        for values, (context_M, found_M) in zip(smooth(levels[:order], num_symbols), places, strict=False):
            backoff_M = np.where(context_M >= 0, values.backoff_C[context_M], 1.0)
            p_M = np.where(found_M >= 0, values.p_N[found_M], backoff_M * p_M)
        yield -np.log(p_M)


def _walk(
    levels: list[Level], ids_M: NDArray[np.int64], num_symbols: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield for each length which n-gram stands before each character, and which one ends with it; -1 for unseen."""
    context_M = np.zeros(len(ids_M), np.int64)
    for level in levels:
        if not len(level.symbols_N):
            # The text that was counted is shorter.
            return
        keys_N = level.contexts_N.astype(np.int64) * num_symbols + level.symbols_N
        wanted_M = context_M * num_symbols + ids_M
        found_M = np.minimum(keys_N.searchsorted(wanted_M), len(keys_N) - 1)
        found_M = np.where((context_M >= 0) & (keys_N[found_M] == wanted_M), found_M, -1)
        yield context_M, found_M
        # The next longer context of a character is the n-gram that ends right before it.
        context_M = np.concatenate([[-1], found_M[:-1]])
