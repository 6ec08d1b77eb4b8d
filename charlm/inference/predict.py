"""Characters in the order of how likely they are, with probabilities, as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from charlm.inference.generate import softmax
from charlm.inference.stepper import Floats
from charlm.vocab import Vocabulary

BAR_WIDTH = 30


@dataclass(frozen=True)
class Candidate:
    """One character that may stand somewhere.

    Attributes:
        character: the character itself; for a vocabulary of bytes the character of that number.
        name: how to show it.
        probability: how likely it is.
    """

    character: str
    name: str
    probability: float


@dataclass(frozen=True)
class Ranking:
    """What may stand at one place.

    Attributes:
        candidates: the likeliest characters, likeliest first.
        remaining_probability: what is left for all others.
        num_others: how many others there are.
        entropy_bits: how uncertain the model is, in bits.
    """

    candidates: list[Candidate]
    remaining_probability: float
    num_others: int
    entropy_bits: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; how many others there are follows from the vocabulary."""
        values = asdict(self)
        del values["num_others"]
        return values

    def lines(self, bar: str) -> Iterator[str]:
        """Draw it: a line per candidate with a bar of `bar`, and one for all the rest."""
        width = max([len(candidate.name) for candidate in self.candidates] + [len("others")])
        largest = max(candidate.probability for candidate in self.candidates)
        for candidate in self.candidates:
            length = round(BAR_WIDTH * candidate.probability / largest)
            yield f"{candidate.name:<{width}} {candidate.probability:7.2%}  {bar * length}".rstrip()
        if self.num_others:
            yield f"{'others':<{width}} {self.remaining_probability:7.2%}  {self.num_others} characters"
        yield f"entropy {self.entropy_bits:.2f} bits"


def rank(vocabulary: Vocabulary, logits_V: Floats, top: int) -> Ranking:
    """Rank all symbols by their logits, and keep the first `top` with their probabilities."""
    p_V = softmax(logits_V)
    order_V = np.argsort(-p_V, kind="stable")
    ids = order_V[:top]
    return Ranking(
        candidates=[Candidate(vocabulary.symbols[i], vocabulary.name(int(i)), float(p_V[i])) for i in ids],
        remaining_probability=float(p_V[order_V[top:]].sum()),
        num_others=max(0, len(vocabulary) - top),
        # Not -0.0 where it is certain.
        entropy_bits=max(0.0, float(-(p_V * np.log2(np.maximum(p_V, 1e-300))).sum())),
    )
