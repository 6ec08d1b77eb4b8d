"""The surprise of each symbol of a text for a model, in bits, and what the model expected in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import ModelFile
from charlm.inference.fill import Filler
from charlm.inference.sampling import Floats, log2_probabilities
from charlm.inference.stepper import Predictor, Progress, Stepper, StepperState, side_by_side
from charlm.vocab import Ids

# So many places have their logits computed together, which is faster than one by one.
PLACES_TOGETHER = 64

# What scores a text: a model of one direction, or one that reads from both sides.
Reader = Predictor | Filler


class SymbolScores(NamedTuple):
    """What each symbol of a text cost a model.

    Attributes:
        bits_T: minus the base-2 logarithm of the probability of each.
        expected_TK: the ids of the K most probable symbols in their places, the most probable one first.
        expected_bits_TK: what these would have cost.
    """

    bits_T: NDArray[np.float64]
    expected_TK: NDArray[np.int64]
    expected_bits_TK: NDArray[np.float64]


def reader_of(file: ModelFile) -> Reader:
    """Return what scores a text with a model."""
    return Filler(file) if file.spec.sees_both_sides else Stepper(file)


def given_what(model: Reader) -> str:
    """Say from what each character is predicted."""
    if not isinstance(model, Predictor):
        return "each of them is hidden in turn, and predicted from all others"
    if model.is_backward:
        return "each is predicted from all after it, and the last one from the end of a text"
    return "each is predicted from all before it, and the first one from the start of a text"


def score_symbols(model: Reader, ids_T: Ids, progress: Progress | None = None, top: int = 1) -> SymbolScores:
    """Score each symbol of a text: given all before it, with a backward model all after it, with a filler all others.

    The layers read the text in one stream from its start, those of a backward model from its end. A filler reads it
    once in each direction, because its layers meet only at the output; it needs memory for one number for each unit of
    the last layer and each symbol.

    Args:
        model: the model.
        ids_T: the text.
        progress: called now and then with how many symbols of how many were scored.
        top: how many symbols to name that were expected in each place; at most all.

    Returns:
        arrays in the order of the text.

    Raises:
        ModelFileError: the weights are so large that the logits overflow.
    """
    is_backward = isinstance(model, Predictor) and model.is_backward
    order = slice(None, None, -1 if is_backward else 1)
    shape_TK = len(ids_T), min(top, len(model.vocabulary))
    scores = SymbolScores(np.empty(len(ids_T)), np.empty(shape_TK, np.int64), np.empty(shape_TK))
    read_T = ids_T[order]
    start = 0
    for logits_BV in _logits_masked(model, read_T) if isinstance(model, Filler) else _logits_next(model, read_T):
        rows = slice(start, start + len(logits_BV))
        log_p_BV, each_B = log2_probabilities(logits_BV), np.arange(len(logits_BV))
        # A difference, because the negative of 0 would be printed as -0.
        scores.bits_T[rows] = 0 - log_p_BV[each_B, read_T[rows]]
        for rank in range(shape_TK[1]):
            best_B = logits_BV.argmax(axis=-1)
            scores.expected_TK[rows, rank] = best_B
            scores.expected_bits_TK[rows, rank] = 0 - log_p_BV[each_B, best_B]
            logits_BV[each_B, best_B] = -np.inf
        start = rows.stop
        if progress is not None:
            progress(start, len(ids_T))
    return SymbolScores(scores.bits_T[order], scores.expected_TK[order], scores.expected_bits_TK[order])


def _logits_next(stepper: Predictor, ids_T: Ids) -> Iterator[Floats]:
    """Yield the logits of some places at a time, (B, V), in the order of reading."""
    state = stepper.before(1)
    states: list[StepperState] = []
    # Each symbol is predicted from the one before it; the last one need not be read.
    for previous in [len(stepper.vocabulary), *ids_T.tolist()][: len(ids_T)]:
        state = stepper.advance(np.array([previous]), state)
        states.append(state)
        if len(states) == PLACES_TOGETHER:
            yield stepper.logits(side_by_side(states))
            states = []
    if states:
        yield stepper.logits(side_by_side(states))


def _logits_masked(filler: Filler, ids_T: Ids) -> Iterator[Floats]:
    """Yield the same for a model that reads from both sides."""
    right: list[Floats] = []
    state = filler.right.step(filler.edge, filler.right.start(1))
    for index in ids_T[::-1]:
        right.append(state[-1][0])
        state = filler.right.read([index], state)
    left: list[Floats] = []
    state = filler.left.step(filler.edge, filler.left.start(1))
    for index in ids_T:
        left.append(state[-1][0])
        state = filler.left.read([index], state)
        if len(left) == PLACES_TOGETHER or len(left) == len(right):
            yield filler.logits(np.concatenate(left), np.concatenate([right.pop() for _ in left]))
            left = []
