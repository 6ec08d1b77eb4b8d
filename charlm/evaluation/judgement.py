"""What the curve of a run says about more training: whether its validation falls, is flat, or has started to overfit.

Every validation of a run reads the same characters, so that its noise is that of the training. The curve itself shows
how large that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any, Literal

from charlm.evaluation.compare import bits_of

# A step, and the bits per character there; infinite if the model overflowed.
Point = tuple[int, float]
State = Literal["falling", "flat", "overfitting", "unclear"]

# A smaller difference in bits per character makes no difference to a reader.
LEAST_DIFFERENCE = 0.005
# Nor does one of three times the noise, if that is at most this share of the best validation.
NOISE_FACTOR, MAX_NOISE_SHARE = 3, 0.02
# The curve is flat if so many validations, over this share of its steps, are as good as the best one. A shorter flat
# end may come from the learning rate alone, which is low there.
MIN_FLAT, FLAT_SHARE = 3, 1 / 3
# From the median size of the second or third differences of noise to its standard deviation: the median of |x| is
# 0.6745 standard deviations, and the squares of their weights (1, -2, 1 and 1, -3, 3, -1) add up to 6 and to 20.
SECOND_TO_NOISE, THIRD_TO_NOISE = (1 / (0.6745 * math.sqrt(squares)) for squares in (6, 20))
# The noise is that of so many validations at the end, or of the second half. At the beginning the curve bends.
LEAST_LATE = 8
# The most losses that are averaged to tell whether the training loss has risen.
MAX_AVERAGED = 10


@dataclass(frozen=True)
class Judgement:
    """What a curve says.

    Attributes:
        state: `falling`, `flat`, `overfitting`, or `unclear` if the curve does not tell.
        since: the step from which on it is so, for `overfitting` that of the best validation; None for `unclear`.
        finding: what is to be seen, with `{validation}` for the name of the curve.
        meaning: what that means for more training.
    """

    state: State
    since: int | None
    finding: str
    meaning: str

    def sentence(self, validation: str = "validation") -> str:
        """Return the judgement as a sentence.

        Args:
            validation: the name of the curve, such as `validation of the net`.
        """
        return f"{self.finding.format(validation=validation)}: {self.meaning}"


def judge_records(records: Sequence[Mapping[str, Any]]) -> Judgement:
    """Judge a run by the lines of its `metrics.jsonl`, from the last change of its text on."""
    changes = [place for place, record in enumerate(records) if record.get("new_text")]
    of_text = records[changes[-1] :] if changes else records
    validations, train = [], []
    for record in of_text:
        validation = math.inf if record.get("validation_overflowed") else bits_of(record)
        if validation is not None:
            validations.append((int(record["step"]), validation))
        loss = bits_of(record, "train_bits_per_")
        # Losses by the clock are also in the next record by share.
        if loss is not None and "by" not in record:
            train.append((int(record["step"]), loss))
    return judge(validations, train)


def judge(validations: Sequence[Point], train: Sequence[Point] = ()) -> Judgement:
    """Judge a run by its curves.

    Args:
        validations: what it has measured so far, by step.
        train: its losses on the training part, by step; without them a validation that rises counts as overfitting.
    """
    if not any(math.isfinite(bits) for _, bits in validations):
        return Judgement(
            "unclear", None, "there is no {validation} yet", "too early to tell whether more time would help"
        )
    if len(validations) == 1:
        return Judgement("unclear", None, "the only {validation} is the best", "more time may make it better yet")
    best = min(range(len(validations)), key=lambda place: validations[place][1])
    step, bits = validations[best]
    after = [later for _, later in validations[best + 1 :]]
    tolerance = _tolerance([bits for _, bits in validations]) if len(after) > 1 else LEAST_DIFFERENCE
    since = _flat_since(validations, bits + tolerance)
    # The best of many noisy validations is far below their mean, those beside it are not.
    around = median(value for _, value in validations[max(0, best - 1) : best + 2])
    if since is None and len(after) > 1 and median(after) <= around + tolerance:
        since = step
    if since is not None:
        finding = f"the {{validation}} has hardly changed since step {since:,}"
        return Judgement("flat", since, finding, "more time may change little")
    if not after:
        finding, meaning = "the last {validation} was the best", "more time may make it better yet"
        return Judgement("falling", _falling_since(validations), finding, meaning)
    if len(after) == 1:
        finding, meaning = (
            "the {validation} before the last was the best",
            "too early to tell whether more time would help",
        )
        return Judgement("unclear", None, finding, meaning)
    finding = f"no {{validation}} has been better since step {step:,}"
    if len(after) > 2 and after[-1] < median(after) - tolerance:
        return Judgement("unclear", None, finding, "it falls again, so more time may help")
    if _has_risen(train, step):
        return Judgement("unclear", None, finding, "the training loss has risen too, so this is no overfitting")
    return Judgement("overfitting", step, finding, "it has started to overfit")


def _tolerance(bits: Sequence[float]) -> float:
    """Return the difference that two validations must have to count as different."""
    best, finite = min(bits), [value for value in bits if math.isfinite(value)]
    late = finite[-max(LEAST_LATE, len(finite) // 2) :]
    second = [abs(a - 2 * b + c) for a, b, c in zip(late, late[1:], late[2:], strict=False)]
    third = [abs(a - 3 * b + 3 * c - d) for a, b, c, d in zip(late, late[1:], late[2:], late[3:], strict=False)]
    # A bend of the curve makes second differences large, but third ones small; few points make either by chance.
    noise = min(SECOND_TO_NOISE * median(second), THIRD_TO_NOISE * median(third)) if third else 0.0
    return max(LEAST_DIFFERENCE, min(NOISE_FACTOR * noise, MAX_NOISE_SHARE * best))


def _flat_since(validations: Sequence[Point], limit: float) -> int | None:
    """Return the step from which on no validation is above a limit; None if that is not long enough."""
    start = len(validations)
    while start and validations[start - 1][1] <= limit:
        start -= 1
    if len(validations) - start < MIN_FLAT:
        return None
    since, last = validations[start][0], validations[-1][0]
    return since if last - since >= FLAT_SHARE * last else None


def _falling_since(validations: Sequence[Point]) -> int:
    """Return the step from which on each validation was better than the one before."""
    steps = [step for (_, before), (step, now) in pairwise(validations) if now >= before]
    return steps[-1] if steps else validations[0][0]


def _has_risen(train: Sequence[Point], step: int) -> bool:
    """Return whether the training loss is higher now than it was at a step."""
    before, since = [bits for at, bits in train if at <= step], [bits for at, bits in train if at > step]
    number = min(len(before), len(since), MAX_AVERAGED)
    if not number:
        return False
    then, now = mean(before[-number:]), mean(since[-number:])
    return now - then > max(LEAST_DIFFERENCE, MAX_NOISE_SHARE * then)
