"""The scoring of the best model at the end of a run."""

from __future__ import annotations

from charlm.evaluation.evaluate import Scores, Tick, evaluate_sample, reading_that_fits
from charlm.inference.mixture import Mixture
from charlm.machine import give_back_freed_memory
from charlm.training.events import Listener, Scoring, ignore
from charlm.training.time_budget import GRACE_SHARE, MAX_SCORING_SHARE
from charlm.training.trainer import Trainer

# Runs of steps and epochs are the same on every machine: their final evaluation reads at most this much held-out text.
MAX_CHARACTERS_SCORED = 500_000


# The weight of the n-grams is fitted on so many characters for each character that is scored, so that it is quick.
FITTING_SHARE = 0.1


class Stopped(Exception):
    """The trainer was asked to stop during the scoring."""


def measure_best(trainer: Trainer, listener: Listener = ignore) -> Scores | None:
    """Score the best model and write the result into its file.

    The whole validation part is scored if it is short enough, and in a timed run if there is time for it.

    Args:
        trainer: of a run that has ended. Afterwards it holds the best model.
        listener: called with how much is done.

    Returns:
        the scores; None if nothing is held out, or if the trainer was asked to stop meanwhile.
    """
    best, part = trainer.logbook.best, trainer.learner.parts.validation
    if not len(part):
        return None
    model = trainer.learner.model
    model.load_arrays(best.weights)
    counting = trainer.learner.counting
    num_read = _characters_to_score(trainer, counting.mixture())
    mixture = counting.mixture(model, int(num_read * FITTING_SHARE))
    give_back_freed_memory()
    try:
        scores = evaluate_sample(model, part, num_read, ticking(trainer, listener), mixture)
    except Stopped:
        return None
    measured: dict[str, float | None] = {
        "validation_bits_per_character": scores.bits_per_character,
        "validation_characters": scores.characters,
        "validation_standard_error_bits": scores.standard_error_bits,
        "validation_net_bits_per_character": scores.net.bits_per_character if scores.net else None,
        "validation_ngrams_bits_per_character": scores.ngrams.bits_per_character if scores.ngrams else None,
    }
    metrics = best.metrics | trainer.in_units(measured)
    # A standard error from an earlier scoring must not stay if the whole part is scored now.
    metrics = {name: value for name, value in metrics.items() if name not in measured or value is not None}
    trainer.write_down(best=trainer.model_file(best.weights, mixture, metrics))
    return scores


def ticking(trainer: Trainer, listener: Listener) -> Tick:
    """Return what a scoring calls with its share: it tells the listener, and ends the scoring on request.

    Raises:
        Stopped: from the result, if the trainer was asked to stop.
    """

    def tick(share: float) -> None:
        listener(Scoring(share))
        if trainer.is_asked_to_stop:
            raise Stopped

    return tick


def _characters_to_score(trainer: Trainer, mixture: Mixture | None) -> int:
    """Return how many characters of the validation part are read."""
    budget = trainer.config.train.time
    if budget is None:
        return MAX_CHARACTERS_SCORED
    # A run that ended early has much time left, and one that was slower than planned has none.
    left = max(budget - trainer.clock.seconds, 0.0)
    seconds = min(left, MAX_SCORING_SHARE * budget) + GRACE_SHARE * budget
    part = trainer.learner.parts.validation
    return reading_that_fits(trainer.learner.model, part, seconds, trainer.clock.now, mixture)[0]
