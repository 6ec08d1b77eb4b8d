"""From logits to probabilities, and to a character: temperature, top-k, top-p, min-p. In float64, without overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import OVERFLOW, ModelFileError, UsageError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Sampling:
    """How the next character is drawn.

    Attributes:
        temperature: below 1 probable characters become more probable, above 1 less; 0 always takes the most probable.
        top_k: draw only from the k most probable (exactly k, ties in id order); None for all.
        top_p: draw only from the most probable that together reach this probability; at least one.
        min_p: draw only from those at least this share as probable as the most probable.

    Raises:
        UsageError: a value is out of its bounds.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.temperature < float("inf"), f"the temperature must be 0 or more, not {self.temperature}")
        require(self.top_k is None or self.top_k >= 1, f"top-k must be at least 1, not {self.top_k}")
        require(0 < self.top_p <= 1, f"top-p must be above 0 and at most 1, not {self.top_p}")
        require(0 <= self.min_p <= 1, f"min-p must be from 0 to 1, not {self.min_p}")

    def probabilities(self, logits: Floats) -> NDArray[np.float64]:
        """Return the distributions to draw from, over the last axis, each summing to 1.

        Temperature is applied first, then top-k, top-p and min-p, each to what the one before has left.

        Raises:
            ModelFileError: a logit is infinite or not a number.
        """
        if self.temperature == 0:
            refuse_overflow(logits)
            most_probable = logits.argmax(axis=-1, keepdims=True)
            return np.where(np.arange(logits.shape[-1]) == most_probable, 1.0, 0.0)
        p = softmax(logits, self.temperature)
        if self.top_k is None and self.top_p >= 1 and self.min_p <= 0:
            return p
        # The most probable comes first; a stable sort keeps ties in id order, so that top-k keeps exactly k.
        order = np.argsort(-p, axis=-1, kind="stable")
        left = np.take_along_axis(p, order, axis=-1)
        if self.top_k is not None:
            left[..., self.top_k :] = 0
        left /= left.sum(axis=-1, keepdims=True)
        if self.top_p < 1:
            # A character is kept while those before it have not reached top-p yet.
            reached = np.cumsum(left, axis=-1)[..., :-1] >= self.top_p
            left[..., 1:][reached] = 0
        left[left < self.min_p * left[..., :1]] = 0
        left /= left.sum(axis=-1, keepdims=True)
        np.put_along_axis(p, order, left, axis=-1)
        return p


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


def log2_probabilities(logits: Floats) -> NDArray[np.float64]:
    """Return the base-2 logarithms of the probabilities over the last axis: minus the bits that each symbol costs.

    Raises:
        ModelFileError: a logit is infinite or not a number.
    """
    refuse_overflow(logits)
    log_p: NDArray[np.float64] = logits.astype(np.float64)
    log_p -= log_p.max(axis=-1, keepdims=True)
    # The logarithm is taken of the sum alone: a probability may be too small for a float64, its logarithm is not.
    log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    log_p /= np.log(2)
    return log_p


def refuse_overflow(logits: Floats) -> None:
    """Refuse logits that the weights of an untrusted file made infinite; -inf excludes a symbol, and is allowed.

    Raises:
        ModelFileError: a logit is infinite or not a number, or all symbols are excluded.
    """
    # The maximum is NaN if a number is, and -inf if all are.
    if not np.isfinite(logits.max(axis=-1)).all():
        raise ModelFileError(*OVERFLOW)


def draw(p_BV: NDArray[np.float64], random_B: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return for each row the first character whose cumulative probability exceeds a number drawn from [0, 1)."""
    cumulative_BV = p_BV.cumsum(axis=-1)
    # The numbers are scaled by the sum, which rounding may make less than 1, and stay below it even if the product is
    # rounded up: some character always exceeds them.
    total_B1 = cumulative_BV[:, -1:]
    threshold_B1 = np.minimum(random_B[:, None] * total_B1, np.nextafter(total_B1, 0))
    drawn_B: NDArray[np.intp] = (cumulative_BV > threshold_B1).argmax(axis=-1)
    return drawn_B


def require(holds: bool, message: str, hint: str = "") -> None:
    """Refuse an option that is out of its bounds.

    Raises:
        UsageError: the condition does not hold.
    """
    if not holds:
        raise UsageError(message, hint)
