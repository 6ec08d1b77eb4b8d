"""Bits per character against sums written another way."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import CorpusError, ModelFileError
from charlm.evaluation import evaluate as evaluation
from charlm.evaluation.evaluate import evaluate, evaluate_dynamically, evaluate_sample, reading_that_fits
from charlm.inference.probabilities import softmax
from charlm.inference.stepper import Stepper
from charlm.nn.model import CharModel

NUM_SYMBOLS = 10


def module_of(file: ModelFile) -> CharModel:
    """Load a model file into torch."""
    module = CharModel(file.spec)
    module.load_arrays(file.weights)
    return module


def text(length: int) -> np.ndarray:
    """Return random ids."""
    return np.random.default_rng(6).integers(NUM_SYMBOLS, size=length).astype(np.uint8)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [1, 2, 300])
def test_a_text_scores_what_the_stepper_says_of_it_character_by_character(
    make_model: Callable[..., ModelFile], cell: str, length: int
) -> None:
    """The mean of -ln p over every character, the first included, and how often it was the likeliest."""
    file, ids = make_model(cell, 2), text(length)
    logits_BV, state = Stepper(file).start()
    nats, top1, top5 = [], 0, 0
    for index in ids:
        p_V = softmax(logits_BV[0])
        nats.append(-math.log(p_V[index]))
        ranking = list(np.argsort(-p_V))
        top1 += ranking[0] == index
        top5 += index in ranking[:5]
        logits_BV, state = Stepper(file).step(np.array([index]), state)
    scores = evaluate(module_of(file), ids)
    assert scores.characters == length
    assert scores.nats_per_character == pytest.approx(sum(nats) / length, abs=1e-5)
    assert scores.bits_per_character == pytest.approx(sum(nats) / length / math.log(2), abs=1e-5)
    assert scores.perplexity_per_character == pytest.approx(math.exp(sum(nats) / length), abs=1e-3)
    assert (scores.top1_accuracy, scores.top5_accuracy) == pytest.approx((top1 / length, top5 / length))


@pytest.mark.parametrize("cell", CELLS)
def test_windows_start_from_nothing_but_the_character_before(make_model: Callable[..., ModelFile], cell: str) -> None:
    """Each window of three equals a text of its own that begins with the character before it, unscored."""
    file, ids = make_model(cell), text(8)
    module = module_of(file)
    total = 0.0
    for begin in (0, 3, 6):
        end = min(begin + 3, 8)
        before = ids[max(begin - 1, 0) : begin]
        whole = evaluate(module, ids[max(begin - 1, 0) : end])
        alone = evaluate(module, before).nats_per_character if len(before) else 0.0
        total += whole.nats_per_character * whole.characters - alone
    assert evaluate(module, ids, window=3).nats_per_character == pytest.approx(total / 8, abs=1e-5)


def test_all_windows_are_scored_however_many_there_are(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More windows than are read side by side, the last of them short."""
    module, ids = module_of(make_model("gru")), text(200)
    at_once = evaluate(module, ids, window=3)
    monkeypatch.setattr(evaluation, "MAX_STREAMS", 7)
    assert evaluate(module, ids, window=3).nats_per_character == pytest.approx(at_once.nats_per_character, abs=1e-6)
    monkeypatch.setattr(evaluation, "MAX_STREAMS", 10**6)
    assert evaluate(module, ids, window=3).nats_per_character == pytest.approx(at_once.nats_per_character, abs=1e-6)


def test_many_streams_that_warm_up_score_as_one(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a long text in several parts, each after 256 characters of warm-up, changes no digit that is shown."""
    module, ids = module_of(make_model("lstm", 2)), text(9000)
    in_parts = evaluate(module, ids)
    monkeypatch.setattr(evaluation, "MIN_CHARACTERS_PER_STREAM", 10**9)
    in_one = evaluate(module, ids)
    assert in_parts.characters == in_one.characters == 9000
    assert in_parts.nats_per_character == pytest.approx(in_one.nats_per_character, abs=1e-5)


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary(make_model: Callable[..., ModelFile]) -> None:
    """Uniform probabilities cost exactly log2 V bits for each character."""
    file = make_model()
    weights = {name: np.zeros_like(array) for name, array in file.weights.items()}
    module = module_of(ModelFile(weights, file.vocabulary, file.config, {}, {}))
    assert evaluate(module, text(100)).bits_per_character == pytest.approx(math.log2(NUM_SYMBOLS), abs=1e-6)


def test_evaluating_twice_gives_the_same_and_changes_nothing(make_model: Callable[..., ModelFile]) -> None:
    """Weights, mode and torch's random numbers are as before."""
    module = module_of(make_model("gru"))
    before, mode = module.arrays(), module.training
    generator = torch.get_rng_state()
    assert evaluate(module, text(500)) == evaluate(module, text(500))
    assert module.training == mode
    assert torch.equal(torch.get_rng_state(), generator)
    assert all((before[name] == array).all() for name, array in module.arrays().items())


def test_what_comes_later_does_not_change_what_came_before(make_model: Callable[..., ModelFile]) -> None:
    """A text costs what its beginning costs plus the same rest, whatever the rest: nothing leaks from the future."""
    module, ids = module_of(make_model("lstm")), text(60)
    beginning = evaluate(module, ids[:30]).nats_per_character * 30
    for end in (31, 40, 60):
        longer = evaluate(module, ids[:end]).nats_per_character * end
        without_last = evaluate(module, ids[: end - 1]).nats_per_character * (end - 1)
        assert beginning - 1e-4 <= without_last <= longer + 1e-4


def test_nothing_to_evaluate_is_said_so(make_model: Callable[..., ModelFile]) -> None:
    """An empty part is an error in words, not a division by zero."""
    with pytest.raises(CorpusError, match="empty"):
        evaluate(module_of(make_model()), text(0))


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    """The exponential of a huge mean does not overflow."""
    assert math.isfinite(evaluation.Scores(1, 5000.0, 0, 0).perplexity_per_character)


def total_nats(model: CharModel, ids: np.ndarray) -> float:
    """Return what a text costs by dynamic evaluation, altogether."""
    return evaluate_dynamically(model, ids).nats_per_character * len(ids)


@pytest.fixture
def segments_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let dynamic evaluation learn fast and often, so that a short text shows it."""
    monkeypatch.setattr(evaluation, "SEGMENT_SIZE", 4)
    monkeypatch.setattr(evaluation, "DYNAMIC_RATE", 0.05)


@pytest.mark.usefixtures("segments_of_four")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [3, 4, 6, 8])
def test_dynamic_evaluation_scores_a_character_before_it_learns_it(
    make_model: Callable[..., ModelFile], cell: str, length: int
) -> None:
    """After any beginning, the probabilities of all that may come next sum to 1: none can have been seen."""
    module, beginning = module_of(make_model(cell, 2)), text(length)
    before = total_nats(module, beginning)
    costs = [total_nats(module, np.append(beginning, last).astype(np.uint8)) - before for last in range(NUM_SYMBOLS)]
    assert sum(math.exp(-cost) for cost in costs) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_dynamic_evaluation_begins_as_the_model_itself(make_model: Callable[..., ModelFile], cell: str) -> None:
    """Nothing is learned before the first segment is scored."""
    module, ids = module_of(make_model(cell)), text(evaluation.SEGMENT_SIZE)
    expected = evaluate(module, ids)
    found = evaluate_dynamically(module, ids)
    assert found.nats_per_character == pytest.approx(expected.nats_per_character, abs=1e-5)
    assert (found.top1_accuracy, found.top5_accuracy) == (expected.top1_accuracy, expected.top5_accuracy)


@pytest.mark.usefixtures("segments_of_four")
def test_the_first_thing_learned_is_one_step_against_each_gradient(make_model: Callable[..., ModelFile]) -> None:
    """The second segment costs what a model costs whose weights went one rate against the sign of the gradient."""
    module, ids = module_of(make_model("lstm")), text(8)
    tokens_TB = torch.tensor([NUM_SYMBOLS, *ids[:-1]])[:, None]
    logits_TBV, state = module(tokens_TB[:4], module.start_state(1))
    loss = torch.nn.functional.cross_entropy(logits_TBV[:, 0], torch.tensor(ids[:4].astype(int)))
    loss.backward()
    with torch.no_grad():
        for weight in module.parameters():
            assert weight.grad is not None
            weight.sub_(0.05 * weight.grad / (weight.grad.abs() + evaluation.DYNAMIC_EPSILON))
        logits_TBV, _ = module(tokens_TB[4:], state)
        second = torch.nn.functional.cross_entropy(logits_TBV[:, 0], torch.tensor(ids[4:].astype(int)), reduction="sum")
    original = module_of(make_model("lstm"))
    assert total_nats(original, ids) - total_nats(original, ids[:4]) == pytest.approx(second.item(), abs=1e-4)


@pytest.mark.usefixtures("segments_of_four")
def test_dynamic_evaluation_learns_what_repeats_and_leaves_the_model_as_it_was(
    make_model: Callable[..., ModelFile],
) -> None:
    """A text that repeats itself gets cheap; the weights, and what the model says, do not change."""
    module, ids = module_of(make_model("gru")), np.tile(text(7), 40)
    before, static = module.arrays(), evaluate(module, ids)
    assert evaluate_dynamically(module, ids).nats_per_character < 0.7 * static.nats_per_character
    assert all((before[name] == array).all() for name, array in module.arrays().items())
    assert evaluate(module, ids) == static
    assert all(weight.grad is None for weight in module.parameters())


def test_there_is_nothing_to_learn_from_an_empty_text(make_model: Callable[..., ModelFile]) -> None:
    """Dynamic evaluation says so in words too."""
    with pytest.raises(CorpusError, match="empty"):
        evaluate_dynamically(module_of(make_model()), text(0))


def test_numbers_that_overflow_are_refused_in_words(make_model: Callable[..., ModelFile]) -> None:
    """Every weight is within bounds, the state is not: no figure is better than a wrong one."""
    file = make_model("rnn-relu")
    module = CharModel(file.spec)
    module.load_arrays({name: np.full_like(array, 1e8) for name, array in file.weights.items()})
    for score in (evaluate, evaluate_dynamically):
        with pytest.raises(ModelFileError, match="overflow"):
            score(module, np.arange(8, dtype=np.uint8))


# A sample


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_segment_costs_what_it_costs_in_its_text(make_model: Callable[..., ModelFile], cell: str) -> None:
    """After its warm-up the state is that of a model that has read all before: the mean is that over the segments."""
    module, ids = module_of(make_model(cell)), text(20_000)
    segments = evaluation._spread(len(ids), 9_000)
    assert (len(segments.first_S), segments.length, segments.warm_up) == (16, 306, 256)
    costs = []
    for first in segments.first_S:
        end = int(first) + segments.length
        total, before = (evaluate(module, ids[:place]).nats_per_character * place for place in (end, int(first)))
        costs.append((total - before) / segments.length)
    scores = evaluate_sample(module, ids, 9_000)
    assert scores.characters == 16 * 306
    assert scores.nats_per_character == pytest.approx(np.mean(costs), abs=1e-4)
    assert scores.standard_error_nats == pytest.approx(np.std(costs, ddof=1) / 4, abs=1e-4)
    assert scores.standard_error_bits == pytest.approx(np.std(costs, ddof=1) / 4 / math.log(2), abs=1e-4)


@pytest.mark.parametrize("num_read", [1, 5, 100, 5_000, 50_000, 120_000])
@pytest.mark.parametrize("length", [2, 17, 3_000, 130_000])
def test_segments_lie_apart_in_the_text_and_spread_over_it(length: int, num_read: int) -> None:
    """Whatever the text and the sample: none beyond an end, none on another, no more read than was allowed."""
    if num_read >= length:
        return
    first_S, size, warm_up = evaluation._spread(length, num_read)
    assert first_S[0] >= 0
    assert first_S[-1] + size <= length
    assert (np.diff(first_S) >= size).all()
    assert len(first_S) * (size + warm_up) <= max(num_read, 2 * evaluation.MIN_SEGMENTS)
    assert 0 <= warm_up <= evaluation.WARM_UP
    assert np.ptp(np.diff(first_S)) <= 1 if len(first_S) > 1 else True


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_short_text_is_scored_whole_bit_for_bit(make_model: Callable[..., ModelFile], direction: str) -> None:
    """As `evaluate` does, and no sample has a standard error of that; a longer one is near the figure of all of it."""
    module, ids = module_of(make_model("lstm", direction=direction)), text(6_000)
    whole = evaluate(module, ids)
    assert evaluate_sample(module, ids, 6_000) == whole
    assert whole.standard_error_nats is None
    sample = evaluate_sample(module, ids, 5_999)
    assert sample.standard_error_nats
    assert abs(sample.nats_per_character - whole.nats_per_character) < 4 * sample.standard_error_nats


@pytest.mark.parametrize("num_read", [5_000, 30_000])
def test_an_evaluation_tells_how_far_it_is(make_model: Callable[..., ModelFile], num_read: int) -> None:
    """From a little to all, in a sample and in a whole text; what is raised there ends it."""
    module, ids = module_of(make_model("lstm")), text(30_000)
    told: list[float] = []
    evaluate_sample(module, ids, num_read, told.append)
    assert told == sorted(told)
    assert 0 < told[0] <= 0.5
    assert told[-1] == pytest.approx(1, abs=0.01)

    def leave(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_sample(module, ids, num_read, leave)


def test_what_fits_a_time_follows_from_the_pace(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a text where there is time for its warm-ups too, with how long that takes, else what fits."""
    module, ids = module_of(make_model("lstm")), text(20_480)
    seconds = 0.0

    def read(model: CharModel, tokens_TB: torch.Tensor, *others: object) -> object:
        nonlocal seconds
        seconds += tokens_TB.numel() / 1000
        return forward(model, tokens_TB, *others)

    forward: Callable[..., object] = CharModel.forward
    monkeypatch.setattr(CharModel, "forward", read)
    whole = 20.48 + 10 * 0.256
    cases = [(whole + 0.01, 20_480, whole), (5.0, 5_000, 5.0), (21.0, 20_479, 21.0)]
    for allowed, num_read, needed in cases:
        found = reading_that_fits(module, ids, allowed, lambda: seconds)
        assert found == pytest.approx((num_read, needed), abs=1)
        assert (found[0] == len(ids)) == (num_read == len(ids))
