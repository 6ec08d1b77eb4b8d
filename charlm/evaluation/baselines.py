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
from charlm.data.mapped import pieces, read
from charlm.inference.kneser_ney import Ints, Level, Smoothed, count, longest_order, smooth_level
from charlm.vocab import Ids, Vocabulary

MAX_ORDER = 7
# Only the end of a longer training text, or of each of its stretches, is counted or compressed: it is next to the text
# that is scored.
# Of a text with many different characters less is counted, because most of its n-grams are different and need memory.
MAX_COUNTED, MAX_COUNTED_OF_MANY, FEW_SYMBOLS = 5_000_000, 1_500_000, 1024
MAX_COMPRESSED = 2_000_000
# Only the beginning of a longer text, or of each of its stretches, is scored, because compressors are slow.
MAX_SCORED = 2_000_000
# So many characters are looked at together.
PIECE = 1 << 16
# The sizes of dictionary that xz allows, in bytes, up to that of its strongest preset.
MIN_DICTIONARY, MAX_DICTIONARY = 1 << 12, 1 << 26


@dataclass(frozen=True)
class Baseline:
    """The score of one baseline.

    Attributes:
        name: of the baseline.
        bits_per_character: on the text that the model was scored on, or on the beginning of it.
        characters_seen: how many characters of the training text it has read.
        characters_scored: how many characters of the text were scored.
    """

    name: str
    bits_per_character: float
    characters_seen: int
    characters_scored: int

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
    num_scored = len(text)
    yield Baseline("uniform", math.log2(len(vocabulary)), 0, num_scored)
    counted = train.endings(MAX_COUNTED if len(vocabulary) <= FEW_SYMBOLS else MAX_COUNTED_OF_MANY)
    nats = kneser_ney(counted, text, len(vocabulary), MAX_ORDER)
    # With a single symbol the sum is -0.0.
    yield Baseline("unigram", max(0.0, nats[0] / math.log(2)), len(counted), num_scored)
    best = int(np.argmin(nats))
    yield Baseline(f"{best + 1}-gram Kneser-Ney", nats[best] / math.log(2), len(counted), num_scored)
    seen = train.endings(MAX_COMPRESSED)
    before, after = _in_utf8(seen, vocabulary), _in_utf8(text, vocabulary)
    for name, program in (("xz", "xz"), ("bz2", "bzip2")):
        try:
            alone, together = (
                compressed_size(program, data, sum(map(len, data))) for data in ([before], [before, after])
            )
        except ImportError:
            # A Python that was built without their libraries lacks them.
            continue
        # A longer text is sometimes compressed to fewer bytes; such a result is meaningless.
        if together > alone:
            yield Baseline(name, 8 * (together - alone) / num_scored, len(seen), num_scored)


def compressed_size(name: str, data: Iterable[bytes], num_bytes: int) -> int:
    """Return how many bytes a general compressor needs at its best: `gzip`, `bzip2`, `xz` or `zstd`.

    Args:
        name: of the compressor.
        data: to compress, in pieces.
        num_bytes: how many bytes they have together; few of them need little memory.

    Raises:
        ImportError: this Python lacks it.
    """
    compressor = _compressor(name, num_bytes)
    return sum(len(compressor.compress(piece)) for piece in data) + len(compressor.flush())


def _compressor(name: str, num_bytes: int) -> Any:
    if name == "gzip":
        return zlib.compressobj(9, wbits=31)
    module = module_for(name)
    if name == "bzip2":
        return module.BZ2Compressor(9)
    if name == "zstd":
        return module.ZstdCompressor(level=19)
    # A dictionary that is larger than the data takes much memory for nothing.
    size = min(max(MIN_DICTIONARY, 1 << num_bytes.bit_length()), MAX_DICTIONARY)
    strongest = {"id": module.FILTER_LZMA2, "preset": 9 | module.PRESET_EXTREME, "dict_size": size}
    return module.LZMACompressor(filters=[strongest])


def _in_utf8(part: Part, vocabulary: Vocabulary) -> bytes:
    """Return the bytes of a text in UTF-8."""
    decoder = vocabulary.decoder()
    texts = (decoder.decode(some.tolist()) for stretch in part.stretches for some in pieces(stretch, PIECE))
    data = b"".join(text.encode("utf-8", "surrogatepass") for text in texts)
    return data + decoder.decode([], final=True).encode("utf-8", "surrogatepass")


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
    stretches = [read(stretch, 0, len(stretch)) for stretch in Part.of(train).stretches]
    levels = count(stretches, num_symbols, min(max_order, longest_order(num_symbols)))
    return [float(nats_M.mean()) for nats_M in nats_by_order(levels, Part.of(text), num_symbols)]


def nats_by_order(levels: list[Level], text: Part, num_symbols: int) -> Iterator[NDArray[np.float64]]:
    """Score a text with the Kneser-Ney model of each order.

    Args:
        levels: the counts, of the lengths 1 to the longest order.
        text: ids to score, M in all.
        num_symbols: V.

    Yields:
        for each order, the shortest first, the nats of each character, shape (M,). The next one takes its memory.
    """
    edges = np.cumsum([0, *text.lengths_S]).tolist()
    # Which n-gram stands before each character, or -1 if it was never seen; and what shorter n-grams predict.
    context_M, shorter_M = np.zeros(len(text), np.int32), np.full(len(text), 1 / num_symbols)
    found_M, nats_M = np.empty(len(text), np.int32), np.empty(len(text))
    shorter = None
    for level in levels:
        if not len(level.symbols_N):
            # The text that was counted is shorter.
            yield -np.log(shorter_M)
            continue
        keys_N = level.contexts_N.astype(np.int64) * num_symbols + level.symbols_N
        longest = smooth_level(level, True, shorter, num_symbols)
        for ids, start in zip(text.stretches, edges, strict=False):
            for first, some in zip(range(start, start + len(ids), PIECE), pieces(ids, PIECE), strict=True):
                here = slice(first, first + len(some))
                found_M[here] = _found(keys_N, context_M[here], some, num_symbols)
                nats_M[here] = -np.log(_predicted(longest, context_M[here], found_M[here], shorter_M[here]))
        yield nats_M
        if level is levels[-1]:
            return
        # There are many n-grams, so that one is dropped before the other is made.
        del keys_N, longest
        shorter = smooth_level(level, False, shorter, num_symbols)
        for first in range(0, len(text), PIECE):
            here = slice(first, first + PIECE)
            shorter_M[here] = _predicted(shorter, context_M[here], found_M[here], shorter_M[here])
        # The next longer context of a character is the n-gram that ends right before it.
        context_M[1:], context_M[edges[:-1]] = found_M[:-1], -1


def _found(keys_N: NDArray[np.int64], context_M: Ints, ids_M: Ids, num_symbols: int) -> NDArray[np.int64]:
    """Return which n-gram ends with each character, -1 if none that was seen."""
    wanted_M = context_M.astype(np.int64) * num_symbols + ids_M
    found_M = np.minimum(keys_N.searchsorted(wanted_M), len(keys_N) - 1)
    return np.where((context_M >= 0) & (keys_N[found_M] == wanted_M), found_M, -1)


def _predicted(values: Smoothed, context_M: Ints, found_M: Ints, shorter_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of each character, given what shorter n-grams predict."""
    backoff_M = np.where(context_M >= 0, values.backoff_C[context_M], 1.0)
    return np.where(found_M >= 0, values.p_N[found_M], backoff_M * shorter_M)
