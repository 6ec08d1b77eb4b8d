"""Dynamic evaluation: how well a copy of a model predicts a text while it learns from it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from charlm.data.holdout import Part
from charlm.data.mapped import pieces
from charlm.evaluation.evaluate import Scores, in_reading_order, sum_scores
from charlm.inference.mixture import Mixture
from charlm.inference.recent import Recent
from charlm.inference.sampling import softmax
from charlm.nn.model import CharModel
from charlm.vocab import Ids

SEGMENT_SIZE = 32
RATE = 3e-4
# How far each step draws the weights back to the original ones.
RETURN_SHARE = 2e-3
# The decay of the running mean of squared gradients, as in RMSprop.
DECAY = 0.999
EPSILON = 1e-5
SMALLEST = 1e-300


def evaluate_dynamically(
    model: CharModel,
    text: Ids | Part,
    segment_size: int = SEGMENT_SIZE,
    rate: float = RATE,
    mixture: Mixture | None = None,
) -> Scores:
    """Score a text with a copy of a model that learns from each segment of the text after it has scored it.

    What was just read is also counted, so that it is expected when it comes again. The text is one stream, in float32.
    Each segment gives one step of gradient descent, which divides every gradient by its running size and draws the
    weights back towards the original ones. The model itself does not change. If the text has several stretches, each
    is read from the initial state, and so is each document at which the state is reset; the copy continues to learn.

    Args:
        model: in any mode; it reads in one direction.
        text: the text, of at least one character.
        segment_size: characters between two steps.
        rate: the learning rate.
        mixture: n-grams to mix with the copy.

    Returns:
        the scores of all that together, with those of the copy alone as `net`.

    Raises:
        CorpusError: the text is empty.
        ModelFileError: the model's numbers overflow.

    Source: Krause et al. 2018, "Dynamic evaluation of neural sequence models". There the sizes of the gradients come
    from the training text; here they are measured on the text itself as it is read.
    """
    model, part = copy.deepcopy(model), in_reading_order(model, text)
    device, descent = model.output.weight.device, _Descent(model, rate)
    sums, counting = np.zeros(3), _Counting(mixture)
    for ids in part.divided().stretches:
        state = model.start_state(1)
        counting.start()
        before = model.spec.start_id
        for piece in pieces(ids, segment_size):
            targets_T = piece.astype(np.int64)
            tokens_T = np.concatenate([[before], targets_T[:-1]])
            before = int(targets_T[-1])
            tokens_TB, targets_TB = (torch.from_numpy(some[:, None]).to(device) for some in (tokens_T, targets_T))
            logits_TBV, state = model(tokens_TB, state)
            sums += sum_scores(logits_TBV.detach(), targets_TB, torch.ones_like(targets_TB))
            counting.score(tokens_TB, logits_TBV.detach(), targets_TB)
            state = tuple(part_LBH.detach() for part_LBH in state)
            descent.step(functional.cross_entropy(logits_TBV.flatten(0, 1), targets_TB.flatten()))
    net = Scores.of_sums(sums, len(part))
    return replace(Scores.of_sums(counting.sums, len(part)), net=net)


class _Descent:
    """Gradient descent with each gradient divided by its running size, and the weights drawn to where they were."""

    def __init__(self, model: CharModel, rate: float) -> None:
        self._weights, self._rate, self._num_steps = list(model.parameters()), rate, 0
        self._origins = [weight.detach().clone() for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._weights]

    def step(self, loss: Tensor) -> None:
        """Take one step down the gradient of a loss."""
        self._num_steps += 1
        # Only the first segment has a gradient for a learned initial state.
        gradients = torch.autograd.grad(loss, self._weights, allow_unused=True, materialize_grads=True)
        seen = 1 - DECAY**self._num_steps
        each = zip(self._weights, self._origins, self._squares, gradients, strict=True)
        with torch.no_grad():
            for weight, origin, square, gradient in each:
                square.mul_(DECAY).addcmul_(gradient, gradient, value=1 - DECAY)
                size = (square / seen).sqrt_().add_(EPSILON)
                weight.lerp_(origin, RETURN_SHARE).addcdiv_(gradient, size, value=-self._rate)


class _Counting:
    """Scores one stream with n-grams and with counts of what was just read beside the net.

    Attributes:
        sums: as those of `sum_scores`.
    """

    def __init__(self, mixture: Mixture | None) -> None:
        self._mixture, self._recent = mixture, Recent()
        self.sums = np.zeros(3)
        self.start()

    def start(self) -> None:
        """Start a stretch of the text; what was read before it still counts."""
        if self._mixture:
            self._contexts_BK = self._mixture.ngrams.start(1)

    def score(self, tokens_TB: Tensor, logits_TBV: Tensor, targets_TB: Tensor) -> None:
        """Score a block, given the characters before its targets and the logits of the net."""
        logits_TV, targets_T = logits_TBV[:, 0].float().cpu().numpy(), targets_TB[:, 0].tolist()
        for ids_B, logits_V, target in zip(tokens_TB.cpu().numpy(), logits_TV, targets_T, strict=True):
            mixed_V = logits_V
            if self._mixture:
                ngrams = self._mixture.ngrams
                self._contexts_BK = ngrams.step(ids_B, self._contexts_BK)
                mixed_V = self._mixture.mix(logits_V, ngrams.log_probabilities(self._contexts_BK)[0])
            p_V = self._recent.predict(softmax(mixed_V))
            self._recent.read(target)
            rank = int((p_V > p_V[target]).sum() + (p_V[:target] == p_V[target]).sum())
            # A probability may be too small for a number.
            self.sums += [-np.log(max(p_V[target], SMALLEST)), rank < 1, rank < 5]
