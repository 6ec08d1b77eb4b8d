"""The decision about what follows a block depends on the given facts alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from charlm.training.decisions import MAX_LOSS, Decision, Facts, decide, is_usable, knows_text, reason_to_finish

QUIET = Facts(0.10, 0.101, True, True, False, False, False)
NOTHING = Decision(False, False, False, False, False, False)


def decided(facts: Facts, is_finite: bool = True) -> Decision:
    """Return the decision in a run with ten validations."""
    return decide(facts, 10, lambda: is_finite)


def test_nothing_follows_most_blocks() -> None:
    """The numbers are then not checked for being finite, because the check takes time."""
    assert decide(QUIET, 10, lambda: pytest.fail("looked")) == NOTHING


@pytest.mark.parametrize("change", [{"share": 1.0}, {"fits_another_block": False}])
def test_the_last_block_is_always_validated(change: dict[str, Any]) -> None:
    """The run may be over by its share or have no time for another block."""
    over = decided(QUIET._replace(can_afford_evaluation=False, **change))
    assert (over.is_over, over.validate, over.record, over.roll_back) == (True, True, True, False)


def test_a_validation_that_is_due_needs_time() -> None:
    """Without enough time for a validation, only the record is written."""
    due = QUIET._replace(share_before=0.19, share=0.21)
    assert (decided(due).validate, decided(due).record) == (True, True)
    without = decided(due._replace(can_afford_evaluation=False))
    assert (without.validate, without.record) == (False, True)


def test_non_finite_numbers_are_rolled_back() -> None:
    """Too many skipped blocks cause a rollback too, after any block."""
    assert decided(QUIET._replace(share_before=0.19, share=0.21), is_finite=False).roll_back
    assert decided(QUIET._replace(is_lost=True)).roll_back


def test_the_clock_adds_no_record_or_save_that_comes_anyway() -> None:
    """A record by share and the save after a validation replace those by the clock."""
    late = QUIET._replace(is_record_due=True, is_save_due=True)
    assert decided(late) == NOTHING._replace(record_by_clock=True, save_by_clock=True)
    both = decided(late._replace(share_before=0.19, share=0.21))
    assert (both.record_by_clock, both.save_by_clock) == (False, False)


def test_a_memorised_text_ends_a_run_at_a_record() -> None:
    """Between two records the mean loss is that of few blocks, so nothing follows from it."""
    known = QUIET._replace(is_memorised=True)
    assert decided(known) == NOTHING
    ended = decided(known._replace(share_before=0.119, share=0.121, can_afford_evaluation=False))
    assert (ended.is_over, ended.validate, ended.record) == (True, True, True)
    assert reason_to_finish(ended, 0.121, 0, None) == "the text is memorised"
    assert reason_to_finish(ended, 1.0, 0, None) == "done"


@pytest.mark.parametrize(
    ("nats", "num_characters", "is_known"),
    [(None, 5, False), (0.0, 5, True), (0.13, 5, True), (0.14, 5, False), (0.0009, 700, True), (0.0011, 700, False)],
)
def test_a_text_is_known_if_all_of_it_is_predicted(nats: float | None, num_characters: int, is_known: bool) -> None:
    """Its probability under the model, exp(-nats per character times characters), is more than a half."""
    assert knows_text(nats, num_characters) == is_known
    if nats is not None:
        assert (math.exp(-nats * num_characters) > 0.5) == is_known


@pytest.mark.parametrize(
    ("nats", "norm", "usable"),
    [
        (2.0, 1.0, True),
        (math.nan, 1.0, False),
        (2.0, math.inf, False),
        (2.0, math.nan, False),
        (2 * MAX_LOSS, 1, False),
    ],
)
def test_a_block_is_usable_if_its_numbers_are(nats: float, norm: float, usable: bool) -> None:
    """Both the loss and the gradient norm, which covers all gradients, must be finite."""
    assert is_usable(nats, norm) == usable


@pytest.mark.parametrize(
    ("is_over", "share", "without_gain", "patience", "reason"),
    [
        (False, 0.5, 7, None, ""),
        (False, 0.5, 1, 2, ""),
        (False, 0.5, 2, 2, "no better validation in 2 evaluations"),
        (True, 0.97, 0, None, "done"),
        (False, 1.0, 2, 2, "done"),
    ],
)
def test_a_run_finishes_at_its_end_or_when_patience_is_used_up(
    is_over: bool, share: float, without_gain: int, patience: int | None, reason: str
) -> None:
    """A run whose time or steps are used up is complete; patience can end it only earlier."""
    assert reason_to_finish(NOTHING._replace(is_over=is_over), share, without_gain, patience) == reason
