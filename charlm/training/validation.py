"""The validations of a run while it trains: which held-out text they read, and what a model scores on it."""

from __future__ import annotations

import math
from collections.abc import Callable

from charlm.data.holdout import Part
from charlm.errors import ModelFileError
from charlm.evaluation.evaluate import Tick, evaluate_sample, reading_that_fits
from charlm.nn.model import CharModel
from charlm.training.time_budget import MAX_EVALUATION_SHARE, MAX_SCORING_SHARE

# Fewer characters than these do not tell which of two models is better.
MIN_VALIDATION_CHARACTERS = 64


class Validation:
    """Scores the model of a run on the beginning of the held-out text.

    Attributes:
        held_out: the whole validation part of the text.
        part: what a validation reads of it at most.
    """

    def __init__(self, model: CharModel, held_out: Part, num_characters: int) -> None:
        """Choose the text.

        Args:
            model: the model of the run.
            held_out: the validation part of the text.
            num_characters: how many characters a validation reads at most.
        """
        self.held_out, self.part = held_out, held_out.beginnings(num_characters)
        self._model = model

    @property
    def can_tell_best(self) -> bool:
        """Whether enough is held out to tell which of two models is better."""
        return len(self.held_out) >= MIN_VALIDATION_CHARACTERS

    def plan(self, budget: float, now: Callable[[], float]) -> tuple[int, float]:
        """Measure how fast the model reads.

        Args:
            budget: the seconds of a timed run.
            now: a clock, in seconds.

        Returns:
            how many characters a validation has time for; and how many seconds it and the scoring at the end take.
        """
        if not len(self.held_out):
            return 0, 0.0
        num_read, seconds = reading_that_fits(self._model, self.part, MAX_EVALUATION_SHARE * budget, now)
        return num_read, seconds + reading_that_fits(self._model, self.held_out, MAX_SCORING_SHARE * budget, now)[1]

    def measure(self, num_read: int, tick: Tick) -> float | None:
        """Return bits per character; infinite if the model overflows, None if nothing is held out.

        Args:
            num_read: how many characters there is time for; 0 for any number.
            tick: called with the share that is done.
        """
        if not len(self.part):
            return None
        try:
            return evaluate_sample(self._model, self.part, num_read or len(self.part), tick).bits_per_character
        except ModelFileError:
            # A state without bounds may overflow on a text it was not trained on; no model is worse.
            return math.inf

    def described(self, num_read: int) -> str:
        """Return how many of the held-out characters are scored; empty if all of them are.

        Args:
            num_read: how many characters there is time for; 0 for any number.
        """
        if 0 < num_read < len(self.part):
            return f"about {num_read:,}"
        return f"{len(self.part):,}" if len(self.part) < len(self.held_out) else ""
