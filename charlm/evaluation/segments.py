"""Which segments of a text are scored, and what may be read before them. Knows lengths, no models.

Letters: `S` segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from charlm.data.gaps import Gapped
from charlm.data.holdout import Part

# A long text is read in several streams at once, each of at least this many characters.
MAX_STREAMS = 64
MIN_CHARACTERS_PER_STREAM = 2048
# How many windows of a text are in memory together.
WINDOWS_TOGETHER = 1 << 16
# Characters that a stream reads unscored before its own part, so that its state is close to that of one long pass.
WARM_UP = 256
# The length of each segment of a sample. A small sample has shorter segments, but this many of them.
SEGMENT_LENGTH = 2048
MIN_SEGMENTS = 16

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """The segments of a text that are scored.

    Attributes:
        first_S: the position of the first character of each, ascending.
        last_S: the position after its last one.
        starts_S: where its stretch of the text starts; nothing before this is read.
        ends_S: where its stretch ends; nothing after this is read.
        warm_up: how many characters are read unscored before each, except at the start of a stretch.
    """

    first_S: Positions
    last_S: Positions
    starts_S: Positions
    ends_S: Positions
    warm_up: int

    @classmethod
    def of(cls, part: Part | Gapped, places: Sequence[tuple[int, Any, Any]], warm_up: int) -> Self:
        """Make segments, each given by the number of its stretch and by the places in it where it starts and ends.

        Args:
            part: the text.
            places: numbers for one segment, or a number and two arrays for several of the same stretch.
            warm_up: how many characters are read unscored before each.
        """
        bounds = [np.broadcast_to(part.bounds_S2[stretch], (np.size(first), 2)) for stretch, first, _ in places]
        starts_S, ends_S = np.concatenate(bounds).T
        first_S, last_S = (np.concatenate([np.atleast_1d(place[end]) for place in places]) for end in (1, 2))
        return cls(starts_S + first_S, starts_S + last_S, starts_S, ends_S, warm_up)

    @property
    def lengths_S(self) -> Positions:
        """The number of characters of each."""
        return self.last_S - self.first_S

    @property
    def length(self) -> int:
        """The number of characters of the longest."""
        return int(self.lengths_S.max())

    def __len__(self) -> int:
        return len(self.first_S)

    def __getitem__(self, which_S: Positions) -> Self:
        """Return some of them."""
        starts_S, ends_S = self.starts_S[which_S], self.ends_S[which_S]
        return type(self)(self.first_S[which_S], self.last_S[which_S], starts_S, ends_S, self.warm_up)


def windows(part: Part | Gapped, length: int) -> Iterator[Segments]:
    """Yield all of a text as segments of this length without a warm-up, some of them at a time.

    The last one of a stretch may be shorter.
    """
    places: list[tuple[int, Any, Any]] = []
    # A longer window is the whole stretch, and its length may be too large for NumPy.
    length = min(length, max(part.lengths_S.tolist()))
    for stretch, size in enumerate(part.lengths_S.tolist()):
        for start in range(0, size, length * WINDOWS_TOGETHER):
            first = np.arange(start, min(start + length * WINDOWS_TOGETHER, size), length)
            places.append((stretch, first, np.minimum(first + length, size)))
            if sum(np.size(first) for _, first, _ in places) >= WINDOWS_TOGETHER:
                yield Segments.of(part, places, 0)
                places = []
    if places:
        yield Segments.of(part, places, 0)


def whole(part: Part | Gapped, sees_both_sides: bool = False) -> Segments:
    """Return segments that are all of a text together, to be read side by side.

    Args:
        part: the text, of at least one character.
        sees_both_sides: whether the model also reads what comes after them.
    """
    length = -(-len(part) // _num_streams(len(part)))
    lengths = part.lengths_S.tolist()
    # Where a stretch ends, a model that sees both sides reads less on the right. It reads segments side by side only
    # if that is equally much, so the last segments of all stretches have the same length.
    has_tails = sees_both_sides and min(length, min(lengths) - WARM_UP) >= WARM_UP
    tail = min(length, min(lengths) - WARM_UP) if has_tails and len(lengths) > 1 else 0
    places: list[tuple[int, Any, Any]] = []
    for stretch, size in enumerate(lengths):
        before = size - tail
        # Several stretches are divided evenly, because the longest segment determines how long all are read.
        step = length if len(lengths) == 1 else -(-before // -(-before // length))
        first = np.arange(0, before, step)
        places.append((stretch, first, np.minimum(first + step, before)))
        if tail:
            places.append((stretch, before, size))
    segments = Segments.of(part, places, WARM_UP)
    # Before the start of a stretch there is nothing to read.
    has_warm_up = (segments.first_S > segments.starts_S).any()
    return segments if has_warm_up else replace(segments, warm_up=0)


def sample(part: Part | Gapped, num_read: int) -> Segments:
    """Return segments that are evenly spaced in a text: `num_read` characters with their warm-ups."""
    total, lengths = len(part), part.lengths_S.tolist()
    num_segments = min(total, max(MIN_SEGMENTS, num_read // (SEGMENT_LENGTH + WARM_UP)))
    num_each = max(2, num_read // num_segments)
    warm_up = min(WARM_UP, num_each // 2)
    length = max(1, min(SEGMENT_LENGTH, num_each - warm_up, total // num_segments))
    # Each stretch has segments in proportion to its length, in the middle of equal parts of it.
    upto = [num_segments * end // total for end in np.cumsum(lengths).tolist()]
    places: list[tuple[int, Any, Any]] = []
    for stretch, (size, number) in enumerate(zip(lengths, np.diff(upto, prepend=0).tolist(), strict=True)):
        if number:
            length_here = min(length, size // number)
            first = (2 * np.arange(number) + 1) * size // (2 * number) - length_here // 2
            if len(lengths) > 1:
                # No warm-up fits before a segment so close to the start of its stretch.
                first = np.where(first < warm_up, 0, first)
            places.append((stretch, first, first + length_here))
    return Segments.of(part, places, warm_up)


def _num_streams(num_characters: int) -> int:
    return max(1, min(MAX_STREAMS, num_characters // MIN_CHARACTERS_PER_STREAM))
