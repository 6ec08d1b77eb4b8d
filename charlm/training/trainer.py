"""The training loop: truncated backpropagation through time, schedule, evaluation, early stop. Prints nothing."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from charlm.checkpoint import ModelFile
from charlm.config import Config
from charlm.data.corpus import Corpus
from charlm.errors import ModelFileError, TrainingError
from charlm.evaluation.evaluate import Scores, Tick, evaluate_sample, reading_that_fits
from charlm.nn.runtime import Runtime
from charlm.run_folder import RunFolder
from charlm.training.learner import MIN_VALIDATION_CHARACTERS, Learner
from charlm.training.schedule import Clock, Every, Pace, due, rate_of
from charlm.training.state import MAX_ROLLBACKS, Losses, Record
from charlm.vocab import Ids

BITS = 1 / math.log(2)
RECORDS_PER_EVALUATION = 10
# The longest time between two saves and between two records, and to the first record.
SAVE_SECONDS = 60.0
RECORD_SECONDS = 10.0
FIRST_RECORD_SECONDS = 5.0
MAX_SKIPPED_IN_A_ROW = 5
# Of its time, what a timed run may have spent on evaluations when it begins another.
MAX_EVALUATION_SHARE = 0.03
# Of its time, what a timed run reserves at the most for the scoring at its end, and for all that comes at its end.
MAX_SCORING_SHARE = 0.1
MAX_RESERVED_SHARE = 0.5
# What a timed run may take beyond its time: a block that has begun, or a scoring that is slower than it was at first.
GRACE_SHARE = 0.05
# The first save has no moments yet; at the end there are `last` with them and `best` twice.
SAVES_AT_END = 6
# Runs of steps and epochs are the same on every machine: at their end no more than this is read of what is held out.
MAX_CHARACTERS_SCORED = 500_000


class After(NamedTuple):
    """What a block is followed by.

    Attributes:
        is_over: whether it was the last one.
        roll_back: whether the run returns to its last good state, and nothing else is done.
        validate: whether a validation follows, and a save that a rollback returns to.
        record: whether a record follows by share of the run.
        record_by_clock: whether one follows because much time has gone by without.
        save_by_clock: likewise for a save.
    """

    is_over: bool
    roll_back: bool
    validate: bool
    record: bool
    record_by_clock: bool
    save_by_clock: bool


class Training(Learner):
    """A run in the making: it learns, reports, validates and saves until it is over."""

    def __init__(
        self, config: Config, corpus: Corpus, run: RunFolder, runtime: Runtime, clock: Clock | None = None
    ) -> None:
        super().__init__(config, corpus, run, runtime, clock)
        self._tell: Callable[[str], None] = lambda message: None
        self._watch: Tick = lambda share: None
        self._last_good: ModelFile | None = None
        self._rate = 0.0
        self._block_seconds: deque[float] = deque(maxlen=2)
        self._save_seconds = 0.0
        self._evaluation_seconds = self._last_evaluation_seconds = 0.0
        self._begin_to_count()

    @property
    def _characters_learned(self) -> int:
        return self.progress.step * self.num_streams * self.block_size

    @property
    def _can_afford_evaluation(self) -> bool:
        # The clock of a timed run goes on while it evaluates.
        is_timed = self.config.train.time is not None
        return not is_timed or self._evaluation_seconds <= MAX_EVALUATION_SHARE * self.progress.seconds

    @property
    def _fits_another_block(self) -> bool:
        budget, progress = self.config.train.time, self.progress
        if budget is None:
            return True
        # The shorter of two, for one may have had to wait for something else.
        block_seconds = min(self._block_seconds)
        return progress.seconds + block_seconds <= budget - progress.reserved_seconds + GRACE_SHARE * budget

    @property
    def _validated_part(self) -> Ids:
        return self.parts.validation[: self.config.train.evaluation_characters]

    def learn(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] | None = None,
        watch: Tick | None = None,
    ) -> Iterator[Record]:
        """Train until the run is over or asked to stop; the run folder holds its last good state throughout.

        A disk that does not take what is written ends nothing: `logbook.trouble` says so, and every record tries again.

        Args:
            should_stop: asked after every block; once it is true the run is saved and this returns.
            tell: called with what a person should know as it happens.
            watch: called during a validation with the share of it that is done.

        Yields:
            a record per report, as it was written to `metrics.jsonl`, where those made during a validation stand too.

        Raises:
            TrainingError: the numbers do not stay finite, even at lower rates.
        """
        self._tell, self._watch = tell or self._tell, watch or self._watch
        self._begin()
        while not self.progress.finished and not should_stop():
            # Whatever the set-up took, a run begins with its first block.
            share_before = self.share if self.progress.step else 0.0
            self._learn_next_block(share_before)
            after = self._decide(share_before)
            if after.roll_back:
                self._roll_back()
                continue
            record = self._report(after) if after.record or after.record_by_clock else None
            if after.validate:
                self._finish_if_over(after)
                self.save()
            elif after.save_by_clock:
                self._save_by_clock()
            if record:
                yield record
        if not self.progress.finished:
            self.save()

    def _begin(self) -> None:
        """Save what there is, and plan by the clock."""
        if self.run.last.exists():
            self._last_good = self.snapshot()
        else:
            began = self.clock.seconds
            self.save()
            self._save_seconds = self.clock.seconds - began
        self._reserve_seconds()
        self._begin_to_count()

    def _begin_to_count(self) -> None:
        seconds = self.clock.seconds
        self._pace = Pace(self.clock, self._characters_learned)
        self._records = Every(RECORD_SECONDS, seconds, FIRST_RECORD_SECONDS)
        self._saves = Every(SAVE_SECONDS, seconds)

    def _reserve_seconds(self) -> None:
        """Plan when a timed run learns its last block, so that what follows ends in time; once for all of a run."""
        budget, progress = self.config.train.time, self.progress
        if budget is None or progress.reserved_seconds:
            return
        reserved = SAVES_AT_END * self._save_seconds
        if len(self.parts.validation):
            now, whole = self.clock.now, self.parts.validation
            validation = reading_that_fits(self.model, self._validated_part, MAX_EVALUATION_SHARE * budget, now)
            progress.evaluation_characters, seconds = validation
            reserved += seconds + reading_that_fits(self.model, whole, MAX_SCORING_SHARE * budget, now)[1]
        progress.reserved_seconds = min(reserved, MAX_RESERVED_SHARE * budget)

    def _learn_next_block(self, share: float) -> None:
        progress = self.progress
        self._rate = rate_of(self.config.train, share, self.epoch) * 0.5**progress.rollbacks
        self._settle_regularisation()
        began = self.clock.seconds
        self.learn_block(self.batches.batch(progress.step), self._rate)
        progress.step += 1
        progress.seconds = self.clock.seconds
        self._block_seconds.append(progress.seconds - began)

    def _decide(self, share_before: float) -> After:
        """Decide what follows the block that was learned: by share of the run, and what the clock adds."""
        progress, times = self.progress, self.config.train.evaluations
        is_over = self.share >= 1 or not self._fits_another_block
        validate = is_over or (due(share_before, self.share, times) and self._can_afford_evaluation)
        is_lost = progress.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW or (validate and not self.is_finite)
        record = validate or due(share_before, self.share, RECORDS_PER_EVALUATION * times)
        is_record_due = self._records.is_due(progress.seconds)
        # The next block may be followed by a validation before it can be saved.
        is_save_due = self._saves.is_due(progress.seconds, ahead=self._last_evaluation_seconds)
        return After(is_over, is_lost, validate, record, is_record_due and not record, is_save_due)

    def _report(self, after: After) -> Record:
        """Write a record, after a validation where one is due."""
        self._pace.measure(self._characters_learned)
        if not after.record:
            return self._write_record_by_clock()
        progress, validation = self.progress, None
        if after.validate:
            validation = self._validate()
            self._pace.resume()
            self._last_evaluation_seconds = self.clock.seconds - progress.seconds
            self._evaluation_seconds += self._last_evaluation_seconds
            progress.seconds = self.clock.seconds
        record = self._record(Losses(progress.nats, progress.num_losses), validation)
        progress.nats, progress.num_losses = 0.0, 0
        self._write_record(record)
        if after.validate:
            self._keep_if_best(validation)
        return record

    def _write_record_by_clock(self) -> Record:
        """Write a record of what was learned since the last one; nothing in it touches what the next one will say."""
        record = self._record(self._since_record, None, by="clock")
        self._write_record(record)
        return record

    def _write_record(self, record: Record) -> None:
        self._since_record = Losses()
        self._records.done(record.seconds)
        self._write_down(record=self._in_units(record.to_json()))

    def _record(self, losses: Losses, validation: float | None, by: str | None = None) -> Record:
        progress, mean = self.progress, losses.mean
        return Record(
            step=progress.step,
            epoch=self.epoch,
            seconds=progress.seconds if by is None else self.clock.seconds,
            train_bits_per_character=None if mean is None else mean * BITS,
            smoothed_bits_per_character=progress.smoothed_nats * BITS,
            learning_rate=self.config.train.learning_rate * self._rate,
            characters_per_second=self._pace.last,
            validation_bits_per_character=validation if validation is None or math.isfinite(validation) else None,
            skipped=progress.skipped,
            by=by,
        )

    def save(self) -> None:
        """Write the whole state to `last.safetensors`, unless it holds numbers that are not finite."""
        if not self.is_finite:
            self._roll_back()
            return
        self._last_good = self.snapshot()
        self._write_last(self._last_good)

    def _save_by_clock(self) -> None:
        """Save for the case that the process is killed; a rollback returns to where it would without the clock."""
        if self.is_finite:
            self._write_last(self.snapshot())

    def _write_last(self, state: ModelFile) -> None:
        self._saves.done(self.clock.seconds)
        self._write_down(last=state)

    def measure_best(self, watch: Tick | None = None) -> Scores | None:
        """Score the best model and write that into its file; None where nothing is held out.

        All of the validation part is scored where it is short enough: for a timed run, where there is time for it.

        Args:
            watch: called with the share that is done; what it raises leaves the file as it was.
        """
        best, part = self.logbook.best, self.parts.validation
        if not len(part):
            return None
        self.model.load_arrays(best.weights)
        scores = evaluate_sample(self.model, part, self._characters_to_score(), watch or (lambda share: None))
        measured: dict[str, float | None] = {
            "validation_bits_per_character": scores.bits_per_character,
            "validation_characters": scores.characters,
            "validation_standard_error_bits": scores.standard_error_bits,
        }
        metrics = best.metrics | self._in_units(measured)
        metrics = {name: value for name, value in metrics.items() if name not in measured or value is not None}
        self._write_down(best=self._model_file(best.weights, metrics))
        return scores

    def _characters_to_score(self) -> int:
        """Return how many characters are read of the validation part at the end of the run."""
        budget = self.config.train.time
        if budget is None:
            return MAX_CHARACTERS_SCORED
        left = budget - self.clock.seconds
        # A run that ended early has much time left, and one that was slower than planned has none.
        seconds = min(max(left, 0.0), MAX_SCORING_SHARE * budget) + GRACE_SHARE * budget
        return reading_that_fits(self.model, self.parts.validation, seconds, self.clock.now)[0]

    def _validate(self) -> float | None:
        part = self._validated_part
        if not len(part):
            return None
        num_read = self.progress.evaluation_characters or len(part)
        try:
            return evaluate_sample(self.model, part, num_read, self._while_validating).bits_per_character
        except ModelFileError:
            # A state without bounds may overflow on a text it was not trained on; no model is worse.
            return math.inf

    def _while_validating(self, share: float) -> None:
        self._watch(share)
        if self._records.is_due(self.clock.seconds):
            self._write_record_by_clock()

    def _keep_if_best(self, validation: float | None) -> None:
        progress = self.progress
        best = math.inf if progress.best_bits is None else progress.best_bits
        is_telling = len(self.parts.validation) >= MIN_VALIDATION_CHARACTERS
        is_first = not self.logbook.has_best
        if validation is None or not is_telling or is_first or validation < best:
            progress.best_bits = None if validation == math.inf else validation
            progress.evaluations_without_gain = 0
            metrics = {"step": progress.step, "epoch": self.epoch, "seconds": progress.seconds}
            self._write_down(best=self._model_file(self.model.arrays(), metrics))
        else:
            progress.evaluations_without_gain += 1

    def _finish_if_over(self, after: After) -> None:
        patience = self.config.train.patience
        if after.is_over or self.share >= 1:
            self.progress.finished = "done"
        elif patience is not None and self.progress.evaluations_without_gain >= patience:
            self.progress.finished = f"no better validation in {patience} evaluations"

    def _roll_back(self) -> None:
        """Return to the last good state with half the rate."""
        assert self._last_good is not None
        before = self.progress
        if before.rollbacks >= MAX_ROLLBACKS:
            raise TrainingError(
                f"the loss does not stay finite, even at 1/{2**MAX_ROLLBACKS} of the learning rate",
                f"`{self.run.path}` holds the last good state; a lower `train.learning_rate` may help",
            )
        self._take_over(self._last_good)
        self.progress.rollbacks = before.rollbacks + 1
        self.progress.skipped = before.skipped
        self.progress.seconds = before.seconds
        self._since_record = Losses()
        self.logbook.rewind(self.progress.step)
        self._write_last(self.snapshot())
        self._tell(
            f"numbers were not finite at step {before.step:,}: back to step {self.progress.step:,}, "
            f"at 1/{2**self.progress.rollbacks} of the learning rate"
        )

    def _write_down(self, **parts: Any) -> None:
        """Write to the run folder, and tell when that begins to fail and when it works again."""
        before = self.logbook.trouble
        is_written = self.logbook.put(**parts)
        if is_written and before:
            self._tell(f"everything is written down again in `{self.run.path}`")
        elif not is_written and not before:
            self._tell(f"{self.logbook.trouble}; the run goes on and tries again")
