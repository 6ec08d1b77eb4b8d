"""The decision about what follows a block: skip it, roll back, validate, record, save, or end the run.

A decision depends on plain facts, so that it can be tested alone, and so that several processes that train together
could decide alike. Two decisions are made elsewhere: the loop ends when it is asked to stop, and the trainer never
saves a state with numbers that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from charlm.errors import counted
from charlm.training.schedule import due

RECORDS_PER_EVALUATION = 10
# Nats per character. A model with a larger loss has diverged.
MAX_LOSS = 1e6


class Facts(NamedTuple):
    """The facts that a process knows at the end of a block.

    Attributes:
        share_before: how much of the run was done before the block.
        share: how much of it is done now.
        fits_another_block: whether a timed run has time for one.
        can_afford_evaluation: whether a timed run has time for one.
        is_record_due: whether much time has passed since the last record.
        is_save_due: whether much time has passed since the last save.
        is_lost: whether too many blocks in a row were skipped.
        is_memorised: whether a timed run has nothing left to learn.
    """

    share_before: float
    share: float
    fits_another_block: bool
    can_afford_evaluation: bool
    is_record_due: bool
    is_save_due: bool
    is_lost: bool
    is_memorised: bool = False


class Decision(NamedTuple):
    """The decision about what follows a block.

    Attributes:
        is_over: whether it was the last one.
        roll_back: whether the run returns to its last good state, and nothing else is done.
        validate: whether a validation follows, and a save that a rollback returns to.
        record: whether a record follows by share of the run.
        record_by_clock: whether a record follows because much time has passed without one.
        save_by_clock: the same for a save.
        is_memorised: whether it is over because nothing is left to learn.
    """

    is_over: bool
    roll_back: bool
    validate: bool
    record: bool
    record_by_clock: bool
    save_by_clock: bool
    is_memorised: bool = False


def is_usable(nats: float, gradient_norm: float) -> bool:
    """Return whether a block updates the weights; otherwise it is skipped."""
    return nats <= MAX_LOSS and math.isfinite(gradient_norm)


def knows_text(nats: float | None, num_characters: int) -> bool:
    """Return whether a model is more likely than not to predict a whole text.

    Args:
        nats: its loss per character; None if it is not known.
        num_characters: of the text.
    """
    return nats is not None and nats * num_characters < math.log(2)


def decide(facts: Facts, evaluations: int, is_finite: Callable[[], bool]) -> Decision:
    """Decide what follows a block.

    Args:
        facts: the known facts.
        evaluations: the number of validations in a run.
        is_finite: returns whether all numbers of the state are finite; called only if a validation would follow.
    """
    is_record_due = due(facts.share_before, facts.share, RECORDS_PER_EVALUATION * evaluations)
    # Asked only when a record is due, because the loss of one block says little.
    is_memorised = is_record_due and facts.is_memorised
    is_over = facts.share >= 1 or not facts.fits_another_block or is_memorised
    is_validation_due = due(facts.share_before, facts.share, evaluations) and facts.can_afford_evaluation
    validate = is_over or is_validation_due
    record = validate or is_record_due
    return Decision(
        is_over=is_over,
        roll_back=facts.is_lost or (validate and not is_finite()),
        validate=validate,
        record=record,
        record_by_clock=facts.is_record_due and not record,
        save_by_clock=facts.is_save_due and not validate,
        is_memorised=is_memorised,
    )


def reason_to_finish(decision: Decision, share: float, evaluations_without_gain: int, patience: int | None) -> str:
    """Return why the run is over after a validation; empty if it is not.

    Args:
        decision: the decision after the block.
        share: how much of the run is done now. The validation took time too, and may have used up that of a timed run.
        evaluations_without_gain: how many validations came after the best one.
        patience: how many of these end the run; None for any number.
    """
    if decision.is_memorised and share < 1:
        return "the text is memorised"
    if decision.is_over or share >= 1:
        return "done"
    if patience is not None and evaluations_without_gain >= patience:
        return f"no better validation in {counted(patience, 'evaluation')}"
    return ""
