"""A text with a gap between its documents: a place at which nothing is predicted, and a net forgets what it has read.

Letters: `T` places one after another, `B` streams, `D` documents, `S` stretches of the text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.data.holdout import Part
from charlm.data.mapped import gather, search
from charlm.vocab import Ids

Places = NDArray[np.int64]


class Reading(NamedTuple):
    """What stands at some places.

    Attributes:
        ids_TB: the characters; at a gap the one before it.
        is_gap_TB: whether the place is a gap.
    """

    ids_TB: Ids
    is_gap_TB: NDArray[np.bool_]


class Gapped:
    """A part of a text with a gap before each document, if the state of a net is to be reset there.

    Places count the characters of the whole text and the gaps between them. Without documents there are no gaps, and
    places are those of the characters.

    Attributes:
        bounds_S2: the places where each stretch starts and where it ends. No stretch starts with a gap.
        num_characters: how many characters it has.
    """

    def __init__(self, part: Part) -> None:
        self._ids, self._starts_D = part.ids, part.documents_D
        self.num_characters = len(part)
        self.bounds_S2 = part.bounds_S2
        if len(self._starts_D):
            starts_S, ends_S = part.bounds_S2.T
            gaps_S2 = [self._starts_D.searchsorted(starts_S, "right"), self._starts_D.searchsorted(ends_S, "left")]
            self.bounds_S2 = part.bounds_S2 + np.stack(gaps_S2, axis=1)

    @property
    def lengths_S(self) -> Places:
        """The number of places of each stretch."""
        return self.bounds_S2[:, 1] - self.bounds_S2[:, 0]

    def __len__(self) -> int:
        return int(self.lengths_S.sum())

    def num_characters_of(self, first_S: Places, last_S: Places) -> Places:
        """Return how many characters stand from some places to others."""
        return last_S - first_S - (self._num_gaps(last_S) - self._num_gaps(first_S))

    def read(self, places_TB: Places, ends_B: Places | None = None) -> Reading:
        """Return what stands at places one after another.

        Args:
            places_TB: the places of each stream; those beyond the text are taken to be at its ends.
            ends_B: beyond these places the last character before them is repeated; None for the end of the text.
        """
        is_gap_TB = np.zeros(places_TB.shape, dtype=bool)
        if ends_B is not None:
            places_TB = np.minimum(places_TB, ends_B - 1)
        numbers_TB = places_TB
        if len(self._starts_D):
            first_B = places_TB[0]
            before_B, upto_B = self._num_gaps(first_B), self._num_gaps(places_TB[-1] + 1)
            # Every gap of a stream, by the number of its document.
            gaps_DB = before_B + np.arange((upto_B - before_B).max())[:, None]
            is_here_DB = gaps_DB < upto_B
            gaps_N, streams_N = gaps_DB[is_here_DB], is_here_DB.nonzero()[1]
            is_gap_TB[self._starts_D[gaps_N] + gaps_N - first_B[streams_N], streams_N] = True
            numbers_TB = places_TB - before_B - np.cumsum(is_gap_TB, axis=0)
        return Reading(gather(self._ids, np.clip(numbers_TB, 0, len(self._ids) - 1)), is_gap_TB)

    def _num_gaps(self, places_B: Places) -> Places:
        """Return how many gaps there are before each place."""
        return search(self._starts_D, places_B, self._bisect)

    def _bisect(self, places_B: Places) -> Places:
        """Count the gaps before each place by bisection: the places of all gaps may be too many for an array."""
        low_B, high_B = np.zeros_like(places_B), np.full_like(places_B, len(self._starts_D))
        while (low_B < high_B).any():
            middle_B = (low_B + high_B) // 2
            is_before_B = self._starts_D[np.minimum(middle_B, len(self._starts_D) - 1)] + middle_B < places_B
            is_open_B = low_B < high_B
            low_B = np.where(is_open_B & is_before_B, middle_B + 1, low_B)
            high_B = np.where(is_open_B & ~is_before_B, middle_B, high_B)
        return low_B


def resets_from_right(is_gap_SB: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return after which steps a net that reads from the right is set back; None if it never is.

    The place after a gap is read before it, for a prediction at the gap, which does not count.

    Args:
        is_gap_SB: which places are gaps, from left to right.
    """
    resets_SB = np.vstack([np.zeros_like(is_gap_SB[:1]), is_gap_SB[:-1]])
    return resets_SB if resets_SB.any() else None
