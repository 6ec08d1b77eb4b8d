"""Which runs of a text stand verbatim in a longer one: exact, in one pass over it, without an index. Knows ids only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.data.holdout import Part
from charlm.data.mapped import PIECE, gather, pieces, read
from charlm.vocab import Ids

# The length of a run is measured up to so many characters; only that of the longest run is measured beyond.
MAX_LENGTH = 50
# So many characters of the long text are looked at, and so many of the short texts are looked for, at the same time.
CHUNK_SIZE, BATCH_SIZE = 1 << 18, 1 << 17
# At these lengths, the places that no longer match are dropped.
FILTER_LENGTHS = (10, 14, 20, 30)

Progress = Callable[[int, int], None]
Hashes = NDArray[np.uint64]


class Matches(NamedTuple):
    """What of a text stands in a longer one.

    Attributes:
        lengths_T: how long the run is that begins at each character and stands in the longer text, up to `MAX_LENGTH`.
        places_T: where it stands there first, counted in all of the longer text; anything where the length is 0.
    """

    lengths_T: NDArray[np.int64]
    places_T: NDArray[np.int64]


class Run(NamedTuple):
    """A run of characters that stands in two texts.

    Attributes:
        start: where it begins in the short text.
        length: how many characters it has.
        place: where it stands in the long text.
    """

    start: int
    length: int
    place: int


def match(texts: Sequence[Ids], learned: Part, progress: Progress | None = None) -> list[Matches]:
    """Find the runs of texts that stand in a longer text. No run crosses the edge of a stretch of that.

    The long text is read once for each `BATCH_SIZE` characters of the short ones, in little memory.

    Args:
        texts: ids, each of shape (T,).
        learned: the longer text.
        progress: called with the number of characters that were looked at, and how many there are.
    """
    query = np.concatenate([np.zeros(0, dtype=learned.ids.dtype), *texts])
    ends = np.cumsum([0, *map(len, texts)])
    # How many characters there are from each one to the end of its text.
    room = np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(len(text), 0, -1) for text in texts)])
    lengths, places = np.zeros(len(query), dtype=np.int64), np.zeros(len(query), dtype=np.int64)
    for first in range(0, len(query), BATCH_SIZE):
        batch = slice(first, first + BATCH_SIZE)
        needed = query[first : first + BATCH_SIZE + MAX_LENGTH - 1]
        lengths[batch], places[batch] = _match_batch(needed, room[batch], learned, progress or _ignore)
    return [Matches(lengths[start:end], places[start:end]) for start, end in pairwise(ends)]


def is_covered(lengths_T: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Return which characters lie in a run of at least this length, shape (T,).

    Args:
        lengths_T: how long the run is that begins at each character, as in `Matches`.
        length: `MAX_LENGTH` at most.
    """
    starts = np.flatnonzero(lengths_T >= length)
    edges = np.zeros(len(lengths_T) + length, dtype=np.int64)
    edges[starts] += 1
    edges[starts + length] -= 1
    covered: NDArray[np.bool_] = np.cumsum(edges)[: len(lengths_T)] > 0
    return covered


def longest_run(text: Ids, matches: Matches, learned: Part) -> Run | None:
    """Return the longest run of a text that stands in a longer one, of any length; None if no character does.

    Args:
        text: ids, shape (T,).
        matches: what `match` found of this text.
        learned: the longer text.
    """
    lengths_T, places_T = matches
    if not lengths_T.any():
        return None
    start = int(lengths_T.argmax())
    best = Run(start, int(lengths_T[start]), int(places_T[start]))
    if best.length < MAX_LENGTH:
        return best
    # A longer run consists of runs of this length, one at each of its characters.
    is_long = np.concatenate([lengths_T == MAX_LENGTH, [False]])
    edges = np.flatnonzero(np.diff(is_long, prepend=False)).reshape(-1, 2)
    most_T = np.zeros(len(text), dtype=np.int64)
    for first, last in edges.tolist():
        most_T[first:last] = np.arange(last - first, 0, -1) + MAX_LENGTH - 1
        length = _agreement(text[first:], learned, int(places_T[first]))
        best = max(best, Run(first, length, int(places_T[first])), key=lambda run: run.length)
    most = int(most_T.max())
    # Most often the first place of the longest chain is the answer. Otherwise bisect.
    wanted = most
    while best.length < most:
        found = _find(text, np.flatnonzero(most_T >= wanted), wanted, learned)
        if found is None:
            most = wanted - 1
        else:
            best = found
        wanted = (best.length + most + 1) // 2
    return best


def _ignore(done: int, total: int) -> None:
    """Show no progress."""


@dataclass
class _Windows:
    """The windows of one length that are looked for.

    Attributes:
        keys: their different hashes, ascending.
        places: where each was found first; -1 if it was not found.
        missing: the hashes of those that were not found.
        missing_index: where these stand among all.
    """

    keys: Hashes
    places: NDArray[np.int64]
    missing: Hashes
    missing_index: NDArray[np.intp]

    @classmethod
    def of(cls, hashes: Hashes) -> _Windows:
        keys = np.unique(hashes)
        return cls(keys, np.full(len(keys), -1), keys, np.arange(len(keys)))

    def found(self, hashes: Hashes, places: NDArray[np.int64]) -> None:
        """Note where windows stand, in ascending order, some of which may be those that are missing."""
        index = np.searchsorted(self.missing, hashes)
        index[index == len(self.missing)] = 0
        is_missing = self.missing[index] == hashes
        index, places = index[is_missing], places[is_missing]
        if len(index):
            # Of several values for one index the last one stays.
            self.places[self.missing_index[index[::-1]]] = places[::-1]
            self.missing = np.delete(self.missing, index)
            self.missing_index = np.delete(self.missing_index, index)


class _Filter:
    """Tells most hashes that are not among some keys from those that may be."""

    def __init__(self, num_keys: int) -> None:
        num_bits = max(16, min(22, (16 * num_keys).bit_length()))
        self._shift = np.uint64(64 - num_bits)
        self._is_used = np.zeros(1 << num_bits, dtype=bool)

    def __call__(self, hashes: Hashes, keys: Hashes) -> NDArray[np.intp]:
        """Return the indices of the hashes that may be among the keys."""
        slots = keys >> self._shift
        self._is_used[slots] = True
        found = np.flatnonzero(self._is_used[hashes >> self._shift])
        self._is_used[slots] = False
        return found


def _match_batch(
    query: Ids, room: NDArray[np.int64], learned: Part, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how long the run is that begins at each of the characters with room, and where it stands first.

    Equal windows have equal hashes, so that no run is missed. That windows with equal hashes are equal is verified.
    If they are not, which is improbable, other hashes are tried.
    """
    attempt = 0
    while True:
        hashing = _Hashing.draw(attempt, max(int(query.max(initial=0)), _largest(learned)) + 1)
        lengths, places = _match_hashes(hashing, query, room, learned, progress)
        if _are_equal(query, lengths, places, learned.ids):
            return lengths, places
        attempt += 1


def _largest(learned: Part) -> int:
    """Return the largest id that the type of a text can hold or, for large types, that it does hold."""
    if learned.ids.dtype.itemsize <= 2:
        return int(np.iinfo(learned.ids.dtype).max)
    return max((int(piece.max()) for stretch in learned.stretches for piece in pieces(stretch)), default=0)


class _Hashing(NamedTuple):
    """A hash of windows whose length grows: h becomes h times a factor, plus a random number for the new id."""

    factor: np.uint64
    numbers: Hashes

    @classmethod
    def draw(cls, seed: int, num_ids: int) -> _Hashing:
        random = np.random.default_rng(seed)
        numbers = random.integers(0, 1 << 64, num_ids + 1, dtype=np.uint64)
        # An odd factor loses no bits.
        return cls(np.uint64(numbers[0] | np.uint64(1)), numbers[1:])


def _match_hashes(
    hashing: _Hashing, query: Ids, room: NDArray[np.int64], learned: Part, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    windows, hashes_of = [], []
    values = hashing.numbers[query]
    hashes = np.zeros(len(room), dtype=np.uint64)
    for length in range(1, MAX_LENGTH + 1):
        starts = np.flatnonzero(room >= length)
        if not len(starts):
            break
        hashes[starts] = hashes[starts] * hashing.factor + values[starts + length - 1]
        windows.append(_Windows.of(hashes[starts]))
        hashes_of.append(np.searchsorted(windows[-1].keys, hashes[starts]))
    _scan(hashing, windows, _Filter(len(room)), learned, progress)
    lengths, places = np.zeros_like(room), np.zeros_like(room)
    for length, (found, index) in enumerate(zip(windows, hashes_of, strict=True), 1):
        starts = np.flatnonzero(room >= length)
        is_found = found.places[index] >= 0
        lengths[starts[is_found]] = length
        places[starts[is_found]] = found.places[index[is_found]]
    return lengths, places


def _scan(hashing: _Hashing, windows: list[_Windows], filter: _Filter, learned: Part, progress: Progress) -> None:
    """Look for windows in a text."""
    done = 0
    for first, last in learned.bounds_S2.tolist():
        for start in range(first, last, CHUNK_SIZE):
            windows = windows[: max((n for n, each in enumerate(windows, 1) if len(each.missing)), default=0)]
            if not windows:
                return
            size = min(CHUNK_SIZE, last - start)
            ids = read(learned.ids, start, min(start + size + len(windows) - 1, last))
            _scan_chunk(hashing, windows, filter, hashing.numbers[ids], start, size)
            done += size
            progress(done, len(learned))


def _scan_chunk(
    hashing: _Hashing, windows: list[_Windows], filter: _Filter, values: Hashes, place: int, size: int
) -> None:
    hashes = np.zeros(size, dtype=np.uint64)
    # The places that are left; None while they are all of them.
    left: NDArray[np.intp] | None = None
    for length, looked_for in enumerate(windows, 1):
        # Near the end there are not enough characters for a window.
        count = len(values) - length + 1
        if left is None:
            hashes = hashes[:count]
            following = values[length - 1 : length - 1 + len(hashes)]
        else:
            left = left[: np.searchsorted(left, count)]
            hashes = hashes[: len(left)]
            following = values[left + (length - 1)]
        hashes *= hashing.factor
        hashes += following
        if len(looked_for.missing):
            maybe = filter(hashes, looked_for.missing)
            looked_for.found(hashes[maybe], place + (maybe if left is None else left[maybe]))
        if length in FILTER_LENGTHS:
            kept = filter(hashes, looked_for.keys)
            # It takes longer to pick places than to keep some that match nothing.
            if 2 * len(kept) < len(hashes):
                hashes, left = hashes[kept], kept if left is None else left[kept]


def _are_equal(query: Ids, lengths: NDArray[np.int64], places: NDArray[np.int64], ids: Ids) -> bool:
    """Return whether the runs that were found are runs."""
    offsets_T1, starts = np.arange(lengths.max(initial=0))[:, None], np.flatnonzero(lengths)
    for first in range(0, len(starts), PIECE // MAX_LENGTH):
        some = starts[first : first + PIECE // MAX_LENGTH]
        # Beyond the end of a run, its last character is compared again.
        within_TB = np.minimum(offsets_T1, lengths[some] - 1)
        if not np.array_equal(query[some + within_TB], gather(ids, places[some] + within_TB)):
            return False
    return True


def _agreement(text: Ids, learned: Part, place: int) -> int:
    """Return how many characters of a text stand at a place of a longer one."""
    stretch = int(np.searchsorted(learned.bounds_S2[:, 1], place, side="right"))
    length = min(len(text), int(learned.bounds_S2[stretch, 1]) - place)
    differ = np.flatnonzero(text[:length] != read(learned.ids, place, place + length))
    return int(differ[0]) if len(differ) else length


def _find(text: Ids, starts: NDArray[np.intp], length: int, learned: Part) -> Run | None:
    """Return a window of a text that stands in a longer one; None if none does.

    Args:
        text: ids, shape (T,).
        starts: where its windows begin.
        length: of the windows.
        learned: the longer text.
    """
    hashing = _Hashing.draw(0, max(int(text.max()), _largest(learned)) + 1)
    hashes = _window_hashes(hashing.numbers[text], length, hashing.factor)[starts]
    order = np.argsort(hashes, kind="stable")
    starts, hashes = starts[order], hashes[order]
    filter, size = _Filter(len(starts)), max(CHUNK_SIZE, length)
    for first, last in learned.bounds_S2.tolist():
        for chunk in range(first, last - length + 1, size):
            values = hashing.numbers[read(learned.ids, chunk, min(chunk + size + length - 1, last))]
            there = _window_hashes(values, length, hashing.factor)
            maybe = filter(there, hashes)
            lower, upper = (np.searchsorted(hashes, there[maybe], side=side) for side in ("left", "right"))
            for place, low, high in zip(chunk + maybe, lower, upper, strict=True):
                for start in starts[low:high].tolist():
                    if np.array_equal(text[start : start + length], read(learned.ids, place, place + length)):
                        return Run(start, length, int(place))
    return None


def _window_hashes(values: Hashes, length: int, factor: np.uint64) -> Hashes:
    """Return a hash of each window of this length: of two windows half as long, then of two that overlap.

    A polynomial as in `_Hashing` has collisions for long windows, those of Thue and Morse.
    """
    reach = 1
    while 2 * reach <= length:
        values = _joined(values, reach, factor)
        reach *= 2
    return _joined(values, length - reach, factor) if reach < length else values


def _joined(hashes: Hashes, distance: int, factor: np.uint64) -> Hashes:
    mixed = hashes[: len(hashes) - distance]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * factor
    mixed += hashes[distance:]
    return mixed
