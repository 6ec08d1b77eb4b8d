"""The saved state is written with flat names and read strictly."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from charlm.training.regularisation import Regularisation
from charlm.training.state import TrainState

# The names in every existing `last.safetensors`; a run from before a renaming would not resume.
NAMES = {
    *("step", "seconds", "best_bits", "evaluations_without_gain", "nats", "num_losses", "smoothed_nats"),
    *("skipped", "skipped_in_a_row", "rollbacks", "dropout", "weight_dropout", "weight_decay", "settled"),
    *("reserved_seconds", "evaluation_characters", "finished", "gradient_norms"),
}


def state() -> TrainState:
    """Return a state in which every value differs from its initial value."""
    state = TrainState.at_start(4.0, Regularisation(0.5, 0.25, 0.1, settled=True))
    for nats in (3.0, None, 2.5, None):
        state.count(nats, 0.5)
    state.best.consider(1.5, is_kept_anyway=False)
    state.best.consider(1.7, is_kept_anyway=False)
    state.seconds, state.reserved_seconds, state.evaluation_characters = 9.5, 2.5, 700
    state.recovery.rollbacks, state.finished = 1, "done"
    return state


def test_the_names_in_a_model_file_stay_the_same() -> None:
    """The file stores all values under flat names, whatever parts the state has."""
    values = state().to_json()
    assert values.keys() == NAMES
    assert all(isinstance(value, int | float | str | None) for value in values.values())


def test_a_state_survives_writing_and_reading() -> None:
    """The state passes through JSON, as in a model file."""
    assert TrainState.from_json(json.loads(json.dumps(state().to_json()))) == state()


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("value", ["x", [], {}, -1, math.nan, math.inf, 10**13, 10**400])
def test_an_impossible_value_in_a_state_is_refused(name: str, value: Any) -> None:
    """The error names the value; a string is allowed for the reason alone."""
    if name == "finished" and isinstance(value, str):
        return
    with pytest.raises(ValueError, match=f"`{name}`|valid JSON"):
        TrainState.from_json(state().to_json() | {name: value})


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_state_that_lacks_a_value_is_refused(name: str) -> None:
    """No missing value is made up."""
    with pytest.raises(ValueError, match=f"`{name}`"):
        TrainState.from_json({key: value for key, value in state().to_json().items() if key != name})


@pytest.mark.parametrize("name", ["stranger", "best", "recovery"])
def test_a_state_with_an_unknown_value_is_refused(name: str) -> None:
    """This includes a name that is a part of the state."""
    with pytest.raises(ValueError, match=f"`{name}`"):
        TrainState.from_json(state().to_json() | {name: {}})


def test_a_whole_number_is_accepted_as_a_number() -> None:
    """JSON does not distinguish 2 from 2.0, and 2.0 is not a count."""
    assert TrainState.from_json(state().to_json() | {"seconds": 2}).seconds == 2
    with pytest.raises(ValueError, match="step"):
        TrainState.from_json(state().to_json() | {"step": 2.5})


def test_losses_are_summed_and_smoothed() -> None:
    """A skipped block counts as a step and does not change the loss."""
    counted = state()
    assert (counted.step, counted.num_losses, counted.nats) == (4, 2, 5.5)
    assert (counted.recovery.skipped, counted.recovery.skipped_in_a_row) == (2, 1)
    assert counted.smoothed_nats == pytest.approx(4.0 * 0.999**2 + 3.0 * 0.001 * 0.999 + 2.5 * 0.001)
