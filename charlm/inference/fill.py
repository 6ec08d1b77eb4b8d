"""Blanks in a text, filled by a model that reads from both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.predict import Prediction, rank
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Output, Stack
from charlm.vocab import Vocabulary

# The blanks are guessed again, each given the guesses of the others, until none changes. If many blanks are close
# together, the guesses may never settle.
MAX_ROUNDS = 10


@dataclass(frozen=True)
class Filling:
    """A text with its blanks filled.

    Attributes:
        text: the text with a character in each blank: the most probable given all others, if the guesses settled.
        places: where the blanks are in the text as the model reads it, in symbols from 0.
        blanks: the candidates for each blank, given the characters of the text in all others.
    """

    text: str
    places: list[int]
    blanks: list[Prediction]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        blanks = [{"place": place, **blank.to_json()} for place, blank in zip(self.places, self.blanks, strict=True)]
        return {"text": self.text, "blanks": blanks}


class Filler:
    """A model that reads from both sides and predicts the character between them.

    Attributes:
        vocabulary: the symbols of its inputs and outputs.
        left: the layers that read from left to right.
        right: the layers that read from right to left.

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
        self.left, self.right = Stack(model), Stack(model, "backward_layers")
        self._output = Output(model)

    def fill(self, parts: Sequence[str], top: int, unknown: str = "error") -> Filling:
        """Fill the blanks between the parts of a text.

        Args:
            parts: the text before, between and after the blanks; at least two parts, any of them may be empty.
            top: how many characters to list for each blank.
            unknown: what to do about characters the model lacks: `error`, `skip`, or `replace=C`.

        Raises:
            UsageError: `top` is less than 1.
            UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
        """
        known: list[NDArray[Any]] = []
        position = 0
        for part in parts:
            known.append(self.vocabulary.encode(part, unknown, position))
            # Each unknown character before it has become one id, unless `unknown` is `error`.
            position += len(known[-1]) + 1
        guesses: list[int | None] = [None] * (len(parts) - 1)
        for _ in range(MAX_ROUNDS):
            before = list(guesses)
            # Read from the right with the guesses so far, then from the left, with each new guess at once.
            right = self._seen_from_the_right(known, before)
            logits = self._guess(known, guesses, right)
            if guesses == before:
                break
        else:
            # The guesses do not settle: rank each blank given the guesses that are shown for the others.
            right = self._seen_from_the_right(known, guesses)
            logits = self._guess(known, guesses, right, are_final=True)
        chosen = [guess for guess in guesses if guess is not None]
        pieces = [np.append(guess, part) for guess, part in zip(chosen, known[1:], strict=True)]
        ids = np.concatenate([known[0], *pieces])
        lengths = np.cumsum([len(part) + 1 for part in known[:-1]]) - 1
        ranked = [rank(self.vocabulary, logits_V, top) for logits_V in logits]
        return Filling(self.vocabulary.decode(ids.astype(np.int64)), lengths.tolist(), ranked)

    def _seen_from_the_right(self, known: Sequence[NDArray[Any]], guesses: Sequence[int | None]) -> list[Floats]:
        """Return for each blank the output of the layers from right to left after all that follows the blank."""
        seen: list[Floats] = []
        state = self.right.step(self.edge, self.right.start(1))
        for part, guess in zip(reversed(known[1:]), reversed(guesses), strict=True):
            state = self.right.read(part[::-1], state)
            seen.append(state[-1][0])
            state = self.right.read([] if guess is None else [guess], state)
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
        state = self.left.step(self.edge, self.left.start(1))
        for index, part in enumerate(known[:-1]):
            state = self.left.read(part, state)
            logits.append(self.logits(state[-1][0], right[index])[0])
            guess = guesses[index]
            if guess is None or not are_final:
                guess = guesses[index] = int(logits[-1].argmax())
            state = self.left.read([guess], state)
        return logits

    def logits(self, left_BH: Floats, right_BH: Floats) -> Floats:
        """Return the logits of the character between, from the outputs of both stacks; shape (B, V)."""
        return self._output(np.concatenate([left_BH, right_BH], axis=1))

    @property
    def edge(self) -> NDArray[np.int64]:
        """The id of the start and the end of a text, in one stream."""
        return np.array([len(self.vocabulary)])


def split_at_blanks(text: str, blank: str) -> list[str]:
    """Split a text at each blank.

    Args:
        text: the text.
        blank: the character that stands for a character that is not known.

    Raises:
        UsageError: the blank is not one character, or the text has none.
    """
    if len(blank) != 1:
        raise UsageError(f"`{blank}` is not one character", "`--blank` names what stands for one unknown character")
    if blank not in text:
        raise UsageError(f"there is no blank in this text, no `{blank}`", "`--blank` names another character for it")
    return text.split(blank)
