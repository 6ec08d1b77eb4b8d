"""Evaluation agrees with sums that are written another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.data.holdout import Part
from charlm.errors import CorpusError, ModelFileError
from charlm.evaluation import evaluate as evaluation
from charlm.evaluation.dynamic import evaluate_dynamically
from charlm.evaluation.evaluate import Scores, evaluate, evaluate_sample, reading_that_fits, sum_scores
from charlm.evaluation.segments import MIN_SEGMENTS, WARM_UP, sample
from charlm.inference.sampling import softmax
from charlm.inference.stepper import Stepper
from charlm.nn.model import CharModel
from tests.helpers.evaluation import NUM_SYMBOLS, module_of, random_ids


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [1, 2, 300])
def test_evaluate_agrees_with_the_stepper(make_model: Callable[..., ModelFile], cell: str, length: int) -> None:
    """Nats, bits, perplexity and accuracies follow from the probabilities that the stepper gives each character."""
    file, ids = make_model(cell, 2), random_ids(length)
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


def test_equally_probable_symbols_rank_in_the_order_of_their_ids() -> None:
    """As in sampling: the third of three most probable ones is no guess that came true, the first one is."""
    logits_V = torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0, 1.0, 1.0, 0.0])
    # By falling probability: 1, 3, 4, then 2, 5, 6, then 0, 7.
    targets_TB = torch.arange(8)[:, None]
    inside_TB = torch.ones_like(targets_TB, dtype=torch.bool)
    for target, is_first, is_among_five in (
        (1, 1, 1),
        (3, 0, 1),
        (4, 0, 1),
        (2, 0, 1),
        (5, 0, 1),
        (6, 0, 0),
        (0, 0, 0),
    ):
        _, *found = sum_scores(logits_V[None, None], targets_TB[target : target + 1], inside_TB[:1])
        assert found == [is_first, is_among_five]
    _, *found = sum_scores(logits_V.expand(8, 1, 8), targets_TB, inside_TB)
    assert found == [1, 5]


@pytest.mark.parametrize("cell", CELLS)
def test_windows_start_from_the_character_before_them(make_model: Callable[..., ModelFile], cell: str) -> None:
    """Each window of three scores as a text of its own that begins with the unscored character before it."""
    file, ids = make_model(cell), random_ids(8)
    module = module_of(file)
    total = 0.0
    for begin in (0, 3, 6):
        end = min(begin + 3, 8)
        before = ids[max(begin - 1, 0) : begin]
        whole = evaluate(module, ids[max(begin - 1, 0) : end])
        alone = evaluate(module, before).nats_per_character if len(before) else 0.0
        total += whole.nats_per_character * whole.characters - alone
    assert evaluate(module, ids, window=3).nats_per_character == pytest.approx(total / 8, abs=1e-5)


def test_all_windows_are_scored(make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch) -> None:
    """The score does not depend on how many windows are read side by side, also if the last one is short."""
    module, ids = module_of(make_model("gru")), random_ids(200)
    at_once = evaluate(module, ids, window=3)
    monkeypatch.setattr(evaluation, "MAX_STREAMS", 7)
    assert evaluate(module, ids, window=3).nats_per_character == pytest.approx(at_once.nats_per_character, abs=1e-6)
    monkeypatch.setattr(evaluation, "MAX_STREAMS", 10**6)
    assert evaluate(module, ids, window=3).nats_per_character == pytest.approx(at_once.nats_per_character, abs=1e-6)


def test_streams_with_a_warm_up_score_as_one_stream(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long text in several streams, each with a warm-up of 256 characters, has the score of one stream."""
    module, ids = module_of(make_model("lstm", 2)), random_ids(9000)
    in_parts = evaluate(module, ids)
    monkeypatch.setattr("charlm.evaluation.segments.MIN_CHARACTERS_PER_STREAM", 10**9)
    in_one = evaluate(module, ids)
    assert in_parts.characters == in_one.characters == 9000
    assert in_parts.nats_per_character == pytest.approx(in_one.nats_per_character, abs=1e-5)


def test_a_uniform_model_has_log2_of_the_vocabulary_in_bits(make_model: Callable[..., ModelFile]) -> None:
    """Uniform probabilities cost exactly log2 V bits for each character."""
    file = make_model()
    module = module_of(replace(file, arrays={name: np.zeros_like(array) for name, array in file.weights.items()}))
    assert evaluate(module, random_ids(100)).bits_per_character == pytest.approx(math.log2(NUM_SYMBOLS), abs=1e-6)


def test_evaluate_changes_neither_model_nor_random_numbers(make_model: Callable[..., ModelFile]) -> None:
    """Two evaluations agree, and weights, mode and torch's random numbers stay the same."""
    module = module_of(make_model("gru"))
    before, mode = module.arrays(), module.training
    generator = torch.get_rng_state()
    assert evaluate(module, random_ids(500)) == evaluate(module, random_ids(500))
    assert module.training == mode
    assert torch.equal(torch.get_rng_state(), generator)
    assert all((before[name] == array).all() for name, array in module.arrays().items())


def test_later_characters_do_not_change_earlier_scores(make_model: Callable[..., ModelFile]) -> None:
    """A longer text costs at least as much as its beginning: nothing leaks from the future."""
    module, ids = module_of(make_model("lstm")), random_ids(60)
    beginning = evaluate(module, ids[:30]).nats_per_character * 30
    for end in (31, 40, 60):
        longer = evaluate(module, ids[:end]).nats_per_character * end
        without_last = evaluate(module, ids[: end - 1]).nats_per_character * (end - 1)
        assert beginning - 1e-4 <= without_last <= longer + 1e-4


def test_evaluate_refuses_an_empty_text(make_model: Callable[..., ModelFile]) -> None:
    """An empty text is a `CorpusError`, not a division by zero."""
    with pytest.raises(CorpusError, match="empty"):
        evaluate(module_of(make_model()), random_ids(0))


def test_perplexity_is_finite_for_any_model() -> None:
    """The exponential of a huge mean does not overflow."""
    assert math.isfinite(Scores(1, 5000.0, 0, 0).perplexity_per_character)


def test_evaluate_refuses_numbers_that_overflow(make_model: Callable[..., ModelFile]) -> None:
    """Weights within bounds whose state overflows are a `ModelFileError`, in both kinds of evaluation."""
    file = make_model("rnn-relu")
    module = module_of(replace(file, arrays={name: np.full_like(array, 1e8) for name, array in file.weights.items()}))
    for score in (evaluate, evaluate_dynamically):
        with pytest.raises(ModelFileError, match="overflow"):
            score(module, np.arange(8, dtype=np.uint8))


# A sample


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_segment_of_a_sample_scores_as_in_the_whole_text(make_model: Callable[..., ModelFile], cell: str) -> None:
    """A sample is the mean over its segments, each scored as if the whole text before it had been read."""
    module, ids = module_of(make_model(cell)), random_ids(20_000)
    segments = sample(Part.of(ids), 9_000)
    assert (len(segments), segments.length, segments.warm_up) == (16, 306, 256)
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
def test_segments_of_a_sample_are_spread_over_the_text(length: int, num_read: int) -> None:
    """Segments stay within the text, do not overlap, are evenly spaced, and read no more than allowed."""
    if num_read >= length:
        return
    segments = sample(Part.of(random_ids(length)), num_read)
    first_S, size, warm_up = segments.first_S, segments.length, segments.warm_up
    assert (segments.lengths_S == size).all()
    assert first_S[0] >= 0
    assert first_S[-1] + size <= length
    assert (np.diff(first_S) >= size).all()
    assert len(first_S) * (size + warm_up) <= max(num_read, 2 * MIN_SEGMENTS)
    assert 0 <= warm_up <= WARM_UP
    assert np.ptp(np.diff(first_S)) <= 1 if len(first_S) > 1 else True


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_evaluate_sample_scores_a_short_text_whole(make_model: Callable[..., ModelFile], direction: str) -> None:
    """A short text scores exactly as in `evaluate`, without a standard error; a sample is near that score."""
    module, ids = module_of(make_model("lstm", direction=direction)), random_ids(6_000)
    whole = evaluate(module, ids)
    assert evaluate_sample(module, ids, 6_000) == whole
    assert whole.standard_error_nats is None
    sample = evaluate_sample(module, ids, 5_999)
    assert sample.standard_error_nats
    assert abs(sample.nats_per_character - whole.nats_per_character) < 4 * sample.standard_error_nats


@pytest.mark.parametrize("num_read", [5_000, 30_000])
def test_an_evaluation_reports_its_progress(make_model: Callable[..., ModelFile], num_read: int) -> None:
    """The reported share grows to 1, in a sample and in a whole text; an exception in the callback ends it."""
    module, ids = module_of(make_model("lstm")), random_ids(30_000)
    shares: list[float] = []
    evaluate_sample(module, ids, num_read, shares.append)
    assert shares == sorted(shares)
    assert 0 < shares[0] <= 0.5
    assert shares[-1] == pytest.approx(1, abs=0.01)

    def leave(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_sample(module, ids, num_read, leave)


def test_reading_that_fits_follows_from_the_measured_pace(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With time for the whole text and its warm-ups, all of it fits; with less time, a part in proportion."""
    module, ids = module_of(make_model("lstm")), random_ids(20_480)
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


# Several stretches of a text


def part_of(lengths: list[int], gap: int = 3) -> Part:
    """Return stretches of a random text, with a few characters between them that must not be read."""
    ends = np.cumsum([gap + length for length in lengths]).tolist()
    blocks = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return Part.between(random_ids(ends[-1] + gap), blocks)


STRETCHES = [[1, 1], [5, 300, 1], [700, 820, 760, 900], [4000, 2500, 5200, 3000], [255, 256, 257, 600, 3]]


@pytest.mark.parametrize("lengths", STRETCHES, ids=str)
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_each_stretch_scores_as_a_text_of_its_own(
    make_model: Callable[..., ModelFile], direction: str, lengths: list[int]
) -> None:
    """The score is that of all stretches apart; nothing between them is read, and nothing is carried over."""
    module, part = module_of(make_model("lstm", 2, direction=direction)), part_of(lengths)
    scores = evaluate(module, part)
    apart = [evaluate(module, ids) for ids in part.stretches]
    assert scores.characters == sum(lengths) == sum(score.characters for score in apart)
    for name in ("nats_per_character", "top1_accuracy", "top5_accuracy"):
        expected = sum(getattr(score, name) * score.characters for score in apart) / sum(lengths)
        assert getattr(scores, name) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("lengths", STRETCHES, ids=str)
@pytest.mark.parametrize("window", [1, 7, 256, 1000])
def test_windows_do_not_reach_over_a_gap(make_model: Callable[..., ModelFile], lengths: list[int], window: int) -> None:
    """Each stretch is divided into windows as a text of its own."""
    module, part = module_of(make_model("gru")), part_of(lengths)
    apart = [evaluate(module, ids, window) for ids in part.stretches]
    expected = sum(score.nats_per_character * score.characters for score in apart) / sum(lengths)
    assert evaluate(module, part, window).nats_per_character == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_sample_of_stretches_stays_within_them(make_model: Callable[..., ModelFile], direction: str) -> None:
    """Each stretch has segments in proportion, and each segment scores as in its stretch read whole."""
    module, part = module_of(make_model("lstm", direction=direction)), part_of([4000, 2500, 5200, 3000])
    in_order = part.backwards() if direction == "backward" else part
    segments = sample(in_order, 9_000)
    assert (segments.starts_S <= segments.first_S).all()
    assert (segments.last_S <= segments.ends_S).all()
    assert (segments.first_S[1:] >= segments.last_S[:-1]).all()
    numbers = [int((segments.starts_S == start).sum()) for start in in_order.bounds_S2[:, 0]]
    assert numbers == pytest.approx((in_order.lengths_S * 16 / 14_700).tolist(), abs=1)
    scores = evaluate_sample(module, part, 9_000)
    assert scores.characters == segments.lengths_S.sum()
    whole = evaluate(module, part)
    assert scores.standard_error_nats
    assert abs(scores.nats_per_character - whole.nats_per_character) < 4 * scores.standard_error_nats
    assert evaluate_sample(module, part, 14_700) == whole


def test_a_segment_near_the_start_of_a_stretch_has_no_warm_up(make_model: Callable[..., ModelFile]) -> None:
    """Its score is that of the beginning of the stretch, not that of a state that has read the gap."""
    module, part = module_of(make_model("lstm")), part_of([2600] * 8)
    segments = sample(part, 16 * 1200)
    near_S = segments.first_S == segments.starts_S
    assert near_S.any()
    assert ((segments.first_S - segments.starts_S)[~near_S] >= segments.warm_up).all()
    costs = [
        evaluate(module, part.ids[start:last]).nats_per_character * (last - start)
        - (evaluate(module, part.ids[start:first]).nats_per_character * (first - start) if first > start else 0)
        for first, last, start in zip(segments.first_S, segments.last_S, segments.starts_S, strict=True)
    ]
    scores = evaluate_sample(module, part, 16 * 1200)
    assert scores.nats_per_character == pytest.approx(sum(costs) / scores.characters, abs=1e-5)


def test_two_sided_models_read_stretches_side_by_side(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty blocks take as many passes as two, because their ends are read together."""
    module = module_of(make_model("lstm", direction="both"))
    passes: list[int] = []
    forward: Callable[..., object] = CharModel.forward

    def counted(model: CharModel, tokens_TB: torch.Tensor, *others: object) -> object:
        passes[-1] += 1
        return forward(model, tokens_TB, *others)

    monkeypatch.setattr(CharModel, "forward", counted)
    for number in (2, 20):
        passes.append(0)
        evaluate(module, part_of([900 + 7 * index for index in range(number)]))
    assert passes[0] == passes[1]


@pytest.mark.parametrize(
    ("cell", "direction"), [("lstm", "forward"), ("lstm", "backward"), ("lstm", "both"), ("gru", "both")]
)
@pytest.mark.parametrize("size", [13, 300])
def test_each_document_is_scored_as_a_text(
    make_model: Callable[..., ModelFile], cell: str, direction: str, size: int
) -> None:
    """The sums over a text with documents are those over the documents; a sample of it has about their mean."""
    module, ids = module_of(make_model(cell, direction=direction)), random_ids(3000)
    part = replace(Part.between(ids, [(0, 1000), (1300, 3000)]), documents_D=np.arange(size, 2990, size))
    found, documents = evaluate(module, part), part.divided().stretches
    assert found.characters == sum(map(len, documents)) == 2700
    nats = [evaluate(module, document).nats_per_character * len(document) for document in documents]
    assert found.nats_per_character == pytest.approx(sum(nats) / 2700, abs=1e-5)
    some = evaluate_sample(module, part, 2000)
    assert some.standard_error_nats is not None
    assert abs(some.nats_per_character - found.nats_per_character) < 5 * some.standard_error_nats + 0.01


def test_dynamic_evaluation_starts_each_document_anew(make_model: Callable[..., ModelFile]) -> None:
    """Documents score as stretches do."""
    module, ids = module_of(make_model("lstm")), random_ids(200)
    part, stretches = replace(Part.of(ids), documents_D=np.array([50, 90])), [(0, 50), (50, 90), (90, 200)]
    assert evaluate_dynamically(module, part) == evaluate_dynamically(module, Part.between(ids, stretches))
