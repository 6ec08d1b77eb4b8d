"""N-grams as they stand in a model file: the arrays of their trie in one byte a number, deflated."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import NGRAMS_PREFIX
from charlm.errors import ModelFileError
from charlm.inference.ngrams import Ngrams

# A table of so many n-grams takes about 100 MB of memory, however small the file is.
MAX_NGRAMS = 1 << 22
# Logarithms are rounded to a tenth of a nat. On tiny Shakespeare this costs less than 0.001 nats a character.
CODES_PER_NAT = 10
# The factors of the smallest and of the largest code are 3e-6 and 9.9e3.
LEAST_CODE, GREATEST_CODE = -92, 127


def pack(ngrams: Ngrams) -> dict[str, NDArray[Any]]:
    """Return the arrays for a model file.

    The symbols, the numbers of children, the codes of the probabilities, and those of the backoffs that have any
    children follow one another in `packed`; `sizes` says how many symbols and how many numbers of children there are.
    """
    integers = _integers(ngrams.num_symbols)
    # All other backoffs are multiplied by one.
    backoffs = ngrams.backoff_M[ngrams.children_M > 0]
    parts = (
        ngrams.symbols_N.astype(integers),
        ngrams.children_M.astype(integers),
        _codes(ngrams.p_N),
        _codes(backoffs),
    )
    packed = zlib.compress(b"".join(part.tobytes() for part in parts))
    sizes = np.array([ngrams.num_ngrams, len(ngrams.children_M)], np.int64)
    return {f"{NGRAMS_PREFIX}packed": np.frombuffer(packed, np.uint8), f"{NGRAMS_PREFIX}sizes": sizes}


def unpack(arrays: Mapping[str, NDArray[Any]], num_symbols: int) -> Ngrams:
    """Read the arrays of a model file, which is untrusted.

    Raises:
        ModelFileError: they are not those of an n-gram model.
    """
    try:
        num_ngrams, num_inner = arrays[f"{NGRAMS_PREFIX}sizes"].tolist()
        if not 0 <= num_ngrams <= MAX_NGRAMS or not 1 <= num_inner <= num_ngrams + 1:
            raise ValueError("their number is out of bounds")
        data = _inflated(arrays[f"{NGRAMS_PREFIX}packed"], num_symbols, num_ngrams, num_inner)
        integers = _integers(num_symbols)
        ends = np.cumsum([num_ngrams * integers.itemsize, num_inner * integers.itemsize, num_ngrams])
        symbols, children, p, backoffs = (data[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True))
        children_M = np.frombuffer(children, integers)
        backoff_M = np.ones(num_inner, np.float32)
        backoff_M[children_M > 0] = _factors(backoffs)
        return Ngrams(np.frombuffer(symbols, integers), _factors(p), backoff_M, children_M, num_symbols)
    except (KeyError, ValueError, zlib.error) as error:
        message = f"the n-grams of this model are damaged: {error}"
        raise ModelFileError(message, "use a model that `charlm train` wrote") from error


def _inflated(packed: NDArray[Any], num_symbols: int, num_ngrams: int, num_inner: int) -> bytes:
    """Inflate, but no more than these numbers of n-grams can need."""
    integer = _integers(num_symbols).itemsize
    most = (integer + 1) * (num_ngrams + num_inner)
    inflating = zlib.decompressobj()
    data = inflating.decompress(packed.tobytes(), most + 1)
    if not inflating.eof or inflating.unused_data:
        raise ValueError("they are longer or shorter than they should be")
    return data


def _integers(num_symbols: int) -> np.dtype[Any]:
    return np.min_scalar_type(num_symbols).newbyteorder("<")


def _codes(factors: NDArray[Any]) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = np.rint(-CODES_PER_NAT * np.log(factors)).clip(LEAST_CODE, GREATEST_CODE).astype(np.int8)
    return codes


def _factors(codes: bytes) -> NDArray[np.float32]:
    return np.exp(np.frombuffer(codes, np.int8) / np.float32(-CODES_PER_NAT))
