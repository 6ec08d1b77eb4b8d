"""How much the n-grams beside a net should weigh."""

from __future__ import annotations

import numpy as np

from charlm.data.holdout import Part
from charlm.errors import OVERFLOW, ModelFileError
from charlm.evaluation.evaluate import read_whole
from charlm.inference.mixture import Mixture
from charlm.inference.ngrams import Ngrams
from charlm.nn.model import CharModel

# The steps of the bisection: the weight is found to 1/4096.
NUM_STEPS = 12


def fit_weight(model: CharModel, part: Part, ngrams: Ngrams) -> float:
    """Return the weight of the n-grams with which the mixture predicts a text best.

    With net logits a and log probabilities b of the n-grams, the mixture has the logits a + w (b - a). Its loss is
    convex in w, and the derivative is the mean of b - a under the mixture, less its value at the next character.

    Args:
        model: in any mode; it reads in one direction.
        part: a text that neither has been trained on nor counted, of at least one character.
        ngrams: the n-grams.

    Raises:
        ModelFileError: the model's numbers overflow.
    """
    net, counts, targets = [], [], []
    for (net_TBV, counts_TBV, _), targets_TB, inside_TB in read_whole(model, part, Mixture(ngrams, 0.0)):
        inside = inside_TB.cpu().numpy()
        net.append(net_TBV.float().cpu().numpy()[inside])
        counts.append(counts_TBV.cpu().numpy()[inside])
        targets.append(targets_TB.cpu().numpy()[inside])
    net_NV, counts_NV, targets_N = map(np.concatenate, (net, counts, targets))
    if not np.isfinite(net_NV).all():
        raise ModelFileError(*OVERFLOW)
    difference_NV = counts_NV - net_NV
    at_target = np.take_along_axis(difference_NV, targets_N[:, None], axis=1).mean()
    low, high = 0.0, 1.0
    for _ in range(NUM_STEPS):
        weight = (low + high) / 2
        logits_NV = net_NV + np.float32(weight) * difference_NV
        p_NV = np.exp(logits_NV - logits_NV.max(axis=1, keepdims=True))
        p_NV /= p_NV.sum(axis=1, keepdims=True)
        is_too_small = (p_NV * difference_NV).sum(axis=1).mean() < at_target
        low, high = (weight, high) if is_too_small else (low, weight)
    return (low + high) / 2
