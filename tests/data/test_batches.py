"""Batches: which characters each stream reads at each step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.batches import Batches, fit_batch
from charlm.spec import ModelSpec

START = 10_000


def streams_over(num_characters: int, num_streams: int, block_size: int, seed: int = 0, reset: float = 0.0) -> Batches:
    """Make batches of a text in which every character is its own position."""
    ids = np.arange(num_characters, dtype=np.uint16)
    return Batches(ids, ModelSpec("lstm", START, 0, 1, 1), num_streams, block_size, seed, reset)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9000), st.integers(1, 40), st.integers(1, 80))
def test_every_target_follows_its_input_within_the_text(length: int, batch: int, block: int) -> None:
    """In any batch of any text the target is the next character, and each stream continues where it stopped."""
    num_streams, block_size = fit_batch(length, batch, block)
    assert 1 <= num_streams <= batch
    assert 1 <= block_size <= block
    streams = streams_over(length, num_streams, block_size)
    assert streams.batches_per_epoch >= 1
    last = None
    for step in range(min(2 * streams.batches_per_epoch, 40)):
        tokens_TB, targets_TB, begins_B, right_SB = streams.batch(step)
        assert right_SB is None
        assert tokens_TB.shape == targets_TB.shape == (block_size, num_streams)
        assert (targets_TB[1:] == tokens_TB[1:] + 1).all()
        assert (tokens_TB[1:] == targets_TB[:-1]).all()
        if step % streams.batches_per_epoch == 0:
            assert begins_B.all()
            assert (tokens_TB[0] == START).all()
        else:
            assert not begins_B.any()
            assert (tokens_TB[0] == last).all()
        last = targets_TB[-1]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 80))
def test_an_epoch_reads_nothing_twice_and_omits_little(length: int, batch: int, block: int) -> None:
    """Each character is a target at most once in an epoch; less than one block of each stream is left out."""
    num_streams, block_size = fit_batch(length, batch, block)
    streams = streams_over(length, num_streams, block_size)
    targets = np.concatenate([streams.batch(step).targets_TB.ravel() for step in range(streams.batches_per_epoch)])
    assert len(np.unique(targets)) == len(targets)
    assert length - len(targets) < num_streams * block_size


@pytest.mark.parametrize("length", [1, 2, 27, 30, 63, 64, 65, 200])
def test_a_short_text_is_read_nearly_whole(length: int) -> None:
    """A short text loses at most a twentieth of its characters to the shape of the batches."""
    num_streams, block_size = fit_batch(length, 64, 64)
    streams = streams_over(length, num_streams, block_size)
    assert streams.batches_per_epoch * num_streams * block_size >= 0.95 * length


def test_a_long_text_keeps_the_given_batch_and_block_size() -> None:
    """A long text shrinks neither the number of streams nor the length of the blocks."""
    assert fit_batch(1_003_854, 64, 64) == (64, 64)


def test_epochs_start_at_different_offsets() -> None:
    """The borders of the blocks differ between epochs."""
    streams = streams_over(1000, 3, 40)
    firsts = {int(streams.batch(epoch * streams.batches_per_epoch).targets_TB[0, 0]) for epoch in range(10)}
    assert len(firsts) > 1


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    """Asking for batches in another order, or of another object, gives the same batches."""
    one, other = streams_over(1000, 3, 20, seed=4, reset=0.3), streams_over(1000, 3, 20, seed=4, reset=0.3)
    forwards = [one.batch(step) for step in range(30)]
    for step in reversed(range(30)):
        for mine, yours in zip(forwards[step][:3], other.batch(step)[:3], strict=True):
            np.testing.assert_array_equal(mine, yours)


def test_resets_are_as_frequent_as_asked_and_hide_the_past() -> None:
    """A fifth of the streams are reset, as asked, and a stream that is reset reads the start symbol."""
    streams = streams_over(9000, 10, 9, reset=0.2)
    blocks = [streams.batch(step) for step in range(100) if step % streams.batches_per_epoch]
    begins = np.array([block.begins_B for block in blocks])
    assert begins.mean() == pytest.approx(0.2, abs=0.04)
    for block in blocks:
        assert ((block.tokens_TB[0] == START) == block.begins_B).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 80))
def test_streams_that_always_reset_need_one_block_each(length: int, batch: int, block: int) -> None:
    """A text that is reset before every block is cut into as many streams as it has blocks."""
    num_streams, block_size = fit_batch(length, batch, block, reset_probability=1.0)
    assert num_streams == max(1, min(batch, length // block))
    assert block_size <= block
    assert block_size == block or num_streams == 1 or length // num_streams < block * 2
    streams = streams_over(length, num_streams, block_size, reset=1.0)
    assert streams.batches_per_epoch >= 1
    for step in range(min(streams.batches_per_epoch, 5)):
        given_block = streams.batch(step)
        assert given_block.begins_B.all()
        assert (given_block.tokens_TB[0] == START).all()
        assert (given_block.targets_TB < length).all()


@pytest.mark.parametrize("probability", [0.0, 0.01, 0.5, 0.999])
def test_only_certain_resets_change_how_a_text_is_cut(probability: float) -> None:
    """A reset probability below 1 gives the same streams and blocks as none."""
    assert fit_batch(3000, 64, 64, probability) == fit_batch(3000, 64, 64)
    assert fit_batch(3000, 64, 64, 1.0)[0] > fit_batch(3000, 64, 64)[0]
