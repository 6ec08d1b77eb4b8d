"""The judgement of a run by its curves: the kinds of curves, and the lines of `metrics.jsonl` that they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from charlm.evaluation.judgement import Point, judge, judge_records


def every_ten(bits: Sequence[float]) -> list[Point]:
    """Return a curve with a point every 10 steps."""
    return [(10 * place, value) for place, value in enumerate(bits, start=1)]


@pytest.mark.parametrize(
    ("bits", "state", "since"),
    [
        ([], "unclear", None),
        ([math.inf, math.inf], "unclear", None),
        ([2.0], "unclear", None),
        ([3.0, 2.0], "falling", 10),
        ([3.0, 2.0, 2.1], "unclear", None),
        ([3.0, 2.0, 2.1, 2.2], "overfitting", 20),
        ([3.0, 2.0, math.inf, 4.0], "overfitting", 20),
        ([math.inf, 3.0, 2.5, 2.0], "falling", 10),
        # The end of a run, where the learning rate is low, bends every curve.
        ([5.39, 5.08, 4.89, 4.67, 4.48, 4.36, 4.28, 4.234, 4.214, 4.206], "falling", 10),
        ([2.8, 2.2, 1.9, 1.84, 1.82, 1.86, 1.81, 1.80, 1.79], "falling", 60),
        ([2.8, 2.001, 1.999, 2.0, 2.0, 2.0], "flat", 20),
        ([2.5, 2.0, 2.001, 2.0, 1.999, 1.9985], "flat", 20),
        # It rises again after a resume, because its rate does, and then falls.
        ([2.4, 2.1, 2.0, 2.5, 2.4, 2.3], "unclear", None),
    ],
)
def test_a_curve_falls_is_flat_or_has_started_to_overfit(bits: list[float], state: str, since: int | None) -> None:
    """A curve has one of these shapes from a step on, or it is too early to tell."""
    judgement = judge(every_ten(bits))
    assert (judgement.state, judgement.since) == (state, since)


@pytest.mark.parametrize("number", [5, 10, 30])
def test_noise_is_rarely_taken_for_overfitting(number: int) -> None:
    """Of 200 level curves with a noise of 0.01, at most one in ten looks like overfitting."""
    curves = 2.0 + np.random.default_rng(1).normal(0.0, 0.01, (200, number))
    judged = [judge(every_ten(curve.tolist())).state for curve in curves]
    assert judged.count("overfitting") <= 20


@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_rise_is_overfitting(seed: int) -> None:
    """A curve that rises by 0.3 after its best validation is overfitting in spite of a noise of 0.01."""
    shape = np.concatenate([np.linspace(3.0, 2.0, 10), np.linspace(2.02, 2.3, 10)])
    judgement = judge(every_ten(list(shape + np.random.default_rng(seed).normal(0.0, 0.01, 20))))
    assert judgement.state == "overfitting"
    assert judgement.since in (90, 100, 110)


def test_a_rise_of_the_training_loss_is_no_overfitting() -> None:
    """If the training loss rises with the validation, the run got worse in another way."""
    validations = every_ten([3.0, 2.0, 2.5, 2.6])
    assert judge(validations, every_ten([3.0, 2.0, 1.9, 1.8])).state == "overfitting"
    judgement = judge(validations, every_ten([3.0, 2.0, 2.6, 2.7]))
    assert judgement.state == "unclear"
    assert judgement.sentence().endswith("the training loss has risen too, so this is no overfitting")


def test_the_sentence_names_the_curve() -> None:
    """Every sentence has the name of the curve that is judged."""
    for bits in ([], [2.0], [3.0, 2.0], [2.0, 3.0], [2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]):
        assert "validation of the net" in judge(every_ten(bits)).sentence("validation of the net")


def test_records_of_every_unit_are_judged() -> None:
    """The lines may count bytes; losses by the clock, baselines and damaged figures are no points of the curve."""
    lines: list[dict[str, Any]] = [
        {"step": 0, "seconds": 0.0, "baseline": "7-gram Kneser-Ney", "baseline_bits_per_byte": 1.0},
        {"step": 10, "train_bits_per_byte": 3.0, "validation_bits_per_byte": 3.0},
        {"step": 15, "train_bits_per_byte": 9.0, "by": "clock"},
        {"step": 20, "train_bits_per_byte": 2.0, "validation_bits_per_byte": 2.0},
        {"step": 25, "train_bits_per_byte": None, "validation_bits_per_byte": "low"},
        {"step": 30, "train_bits_per_byte": 1.0, "validation_overflowed": True},
        {"step": 40, "train_bits_per_byte": 0.9, "validation_bits_per_byte": 2.5},
    ]
    assert (judge_records(lines).state, judge_records(lines).since) == ("overfitting", 20)


def test_what_was_measured_on_another_text_does_not_count() -> None:
    """The curve starts anew with the first record after a run was resumed on another text."""
    old = [{"step": step, "validation_bits_per_character": 1.0} for step in (10, 20)]
    new = [{"step": 30, "validation_bits_per_character": 3.0}, {"step": 40, "validation_bits_per_character": 2.5}]
    assert judge_records([*old, *new]).state == "overfitting"
    judgement = judge_records([*old, new[0] | {"new_text": True}, new[1]])
    assert (judgement.state, judgement.since) == ("falling", 30)
