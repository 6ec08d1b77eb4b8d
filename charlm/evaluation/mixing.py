"""How much the n-grams beside a net should weigh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from charlm.data.holdout import Part
from charlm.errors import OVERFLOW, ModelFileError
from charlm.evaluation.evaluate import read_whole
from charlm.inference.mixture import Mixture
from charlm.inference.ngrams import Ngrams
from charlm.nn.model import CharModel

# The steps of the bisection: the weight is found to 1/4096.
NUM_STEPS = 12
Rows = NDArray[np.float32]
# A mixture that gains less than this, in nats per character, may lose on another part of the text: with the weight of
# 0.056 that fitted the rows in between, the last rows of a table with a running number cost 0.005 more.
LEAST_GAIN = 0.005


def fit_weight(model: CharModel, part: Part, ngrams: Ngrams) -> float:
    """Return the weight of the n-grams with which the mixture predicts a text best; 0 or 1 if it gains next to nothing.

    With net logits a and log probabilities b of the n-grams, the mixture has the logits a + w (b - a). Its loss is
    convex in w, and the derivative is the mean of b - a under the mixture, less its value at the next character.

    Args:
        model: in any mode; it reads in one direction.
        part: a text that neither has been trained on nor counted, of at least one character.
        ngrams: the n-grams.

    Raises:
        ModelFileError: the model's numbers overflow.
    """
    # Block by block, because a copy of all predictions takes much memory.
    blocks: list[tuple[Rows, Rows, NDArray[np.int64]]] = []
    for (net_TBV, counts_TBV, _), targets_TB, inside_TB in read_whole(model, part, Mixture(ngrams, 0.0)):
        inside = inside_TB.cpu().numpy()
        net_NV = net_TBV.float().cpu().numpy()[inside]
        if not np.isfinite(net_NV).all():
            raise ModelFileError(*OVERFLOW)
        blocks.append((net_NV, counts_TBV.cpu().numpy()[inside] - net_NV, targets_TB.cpu().numpy()[inside]))

    def mean(of_block: Callable[..., Rows], *arguments: float) -> float:
        return float(np.concatenate([of_block(*block, *arguments) for block in blocks]).mean())

    at_target = mean(lambda _, difference_NV, targets_N: _at(difference_NV, targets_N))
    low, high = 0.0, 1.0
    for _ in range(NUM_STEPS):
        weight = (low + high) / 2
        is_too_small = mean(_expected, weight) < at_target
        low, high = (weight, high) if is_too_small else (low, weight)
    fitted, alone = (low + high) / 2, min((0.0, 1.0), key=lambda weight: mean(_nats, weight))
    return fitted if mean(_nats, alone) - mean(_nats, fitted) > LEAST_GAIN else alone


def _at(values_NV: Rows, targets_N: NDArray[np.int64]) -> Rows:
    return np.take_along_axis(values_NV, targets_N[:, None], axis=1)


def _nats(net_NV: Rows, difference_NV: Rows, targets_N: NDArray[np.int64], weight: float) -> Rows:
    """Return the loss of the mixture with this weight at each target, shape (N, 1)."""
    logits_NV = net_NV + np.float32(weight) * difference_NV
    largest_N1 = logits_NV.max(axis=1, keepdims=True)
    sums_N1 = np.exp(logits_NV - largest_N1).sum(axis=1, keepdims=True)
    nats_N1: Rows = np.log(sums_N1) + largest_N1 - _at(logits_NV, targets_N)
    return nats_N1


def _expected(net_NV: Rows, difference_NV: Rows, _: NDArray[np.int64], weight: float) -> Rows:
    """Return the mean of the differences under the mixture with this weight, shape (N,)."""
    logits_NV = net_NV + np.float32(weight) * difference_NV
    p_NV = np.exp(logits_NV - logits_NV.max(axis=1, keepdims=True))
    p_NV /= p_NV.sum(axis=1, keepdims=True)
    expected_N: Rows = (p_NV * difference_NV).sum(axis=1)
    return expected_N
