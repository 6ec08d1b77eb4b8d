"""The best validation so far, and the number of validations since then."""

from __future__ import annotations

import math
from dataclasses import dataclass

from charlm.training.state_types import STRICT, Count, Number


@dataclass
class Best:
    """The results of validation so far; a part of the saved state.

    Attributes:
        best_bits: the best validation, in bits per character; None if there is none yet.
        evaluations_without_gain: how many validations came after it.
    """

    __pydantic_config__ = STRICT

    best_bits: Number | None
    evaluations_without_gain: Count

    def consider(self, bits: float | None, *, is_kept_anyway: bool) -> bool:
        """Count a validation, and return whether the model that was validated is now the best.

        Args:
            bits: its result in bits per character; infinite if the model overflowed, None if nothing is held out.
            is_kept_anyway: whether the model becomes the best whatever the result.
        """
        best = math.inf if self.best_bits is None else self.best_bits
        if bits is None or is_kept_anyway or bits < best:
            self.best_bits = None if bits == math.inf else bits
            self.evaluations_without_gain = 0
            return True
        self.evaluations_without_gain += 1
        return False

    def forget(self) -> None:
        """Let the next validated model become the best."""
        self.best_bits, self.evaluations_without_gain = None, 0
