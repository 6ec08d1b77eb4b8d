"""Predictions after a text that is being edited: only the changed part is read again."""

from __future__ import annotations

import numpy as np

from charlm.inference.generate import read_prompt
from charlm.inference.predict import Prediction, rank
from charlm.inference.recent import Recent
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Stepper, StepperState
from charlm.vocab import Ids, Vocabulary

STATES_KEPT = 256


class IncrementalReader:
    """Follows a line that is being edited.

    It keeps the state after each of the last characters and after some earlier ones: a new character at the end is one
    step of the model, a deleted one none.

    Args:
        stepper: the model.
        unknown: what to do about characters the model lacks: `skip`, or `replace=C`.
        recent: whether predictions also count what followed the same characters before in the text.

    Attributes:
        unknown, recent: as above.
        temperature: of the predictions; 1 is as learned, and 0 gives the most probable character all probability.

    Raises:
        UsageError: `unknown` is neither, or its C is not in the vocabulary.
    """

    def __init__(self, stepper: Stepper, unknown: str = "skip", recent: bool = False) -> None:
        self.unknown, self.recent = unknown, recent
        self.temperature = 1.0
        self._stepper = stepper
        self._text = ""
        self._ids_T: Ids = stepper.vocabulary.encode("", unknown)
        _, start = stepper.start()
        # Key: the number of characters read. A line may have any length, so only one in 256 of the old states is kept.
        self._states: dict[int, StepperState] = {0: start}
        self._counted, self._num_counted = Recent(), 0
        # An empty line is predicted like the start of a new line, though no newline was read.
        self._empty = read_prompt(stepper, "")

    @property
    def is_backward(self) -> bool:
        """Whether the model predicts what stands before the text."""
        return self._stepper.is_backward

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the model."""
        return self._stepper.vocabulary

    @property
    def line_end(self) -> str:
        """What ends a line in the texts of this model: LF, CRLF or CR, or an empty string if it knows no lines."""
        # Bytes have both characters, whatever the text had.
        return "\n" if self.vocabulary.kind == "bytes" else "".join(c for c in "\r\n" if c in self.vocabulary)

    def read(self, text: str) -> None:
        """Replace the text, and read only what differs from the one before."""
        ids_T = self._stepper.vocabulary.encode(text, self.unknown)
        if self.is_backward:
            ids_T = ids_T[::-1]
        common = _common_length(self._ids_T, ids_T)
        if common < self._num_counted:
            self._counted, self._num_counted = Recent(), 0
        self._states = {length: state for length, state in self._states.items() if length <= common}
        known = max(self._states)
        state = self._states[known]
        for length, index in enumerate(ids_T[known:], start=known + 1):
            state = self._stepper.advance(np.array([index]), state)
            self._states[length] = state
            if (length - STATES_KEPT) % STATES_KEPT:
                self._states.pop(length - STATES_KEPT, None)
        self._text, self._ids_T = text, ids_T

    @property
    def unknown_characters(self) -> str:
        """The characters of the text that the model does not know."""
        vocabulary = self._stepper.vocabulary
        return "".join(c for c in dict.fromkeys(self._text) if not len(vocabulary.encode(c, "skip")))

    def predict(self, top: int) -> Prediction:
        """Rank what may come next.

        Raises:
            UsageError: `top` is less than 1.
        """
        logits_V = self._now[0][0]
        if self.recent:
            for index in self._ids_T[self._num_counted :].tolist():
                self._counted.read(index)
            self._num_counted = len(self._ids_T)
            logits_V = self._counted.adapt(logits_V)
        return rank(self._stepper.vocabulary, logits_V, top, self.temperature)

    def continuation(self, length: int) -> str:
        """Return the most probable next characters, one by one, up to the end of the line; "" of a backward model."""
        if self.is_backward:
            return ""
        decoder = self._stepper.vocabulary.decoder()
        end = self.line_end[:1] or "\n"
        logits_BV, state = self._now
        text = ""
        for _ in range(length):
            most_probable = int(np.argmax(logits_BV[0]))
            text += decoder.decode([most_probable])
            if end in text:
                break
            logits_BV, state = self._stepper.step(np.array([most_probable]), state)
        return text.partition(end)[0]

    @property
    def _now(self) -> tuple[Floats, StepperState]:
        if not self._text:
            return self._empty
        state = self._states[len(self._ids_T)]
        return self._stepper.logits(state), state


def _common_length(before_T: Ids, after_T: Ids) -> int:
    """Return how many ids two texts have in common at their start."""
    length = min(len(before_T), len(after_T))
    differs = np.flatnonzero(before_T[:length] != after_T[:length])
    return int(differs[0]) if len(differs) else length
