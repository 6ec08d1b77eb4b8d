"""Dynamic evaluation: how well a copy of a model predicts a text while it learns from it."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from torch.nn import functional

from charlm.data.holdout import Part
from charlm.evaluation.evaluate import Scores, in_reading_order, sum_scores
from charlm.nn.model import CharModel
from charlm.vocab import Ids

SEGMENT_SIZE = 32
RATE = 3e-4
# How far each step draws the weights back to the original ones.
RETURN_SHARE = 2e-3
# The decay of the running mean of squared gradients, as in RMSprop.
DECAY = 0.999
EPSILON = 1e-5


def evaluate_dynamically(
    model: CharModel, text: Ids | Part, segment_size: int = SEGMENT_SIZE, rate: float = RATE
) -> Scores:
    """Score a text with a copy of a model that learns from each segment of the text after it has scored it.

    The text is one stream, in float32. Each segment gives one step of gradient descent, which divides every gradient
    by its running size and draws the weights back towards the original ones. The model itself does not change. If the
    text has several stretches, each is read from the initial state, and the copy continues to learn.

    Args:
        model: in any mode; it reads in one direction.
        text: the text, of at least one character.
        segment_size: characters between two steps.
        rate: the learning rate.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.

    Source: Krause et al. 2018, "Dynamic evaluation of neural sequence models". There the sizes of the gradients come
    from the training text; here they are measured on the text itself as it is read.
    """
    model, part = copy.deepcopy(model), in_reading_order(model, text)
    device = model.output.weight.device
    weights = list(model.parameters())
    origins = [weight.detach().clone() for weight in weights]
    squares = [torch.zeros_like(weight) for weight in weights]
    sums, steps = np.zeros(3), itertools.count(1)
    for ids in part.stretches:
        state = model.start_state(1)
        tokens_N = np.concatenate([[model.spec.start_id], ids[:-1]]).astype(np.int64)
        for start in range(0, len(ids), segment_size):
            tokens_TB = torch.from_numpy(tokens_N[start : start + segment_size, None]).to(device)
            targets_TB = torch.from_numpy(ids[start : start + segment_size, None].astype(np.int64)).to(device)
            logits_TBV, state = model(tokens_TB, state)
            sums += sum_scores(logits_TBV.detach(), targets_TB, torch.ones_like(targets_TB))
            state = tuple(part_LBH.detach() for part_LBH in state)
            loss = functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten())
            # Only the first segment has a gradient for a learned initial state.
            gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            seen = 1 - DECAY ** next(steps)
            with torch.no_grad():
                for weight, origin, square, gradient in zip(weights, origins, squares, gradients, strict=True):
                    square.mul_(DECAY).addcmul_(gradient, gradient, value=1 - DECAY)
                    size = (square / seen).sqrt_().add_(EPSILON)
                    weight.lerp_(origin, RETURN_SHARE).addcdiv_(gradient, size, value=-rate)
    return Scores.of_sums(sums, len(part))
