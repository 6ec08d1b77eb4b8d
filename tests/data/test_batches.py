"""Batches: which characters each stream reads at each step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.batches import Batches, fit_batch
from charlm.data.holdout import Part
from charlm.spec import Direction, ModelSpec

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
        tokens_TB, targets_TB, begins_B, right_SB, *_ = streams.batch(step)
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


# A text of one stretch, by the formula of the versions that knew no other


def by_formula(
    ids: np.ndarray, step: int, num_streams: int, block_size: int, reset: float, sees_right: bool
) -> list[np.ndarray]:
    """Return tokens, targets, begins and right context of a block: contiguous streams behind one random offset."""
    per_epoch = len(ids) // (num_streams * block_size)
    epoch, index = divmod(step, per_epoch)
    slack = len(ids) - num_streams * per_epoch * block_size
    offset = int(np.random.default_rng([0, epoch]).integers(slack + 1))
    first_B = offset + np.arange(num_streams) * per_epoch * block_size + index * block_size
    targets_TB = ids[first_B + np.arange(block_size)[:, None]].astype(np.int64)
    tokens_TB = ids[np.maximum(first_B - 1 + np.arange(block_size)[:, None], 0)].astype(np.int64)
    begins_B = np.full(num_streams, index == 0)
    if reset:
        begins_B |= np.random.default_rng([0, epoch, index + 1]).random(num_streams) < reset
    tokens_TB[0, begins_B] = START
    if not sees_right:
        return [tokens_TB, targets_TB, begins_B]
    size = block_size + int(np.random.default_rng([0, epoch, index + 1, 1]).integers(block_size // 2 + 1))
    size = min(size, len(ids) - int(first_B[-1]))
    right_SB = ids[np.minimum(first_B + np.arange(1, size + 1)[:, None], len(ids) - 1)].astype(np.int64)
    right_SB[-1] = START
    return [tokens_TB, targets_TB, begins_B, right_SB]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 20),
    st.integers(1, 80),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["forward", "backward", "both"]),
)
def test_one_stretch_is_read_as_before_there_were_several(
    length: int, batch: int, block: int, reset: float, direction: Direction
) -> None:
    """The blocks of a text in one piece are number by number those of versions that held out only the end."""
    num_streams, block_size = fit_batch(length, batch, block, reset)
    ids = np.arange(length, dtype=np.uint16)
    streams = Batches(ids, ModelSpec("lstm", START, 0, 1, 1, direction), num_streams, block_size, 0, reset)
    in_order = ids[::-1] if direction == "backward" else ids
    for step in range(min(2 * streams.batches_per_epoch, 12)):
        found = [array for array in streams.batch(step) if array is not None]
        expected = by_formula(in_order, step, num_streams, block_size, reset, direction == "both")
        for mine, yours in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, yours)


# Several stretches


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """Return some stretches of a text in which every character is its own position."""
    pieces = draw(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 300)), min_size=2, max_size=8))
    places = np.cumsum(pieces).tolist()
    blocks = list(zip(places[::2], places[1::2], strict=True))
    return Part.between(np.arange(places[-1] + draw(st.integers(0, 9)), dtype=np.uint16), blocks)


@settings(max_examples=30, deadline=None)
@given(
    parts(),
    st.integers(1, 8),
    st.integers(1, 70),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["forward", "backward", "both"]),
)
def test_no_block_reads_across_a_gap(part: Part, batch: int, block: int, reset: float, direction: Direction) -> None:
    """All of a block comes from one stretch, a stream continues within a stretch, and only there carries its state."""
    num_streams, block_size = fit_batch(part.lengths_S.tolist(), batch, block, reset)
    streams = Batches(part, ModelSpec("lstm", START, 0, 1, 1, direction), num_streams, block_size, 0, reset)
    step_to_next = -1 if direction == "backward" else 1
    stretch_of = {int(place): number for number, ids in enumerate(part.stretches) for place in ids}
    last_B = None
    for step in range(min(3 * streams.batches_per_epoch, 30)):
        tokens_TB, targets_TB, begins_B, right_SB, *_ = streams.batch(step)
        assert (tokens_TB[1:] == targets_TB[:-1]).all()
        assert (np.diff(targets_TB, axis=0) == step_to_next).all()
        if step % streams.batches_per_epoch == 0:
            assert begins_B.all()
        for stream in range(num_streams):
            read = [int(place) for place in targets_TB[:, stream]]
            if begins_B[stream]:
                assert tokens_TB[0, stream] == START
            else:
                assert last_B is not None
                assert tokens_TB[0, stream] == last_B[stream] == read[0] - step_to_next
                read.append(int(last_B[stream]))
            if right_SB is not None:
                assert right_SB[-1, stream] == START
                assert (np.diff(right_SB[:-1, stream]) == 1).all()
                read += [int(place) for place in right_SB[:-1, stream]]
            assert len({stretch_of[place] for place in read}) == 1
        last_B = targets_TB[-1]


@settings(max_examples=30, deadline=None)
@given(parts(), st.integers(1, 8), st.integers(1, 70))
def test_an_epoch_over_stretches_reads_nothing_twice(part: Part, batch: int, block: int) -> None:
    """Each character is a target at most once in an epoch; less than a block of each stream and stretch is left out."""
    num_streams, block_size = fit_batch(part.lengths_S.tolist(), batch, block)
    assert 1 <= num_streams <= batch
    assert 1 <= block_size <= min(block, part.lengths_S.min())
    streams = Batches(part, ModelSpec("lstm", START, 0, 1, 1), num_streams, block_size, 0, 0.0)
    targets = np.concatenate([streams.batch(step).targets_TB.ravel() for step in range(streams.batches_per_epoch)])
    assert len(np.unique(targets)) == len(targets)
    assert set(targets.tolist()) <= set(part.joined().tolist())
    assert len(part) - len(targets) < (num_streams + len(part.bounds_S2)) * block_size


def test_all_of_all_stretches_is_read_in_time() -> None:
    """What one epoch leaves out, others read: the offsets are random in each stretch."""
    part = Part.between(np.arange(1000, dtype=np.uint16), [(0, 205), (300, 417), (500, 999)])
    streams = Batches(part, ModelSpec("lstm", START, 0, 1, 1), 3, 20, 0, 0.0)
    targets = [streams.batch(step).targets_TB.ravel() for step in range(500 * streams.batches_per_epoch)]
    assert set(np.concatenate(targets).tolist()) == set(part.joined().tolist())


def test_the_streams_of_long_stretches_keep_their_sizes() -> None:
    """Stretches of a few thousand characters shrink neither the usual batch nor the usual block."""
    assert fit_batch([20_000, *[40_000] * 24, 20_000], 64, 64) == (64, 64)
    assert fit_batch([2_000, 3_000], 64, 5_000) == (1, 2_000)
