"""B streams over one long text, T characters of each at a time; a batch depends on (seed, step) alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.spec import ModelSpec
from charlm.vocab import Ids

# A stream should carry its state over at least this many blocks, or long contexts are never seen.
MIN_BLOCKS_PER_STREAM = 8


class Batch(NamedTuple):
    """What one training step reads.

    Attributes:
        tokens_TB: the characters before the targets, shape (T, B), int64; the start symbol if a stream begins.
        targets_TB: the characters to predict.
        begins_B: whether a stream begins with this block and has no state yet, shape (B,), bool.
        right_SB: for a model that reads from both sides, the characters after each target, and further ones, as many as
            the block's own random number says; the start symbol at the end of them and of the text.
    """

    tokens_TB: NDArray[np.int64]
    targets_TB: NDArray[np.int64]
    begins_B: NDArray[np.bool_]
    right_SB: NDArray[np.int64] | None = None


def fit_batch(num_characters: int, batch_size: int, block_size: int, reset_probability: float = 0.0) -> tuple[int, int]:
    """Fit batch and block to a short text: fewer streams first, then shorter blocks; one character is enough.

    If every block is read from a fresh state, one block per stream is enough.

    Returns:
        (B, T), such that B streams of whole blocks of T fill the text, or all of it but a small remainder.
    """
    min_blocks = MIN_BLOCKS_PER_STREAM if reset_probability < 1 else 1
    num_streams = max(1, min(batch_size, num_characters // (min_blocks * block_size)))
    per_stream = num_characters // num_streams
    if per_stream < min_blocks * block_size:
        # So few blocks that a remainder would be a good part of the text: divide it evenly.
        block_size = per_stream // max(1, -(-per_stream // block_size))
    return num_streams, block_size


class Batches:
    """Reads a text as B contiguous streams, each epoch from a slightly different offset.

    Attributes:
        batches_per_epoch: blocks until every stream has met its end.
    """

    def __init__(
        self,
        ids: Ids,
        spec: ModelSpec,
        num_streams: int,
        block_size: int,
        seed: int,
        reset_probability: float,
    ) -> None:
        if spec.is_backward:
            ids = ids[::-1]
        self._sees_right = spec.sees_both_sides
        self._ids = ids
        self._start_id = spec.start_id
        self._num_streams, self._block_size = num_streams, block_size
        self._seed, self._reset_probability = seed, reset_probability
        self.batches_per_epoch = len(ids) // (num_streams * block_size)
        self._stream_length = self.batches_per_epoch * block_size

    def epoch(self, step: float) -> float:
        """Return how often the text has been read before this step."""
        return step / self.batches_per_epoch

    def batch(self, step: int) -> Batch:
        """Return the block of a step; each stream continues where its last block ended."""
        epoch, index = divmod(step, self.batches_per_epoch)
        slack = len(self._ids) - self._num_streams * self._stream_length
        offset = int(self._random(epoch).integers(slack + 1))
        first_B = offset + np.arange(self._num_streams) * self._stream_length + index * self._block_size
        # One character more than the block, before its first target.
        positions_BT = first_B[:, None] + np.arange(-1, self._block_size)
        window_BT = self._ids[np.maximum(positions_BT, 0)].astype(np.int64)
        begins_B = np.full(self._num_streams, index == 0)
        if self._reset_probability:
            begins_B |= self._random(epoch, index + 1).random(self._num_streams) < self._reset_probability
        window_BT[begins_B, 0] = self._start_id
        right_SB = self._right(first_B, self._random(epoch, index + 1, 1)) if self._sees_right else None
        return Batch(window_BT[:, :-1].T, window_BT[:, 1:].T, begins_B, right_SB)

    def _right(self, first_B: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        # Zero to half a block more: texts may end anywhere, but most targets should have a right context.
        size = self._block_size + int(random.integers(self._block_size // 2 + 1))
        # Not beyond the text's end, so that it ends with one start symbol, as it starts with one.
        size = min(size, len(self._ids) - int(first_B[-1]))
        positions_SB = first_B + np.arange(1, size + 1)[:, None]
        right_SB: NDArray[np.int64] = self._ids[np.minimum(positions_SB, len(self._ids) - 1)].astype(np.int64)
        right_SB[-1] = self._start_id
        return right_SB

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])
