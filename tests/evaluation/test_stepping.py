"""The cost of each character by NumPy: the means are those of the evaluation in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.data.gaps import Gapped
from charlm.data.holdout import Part
from charlm.errors import CorpusError
from charlm.evaluation import segments
from charlm.evaluation.evaluate import evaluate, evaluate_sample
from charlm.evaluation.stepping import bits_together, symbol_bits
from charlm.inference.ensemble import Ensemble, ids_in
from charlm.inference.mixture import Mixture
from charlm.inference.score import score_symbols
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from tests.helpers.evaluation import module_of, random_ids
from tests.helpers.model_files import with_ngrams

Make = Callable[..., ModelFile]
WHOLE = Part.of(random_ids(4500))
BLOCKS = Part.between(random_ids(6000), [(0, 300), (1000, 3200), (5000, 5001)])
DOCUMENTS = replace(BLOCKS, documents_D=np.array([0, 120, 121, 1500, 3199, 5000]))


@pytest.fixture
def mixed(make_model: Make) -> ModelFile:
    """A net with n-grams."""
    return with_ngrams(make_model())


@pytest.mark.parametrize("window", [None, 7, 400])
@pytest.mark.parametrize("text", [WHOLE, BLOCKS, DOCUMENTS], ids=["whole", "blocks", "documents"])
def test_the_means_are_those_of_torch(mixed: ModelFile, text: Part, window: int | None) -> None:
    """With the state carried and in windows, of the mixture and of its net."""
    bits_PN = symbol_bits(Stepper(mixed), text, window)
    scores = evaluate(module_of(mixed), text, window, mixture=Mixture.of(mixed))
    assert scores.net
    assert bits_PN.shape == (2, len(text))
    assert bits_PN.mean(axis=1) == pytest.approx([scores.bits_per_character, scores.net.bits_per_character], abs=1e-5)


def test_a_window_at_the_start_of_a_document_knows_nothing(make_model: Make) -> None:
    """One that starts there costs what the document costs alone."""
    file, ids = make_model(), random_ids(200)
    # The window after the gap before place 100 starts at the first character of the document.
    text = replace(Part.of(ids), documents_D=np.array([100]))
    alone = evaluate(module_of(file), Part.of(ids[100:]), 101)
    both = evaluate(module_of(file), text, 101)
    first = evaluate(module_of(file), Part.of(ids[:100]), 101)
    mean = (first.bits_per_character + alone.bits_per_character) / 2
    assert both.bits_per_character == pytest.approx(mean, abs=1e-6)
    assert symbol_bits(Stepper(file), text, 101).mean() == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("options", [{"cell": "gru", "num_layers": 2}, {"direction": "backward"}])
def test_a_sample_is_that_of_torch(make_model: Make, options: dict[str, Any]) -> None:
    """Of a net alone, which may read from the end."""
    file = make_model(**options)
    for text in (BLOCKS, DOCUMENTS):
        bits_PN = symbol_bits(Stepper(file), text, num_read=1500)
        scores = evaluate_sample(module_of(file), text, 1500)
        assert bits_PN.shape == (1, scores.characters)
        assert bits_PN.mean() == pytest.approx(scores.bits_per_character, abs=1e-5)


def test_a_sample_reads_each_start_once(make_model: Make) -> None:
    """Where warm-ups reach beyond the start of a document, each character costs what it costs in its document alone."""
    file, ids, num_read = make_model(), random_ids(300), 280
    text = replace(Part.of(ids), documents_D=np.arange(7, 300, 7))
    stepper, gapped = Stepper(file), Gapped(text)
    some = segments.sample(gapped, num_read)
    assert some.warm_up > 7
    alone_N = np.concatenate([score_symbols(stepper, ids[start : start + 7]).bits_T for start in range(0, 300, 7)])
    numbered = Gapped(replace(text, ids=np.arange(300, dtype=np.uint16)))
    each = [numbered.read(np.arange(*ends)[:, None]) for ends in zip(some.first_S, some.last_S, strict=True)]
    expected_N = alone_N[np.concatenate([reading.ids_TB[~reading.is_gap_TB] for reading in each])]
    np.testing.assert_allclose(symbol_bits(stepper, text, num_read=num_read)[0], expected_N, atol=1e-4)
    scores = evaluate_sample(module_of(file), text, num_read)
    assert scores.bits_per_character == pytest.approx(expected_N.mean(), abs=1e-5)


def test_several_models_cost_what_an_ensemble_costs(make_model: Make) -> None:
    """One of them knows the symbols in another order; the costs stand in the order of the text."""
    first = make_model()
    order = [3, 1, 2, 0, *range(9, 3, -1)]
    symbols = "".join(first.vocabulary.symbols[index] for index in order)
    other = make_model("gru", symbols=Vocabulary("characters", symbols), seed=1)
    steppers = [Stepper(first), Stepper(other)]
    text = Part.of(random_ids(900))
    each = [
        symbol_bits(stepper, text, ids_V=ids_in(stepper.vocabulary, first.vocabulary), num_read=10**6)[0]
        for stepper in steppers
    ]
    expected = score_symbols(Ensemble([("a", steppers[0]), ("b", steppers[1])]), text.ids).bits_T
    np.testing.assert_allclose(bits_together(each), expected, atol=1e-4)


def test_costs_of_impossible_symbols_do_not_underflow() -> None:
    """A cost of 5,000 bits in one model is one bit more than the cost in the other."""
    assert bits_together([np.array([5000.0]), np.array([2.0])]) == pytest.approx([3.0])
    assert bits_together([np.array([5000.0]), np.array([5000.0])]) == pytest.approx([5000.0])


def test_progress_grows_towards_all_characters(make_model: Make) -> None:
    """It is reported several times, and never goes back."""
    seen: list[tuple[int, int]] = []
    symbol_bits(Stepper(make_model()), WHOLE, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {4500}
    assert seen == sorted(set(seen))
    assert len(seen) > 5
    assert seen[0][0] < 100
    assert 4000 < seen[-1][0] <= 4500


def test_progress_counts_the_characters_of_all_windows(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share that is done grows, also where windows are made some at a time."""
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(segments, "WINDOWS_TOGETHER", 100)
    symbol_bits(Stepper(make_model()), WHOLE, 9, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {4500}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] > 4000


def test_an_empty_text_is_refused(make_model: Make) -> None:
    """As by `evaluate`."""
    with pytest.raises(CorpusError, match="empty"):
        symbol_bits(Stepper(make_model()), Part.of(random_ids(0)))
