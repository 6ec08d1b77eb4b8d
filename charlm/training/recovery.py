"""The reaction to numbers that are not finite: skipped blocks, and rollbacks in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from charlm.training.state_types import STRICT, Count

MAX_ROLLBACKS = 5
MAX_SKIPPED_IN_A_ROW = 5


@dataclass
class Recovery:
    """The failures so far; a part of the saved state.

    Attributes:
        skipped: blocks that were skipped because their loss or gradient was not finite.
        skipped_in_a_row: how many of the last blocks were skipped.
        rollbacks: how often the run went back to its last good state, each time with half the learning rate.
    """

    __pydantic_config__ = STRICT

    skipped: Count
    skipped_in_a_row: Count
    rollbacks: Annotated[int, Field(ge=0, le=MAX_ROLLBACKS)]

    @property
    def rate(self) -> float:
        """The remaining share of the learning rate."""
        return 0.5**self.rollbacks

    @property
    def is_lost(self) -> bool:
        """Whether so many blocks in a row were skipped that the run must roll back."""
        return self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW

    @property
    def is_exhausted(self) -> bool:
        """Whether the run may not roll back again."""
        return self.rollbacks >= MAX_ROLLBACKS

    def skip(self) -> None:
        """Count a block that was skipped."""
        self.skipped += 1
        self.skipped_in_a_row += 1

    def learned(self) -> None:
        """Count a block that was learned."""
        self.skipped_in_a_row = 0

    def count_rollback(self, before: Recovery) -> None:
        """Count a rollback to the state that this belongs to.

        Args:
            before: the counts before the rollback; skipped blocks stay counted.
        """
        self.rollbacks, self.skipped = before.rollbacks + 1, before.skipped
