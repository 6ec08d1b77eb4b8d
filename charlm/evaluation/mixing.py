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

    def nats(weight: float) -> float:
        logits_NV = net_NV + np.float32(weight) * difference_NV
        largest_N1 = logits_NV.max(axis=1, keepdims=True)
        at_target_N1 = np.take_along_axis(logits_NV, targets_N[:, None], axis=1)
        sums_N1 = np.exp(logits_NV - largest_N1).sum(axis=1, keepdims=True)
        return float((np.log(sums_N1) + largest_N1 - at_target_N1).mean())

    at_target = np.take_along_axis(difference_NV, targets_N[:, None], axis=1).mean()
    low, high = 0.0, 1.0
    for _ in range(NUM_STEPS):
        weight = (low + high) / 2
        logits_NV = net_NV + np.float32(weight) * difference_NV
        p_NV = np.exp(logits_NV - logits_NV.max(axis=1, keepdims=True))
        p_NV /= p_NV.sum(axis=1, keepdims=True)
        is_too_small = (p_NV * difference_NV).sum(axis=1).mean() < at_target
        low, high = (weight, high) if is_too_small else (low, weight)
    fitted, alone = (low + high) / 2, min((0.0, 1.0), key=nats)
    return fitted if nats(alone) - nats(fitted) > LEAST_GAIN else alone
