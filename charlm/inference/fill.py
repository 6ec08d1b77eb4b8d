"""Blanks in a text, filled by a model that reads from both sides. Works on model files; prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.predict import Ranking, rank
from charlm.inference.stepper import Floats, Output, Stack
from charlm.vocab import TextFilter, Vocabulary

# Blanks are guessed anew, each given the others' guesses, until none changes; where many are near each other they may
# never settle.
MAX_ROUNDS = 10


@dataclass(frozen=True)
class Filling:
    """A text with its blanks filled.

    Attributes:
        text: with a character in each blank: the likeliest given all others, but where guesses did not settle.
        places: where the blanks are in the text as it was read, in symbols from 0.
        blanks: what may stand in each, given what the text has in all others.
    """

    text: str
    places: list[int]
    blanks: list[Ranking]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        blanks = [{"place": place, **blank.to_json()} for place, blank in zip(self.places, self.blanks, strict=True)]
        return {"text": self.text, "blanks": blanks}


class Filler:
    """A model of both directions, asked what stands at some places of a text.

    Attributes:
        vocabulary: the symbols of its inputs and outputs.

    Raises:
        UsageError: the model reads in one direction only.
    """

    def __init__(self, model: ModelFile) -> None:
        if not model.spec.sees_both_sides:
            raise UsageError(
                "this model reads in one direction and does not see what follows a blank",
                "`charlm train --set model.direction=both` makes one that does",
            )
        self.vocabulary: Vocabulary = model.vocabulary
        self._left, self._right = Stack(model), Stack(model, "backward_layers")
        self._output = Output(model)

    def fill(self, parts: Sequence[str], top: int, unknown: str = "error") -> Filling:
        """Fill the blanks between the parts of a text.

        Args:
            parts: what stands before, between and after the blanks; two at least, any of them empty.
            top: how many characters to rank for each.
            unknown: what to do about characters the model lacks.

        Raises:
            UnknownCharacterError: the text holds such, under `unknown="error"`.
        """
        known: list[NDArray[Any]] = []
        position = 0
        for part in parts:
            known.append(self.vocabulary.encode(part, unknown, position))
            position += len(TextFilter(self.vocabulary.filter)(part)) + 1
        guesses: list[int | None] = [None] * (len(parts) - 1)
        for _ in range(MAX_ROUNDS):
            before = list(guesses)
            # From the right with the guesses so far, and then from the left, each guess read as soon as it is made.
            right = self._seen_from_the_right(known, before)
            logits = self._guess(known, guesses, right)
            if guesses == before:
                break
        else:
            # They do not settle: each is ranked given the others as they are shown.
            right = self._seen_from_the_right(known, guesses)
            logits = self._guess(known, guesses, right, are_final=True)
        chosen = [guess for guess in guesses if guess is not None]
        pieces = [np.append(guess, part) for guess, part in zip(chosen, known[1:], strict=True)]
        ids = np.concatenate([known[0], *pieces])
        lengths = np.cumsum([len(part) + 1 for part in known[:-1]]) - 1
        ranked = [rank(self.vocabulary, logits_V, top) for logits_V in logits]
        return Filling(self.vocabulary.decode(ids.astype(np.int64)), lengths.tolist(), ranked)

    def _seen_from_the_right(self, known: Sequence[NDArray[Any]], guesses: Sequence[int | None]) -> list[Floats]:
        """Return for each blank what the layers from right to left make of all that follows it."""
        seen: list[Floats] = []
        state = self._right.step(self._edge, self._right.start(1))
        for part, guess in zip(reversed(known[1:]), reversed(guesses), strict=True):
            state = self._right.read(part[::-1], state)
            seen.append(state[-1][0])
            state = self._right.read([] if guess is None else [guess], state)
        return seen[::-1]

    def _guess(
        self,
        known: Sequence[NDArray[Any]],
        guesses: list[int | None],
        right: Sequence[Floats],
        are_final: bool = False,
    ) -> list[Floats]:
        """Go through the text from the left, guess at each blank unless guesses are final, and return the logits."""
        logits: list[Floats] = []
        state = self._left.step(self._edge, self._left.start(1))
        for index, part in enumerate(known[:-1]):
            state = self._left.read(part, state)
            logits.append(self._output(np.concatenate([state[-1][0], right[index]], axis=1))[0])
            guess = guesses[index]
            if guess is None or not are_final:
                guess = guesses[index] = int(logits[-1].argmax())
            state = self._left.read([guess], state)
        return logits

    @property
    def _edge(self) -> NDArray[np.int64]:
        return np.array([len(self.vocabulary)])
