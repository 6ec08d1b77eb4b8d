"""Predictions: the most probable characters and what remains."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UnknownCharacterError, UsageError
from charlm.inference.predict import predict, rank
from charlm.inference.sampling import log2_probabilities, softmax
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary


def test_a_prediction_is_the_softmax_after_the_text(make_model: Callable[..., ModelFile]) -> None:
    """Candidates, remaining probability and entropy equal those of the distribution, written out."""
    stepper = Stepper(make_model("lstm", 2))
    prediction = predict(stepper, "bad", 4)
    logits_BV, state = stepper.start()
    for character in "bad":
        logits_BV, state = stepper.step(stepper.vocabulary.encode(character), state)
    weights = np.exp(logits_BV[0].astype(np.float64))
    p_V = weights / weights.sum()
    assert [c.probability for c in prediction.candidates] == pytest.approx(sorted(p_V, reverse=True)[:4])
    assert [c.character for c in prediction.candidates] == ["\n abcdefgh"[index] for index in np.argsort(-p_V)[:4]]
    assert prediction.remaining_probability == pytest.approx(1 - sum(sorted(p_V)[-4:]))
    assert prediction.num_others == 6
    assert prediction.entropy_bits == pytest.approx(-sum(p * math.log2(p) for p in p_V))


def test_a_prediction_lists_each_character_at_most_once(make_model: Callable[..., ModelFile]) -> None:
    """With a larger `top` than there are characters, all are listed and nothing remains."""
    prediction = predict(Stepper(make_model()), "", 99)
    assert sum(c.probability for c in prediction.candidates) == pytest.approx(1)
    assert len({c.character for c in prediction.candidates}) == len(prediction.candidates) == 10
    assert (prediction.num_others, prediction.remaining_probability) == (0, 0)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_a_text_has_said_before_counts(make_model: Callable[..., ModelFile], direction: str) -> None:
    """After a phrase that was read five times, what followed it, or stood before it, is the most probable."""
    stepper = Stepper(make_model(direction=direction))
    phrase = "bad face " if direction == "forward" else " ecaf dab"
    text = (phrase * 6)[:-4] if direction == "forward" else (phrase * 6)[4:]
    alone, counting = predict(stepper, text, 1), predict(stepper, text, 1, recent=True)
    assert counting.candidates[0].character == "a"
    assert counting.candidates[0].probability > 2 * predict(stepper, text, 99).candidates[0].probability
    assert predict(stepper, "bad", 1, recent=True) == predict(stepper, "bad", 1)
    assert alone != counting


def test_a_certain_prediction_has_no_entropy() -> None:
    """The entropy of a certain prediction is 0.0, and not -0.0."""
    prediction = rank(Vocabulary("characters", "abc"), np.array([0, 900, 0], dtype=np.float32), 1)
    assert str(prediction.entropy_bits) == "0.0"
    assert prediction.candidates[0].character == "b"


@pytest.mark.parametrize("top", [0, -3])
def test_a_prediction_of_no_characters_is_refused(make_model: Callable[..., ModelFile], top: int) -> None:
    """A `top` below 1 is a `UsageError`."""
    with pytest.raises(UsageError, match=str(top)):
        predict(Stepper(make_model()), "ab", top)


def test_a_prediction_names_an_unknown_character(make_model: Callable[..., ModelFile]) -> None:
    """The error has the position of the unknown character in the text."""
    with pytest.raises(UnknownCharacterError, match="position 3"):
        predict(Stepper(make_model()), "bad\U0001f600", 3)


@pytest.mark.parametrize("logits", [(0, np.inf, 1), (0, np.nan, 1), (-np.inf, -np.inf, -np.inf)], ids=str)
def test_infinite_logits_are_refused(logits: tuple[float, ...]) -> None:
    """Logits that overflow are an error of the model file, and so are those that exclude every symbol."""
    logits_V = np.array(logits, dtype=np.float32)
    with pytest.raises(ModelFileError):
        softmax(logits_V)
    with pytest.raises(ModelFileError):
        log2_probabilities(logits_V)


def test_bits_are_finite_where_a_probability_underflows() -> None:
    """The bits of an improbable character are the difference of two logits, however large it is."""
    assert log2_probabilities(np.array([0, 3e4], dtype=np.float32))[0] == pytest.approx(-3e4 / math.log(2))
    assert log2_probabilities(np.array([0, 0, 0, 0], dtype=np.float32)) == pytest.approx([-2] * 4)
