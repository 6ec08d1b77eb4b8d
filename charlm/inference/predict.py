"""Which character may come next: the most probable ones with their probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charlm.errors import UsageError
from charlm.inference.generate import read_prompt
from charlm.inference.recent import Recent
from charlm.inference.sampling import Floats, Sampling
from charlm.inference.stepper import Predictor
from charlm.vocab import Vocabulary


@dataclass(frozen=True)
class Candidate:
    """One character that may stand at a place.

    Attributes:
        character: the character itself; for a vocabulary of bytes the character of that number.
        name: how to show it.
        probability: how probable it is.
    """

    character: str
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What may stand at one place of a text.

    Attributes:
        candidates: the most probable characters, the most probable first.
        remaining_probability: the probability of all others together.
        num_others: how many others there are.
        entropy_bits: how uncertain the model is, in bits.
    """

    candidates: list[Candidate]
    remaining_probability: float
    num_others: int
    entropy_bits: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, without the number of others, which follows from the vocabulary."""
        values = asdict(self)
        del values["num_others"]
        return values


def predict(stepper: Predictor, text: str, top: int, unknown: str = "error", recent: bool = False) -> Prediction:
    """Rank what may come after a text, or with a backward model before it.

    Args:
        stepper: the model.
        text: the text.
        top: how many characters to list.
        unknown: what to do about characters the model lacks.
        recent: whether what followed the same characters before in the text counts too.

    Raises:
        UsageError: `top` is less than 1.
        UnknownCharacterError: the text holds characters the model lacks, under `unknown="error"`.
    """
    logits_BV, _ = read_prompt(stepper, text, unknown)
    logits_V = logits_BV[0]
    if recent:
        ids_T = stepper.vocabulary.encode(text, unknown)
        logits_V = Recent.of(ids_T[::-1] if stepper.is_backward else ids_T).adapt(logits_V)
    return rank(stepper.vocabulary, logits_V, top)


def rank(vocabulary: Vocabulary, logits_V: Floats, top: int, temperature: float = 1.0) -> Prediction:
    """Rank all symbols by their logits, and keep the first `top` with their probabilities at a temperature.

    Raises:
        UsageError: `top` is less than 1, or the temperature is negative or infinite.
    """
    if top < 1:
        raise UsageError(f"the number of characters to list must be at least 1, not {top}")
    p_V = Sampling(temperature).probabilities(logits_V)
    order_V = np.argsort(-p_V, kind="stable")
    return Prediction(
        candidates=[Candidate(vocabulary.symbols[i], vocabulary.name(int(i)), float(p_V[i])) for i in order_V[:top]],
        remaining_probability=float(p_V[order_V[top:]].sum()),
        num_others=max(0, len(vocabulary) - top),
        # 0.0 instead of -0.0 if the model is certain.
        entropy_bits=max(0.0, float(-(p_V * np.log2(np.maximum(p_V, 1e-300))).sum())),
    )
