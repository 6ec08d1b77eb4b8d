"""From logits to probabilities and to bits, in float64 and without overflow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import OVERFLOW, ModelFileError

Floats = NDArray[np.floating[Any]]


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Turn logits into probabilities over the last axis, at any temperature above 0.

    Raises:
        ModelFileError: a logit is infinite or not a number.
    """
    refuse_overflow(logits)
    p: NDArray[np.float64] = logits.astype(np.float64)
    p -= p.max(axis=-1, keepdims=True)
    if temperature != 1:
        # Below 1e-260 the difference of two float32 numbers could divide to infinity; the result is the same.
        p /= max(temperature, 1e-260)
    np.exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def bits(logits_V: Floats, index: int) -> float:
    """Return how surprising one symbol is: minus the base-2 logarithm of its probability.

    Raises:
        ModelFileError: a logit is infinite or not a number.
    """
    refuse_overflow(logits_V)
    # The logarithm is taken of the sum alone: a probability may be too small for a float64, its logarithm is not.
    below_largest_V = logits_V.astype(np.float64) - logits_V.max()
    return float((np.log(np.exp(below_largest_V).sum()) - below_largest_V[index]) / np.log(2))


def refuse_overflow(logits: Floats) -> None:
    """Refuse logits that the weights of an untrusted file made infinite; -inf excludes a symbol and is allowed.

    Raises:
        ModelFileError: a logit is infinite or not a number.
    """
    # `not (x < inf)` is true of NaN too.
    if not (logits < np.inf).all():
        raise ModelFileError(*OVERFLOW)
