"""A net that also counts: the predictions of the net and of n-grams, multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import NGRAMS_PREFIX, ModelFile
from charlm.errors import ModelFileError
from charlm.inference.ngrams import Ngrams
from charlm.inference.packed_ngrams import pack, unpack
from charlm.inference.sampling import Floats

WEIGHT_NAME = f"{NGRAMS_PREFIX}weight"


@dataclass(frozen=True)
class Mixture:
    """N-grams beside a net.

    Each predicts, and their predictions are multiplied: p(s) is proportional to net(s)^(1 - weight) counts(s)^weight.

    Attributes:
        ngrams: the counts.
        weight: of the counts, from 0 to 1.

    Source: log-linear interpolation, Klakow 1998. On tiny Shakespeare and the fables it was better than the weighted
    sum of both, by 0.001 to 0.010 nats.
    """

    ngrams: Ngrams
    weight: float

    @classmethod
    def of(cls, model: ModelFile) -> Mixture | None:
        """Return the mixture of a model file, or None if the model is a net alone.

        Raises:
            ModelFileError: its n-grams are damaged.
        """
        if WEIGHT_NAME not in model.arrays:
            return None
        weight = float(model.arrays[WEIGHT_NAME])
        if not 0 <= weight <= 1:
            raise ModelFileError(
                "the weight of the n-grams is not from 0 to 1", "use a model that `charlm train` wrote"
            )
        return cls(unpack(model.arrays, len(model.vocabulary)), weight)

    def mix(self, logits_BV: Floats, counts_BV: Floats) -> Floats:
        """Return the logits of the mixture, shape (B, V), float32.

        Args:
            logits_BV: those of the net.
            counts_BV: the logarithms of the probabilities that the n-grams give.
        """
        return np.float32(1 - self.weight) * logits_BV + np.float32(self.weight) * counts_BV

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays for a model file."""
        return {WEIGHT_NAME: np.array(self.weight, np.float32), **pack(self.ngrams)}


class MixtureReader:
    """Reads the blocks of text that a net reads, with the n-grams beside it."""

    def __init__(self, mixture: Mixture, before_TB: NDArray[np.int64]) -> None:
        """Read the last characters before the first block.

        Args:
            mixture: the n-grams and their weight.
            before_TB: these characters; the start symbol V empties what was read.
        """
        self._mixture = mixture
        self._contexts_BK = mixture.ngrams.start(before_TB.shape[1])
        for ids_B in before_TB:
            self._contexts_BK = mixture.ngrams.step(ids_B, self._contexts_BK)

    def read(self, ids_TB: NDArray[np.int64], net_TBV: Floats) -> tuple[Floats, Floats]:
        """Return the logits of the n-grams alone and of both, (T, B, V) each, given those of the net."""
        counts_TBV, both_TBV = np.empty_like(net_TBV), np.empty_like(net_TBV)
        for place, ids_B in enumerate(ids_TB):
            self._contexts_BK = self._mixture.ngrams.step(ids_B, self._contexts_BK)
            counts_TBV[place] = self._mixture.ngrams.log_probabilities(self._contexts_BK)
            both_TBV[place] = self._mixture.mix(net_TBV[place], counts_TBV[place])
        return counts_TBV, both_TBV
