"""Predictions for a text that is being edited: only what changed is read again, one symbol at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from charlm.errors import ModelFileError
from charlm.inference.generate import read_prompt
from charlm.inference.layer_changes import LayerChange, layer_changes
from charlm.inference.predict import Prediction, rank
from charlm.inference.recent import Recent
from charlm.inference.sampling import Floats, log2_probabilities
from charlm.inference.stepper import Predictor, Stepper, StepperState
from charlm.inference.word_boundaries import MAX_WORD_SO_FAR
from charlm.inference.words import WordPrediction, word_search
from charlm.vocab import Ids, TextFilter, Vocabulary

# The last states are all kept. Of older ones one in a few is, so that an edit in the middle takes few steps.
STATES_KEPT = 256
SPACING = 8
# A longer text keeps fewer of the old states.
MAX_STATE_BYTES = 1 << 26


class IncrementalReader:
    """Follows a text that is being edited.

    It keeps the state after each of the last symbols and after some earlier ones: a new character at the end is one
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

    def __init__(self, stepper: Predictor, unknown: str = "skip", recent: bool = False) -> None:
        self.unknown, self.recent = unknown, recent
        self.temperature = 1.0
        self._stepper = stepper
        self._text, self._position = "", 0
        self._ids_T: Ids = stepper.vocabulary.encode("", unknown)
        self._bits_T = np.empty(0)
        _, start = stepper.start()
        # Key: the number of symbols read.
        self._states: dict[int, StepperState] = {0: start}
        self._state_bytes = sum(part.nbytes for layer in start for part in layer)
        self._spacing = SPACING
        self._num_read = self._place = 0
        self._counted, self._num_counted = Recent(), 0
        # An empty line is predicted like the start of a new line, though no newline was read.
        self._empty = read_prompt(stepper, "")
        # What was computed last of the text up to some symbol.
        self._last_logits: tuple[int, Floats] | None = None

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
        self.edit(text)
        while self.advance():
            pass

    def edit(self, text: str, position: int | None = None) -> None:
        """Replace the text, and keep what is known of its start. Nothing is read yet.

        Args:
            text: the new text.
            position: predictions are for the place after so many characters; None for the end. A backward model
                always predicts what stands before the text.
        """
        ids_T = self.vocabulary.encode(text, self.unknown)
        if self.is_backward:
            ids_T = ids_T[::-1]
        common = _common_length(self._ids_T, ids_T)
        num_same = min(_common_length(self._ids_T[::-1], ids_T[::-1]), min(len(self._ids_T), len(ids_T)) - common)
        # The end of the text keeps its bits until it is read again.
        between_T = np.full(len(ids_T) - common - num_same, np.nan)
        self._bits_T = np.concatenate([self._bits_T[:common], between_T, self._bits_T[len(self._bits_T) - num_same :]])
        self._text, self._ids_T = text, ids_T
        for of_text in ("_starts_C", "unknown_characters"):
            self.__dict__.pop(of_text, None)
        self._position = len(text) if position is None or self.is_backward else position
        self._place = len(ids_T) if self._position == len(text) else int(self._starts_C[self._position])
        if common < self._num_read:
            self._states = {length: state for length, state in self._states.items() if length <= common}
            self._num_read = max(self._states)
        if self._last_logits is not None and self._last_logits[0] > common:
            self._last_logits = None
        while self._state_bytes * len(ids_T) > MAX_STATE_BYTES * self._spacing:
            self._spacing *= 2
        if self._num_counted > common:
            self._counted, self._num_counted = Recent(), 0

    @property
    def num_missing(self) -> int:
        """How many symbols are to be read before a prediction can be made."""
        return max(0, self._place - self._num_read)

    def advance(self) -> bool:
        """Read one more symbol of the text; return whether there was one."""
        if self._num_read == len(self._ids_T):
            return False
        number, index = self._num_read, int(self._ids_T[self._num_read])
        # Weights that overflow are reported by the prediction.
        with suppress(ModelFileError):
            logits_V = self._adapted(number, self._logits(number, self._states[number]))
            self._bits_T[number] = 0 - log2_probabilities(logits_V)[index]
        self._states[number + 1] = self._stepper.advance(np.array([index]), self._states[number])
        self._num_read = number + 1
        if (old := number + 1 - STATES_KEPT) % self._spacing:
            self._states.pop(old, None)
        return True

    @cached_property
    def unknown_characters(self) -> str:
        """The characters of the text that the model does not know."""
        return "".join(c for c in dict.fromkeys(self._text) if not len(self.vocabulary.encode(c, "skip")))

    def predict(self, top: int) -> Prediction:
        """Rank what may come next. All symbols before the place must have been read.

        Raises:
            UsageError: `top` is less than 1.
            ModelFileError: the weights are so large that the state overflows.
        """
        return rank(self.vocabulary, self._adapted(self._place, self._now[0]), top, self.temperature)

    def bits(self, start: int = 0, end: int | None = None) -> NDArray[np.float64]:
        """Return how many bits some characters of the text cost.

        They are those of `measure_surprisal`, unless `recent` counts too. After an edit, characters behind it have the
        bits of before until they are read again.

        Args:
            start: the first of the characters.
            end: where they end; None for the end of the text.

        Returns:
            shape (C,); NaN for a character that was skipped, or not read yet.
        """
        starts_C = self._starts_C[start : None if end is None else end + 1]
        bits_T = self._bits_T[::-1] if self.is_backward else self._bits_T
        sizes_C = np.diff(starts_C)
        characters_T = np.repeat(np.arange(len(sizes_C)), sizes_C)
        bits_C = np.bincount(characters_T, bits_T[starts_C[0] : starts_C[-1]], len(sizes_C))
        return np.where(sizes_C == 0, np.nan, bits_C)

    @property
    def last_character(self) -> str:
        """The character that was read last before the place, or an empty string."""
        return self._text[:1] if self.is_backward else self._text[: self._position][-1:]

    @property
    def last_bits(self) -> float:
        """What this character cost; NaN if it was skipped, or there is none."""
        if not self.last_character:
            return np.nan
        at = 0 if self.is_backward else self._position - 1
        return float(self.bits(at, at + 1)[0])

    @property
    def bits_per_character(self) -> float:
        """The mean of the bits of the characters before the place; NaN if there are none."""
        bits_C = self.bits(0, self._position)
        is_known_C = ~np.isnan(bits_C)
        return float(bits_C[is_known_C].mean()) if is_known_C.any() else np.nan

    def continuation(self, length: int) -> str:
        """Return the most probable next characters, one by one, up to the end of the line; "" of a backward model."""
        return "".join(self.continue_text(length))

    def continue_text(self, length: int) -> Iterator[str]:
        """Yield the same in pieces, one for each step of the model."""
        if self.is_backward:
            return
        decoder = self.vocabulary.decoder()
        end = self.line_end[:1] or "\n"
        logits_V, state = self._now
        recent, symbols = self._counted_to(self._place), list[int]()
        for _ in range(length):
            if recent is not None:
                logits_V = recent.after(symbols).adapt(logits_V)
            symbols.append(most_probable := int(np.argmax(logits_V)))
            piece = decoder.decode([most_probable])
            yield piece.partition(end)[0]
            if end in piece:
                return
            logits_BV, state = self._stepper.step(np.array([most_probable]), state)
            logits_V = logits_BV[0]

    def words(self, top: int) -> Generator[None, None, WordPrediction]:
        """Return the most probable next words, which all add characters, and pause between steps of the model.

        Raises:
            UsageError: the vocabulary has no words.
            ModelFileError: the weights are so large that the state overflows.
        """
        logits_V, state = self._now
        # A character has up to four bytes.
        near_T = self._ids_T[max(0, self._place - 4 * MAX_WORD_SO_FAR) : self._place]
        text = self.vocabulary.decode(near_T[::-1] if self.is_backward else near_T)
        counted = self._counted_to(self._place)
        return word_search(
            self._stepper,
            logits_V,
            state,
            text,
            top,
            temperature=self.temperature,
            recent=counted,
            only_additions=True,
        )

    @property
    def has_gates(self) -> bool:
        """Whether it is one model: several that predict together have no gates in common."""
        return isinstance(self._stepper, Stepper)

    def last_changes(self) -> list[LayerChange]:
        """Return what the last symbol before the place did in each layer; nothing if there is none, or no gates.

        Raises:
            ModelFileError: the weights are so large that the state overflows.
        """
        stepper = self._stepper
        if not self._place or not isinstance(stepper, Stepper):
            return []
        before = stepper.net_state(self._state_at(self._place - 1))
        return layer_changes(stepper.stack, int(self._ids_T[self._place - 1]), before)

    @property
    def _now(self) -> tuple[Floats, StepperState]:
        """The logits of what comes next without `recent`, shape (V,), and the state."""
        if not self._text[: self._position]:
            return self._empty[0][0], self._empty[1]
        state = self._state_at(self._place)
        return self._logits(self._place, state), state

    def _logits(self, number: int, state: StepperState) -> Floats:
        """Return the logits of what comes after so many symbols, without `recent`, shape (V,)."""
        if self._last_logits is None or self._last_logits[0] != number:
            self._last_logits = number, self._stepper.logits(state)[0]
        return self._last_logits[1]

    def _adapted(self, number: int, logits_V: Floats) -> Floats:
        """Return logits after so many symbols, to which `recent` is applied."""
        recent = self._counted_to(number)
        return logits_V if recent is None else recent.adapt(logits_V)

    def _state_at(self, number: int) -> StepperState:
        """Return the state after so many symbols, from the last one before it that was kept."""
        kept = max(length for length in self._states if length <= number)
        state = self._states[kept]
        for index in self._ids_T[kept:number]:
            state = self._stepper.advance(np.array([index]), state)
        return state

    def _counted_to(self, number: int) -> Recent | None:
        """Return the counts of the first so many symbols, or None if they do not count."""
        if not self.recent:
            return None
        if number < self._num_counted:
            self._counted, self._num_counted = Recent(), 0
        for index in self._ids_T[self._num_counted : number].tolist():
            self._counted.read(index)
        self._num_counted = number
        return self._counted

    @cached_property
    def _starts_C(self) -> NDArray[np.int64]:
        """Where the symbols of each character start, in the order of the text; and where the last one ends."""
        vocabulary, sizes = self.vocabulary, {}
        if vocabulary.filter == "none" and len(self._ids_T) == len(self._text):
            return np.arange(len(self._text) + 1)
        change = TextFilter(vocabulary.filter)
        pieces = [change(character) for character in self._text] if vocabulary.filter != "none" else self._text
        for piece in set(pieces):
            sizes[piece] = len(vocabulary.encode(piece, self.unknown, is_filtered=True))
        return np.cumsum([0, *(sizes[piece] for piece in pieces)])


def _common_length(before_T: Ids, after_T: Ids) -> int:
    """Return how many ids two texts have in common at their start."""
    length = min(len(before_T), len(after_T))
    differs = np.flatnonzero(before_T[:length] != after_T[:length])
    return int(differs[0]) if len(differs) else length
