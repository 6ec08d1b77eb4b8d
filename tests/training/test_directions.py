"""Models that read from the right or from both sides: their inputs, and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from charlm.cells import CELLS
from charlm.data.batches import Batch, Batches, fit_batch
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.evaluate import evaluate
from charlm.nn.model import CharModel, State
from charlm.settings.config_file import load_config
from charlm.spec import Direction, InitialState, ModelSpec
from tests.helpers.commands import SHORT, assert_refused, call
from tests.helpers.training import assert_same_run, begin, interrupt, records_of, resume

START = 10_000
NUM_SYMBOLS = 10


def streams_of(length: int, num_streams: int, block_size: int, direction: Direction, **options: Any) -> Batches:
    """Return the batches of a text in which every character is its own position."""
    ids = np.arange(length, dtype=np.uint16)
    options = {"seed": 0, "reset_probability": 0.0} | options
    return Batches(ids, ModelSpec("lstm", START, 0, 1, 1, direction), num_streams, block_size, **options)


def assert_same_block(one: Batch, other: Batch) -> None:
    """Compare two blocks number by number."""
    for mine, yours in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, yours)


# The order of reading


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 20), st.integers(1, 60), st.integers(0, 3))
def test_backward_streams_read_the_text_from_its_end(length: int, batch: int, block: int, seed: int) -> None:
    """The backward streams equal the forward streams of the reversed text."""
    sizes = fit_batch(length, batch, block)
    backward = streams_of(length, *sizes, "backward", seed=seed, reset_probability=0.2)
    ids = np.arange(length, dtype=np.uint16)[::-1].copy()
    turned = Batches(ids, ModelSpec("lstm", START, 0, 1, 1), *sizes, seed, 0.2)
    assert backward.batches_per_epoch == turned.batches_per_epoch
    for step in range(min(2 * backward.batches_per_epoch, 12)):
        found = backward.batch(step)
        assert_same_block(found, turned.batch(step))
        assert (found.targets_TB[1:] == found.tokens_TB[1:].astype(int) - 1).all()
        assert found.right_SB is None


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 20), st.integers(1, 60), st.sampled_from([0.0, 0.3, 1.0]))
def test_streams_of_both_directions_hold_what_is_on_the_right(
    length: int, batch: int, block: int, reset: float
) -> None:
    """After each target come the next characters in text order, up to half a block more, then the start symbol."""
    num_streams, block_size = fit_batch(length, batch, block, reset)
    both = streams_of(length, num_streams, block_size, "both", reset_probability=reset)
    forward = streams_of(length, num_streams, block_size, "forward", reset_probability=reset)
    for step in range(min(2 * both.batches_per_epoch, 12)):
        found = both.batch(step)
        assert found.right_SB is not None
        assert found.right_SB.dtype == np.int64
        assert block_size <= len(found.right_SB) <= block_size + block_size // 2
        assert found.right_SB.shape[1] == num_streams
        for stream in range(num_streams):
            first = int(found.targets_TB[0, stream])
            after = [place if place < length else START for place in range(first + 1, first + len(found.right_SB))]
            assert found.right_SB[:, stream].tolist() == [*after, START]
        # The left side is the same as in a forward model.
        assert_same_block(Batch(*found[:3]), Batch(*forward.batch(step)[:3]))


def test_the_right_context_varies_from_block_to_block() -> None:
    """The number is any from none to half a block, each about as often."""
    streams = streams_of(9000, 3, 20, "both")
    lengths = [len(block.right_SB) - 20 for step in range(600) if (block := streams.batch(step)).right_SB is not None]
    counts = np.bincount(lengths, minlength=11)
    assert len(counts) == 11
    assert counts.min() > 25


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_a_block_depends_on_seed_and_step_alone(direction: Direction) -> None:
    """Earlier requests do not matter, and another seed gives other blocks."""

    def make(seed: int) -> Batches:
        return streams_of(1000, 3, 20, direction, seed=seed, reset_probability=0.3)

    one, other, strange = make(4), make(4), make(5)
    blocks = [one.batch(step) for step in range(40)]
    for step in reversed(range(40)):
        assert_same_block(blocks[step], other.batch(step))

    def shapes(streams: Batches) -> list[tuple[Any, ...]]:
        found = [streams.batch(step) for step in range(40)]
        return [(block.begins_B.tolist(), None if block.right_SB is None else block.right_SB.shape) for block in found]

    assert shapes(one) != shapes(strange)


# The scores


def made(
    direction: Direction, cell: str = "lstm", num_layers: int = 2, initial_state: InitialState = "learned"
) -> CharModel:
    """Make a small model with random weights, random initial state and random biases."""
    model = CharModel(ModelSpec(cell, NUM_SYMBOLS, 5, 12, num_layers, direction, initial_state))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # The recurrence stays short of chaos, and the predictions are sharp.
            parameter.normal_(0, 0.9 * parameter.shape[-1] ** -0.5 if "layers" in name else 1.0, generator=generator)
    return model.eval()


def ids_of(length: int) -> NDArray[np.uint8]:
    """Return random ids."""
    return np.random.default_rng(6).integers(NUM_SYMBOLS, size=length).astype(np.uint8)


def as_backward(model: CharModel) -> CharModel:
    """Return the same weights as a model that reads from the right."""
    other = made("backward")
    other.load_arrays(model.arrays())
    return other


@pytest.mark.parametrize("length", [1, 2, 300, 5000])
def test_a_backward_model_scores_as_a_forward_one_reversed(length: int) -> None:
    """This holds in one stream or several, in windows, and in dynamic evaluation."""
    forward, ids = made("forward"), ids_of(length)
    backward, turned = as_backward(forward), ids_of(length)[::-1].copy()
    assert evaluate(backward, ids) == evaluate(forward, turned)
    assert evaluate(backward, ids, window=7) == evaluate(forward, turned, window=7)
    if length <= 300:
        assert evaluate_dynamically(backward, ids) == evaluate_dynamically(forward, turned)
    if length > 2:
        assert evaluate(backward, ids).nats_per_character != evaluate(forward, ids).nats_per_character


def outputs(model: CharModel, tokens: list[int], is_right: bool) -> torch.Tensor:
    """Read one character at a time through one stack of layers; return the output of the last layer at the end."""
    layers = model.backward_layers if is_right else model.layers
    begin = len(model.layers) if is_right else 0
    states: list[State] = []
    for index in range(len(layers)):
        parts = range(len(model.spec.recurrence.state))
        if model.initial_state is None:
            states.append(tuple(torch.zeros(1, 1, model.spec.hidden_size) for _ in parts))
        else:
            states.append(tuple(model.initial_state[part, begin + index].view(1, 1, -1) for part in parts))
    assert model.embedding is not None
    x_11H = torch.zeros(0)
    for token in tokens:
        x_11H = model.embedding(torch.tensor([[token]]))
        for index, layer in enumerate(layers):
            state = states[index]
            x_11H, after = layer(x_11H, state if len(state) > 1 else state[0])
            states[index] = after if isinstance(after, tuple) else (after,)
    return x_11H[0, 0]


@torch.no_grad()
def plainly(model: CharModel, ids: NDArray[np.uint8], places: range, context: int) -> NDArray[np.float64]:
    """Return -ln p at each position, reading up to `context` characters on either side anew for each."""
    text, nats = [int(index) for index in ids], []
    for place in places:
        before, after = text[max(place - context, 0) : place], text[place + 1 : place + 1 + context]
        left = outputs(model, [NUM_SYMBOLS, *before], is_right=False)
        right = outputs(model, [NUM_SYMBOLS, *reversed(after)], is_right=True)
        logits_V = model.output(torch.cat([left, right]))
        nats.append(-float(torch.log_softmax(logits_V, 0)[text[place]]))
    return np.array(nats)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("length", "initial_state"), [(1, "zero"), (2, "learned"), (9, "zero"), (10, "learned")])
def test_a_two_sided_model_scores_a_character_by_all_others(
    cell: str, length: int, initial_state: InitialState
) -> None:
    """The oracle reads all characters to the left and all to the right anew for each position, one at a time."""
    model, ids = made("both", cell, initial_state=initial_state), ids_of(length)
    expected = plainly(model, ids, range(length), length)
    assert evaluate(model, ids).nats_per_character == pytest.approx(expected.mean(), abs=1e-5)


def test_a_two_sided_score_is_exact_for_a_text_of_one_warm_up() -> None:
    """The length is the largest at which every character is predicted from the whole text on either side."""
    model, ids = made("both", "gru", num_layers=1), ids_of(255)
    expected = plainly(model, ids, range(0, 255, 5), 255)
    np.testing.assert_allclose(at_once(model, ids)[::5], expected, atol=1e-4)
    assert evaluate(model, ids).nats_per_character == pytest.approx(at_once(model, ids).mean(), abs=1e-5)


@torch.no_grad()
def at_once(model: CharModel, ids: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return -ln p at each position, with the whole text on either side, in one block."""
    targets_T = torch.from_numpy(ids.astype(np.int64))
    edge_1 = torch.tensor([NUM_SYMBOLS])
    tokens_TB, right_SB = torch.cat([edge_1, targets_T[:-1]])[:, None], torch.cat([targets_T[1:], edge_1])[:, None]
    logits_TBV, _ = model(tokens_TB, model.start_state(1), (), right_SB)
    found: NDArray[np.float64] = cross_entropy(logits_TBV[:, 0], targets_T, reduction="none").double().numpy()
    return found


@pytest.mark.parametrize("length", [256, 257, 511, 512, 513, 1025, 4095, 4096, 4097, 6000])
@pytest.mark.parametrize("initial_state", ["zero", "learned"])
def test_a_long_text_scores_as_if_read_whole_on_both_sides(length: int, initial_state: InitialState) -> None:
    """The text is read in blocks and parallel streams; characters farther away than 256 have no visible effect."""
    model, ids = made("both", "lstm", initial_state=initial_state), ids_of(length)
    found = evaluate(model, ids)
    assert found.characters == length
    assert found.nats_per_character == pytest.approx(at_once(model, ids).mean(), abs=1e-5)


@pytest.mark.parametrize("num_streams", [1, 2, 3, 5])
def test_the_end_of_a_text_does_not_depend_on_other_streams(monkeypatch: pytest.MonkeyPatch, num_streams: int) -> None:
    """One start symbol follows the text, whatever the number and length of the parallel streams."""
    model, ids = made("both", "gru"), ids_of(1500)
    monkeypatch.setattr("charlm.evaluation.segments.MIN_CHARACTERS_PER_STREAM", 1500 // num_streams)
    assert evaluate(model, ids).nats_per_character == pytest.approx(at_once(model, ids).mean(), abs=1e-5)


# Runs


@pytest.mark.parametrize("direction", ["backward", "both"])
@pytest.mark.parametrize("initial_state", ["zero", "learned"])
def test_a_run_of_another_direction_resumes_exactly(direction: str, initial_state: InitialState) -> None:
    """The resumed run equals an uninterrupted one bit for bit."""
    options: dict[str, Any] = {"model__direction": direction, "model__initial_state": initial_state}
    whole, halves = begin("whole", **options), begin("halves", **options)
    whole.learn()
    interrupt(halves, 9)
    again = resume(halves.run)
    again.learn()
    assert_same_run(whole, again)


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_a_run_of_another_direction_learns(direction: str) -> None:
    """After sixty blocks the loss is far below that of guessing."""
    training = begin("run", model__direction=direction, train__steps=60)
    *_, record = records_of(training)
    assert record.validation_bits_per_character is not None
    assert record.validation_bits_per_character < 2.5


def test_dynamic_evaluation_of_a_two_sided_model_is_refused() -> None:
    """Such a model would have learned what it is to predict; the refusal is one line that says so."""
    assert load_config("lstm").model.direction == "forward"
    Path("a.txt").write_text("the cat sat on the mat. " * 60, encoding="utf-8")
    trained = call(
        "train", "-c", "a.txt", *SHORT, "--set", "model.direction=both", "--out", "run", "--sample-length", "0"
    )
    assert Path("run/best.safetensors").exists(), trained.stderr
    assert_refused(call("eval", "-m", "run", "--dynamic", "--no-baselines"))


def test_a_run_of_both_directions_succeeds() -> None:
    """A two-sided model cannot write a text, but its training succeeds."""
    Path("a.txt").write_text("the cat sat on the mat. " * 60, encoding="utf-8")
    result = call("train", "-c", "a.txt", *SHORT, "--set", "model.direction=both", "--sample-length", "0")
    assert result.exit_code == 0, result.stderr
