"""What two models predict after the same text, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from charlm.inference.predict import Prediction
from charlm.inference.stepper import Predictor
from charlm.inference.words import predict_words, word_probabilities


@dataclass(frozen=True)
class ComparedCandidate:
    """A character that one of the models lists.

    Attributes:
        character: the character itself.
        name: how to show it.
        probabilities: by each model; None if the character is not in its vocabulary.
    """

    character: str
    name: str
    probabilities: tuple[float | None, ...]


@dataclass(frozen=True)
class ComparedWord:
    """A word that one of the models lists.

    Attributes:
        text: what is added to the text.
        word: the whole word.
        probabilities: by each model; None if the word has characters that are not in its vocabulary.
    """

    text: str
    word: str
    probabilities: tuple[float | None, ...]


@dataclass(frozen=True)
class ComparedCharacters:
    """The most probable characters of two models.

    Attributes:
        candidates: those that one of the models lists, by the higher of both probabilities.
        remaining_probabilities: for each model that of all characters which are not among them.
        entropy_bits: how uncertain each model is.
    """

    candidates: list[ComparedCandidate]
    remaining_probabilities: tuple[float, ...]
    entropy_bits: tuple[float, ...]

    @classmethod
    def of(cls, predictions: Sequence[Prediction], top: int) -> ComparedCharacters:
        """Put predictions that list all characters side by side, the `top` most probable ones of each."""
        # Byte 0xe9 is another symbol than the character U+00E9: its name says so.
        known = [{c.name: c.probability for c in prediction.candidates} for prediction in predictions]
        listed = {c.name: c for prediction in predictions for c in prediction.candidates[:top]}
        candidates = [
            ComparedCandidate(c.character, name, tuple(shares.get(name) for shares in known))
            for name, c in listed.items()
        ]
        remaining = tuple(max(0.0, 1 - sum(shares.get(name, 0.0) for name in listed)) for shares in known)
        entropies = tuple(prediction.entropy_bits for prediction in predictions)
        return cls(sorted(candidates, key=lambda c: -_highest(c.probabilities)), remaining, entropies)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class ComparedWords:
    """The most probable words of two models.

    Attributes:
        words: those that one of the models lists, by the higher of both probabilities.
        remaining_probabilities: for each model that of all words which are not among them.
        is_complete: whether these are certainly the most probable ones of each.
    """

    words: list[ComparedWord]
    remaining_probabilities: tuple[float, ...]
    is_complete: bool

    @classmethod
    def of(cls, steppers: Sequence[Predictor], text: str, top: int, unknown: str, recent: bool) -> ComparedWords:
        """Rank the words after a text by each model, and measure those of the one by the others too.

        The arguments and errors are those of `predict_words`.
        """
        predictions = [predict_words(stepper, text, top, unknown, recent) for stepper in steppers]
        listed = {word.text: word.word for prediction in predictions for word in prediction.words}
        shares_MW = []
        for stepper, prediction in zip(steppers, predictions, strict=True):
            known: dict[str, float | None] = {word.text: word.probability for word in prediction.words}
            missing = [added for added in listed if added not in known]
            known |= zip(missing, word_probabilities(stepper, text, missing, unknown, recent), strict=True)
            shares_MW.append([known[added] for added in listed])
        words = [
            ComparedWord(added, word, shares)
            for (added, word), shares in zip(listed.items(), zip(*shares_MW, strict=True), strict=True)
        ]
        remaining = tuple(max(0.0, 1 - sum(share or 0.0 for share in shares_W)) for shares_W in shares_MW)
        is_complete = all(prediction.is_complete for prediction in predictions)
        return cls(sorted(words, key=lambda word: -_highest(word.probabilities)), remaining, is_complete)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def _highest(probabilities: Sequence[float | None]) -> float:
    return max(share for share in probabilities if share is not None)
