"""Several models that predict together: the mean of their probabilities, read and drawn from like one model.

Letters, beside those of the models: `M` models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import UsageError
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Predictor, Stepper, StepperState
from charlm.vocab import Vocabulary, name_character

MAX_NAMED = 5


class Ensemble(Predictor):
    """Predicts the mean of the predictions of several models: p(s) = (p_1(s) + ... + p_M(s)) / M.

    The mean of distributions is a distribution, and a symbol that one model excludes is still possible. It costs no
    text more bits than the models do on average, and at most log2(M) bits per symbol more than the best of them.

    The state is that of all models, one after the other. An ensemble of one model, or of the same model several times,
    has the logits of that model.

    Args:
        models: each with the name that errors give it. They know the same symbols, perhaps in another order, and read
            from the same side; the vocabulary is that of the first.

    Attributes:
        members: the models.

    Raises:
        UsageError: the models do not fit together; the message has the first difference.

    Source: linear opinion pool, Stone 1961; of nets, Lakshminarayanan, Pritzel & Blundell 2017.
    """

    def __init__(self, models: Sequence[tuple[str, Stepper]]) -> None:
        (first_name, first), *others = models
        for name, model in others:
            difference = vocabulary_difference((first_name, first.vocabulary), (name, model.vocabulary))
            if first.is_backward != model.is_backward:
                sides = ("backward", "forward") if first.is_backward else ("forward", "backward")
                difference = f"`{first_name}` reads {sides[0]}, and `{name}` reads {sides[1]}"
            if difference:
                raise UsageError(difference, "models predict together only if they read the same symbols the same way")
        self.vocabulary = first.vocabulary
        self.is_backward = first.is_backward
        self.members = [model for _, model in models]
        # For each model its id of each symbol, and of the start of a text; None if they are those of the first.
        self._ids_M = [ids_in(model.vocabulary, self.vocabulary) for model in self.members]
        self._num_layers_M = [len(model.before(1)) for model in self.members]

    def holding(self, values: Mapping[str, float]) -> Ensemble:
        """Return itself if no unit is to be held.

        Raises:
            UsageError: a unit is to be held: each model has units of its own.
        """
        if values:
            raise UsageError("a unit belongs to one model, and several predict together", "hold units of one model")
        return self

    def before(self, num_streams: int) -> StepperState:
        """Return the state before anything was read, not even the start of a text."""
        return tuple(layer for model in self.members for layer in model.before(num_streams))

    def advance(self, ids_B: NDArray[Any], state: StepperState) -> StepperState:
        """Read one character in each stream, without the logits of what comes next."""
        new_states = (
            model.advance(ids_B if ids is None else ids[ids_B], part)
            for model, ids, part in zip(self.members, self._ids_M, self._parts(state), strict=True)
        )
        return tuple(layer for part in new_states for layer in part)

    @np.errstate(over="ignore", invalid="ignore")
    def logits(self, state: StepperState) -> Floats:
        """Return the logits of what comes next in a state, shape (B, V), float64."""
        each = []
        for model, ids, part in zip(self.members, self._ids_M, self._parts(state), strict=True):
            logits_BV = model.logits(part)
            each.append(logits_BV if ids is None else logits_BV[:, ids[:-1]])
        return mean_logits(np.stack(each))

    def net_logits(self, state: StepperState) -> Floats:
        """Return the same logits: the n-grams of a model are part of its predictions."""
        return self.logits(state)

    def net_state(self, state: StepperState) -> StepperState:
        """Return the whole state, with the contexts of n-grams."""
        return state

    @property
    def has_ngrams(self) -> bool:
        """False: its predictions are those of the models, which may have n-grams."""
        return False

    def _parts(self, state: StepperState) -> list[StepperState]:
        """Return the state of each model."""
        ends = np.cumsum(self._num_layers_M).tolist()
        return [state[end - number : end] for end, number in zip(ends, self._num_layers_M, strict=True)]


def mean_logits(logits_MBV: Floats) -> Floats:
    """Return logits of the mean of the distributions of M models.

    They are the logits of the first model plus the logarithm of the mean's share of its probabilities, so that the mean
    of equal distributions has exactly the logits of the first.

    Args:
        logits_MBV: of each model.

    Returns:
        logits_BV: shape (B, V), float64.
    """
    log_p_MBV = logits_MBV.astype(np.float64)
    log_p_MBV -= log_p_MBV.max(axis=-1, keepdims=True)
    log_p_MBV -= np.log(np.exp(log_p_MBV).sum(axis=-1, keepdims=True))
    highest_BV = log_p_MBV.max(axis=0)
    log_mean_BV = np.log(np.exp(log_p_MBV - highest_BV).mean(axis=0))
    mean_BV: Floats = logits_MBV[0] + (highest_BV - log_p_MBV[0] + log_mean_BV)
    return mean_BV


def ids_in(vocabulary: Vocabulary, first: Vocabulary) -> NDArray[np.intp] | None:
    """Return the id in a vocabulary of each symbol of the first one, and of the start of a text.

    Args:
        vocabulary: has the same symbols.
        first: the first one.

    Returns:
        shape (V + 1,); None if each has the same id.
    """
    if vocabulary.symbols == first.symbols:
        return None
    ids = {symbol: index for index, symbol in enumerate(vocabulary.symbols)}
    return np.array([*(ids[symbol] for symbol in first.symbols), len(first)])


def vocabulary_difference(first: tuple[str, Vocabulary], other: tuple[str, Vocabulary]) -> str:
    """Return the first reason why two models do not know the same symbols, or an empty string.

    The order of the symbols does not count.

    Args:
        first: the name of a model, and its vocabulary.
        other: the same of the other.
    """
    (name, one), (other_name, two) = first, other
    if one.kind != two.kind:
        return f"`{name}` reads {one.kind}, and `{other_name}` reads {two.kind}"
    if one.filter != two.filter:
        what = ["all characters" if each.filter == "none" else f"{each.filter} only" for each in (one, two)]
        return f"`{name}` reads {what[0]}, and `{other_name}` reads {what[1]}"
    for (knows, known), (lacks, other_known) in ((first, other), (other, first)):
        if missing := [symbol for symbol in known.symbols if symbol not in other_known]:
            more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
            named = ", ".join(map(name_character, missing[:MAX_NAMED]))
            return f"`{lacks}` does not know {named}{more}, which `{knows}` knows"
    return ""
