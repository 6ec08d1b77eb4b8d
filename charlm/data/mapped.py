"""Ids on disk as arrays. Pages that were read are given back, so that a long text never fills the memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from charlm.vocab import Ids

# So many characters are looked at together where all of a text is.
PIECE = 1 << 20


def map_ids(path: Path, dtype: np.dtype[np.unsignedinteger]) -> Ids:
    """Return the ids of a file, shape (N,), which are read when they are used."""
    return np.memmap(path, dtype=dtype, mode="r")


def release(ids: Ids) -> None:
    """Give back the memory of the pages that were read through an array of `map_ids`, or through a view of it.

    They are read again when they are used again. Systems without this advice take them back when they need memory.
    """
    mapping: Any = getattr(ids, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        with suppress(OSError, ValueError):
            mapping.madvise(mmap.MADV_DONTNEED)


def pieces(ids: Ids, size: int = PIECE) -> Iterator[Ids]:
    """Go through ids piece by piece; the pages of a piece are given back after it."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
        release(ids)
