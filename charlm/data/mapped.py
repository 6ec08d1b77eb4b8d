"""Ids on disk as arrays. The memory of what was read is given back, so that a long text never fills it."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from charlm.vocab import Ids

# So many characters are looked at together where all of a text is.
PIECE = 1 << 20
# The system maps 64 KB around each place that is read, and some systems up to 2 MB. After so many places, all of it is
# given back.
MAX_PLACES = 16
# A search reads about so many places that no other search reads.
PLACES_OF_SEARCH = 4


class _Mapping(mmap.mmap):
    """A file in memory, and how many places of it were read since its memory was given back."""

    num_places = 0

    def give_back(self) -> None:
        """Give the memory back; what is used again is read again. Some systems only do it when they lack memory."""
        self.num_places = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            with suppress(OSError, ValueError):
                self.madvise(mmap.MADV_DONTNEED)


def map_ids(path: Path, dtype: np.dtype[np.unsignedinteger]) -> Ids:
    """Return the ids of a file, shape (N,), which are read when they are used."""
    with path.open("rb") as file:
        return np.frombuffer(_Mapping(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)


def map_places(file: BinaryIO, number: int) -> NDArray[np.int64]:
    """Return the first so many places that a file holds, which are read when they are used."""
    return np.frombuffer(_Mapping(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.int64, count=number)


def search(
    places: NDArray[np.int64], wanted_B: NDArray[np.int64], find: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return what a search in ascending places finds for some numbers.

    Args:
        places: of `map_places`, or any others.
        wanted_B: the numbers.
        find: searches the places; called with a few numbers at a time if the places are read from a file.
    """
    mapping, some = _mapping_of(places), max(1, MAX_PLACES // PLACES_OF_SEARCH)
    if mapping is None:
        return find(wanted_B)
    found_B = np.empty(len(wanted_B), np.int64)
    for first in range(0, len(wanted_B), some):
        found_B[first : first + some] = find(wanted_B[first : first + some])
        _count(mapping, MAX_PLACES)
    return found_B


def gather(ids: Ids, places_TB: NDArray[np.int64]) -> Ids:
    """Return the ids at some places, shape (T, B). The T places of a column are close together.

    Args:
        ids: an array of `map_ids`, a view of it, or any other.
        places_TB: the places.
    """
    mapping, num_columns = _mapping_of(ids), places_TB.shape[1]
    if mapping is None or num_columns <= MAX_PLACES:
        found_TB: Ids = ids[places_TB]
        _count(mapping, num_columns)
        return found_TB
    found_TB = np.empty(places_TB.shape, dtype=ids.dtype)
    for first in range(0, num_columns, MAX_PLACES):
        columns = slice(first, first + MAX_PLACES)
        found_TB[:, columns] = ids[places_TB[:, columns]]
        _count(mapping, MAX_PLACES)
    return found_TB


def read(ids: Ids, start: int, end: int) -> Ids:
    """Return a copy of the ids from one place to another."""
    copy = ids[start:end].copy()
    _count(_mapping_of(ids), 1 + MAX_PLACES * len(copy) // PIECE)
    return copy


def pieces(ids: Ids, size: int = PIECE) -> Iterator[Ids]:
    """Go through ids piece by piece; the memory of a piece is given back after it."""
    mapping = _mapping_of(ids)
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
        _count(mapping, 1 + MAX_PLACES * size // PIECE)


def _mapping_of(ids: Ids | NDArray[np.int64]) -> _Mapping | None:
    base: Any = ids
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, _Mapping) else None


def _count(mapping: _Mapping | None, num_places: int) -> None:
    if mapping is not None:
        mapping.num_places += num_places
        if mapping.num_places >= MAX_PLACES:
            mapping.give_back()
