"""The surprise of each character of a text for a model, in bits."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from charlm.inference.fill import Filler
from charlm.inference.sampling import Floats, bits
from charlm.inference.stepper import Stepper
from charlm.vocab import Ids


def score_next(stepper: Stepper, ids_T: Ids) -> NDArray[np.float64]:
    """Return the bits of each symbol of a text, given all before it, or with a backward model all after it.

    The text is read from its start (a backward model reads it from its end), in one stream.

    Returns:
        bits_T: shape (T,), in the order of the text; their mean is the bits per character of the text.

    Raises:
        ModelFileError: the weights are so large that the logits overflow.
    """
    order = slice(None, None, -1 if stepper.is_backward else 1)
    expected_T = ids_T[order]
    # Each symbol is predicted from the one before it; the last one need not be read.
    read_T = itertools.chain([len(stepper.vocabulary)], expected_T[:-1])
    bits_T = np.empty(len(ids_T))
    state = stepper.before(1)
    for position, (previous, index) in enumerate(zip(read_T, expected_T, strict=False)):
        logits_BV, state = stepper.step(np.array([previous]), state)
        bits_T[position] = bits(logits_BV[0], index)
    return bits_T[order]


def score_masked(filler: Filler, ids_T: Ids) -> NDArray[np.float64]:
    """Return the bits of each symbol of a text, given all others; for a model that reads from both sides.

    Each stack of layers reads the text once, because they meet only at the output. The memory needed is one number for
    each unit of the last layer and each symbol.

    Returns:
        bits_T: shape (T,).

    Raises:
        ModelFileError: the weights are so large that the logits overflow.
    """
    seen: list[Floats] = []
    state = filler.right.step(filler.edge, filler.right.start(1))
    for index in ids_T[::-1]:
        seen.append(state[-1][0])
        state = filler.right.read([index], state)
    bits_T = np.empty(len(ids_T))
    state = filler.left.step(filler.edge, filler.left.start(1))
    for position, index in enumerate(ids_T):
        bits_T[position] = bits(filler.logits(state[-1][0], seen.pop())[0], index)
        state = filler.left.read([index], state)
    return bits_T
