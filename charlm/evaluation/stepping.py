"""How many bits each character of a text costs a model, at many places side by side. No torch.

`evaluate` does the same in torch, and has more figures. This needs no torch, takes models that know the same characters
in another order, and keeps the cost of each character, from which the cost of several models together follows.

Letters, beside those of the models: `P` predictions: of the model and, if it has n-grams, of its net alone; `N`
characters of the text, in the order of its segments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.data.gaps import Gapped
from charlm.data.holdout import Part
from charlm.errors import CorpusError
from charlm.evaluation.segments import MAX_STREAMS, Segments, sample, whole, windows
from charlm.evaluation.window import Window
from charlm.inference.ngrams import MAX_ORDER
from charlm.inference.sampling import log2_probabilities
from charlm.inference.stepper import Progress, Stepper, StepperState, start_anew

# So many characters of each stream are taken from the text together.
BLOCK_SIZE = 256

Bits = NDArray[np.float64]


def symbol_bits(
    stepper: Stepper,
    text: Part,
    window: int | None = None,
    num_read: int | None = None,
    ids_V: NDArray[np.intp] | None = None,
    progress: Progress | None = None,
) -> Bits:
    """Score a text as `evaluate` does, or segments that are evenly spaced in it as `evaluate_sample` does.

    Args:
        stepper: the model.
        text: the text.
        window: start every window of this many characters from the initial state and the one character before it.
        num_read: how many characters to read at most, including warm-ups; None for all of the text.
        ids_V: the model's id of each symbol of the text, and of the start of a text; None if they are the same.
        progress: called now and then with how many characters of how many were scored.

    Returns:
        bits_PN: the cost of each character that is scored.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the weights are so large that the logits overflow.
    """
    if not len(text):
        raise CorpusError("there is nothing to evaluate: the text is empty", "choose another part or corpus")
    part = Gapped(text.backwards() if stepper.is_backward else text)
    portions, total = windows(part, window) if window else iter([whole(part)]), part.num_characters
    if num_read is not None and total > num_read:
        some = sample(part, num_read)
        portions, total = iter([some]), int(part.num_characters_of(some.first_S, some.last_S).sum())
    num_scored, bits = 0, []

    def tick(num_now: int) -> None:
        if progress is not None:
            progress(num_scored + num_now, total)

    for segments in portions:
        bits.append(_bits_of(stepper, part, segments, ids_V, tick))
        num_scored += bits[-1].shape[1]
    return np.concatenate(bits, axis=1)


def _bits_of(
    stepper: Stepper, part: Gapped, segments: Segments, ids_V: NDArray[np.intp] | None, tick: Callable[[int], None]
) -> Bits:
    """Return the costs of the characters of some segments, (P, N)."""
    characters_S = part.num_characters_of(segments.first_S, segments.last_S)
    ends_S = np.cumsum(characters_S)
    bits_PN = np.empty((1 + stepper.has_ngrams, int(ends_S[-1])))
    num_scored = 0
    for which in np.array_split(np.arange(len(segments)), -(-len(segments) // MAX_STREAMS)):
        reading = _Reading(stepper, part, segments[which], ids_V)
        next_B = ends_S[which] - characters_S[which]
        for place in range(reading.segments.length):
            bits_PB, is_character_B = reading.next_bits()
            is_inside_B = (place < reading.segments.lengths_S) & is_character_B
            bits_PN[:, next_B[is_inside_B]] = bits_PB[:, is_inside_B]
            next_B += is_inside_B
            num_scored += int(is_inside_B.sum())
            if not place % BLOCK_SIZE:
                tick(num_scored)
    return bits_PN


def bits_together(bits_MN: Sequence[Bits]) -> Bits:
    """Return what each character costs several models together: by the mean of the probabilities they give it."""
    lowest_N = np.min(bits_MN, axis=0)
    together_N: Bits = lowest_N - np.log2(np.exp2(lowest_N - np.array(bits_MN)).mean(axis=0))
    return together_N


class _Reading:
    """Reads some segments side by side, up to one character after the other.

    Args:
        stepper: the model.
        part: the text.
        segments: the segments.
        ids_V: as for `symbol_bits`.

    Attributes:
        segments: as above.
    """

    def __init__(self, stepper: Stepper, part: Gapped, segments: Segments, ids_V: NDArray[np.intp] | None) -> None:
        self.segments = segments
        self._stepper, self._ids_V, self._start_id = stepper, ids_V, len(stepper.vocabulary)
        num_streams = len(segments)
        self._window, self._next = Window(part, segments, self._start_id), 0
        self._before = stepper.before(num_streams)
        self._state = started = stepper.advance(np.full(num_streams, self._start_id), self._before)
        # As in `evaluate`, n-grams also read what stands before a window.
        num_before = segments.warm_up or (MAX_ORDER if stepper.has_ngrams else 0)
        for ids_B in self._window.left_of(-num_before, 0).tokens_TB:
            self._state = stepper.advance(*self._reads(ids_B))
        if not segments.warm_up:
            num_layers = len(stepper.net_state(self._state))
            self._state = (*started[:num_layers], *self._state[num_layers:])

    def next_bits(self) -> tuple[Bits, NDArray[np.bool_]]:
        """Read the character before the next place of each segment.

        Returns:
            the costs of what stands at that place, (P, B), and whether it is a character and no gap.
        """
        place = self._next % BLOCK_SIZE
        if not place:
            self._inputs = self._window.left_of(self._next, self._next + BLOCK_SIZE)
        self._next += 1
        inputs = self._inputs
        logits_BV, self._state = self._stepper.step(*self._reads(inputs.tokens_TB[place]))
        each_B, targets_B = np.arange(len(self.segments)), self._translated(inputs.targets_TB[place])
        logits = [logits_BV, *([self._stepper.net_logits(self._state)] if self._stepper.has_ngrams else [])]
        bits_PB = np.array([0 - log2_probabilities(each_BV)[each_B, targets_B] for each_BV in logits])
        is_character_B = np.ones(len(each_B), bool) if inputs.resets_TB is None else ~inputs.resets_TB[place]
        return bits_PB, is_character_B

    def _reads(self, ids_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], StepperState]:
        """Return the model's ids of some symbols, and the state before they are read: a start needs the initial one."""
        return self._translated(ids_B), start_anew(self._state, self._before, ids_B == self._start_id)

    def _translated(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        return ids_B if self._ids_V is None else self._ids_V[ids_B]
