"""Counts of what was read lately: a text repeats its own names and phrases, and no training can have seen them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from charlm.inference.sampling import Floats, softmax
from charlm.vocab import Ids

# Contexts that are shorter predict less well than the model does.
CONTEXT_LENGTHS = (4, 6, 8, 12, 16, 24)
# How many times the number of different symbols after a context the context must have occurred to count for one half.
CAUTION = 10
# Only the last so many symbols after a context count, and only so many contexts are kept.
MAX_FOLLOWERS = 255
MAX_CONTEXTS = 1_000_000
# A probability may be too small for its logarithm.
SMALLEST = 1e-300


class Recent:
    """Changes the predictions of a model by what followed the same characters before, in the text that is being read.

    From the shortest to the longest context c that has occurred, n times with d different symbols s after it,

        p(s) = w n(c s) / n + (1 - w) p(s),     w = n / (n + 10 d)

    which is the smoothing of Witten & Bell 1991 with the model in place of the shortest context.
    """

    def __init__(self) -> None:
        self._text = ""
        self._followers: dict[str, list[int]] = {}

    @classmethod
    def of(cls, ids_T: Ids) -> Recent:
        """Count a whole text."""
        recent = cls()
        for index in ids_T.tolist():
            recent.read(index)
        return recent

    def adapt(self, logits_V: Floats) -> Floats:
        """Return the logits of the next symbol, shape (V,), given those of the model."""
        return np.log(np.maximum(self.predict(softmax(logits_V)), SMALLEST))

    def after(self, ids_T: Iterable[int]) -> Recent:
        """Return what predicts after some more symbols, which are not counted themselves."""
        recent = copy.copy(self)
        recent._text = (self._text + "".join(map(chr, ids_T)))[-CONTEXT_LENGTHS[-1] :]
        return recent

    def predict(self, p_V: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distribution of the next symbol, shape (V,), given that of the model."""
        p_V = p_V.copy()
        for context in self._contexts():
            followers = self._followers.get(context)
            if followers is None:
                break
            symbols, counts = np.unique(followers, return_counts=True)
            weight = len(followers) / (len(followers) + CAUTION * len(symbols))
            p_V *= 1 - weight
            p_V[symbols] += weight / len(followers) * counts
        return p_V

    def read(self, symbol: int) -> None:
        """Count a symbol after its contexts; a longer context counts only once the shorter one has occurred."""
        for context in self._contexts():
            followers = self._followers.get(context)
            if followers is None:
                if len(self._followers) < MAX_CONTEXTS:
                    self._followers[context] = [symbol]
                break
            followers.append(symbol)
            del followers[:-MAX_FOLLOWERS]
        self._text = self._text[1 - CONTEXT_LENGTHS[-1] :] + chr(symbol)

    def _contexts(self) -> list[str]:
        return [self._text[-length:] for length in CONTEXT_LENGTHS if length <= len(self._text)]
