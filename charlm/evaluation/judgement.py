"""What the curve of a run says about more training: whether its validation falls, is flat, or has started to overfit.

Every validation of a run reads the same characters, so that its noise is that of the training. The curve itself shows
how large that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Literal

# A step, and the bits per character there; infinite if the model overflowed.
Point = tuple[int, float]
State = Literal["falling", "flat", "overfitting", "unclear"]

# A smaller difference in bits per character makes no difference to a reader.
LEAST_DIFFERENCE = 0.005
# Nor does one of twice the noise, if that is at most this share of the best validation.
MAX_NOISE_SHARE = 0.02
# The curve is flat if so many validations, over this share of its steps, are as good as the best one.
MIN_FLAT, FLAT_SHARE = 3, 0.15
# From the median of the second differences of a noisy line to the standard deviation of its points: the median of
# |x| is 0.6745 standard deviations, and the weights 1, -2 and 1 add up to 6 variances.
MEDIAN_TO_NOISE = 1 / (0.6745 * math.sqrt(6))
# The most losses that are averaged to tell whether the training loss has risen.
MAX_AVERAGED = 10


@dataclass(frozen=True)
class Judgement:
    """What a curve says.

    Attributes:
        state: `falling`, `flat`, `overfitting`, or `unclear` if the curve does not tell.
        since: the step from which on it is so, for `overfitting` that of the best validation; None for `unclear`.
        template: the judgement as a sentence, with `{validation}` for the name of the curve.
    """

    state: State
    since: int | None
    template: str

    def sentence(self, validation: str = "validation") -> str:
        """Return the judgement as a sentence.

        Args:
            validation: the name of the curve, such as `validation of the net`.
        """
        return self.template.format(validation=validation)


def judge(validations: Sequence[Point], train: Sequence[Point] = ()) -> Judgement:
    """Judge a run by its curve.

    Args:
        validations: what it has measured so far, by step.
        train: its losses on the training part, by step; without them a validation that rises counts as overfitting.
    """
    if not validations or not math.isfinite(min(bits for _, bits in validations)):
        return Judgement("unclear", None, "there is no {validation} yet to tell whether more time would help")
    if len(validations) == 1:
        return Judgement("unclear", None, "the only {validation} is the best: more time may make it better yet")
    best = min(range(len(validations)), key=lambda place: validations[place][1])
    step, bits = validations[best]
    after = [later for _, later in validations[best + 1 :]]
    tolerance = _tolerance([bits for _, bits in validations])
    since = _flat_since(validations, bits + tolerance)
    if since is None and len(after) > 1 and median(after) <= bits + tolerance:
        since = step
    if since is not None:
        template = f"the {{validation}} has changed by no more than {tolerance:.3f} since step {since:,}"
        return Judgement("flat", since, f"{template}: more time may change little")
    if not after:
        template = "the last {validation} was the best: more time may make it better yet"
        return Judgement("falling", _falling_since(validations), template)
    if len(after) == 1:
        template = "the {validation} before the last was the best: too early to tell whether more time would help"
        return Judgement("unclear", None, template)
    template = f"no {{validation}} has been better since step {step:,}"
    if len(after) > 2 and after[-1] < median(after) - tolerance:
        return Judgement("unclear", None, f"{template}, but it falls again: more time may help")
    if _has_risen(train, step):
        return Judgement("unclear", None, f"{template}, but the training loss has risen too: this is no overfitting")
    return Judgement("overfitting", step, f"{template}: it has started to overfit")


def _tolerance(bits: Sequence[float]) -> float:
    """Return the difference that two validations must have to count as different."""
    best, finite = min(bits), [value for value in bits if math.isfinite(value)]
    # At the beginning a curve bends, which would look like noise.
    late = finite[-max(5, len(finite) // 2) :]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(late, late[1:], late[2:], strict=False)]
    noise = MEDIAN_TO_NOISE * median(bends) if bends else 0.0
    return max(LEAST_DIFFERENCE, min(2 * noise, MAX_NOISE_SHARE * best))


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
