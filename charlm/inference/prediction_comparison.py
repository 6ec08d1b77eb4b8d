"""What two models predict after the same text, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from charlm.inference.predict import Prediction
from charlm.inference.words import WordPrediction


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
        probabilities: by each model; None if it does not list the word.
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
        remaining_probabilities: for each model that of all words which it does not list.
        others_at_most: for each model the most that such a word has.
    """

    words: list[ComparedWord]
    remaining_probabilities: tuple[float, ...]
    others_at_most: tuple[float, ...]

    @classmethod
    def of(cls, predictions: Sequence[WordPrediction]) -> ComparedWords:
        """Put the words of several predictions side by side."""
        known = [{word.text: word.probability for word in prediction.words} for prediction in predictions]
        listed = {word.text: word.word for prediction in predictions for word in prediction.words}
        words = [
            ComparedWord(text, word, tuple(shares.get(text) for shares in known)) for text, word in listed.items()
        ]
        return cls(
            sorted(words, key=lambda word: -_highest(word.probabilities)),
            tuple(prediction.remaining_probability for prediction in predictions),
            tuple(prediction.others_at_most for prediction in predictions),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def _highest(probabilities: Sequence[float | None]) -> float:
    return max(share for share in probabilities if share is not None)
