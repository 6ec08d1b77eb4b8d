"""Dynamic evaluation learns from a text, and only from what it has already scored."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.data.holdout import Part
from charlm.errors import CorpusError
from charlm.evaluation.dynamic import EPSILON, SEGMENT_SIZE, evaluate_dynamically
from charlm.evaluation.evaluate import Scores, evaluate
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.nn.model import CharModel
from charlm.vocab import Ids
from tests.helpers.evaluation import NUM_SYMBOLS, module_of, random_ids


def of_net(model: CharModel, text: Ids | Part, **options: float) -> Scores:
    """Return the scores of the copy of a net that learns, without counts."""
    net = evaluate_dynamically(model, text, **options).net  # type: ignore[arg-type]
    assert net is not None
    return net


def total_nats(model: CharModel, ids: np.ndarray) -> float:
    """Return the nats of a whole text by dynamic evaluation that learns fast and often, so that it shows soon."""
    return of_net(model, ids, segment_size=4, rate=0.05).nats_per_character * len(ids)


@pytest.mark.parametrize(("cell", "length"), [*((cell, 6) for cell in CELLS), ("lstm", 3), ("gru", 4), ("rnn", 8)])
def test_dynamic_evaluation_scores_before_it_learns(
    make_model: Callable[..., ModelFile], cell: str, length: int
) -> None:
    """After any beginning the probabilities of all next characters sum to 1, so none was learned before."""
    module, beginning = module_of(make_model(cell, 2)), random_ids(length)
    before = total_nats(module, beginning)
    costs = [total_nats(module, np.append(beginning, last).astype(np.uint8)) - before for last in range(NUM_SYMBOLS)]
    assert sum(math.exp(-cost) for cost in costs) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_dynamic_evaluation_starts_with_the_original_model(make_model: Callable[..., ModelFile], cell: str) -> None:
    """The first segment has the same scores as in a normal evaluation."""
    module, ids = module_of(make_model(cell)), random_ids(SEGMENT_SIZE)
    expected = evaluate(module, ids)
    found = of_net(module, ids)
    assert found.nats_per_character == pytest.approx(expected.nats_per_character, abs=1e-5)
    assert (found.top1_accuracy, found.top5_accuracy) == (expected.top1_accuracy, expected.top5_accuracy)


def test_the_first_dynamic_step_goes_against_each_gradient(make_model: Callable[..., ModelFile]) -> None:
    """The second segment scores as by weights that moved by the rate against the sign of the gradient."""
    module, ids = module_of(make_model("lstm")), random_ids(8)
    tokens_TB = torch.tensor([NUM_SYMBOLS, *ids[:-1]])[:, None]
    logits_TBV, state = module(tokens_TB[:4], module.start_state(1))
    loss = torch.nn.functional.cross_entropy(logits_TBV[:, 0], torch.tensor(ids[:4].astype(int)))
    loss.backward()
    with torch.no_grad():
        for weight in module.parameters():
            assert weight.grad is not None
            weight.sub_(0.05 * weight.grad / (weight.grad.abs() + EPSILON))
        logits_TBV, _ = module(tokens_TB[4:], state)
        second = torch.nn.functional.cross_entropy(logits_TBV[:, 0], torch.tensor(ids[4:].astype(int)), reduction="sum")
    original = module_of(make_model("lstm"))
    assert total_nats(original, ids) - total_nats(original, ids[:4]) == pytest.approx(second.item(), abs=1e-4)


def test_dynamic_evaluation_learns_without_changing_the_model(
    make_model: Callable[..., ModelFile],
) -> None:
    """A text that repeats itself costs less, while the weights and the scores of the model do not change."""
    module, ids = module_of(make_model("gru")), np.tile(random_ids(7), 40)
    before, static = module.arrays(), evaluate(module, ids)
    assert total_nats(module, ids) < 0.7 * static.nats_per_character * len(ids)
    assert all((before[name] == array).all() for name, array in module.arrays().items())
    assert evaluate(module, ids) == static
    assert all(weight.grad is None for weight in module.parameters())


def test_dynamic_evaluation_refuses_an_empty_text(make_model: Callable[..., ModelFile]) -> None:
    """An empty text is a `CorpusError`."""
    with pytest.raises(CorpusError, match="empty"):
        evaluate_dynamically(module_of(make_model()), random_ids(0))


def test_dynamic_evaluation_carries_no_state_over_a_gap(make_model: Callable[..., ModelFile]) -> None:
    """Without learning each stretch scores as a text of its own; with it, the copy goes on learning."""
    module, ids = module_of(make_model("lstm")), random_ids(200)
    part = Part.between(ids, [(0, 70), (90, 200)])
    apart = [evaluate(module, stretch) for stretch in part.stretches]
    expected = sum(score.nats_per_character * score.characters for score in apart) / 180
    assert of_net(module, part, rate=0.0).nats_per_character == pytest.approx(expected, abs=1e-5)
    learned = of_net(module, part, rate=0.05).nats_per_character * 180
    restarted = sum(of_net(module, stretch, rate=0.05).nats_per_character * len(stretch) for stretch in part.stretches)
    assert abs(learned - restarted) > 0.01


def test_what_was_just_read_counts_beside_the_net(make_model: Callable[..., ModelFile]) -> None:
    """A phrase that comes again costs far less than the net alone finds; what comes once costs the same."""
    module = module_of(make_model("lstm"))
    phrase = random_ids(40)
    once, often = (evaluate_dynamically(module, np.tile(phrase, times), rate=0.0) for times in (1, 12))
    assert once.net is not None
    assert often.net is not None
    assert once.nats_per_character == pytest.approx(once.net.nats_per_character)
    assert often.nats_per_character < 0.5 * often.net.nats_per_character


def test_n_grams_count_in_dynamic_evaluation(make_model: Callable[..., ModelFile]) -> None:
    """Without learning and without repetition, the scores are those of the mixture."""
    module, ids = module_of(make_model("lstm")), random_ids(60)
    levels = count([random_ids(300)], NUM_SYMBOLS, 3)
    mixture = Mixture(trie(levels, smooth(levels, NUM_SYMBOLS), NUM_SYMBOLS), 0.7)
    part = Part.between(ids, [(0, 20), (23, 40)])
    expected = evaluate(module, part, mixture=mixture)
    found = evaluate_dynamically(module, part, rate=0.0, mixture=mixture)
    assert found.nats_per_character == pytest.approx(expected.nats_per_character, abs=1e-5)
