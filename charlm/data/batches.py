"""B streams over one long text, T characters of each at a time; a batch depends on (seed, step) alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.data.holdout import Part
from charlm.data.mapped import gather, search
from charlm.spec import ModelSpec
from charlm.vocab import Ids

# A stream should carry its state over at least this many blocks, or long contexts are never seen.
MIN_BLOCKS_PER_STREAM = 8


class Batch(NamedTuple):
    """What one training step reads.

    Attributes:
        tokens_TB: the characters before the targets, shape (T, B), int64; the start symbol if a stream begins.
        targets_TB: the characters to predict.
        begins_B: whether a stream begins with this block, or does not continue its last one, and so has no state yet,
            shape (B,), bool.
        right_SB: for a model that reads from both sides, the characters after each target, and further ones, as many as
            the block's own random number says; the start symbol at the end of them and of the stretch of text.
    """

    tokens_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    begins_B: NDArray[np.bool_]
    right_SB: NDArray[np.int64] | None = None


def fit_batch(
    num_characters: int | Sequence[int], batch_size: int, block_size: int, reset_probability: float = 0.0
) -> tuple[int, int]:
    """Fit batch and block to a short text: fewer streams first, then shorter blocks; one character is enough.

    If every block is read from a fresh state, one block per stream is enough.

    Args:
        num_characters: of the text, or of each of its stretches; no block is longer than a stretch.
        batch_size: the most streams.
        block_size: the most characters of a block.
        reset_probability: that a block is read from a fresh state.

    Returns:
        (B, T), such that B streams of whole blocks of T fill the text, or all of it but a small remainder.
    """
    lengths = [num_characters] if isinstance(num_characters, int) else num_characters
    min_blocks = MIN_BLOCKS_PER_STREAM if reset_probability < 1 else 1
    shortest = min(lengths)
    if shortest < min_blocks * block_size:
        # So few blocks that a remainder would be a good part of the text: divide it evenly.
        block_size = int(shortest // -(-shortest // block_size))
    num_blocks = sum(int(length) // block_size for length in lengths)
    return max(1, min(batch_size, num_blocks // min_blocks)), block_size


class Batches:
    """Reads a text as B streams, each epoch from a slightly different offset.

    The text is divided into windows of T characters, none of which leaves its stretch of the text. Each stream reads
    as many windows, one after another.

    Attributes:
        batches_per_epoch: blocks until every stream has met its end.
    """

    def __init__(
        self,
        text: Ids | Part,
        spec: ModelSpec,
        num_streams: int,
        block_size: int,
        seed: int,
        reset_probability: float,
        documents_D: NDArray[np.int64] | None = None,
    ) -> None:
        """Divide a text into streams.

        Args:
            text: the text, or the stretches of it to read.
            spec: of the model.
            num_streams: B.
            block_size: T.
            seed: of the offsets and of the resets.
            reset_probability: that a stream starts with the start symbol before a block.
            documents_D: where documents begin in the text, ascending; the block nearest to such a place starts so too.
        """
        part = Part.of(text)
        self._part = part.backwards() if spec.is_backward else part
        self._sees_right = spec.sees_both_sides
        self._start_id = spec.start_id
        self._num_streams, self._block_size = num_streams, block_size
        self._seed, self._reset_probability = seed, reset_probability
        self._documents_D, self._is_backward = documents_D, spec.is_backward
        upto_S = np.cumsum(self._part.lengths_S // block_size)
        self.batches_per_epoch = int(upto_S[-1]) // num_streams
        # Fewer than B windows are left over; the stretches lose them in proportion to their lengths.
        upto_S = upto_S * (num_streams * self.batches_per_epoch) // upto_S[-1]
        # The number of windows in all stretches up to the end of each, in each, and the characters that are left over.
        self._upto_S, self._num_windows_S = upto_S, np.diff(upto_S, prepend=0)
        self._slack_S = self._part.lengths_S - self._num_windows_S * block_size

    def epoch(self, step: float) -> float:
        """Return how often the text has been read before this step."""
        return step / self.batches_per_epoch

    def batch(self, step: int) -> Batch:
        """Return the block of a step; each stream continues where its last block ended."""
        epoch, index = divmod(step, self.batches_per_epoch)
        window_B = np.arange(self._num_streams) * self.batches_per_epoch + index
        stretch_B = np.searchsorted(self._upto_S, window_B, side="right")
        within_B = window_B - (self._upto_S - self._num_windows_S)[stretch_B]
        starts_S = self._part.bounds_S2[:, 0] + self._random(epoch).integers(self._slack_S + 1)
        first_B = starts_S[stretch_B] + within_B * self._block_size
        # One character more than the block, before its first target.
        positions_BT = first_B[:, None] + np.arange(-1, self._block_size)
        window_BT = gather(self._part.ids, np.maximum(positions_BT, 0).T).T.astype(np.int64)
        # A stream that comes to another stretch of the text has nothing to carry over.
        begins_B = (within_B == 0) | (index == 0)
        if self._reset_probability:
            begins_B |= self._random(epoch, index + 1).random(self._num_streams) < self._reset_probability
        begins_B |= self._is_near_document(first_B)
        window_BT[begins_B, 0] = self._start_id
        right_SB = None
        if self._sees_right:
            ends_B = self._part.bounds_S2[stretch_B, 1]
            right_SB = self._right(first_B, ends_B, self._random(epoch, index + 1, 1))
        return Batch(window_BT[:, :-1].T, window_BT[:, 1:].T, begins_B, right_SB)

    def _is_near_document(self, first_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether a document begins nearer to these places than to those of the blocks before and after."""
        if self._documents_D is None:
            return np.zeros(len(first_B), dtype=bool)
        low_B = first_B - self._block_size // 2
        high_B = low_B + self._block_size
        if self._is_backward:
            # In the reversed text these are the places where documents end.
            low_B, high_B = len(self._part.ids) + 1 - high_B, len(self._part.ids) + 1 - low_B
        low_B, high_B = (search(self._documents_D, edge_B) for edge_B in (low_B, high_B))
        return np.asarray(low_B < high_B)

    def _right(
        self, first_B: NDArray[np.int64], ends_B: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        # Zero to half a block more: texts may end anywhere, but most targets should have a right context.
        size = self._block_size + int(random.integers(self._block_size // 2 + 1))
        # Not beyond the end of a stretch, so that it ends with one start symbol, as it starts with one.
        size = min(size, int((ends_B - first_B).min()))
        positions_SB = first_B + np.arange(1, size + 1)[:, None]
        right_SB: NDArray[np.int64] = gather(self._part.ids, np.minimum(positions_SB, ends_B - 1)).astype(np.int64)
        right_SB[-1] = self._start_id
        return right_SB

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])
