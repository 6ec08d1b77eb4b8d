"""What a model reads to score segments side by side, with gaps between documents. Knows ids, no models.

Letters: `T` places, `B` segments.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.data.gaps import Gapped, resets_from_right
from charlm.evaluation.segments import WARM_UP, Segments


class Inputs(NamedTuple):
    """What is read for some places.

    Attributes:
        tokens_TB: the character before each; the start symbol at the start of a stretch and after a gap.
        targets_TB: the character that stands there.
        resets_TB: which places are gaps, after which the state is the initial one; None if there are none.
    """

    tokens_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    resets_TB: NDArray[np.bool_] | None

    def rows(self, some: slice) -> Inputs:
        """Return what is read for some of the places."""
        resets_TB = None if self.resets_TB is None or not self.resets_TB[some].any() else self.resets_TB[some]
        return Inputs(self.tokens_TB[some], self.targets_TB[some], resets_TB)


class Window:
    """What segments read, by places that are counted from their first ones."""

    def __init__(self, part: Gapped, segments: Segments, start_id: int) -> None:
        self._part, self._segments, self._start_id = part, segments, start_id

    def left_of(self, start: int, end: int) -> Inputs:
        """Return what is read to predict these places."""
        segments = self._segments
        places_TB = segments.first_S + np.arange(start - 1, end)[:, None]
        ids_TB, is_gap_TB = self._part.read(places_TB, segments.ends_S)
        tokens_TB, targets_TB = ids_TB[:-1].astype(np.int64), ids_TB[1:].astype(np.int64)
        tokens_TB[is_gap_TB[:-1] | (places_TB[:-1] < segments.starts_S)] = self._start_id
        return Inputs(tokens_TB, targets_TB, is_gap_TB[1:] if is_gap_TB.any() else None)

    def right_of(self, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Return the character after each of these places and up to `WARM_UP` more, then the start symbol.

        A gap is the start symbol too, after which a net that reads from the right is set back.
        """
        first_B, ends_B = self._segments.first_S, self._segments.ends_S
        num_left = int((ends_B - first_B).max()) - end
        places_TB = first_B + np.arange(start + 1, end + min(WARM_UP, num_left) + 1)[:, None]
        ids_TB, is_gap_TB = self._part.read(places_TB, ends_B)
        tokens_TB = ids_TB.astype(np.int64)
        tokens_TB[is_gap_TB] = self._start_id
        tokens_TB[-1] = self._start_id
        return tokens_TB, resets_from_right(is_gap_TB)
