"""How many bits each character of a text costs a model, at many places side by side. No torch.

`evaluate` does the same in torch, and has more figures. This needs no torch, takes models that know the same characters
in another order, and keeps the cost of each character, from which the cost of several models together follows.

Letters, beside those of the models: `P` predictors, which are the model and, if it has n-grams, its net alone; `N`
characters of the text, in the order of its segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.data.holdout import Part
from charlm.data.mapped import gather
from charlm.errors import CorpusError
from charlm.evaluation.segments import MAX_STREAMS, Segments, sample, whole
from charlm.inference.ngrams import MAX_ORDER
from charlm.inference.sampling import log2_probabilities
from charlm.inference.stepper import Progress, Stepper, StepperState
from charlm.vocab import Ids

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
    part = text.backwards() if stepper.is_backward else text
    segments = whole(part, window) if num_read is None or len(part) <= num_read else sample(part, num_read)
    ends_S = np.cumsum(segments.lengths_S)
    bits_PN = np.empty((1 + stepper.has_ngrams, int(ends_S[-1])))
    num_scored = 0
    for which in np.array_split(np.arange(len(segments)), -(-len(segments) // MAX_STREAMS)):
        reading = _Reading(stepper, part.ids, segments[which], ids_V)
        starts_B = ends_S[which] - segments.lengths_S[which]
        for place in range(reading.segments.length):
            is_inside_B = place < reading.segments.lengths_S
            bits_PN[:, starts_B[is_inside_B] + place] = reading.next_bits()[:, is_inside_B]
            num_scored += int(is_inside_B.sum())
            if progress is not None and not place % BLOCK_SIZE:
                progress(num_scored, bits_PN.shape[1])
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
        ids: the text.
        segments: the segments.
        ids_V: as for `symbol_bits`.

    Attributes:
        segments: as above.
    """

    def __init__(self, stepper: Stepper, ids: Ids, segments: Segments, ids_V: NDArray[np.intp] | None) -> None:
        self.segments = segments
        self._stepper, self._ids, self._ids_V = stepper, ids, ids_V
        self._next, self._block_TB = 0, np.empty((0, len(segments)), np.int64)
        num_streams, num_symbols = len(segments), len(stepper.vocabulary)
        before = stepper.before(num_streams)
        started = state = stepper.advance(np.full(num_streams, num_symbols), before)
        # As in `evaluate`, n-grams also read what stands before a window.
        num_before = segments.warm_up or (MAX_ORDER if stepper.has_ngrams else 0)
        for ids_B in self._symbols(-num_before - 1, -1):
            state = stepper.advance(self._translated(ids_B), state)
        if not segments.warm_up:
            num_layers = len(stepper.net_state(state))
            state = (*started[:num_layers], *state[num_layers:])
        # Before the start of a stretch there was nothing to read.
        begins_B1 = (segments.first_S == segments.starts_S)[:, None]
        self._state: StepperState = tuple(
            tuple(np.where(begins_B1, start, part) for start, part in zip(starts, parts, strict=True))
            for starts, parts in zip(before, state, strict=True)
        )

    def next_bits(self) -> Bits:
        """Read the character before the next one of each segment, and return the costs of that one, (P, B)."""
        place = self._next % BLOCK_SIZE
        if not place:
            # One more than are read: the last one is only predicted.
            self._block_TB = self._symbols(self._next - 1, self._next + BLOCK_SIZE)
        self._next += 1
        logits_BV, self._state = self._stepper.step(self._translated(self._block_TB[place]), self._state)
        each_B, targets_B = np.arange(len(self.segments)), self._translated(self._block_TB[place + 1])
        logits = [logits_BV, *([self._stepper.net_logits(self._state)] if self._stepper.has_ngrams else [])]
        return np.array([0 - log2_probabilities(each_BV)[each_B, targets_B] for each_BV in logits])

    def _symbols(self, start: int, end: int) -> NDArray[np.int64]:
        """Return the characters at these places of each segment, (T, B); start symbols before its stretch."""
        segments = self.segments
        places_TB = segments.first_S + np.arange(start, end)[:, None]
        found_TB = gather(self._ids, np.clip(places_TB, 0, segments.ends_S - 1)).astype(np.int64)
        found_TB[places_TB < segments.starts_S] = len(self._stepper.vocabulary)
        return found_TB

    def _translated(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        return ids_B if self._ids_V is None else self._ids_V[ids_B]
