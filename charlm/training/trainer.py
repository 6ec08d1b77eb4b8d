"""The training loop: learn a block, decide what follows, do it. It prints nothing and reports everything in events."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

from charlm.checkpoint import Arrays, ModelFile
from charlm.data.corpus import Corpus
from charlm.data.holdout import Split
from charlm.data.likeness import unlike_training
from charlm.errors import RunError, TrainingError
from charlm.evaluation.evaluate import in_reading_order
from charlm.inference.mixture import Mixture
from charlm.inference.stepper import Stepper
from charlm.machine import give_back_freed_memory
from charlm.nn.runtime import Runtime
from charlm.run_folder import RunFolder
from charlm.settings.config import Config
from charlm.training.baseline import measure_baseline, recorded_baseline
from charlm.training.decisions import Decision, Facts, decide, knows_text, reason_to_finish
from charlm.training.distributed import ALONE, World
from charlm.training.events import (
    BlockLearned,
    Finished,
    Listener,
    Note,
    Preparing,
    Record,
    RolledBack,
    Saved,
    Validating,
    ignore,
)
from charlm.training.keeping import Keeper, note_on_size
from charlm.training.learner import Learner
from charlm.training.logbook import Logbook
from charlm.training.notes import notes_on_run
from charlm.training.recovery import MAX_ROLLBACKS
from charlm.training.regularisation import Regularisation, Regulariser
from charlm.training.samples import Sample, is_sample_due, write_sample
from charlm.training.schedule import Clock, rate_of, share_of
from charlm.training.state import Losses, TrainState
from charlm.training.time_budget import MAX_RESERVED_SHARE, SAVES_AT_END, TimeBudget
from charlm.training.trackers import TrackedRun, flat, tracked
from charlm.training.transfer import text_has_changed
from charlm.training.validation import Validation

BITS = 1 / math.log(2)


class Trainer:
    """A run: it trains, reports, validates and saves until it is over or asked to stop.

    Attributes:
        config: the effective settings, seed included.
        corpus: the text.
        world: the processes that train together; each has a trainer, and the first one prints and writes.
        clock: how long the run has taken, model and first block included, but not the reading of the text.
        logbook: writes the run into its folder.
        learner: model, optimiser and batches.
        validation: scores the model on held-out text.
        state: the progress of the run.
        is_asked_to_stop: whether `stop` was called and the loop has not ended since.
        unlike: the held-out parts whose characters have quite other frequencies than those of the training part.
        notes: facts that a person should know before the run starts.
        base: of a run that started from a model, what it saves about that model.
        trackers: which trackers follow the run.
        old_text_seconds: of a timed run from a model, how long it takes at the end to score the old text.
    """

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        run: RunFolder,
        runtime: Runtime,
        clock: Clock | None = None,
        parts: Split | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.corpus, self.runtime = config, corpus, runtime
        self.clock, self.world = clock or Clock(), world
        self.logbook = Logbook(run, writes=world.is_first)
        self.learner = Learner(config, corpus, runtime, parts, world)
        held_out, num_characters = self.learner.parts.validation, config.train.evaluation_characters
        self.validation = Validation(self.learner.model, held_out, num_characters)
        self.unlike = unlike_training(corpus, self.learner.parts)
        self.notes = notes_on_run(config, corpus, self.learner, self.unlike, run.path)
        self._keeper = Keeper(config.train.keep_every)
        regularisation = Regularisation.planned(config, num_epochs=0, settled=False)
        self.state = TrainState.at_start(math.log(len(corpus.vocabulary)), regularisation)
        self.is_asked_to_stop = False
        self.base: dict[str, Any] = {}
        self.trackers: tuple[str, ...] = ()
        self.old_text_seconds = 0.0
        self._listener: Listener = ignore
        self._time_budget = TimeBudget(self.clock, config.train.time)
        self._regulariser = Regulariser(config, self.learner.batches)
        self._rate = self._seconds_asleep = 0.0
        # Since the last record of either kind.
        self._since_record = Losses()
        self._last_good: ModelFile | None = None
        self._has_new_text = False

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        return self.logbook.run

    @property
    def epoch(self) -> float:
        """How often the training part has been read."""
        return self.learner.batches.epoch(self.state.step)

    @property
    def share(self) -> float:
        """How much of the run is done, from 0 to 1."""
        state, per_epoch = self.state, self.learner.batches.batches_per_epoch
        return share_of(self.config.train, state.step, state.seconds, per_epoch, state.reserved_seconds)

    @property
    def _is_memorised(self) -> bool:
        """Whether a timed run has learned a text that is too short to hold enough of it out."""
        losses = Losses(self.state.nats, self.state.num_losses)
        is_known = knows_text(losses.mean, len(self.learner.parts.train))
        return is_known and self.config.train.time is not None and not self.validation.can_tell_best

    # The loop

    def learn(self, listener: Listener = ignore) -> None:
        """Train until the run is over or asked to stop; the run folder holds its last good state throughout.

        A full disk does not end the run: a note says so, and every record tries to write again.

        Args:
            listener: called with every event.

        Raises:
            TrainingError: the numbers do not stay finite, even at lower rates.
        """
        about = TrackedRun(self.run.path, self.state.step, flat(self.config.model_dump(mode="json")))
        trackers, heard = (self.trackers, listener) if self.world.is_first else ((), ignore)
        with tracked(trackers, about, self.in_units, heard) as self._listener:
            self._learn_blocks()

    def _learn_blocks(self) -> None:
        self._start()
        while not (self.state.finished or self.world.any(self.is_asked_to_stop)):
            # A run starts with its first block, however long the set-up took.
            share_before = self.share if self.state.step else 0.0
            nats = self._learn_next_block(share_before)
            decision = self._decide(share_before)
            if decision.roll_back:
                self._roll_back()
                continue
            self._keep_if_due()
            if decision.record:
                self._report(decision)
            elif decision.record_by_clock:
                self._time_budget.pace.measure(self._characters_learned)
                self._report_by_clock()
            if decision.validate:
                without_gain = self.state.best.evaluations_without_gain
                patience = self.config.train.patience
                self.state.finished = reason_to_finish(decision, self.share, without_gain, patience)
                self.save()
            elif decision.save_by_clock:
                self._save_by_clock()
            self._note_sleep()
            self._listener(BlockLearned(self.state.step, self.share, None if nats is None else nats * BITS))
        if not self.state.finished:
            self.save()
        self.is_asked_to_stop = False
        self._listener(Finished(self.state.step, self.state.finished))

    def stop(self) -> None:
        """Ask for an end after the current block; a signal handler or another thread may call this."""
        self.is_asked_to_stop = True

    def _start(self) -> None:
        """Save the current state, and plan the time."""
        if self.world.agree(self.run.last.exists())[0]:
            self._last_good = self.snapshot()
        else:
            before = self.clock.seconds
            self.save()
            self._time_budget.save_seconds = self.clock.seconds - before
        self._keeper.restart(self._progress)
        self._plan_time()
        if not self.state.finished:
            self.world.from_first(self._report_baseline)
        self._time_budget.restart(self._characters_learned)

    def _plan_time(self) -> None:
        """Plan when a timed run learns its last block, so that the rest ends in time; once in the life of a run."""
        budget, state = self.config.train.time, self.state
        if budget is None or state.reserved_seconds:
            return
        plan = self.world.from_first(lambda: self.validation.plan(budget, self.clock.now))
        state.evaluation_characters, seconds = plan
        reserved = SAVES_AT_END * self._time_budget.save_seconds + self.old_text_seconds + seconds
        (state.reserved_seconds,) = self.world.agree(min(reserved, MAX_RESERVED_SHARE * budget))

    def _report_baseline(self) -> None:
        """Report the baseline of a run that validates; it is measured and written once in the life of a run."""
        part, learner = self.validation.part, self.learner
        if not len(part) or learner.model.spec.sees_both_sides:
            return
        text = {"text_sha256": self.corpus.sha256}
        baseline = recorded_baseline(self.run, text)
        if baseline is None:
            self._listener(Preparing("counting the n-grams to beat"))
            num_read, num_symbols = self.state.evaluation_characters, len(self.corpus.vocabulary)
            part = in_reading_order(learner.model, part)
            baseline = measure_baseline(learner.counting, part, num_read, num_symbols)
            # Counting may have taken more memory than training needs.
            give_back_freed_memory()
            line = {"step": self.state.step, "seconds": self.clock.seconds}
            self.write_down(record=line | self.in_units(baseline.to_json()) | text)
        self._listener(baseline)

    def _learn_next_block(self, share: float) -> float | None:
        state = self.state
        self._rate = rate_of(self.config.train, share, self.epoch) * state.recovery.rate
        if not state.regularisation.settled:
            planned = self._regulariser.plan(self.share, state.step, state.seconds, state.reserved_seconds)
            state.regularisation = planned or state.regularisation
        before = self.clock.seconds
        nats = self.learner.learn_block(state.step, self._rate, state.regularisation)
        state.count(nats, self.learner.gradient_norm)
        if nats is not None:
            self._since_record.add(nats, self.learner.gradient_norm)
        (state.seconds,) = self.world.agree(self.clock.seconds)
        self._time_budget.block_took(state.seconds - before)
        return nats

    def _note_sleep(self) -> None:
        asleep = self.clock.seconds_asleep - self._seconds_asleep
        if asleep:
            self._seconds_asleep += asleep
            self._listener(Note(f"the process slept for about {asleep:,.0f} s, which is not counted"))

    def _decide(self, share_before: float) -> Decision:
        state, time_budget = self.state, self._time_budget
        # What depends on the clock is as the first process sees it.
        fits, can_afford, is_record_due, is_save_due = self.world.agree(
            time_budget.fits_another_block(state.seconds, state.reserved_seconds),
            time_budget.can_afford_evaluation(state.seconds),
            time_budget.is_record_due(state.seconds),
            time_budget.is_save_due(state.seconds),
        )
        facts = Facts(
            share_before,
            self.share,
            fits_another_block=bool(fits),
            can_afford_evaluation=bool(can_afford),
            is_record_due=bool(is_record_due),
            is_save_due=bool(is_save_due),
            is_lost=state.recovery.is_lost,
            is_memorised=self._is_memorised,
        )
        return decide(facts, self.config.train.evaluations, lambda: self.learner.is_finite)

    @property
    def _characters_learned(self) -> int:
        return self.state.step * self.learner.characters_per_block

    # Records and validations

    def _report(self, decision: Decision) -> None:
        """Write a record by share of the run, after a validation if one is due."""
        state, pace = self.state, self._time_budget.pace
        pace.measure(self._characters_learned)
        validation = sample = None
        if decision.validate:
            # Weights that other processors have rounded in another way do not drift apart.
            self.world.synchronise(self.learner.replicated)
            validation = self.world.from_first(self._validate)
            pace.resume()
            (now,) = self.world.agree(self.clock.seconds)
            self._time_budget.evaluation_took(now - state.seconds)
            state.seconds = now
            if decision.is_over or is_sample_due(self.share, self.config.train.evaluations):
                sample = self.world.from_first(lambda: self._write_sample(decision.is_over))
        record = self._record(state.losses, state.seconds, validation)
        if sample:
            record = replace(record, sample=sample.text, sample_bits=sample.bits)
        state.recorded()
        self._write_record(record)
        if decision.validate:
            self._keep_if_best(validation)

    def _report_by_clock(self) -> None:
        """Write a record of the losses since the last one; the next record by share does not depend on it."""
        self._write_record(self._record(self._since_record, self.clock.seconds, by="clock"))

    def _record(self, losses: Losses, seconds: float, validation: float | None = None, by: str | None = None) -> Record:
        state, mean = self.state, losses.mean
        has_overflowed = validation is not None and not math.isfinite(validation)
        return Record(
            step=state.step,
            epoch=self.epoch,
            seconds=seconds,
            train_bits_per_character=None if mean is None else mean * BITS,
            smoothed_bits_per_character=state.smoothed_nats * BITS,
            learning_rate=self.config.train.learning_rate * self._rate,
            characters_per_second=self._time_budget.pace.last,
            validation_bits_per_character=None if has_overflowed else validation,
            skipped=state.recovery.skipped,
            by=by,
            gradient_norm=losses.mean_gradient_norm,
            validation_overflowed=has_overflowed or None,
            new_text=self._has_new_text or None,
        )

    def _write_record(self, record: Record) -> None:
        self._since_record, self._has_new_text = Losses(), False
        self._time_budget.recorded(record.seconds)
        self.write_down(record=self.in_units(record.to_json()))
        self._listener(record)

    def _write_sample(self, is_over: bool) -> Sample | None:
        """Let the model write; None if it cannot, or if a timed run has no time for it.

        Training draws no number from these, so that its bits are the same without samples.
        """
        if self.learner.model.spec.sees_both_sides:
            return None
        before, budget = self.clock.seconds, self._time_budget
        if not (is_over or budget.can_afford_sample(before)):
            return None
        stepper = Stepper(self.model_file(self.learner.model.arrays(), None, {}), self.learner.counting.mixture())
        sample = write_sample(stepper, lambda: budget.is_sample_too_long(self.clock.seconds - before))
        budget.sample_took(self.clock.seconds - before)
        budget.pace.resume()
        return sample

    def _validate(self) -> float | None:
        return self.validation.measure(self.state.evaluation_characters, self._while_validating)

    def _while_validating(self, share: float) -> None:
        self._listener(Validating(self.state.step, share))
        if self._time_budget.is_record_due(self.clock.seconds):
            self._report_by_clock()

    def _keep_if_best(self, validation: float | None) -> None:
        state = self.state
        is_kept_anyway = not (self.validation.can_tell_best and self.world.agree(self.logbook.has_best)[0])
        if state.best.consider(validation, is_kept_anyway=is_kept_anyway):
            self.world.from_first(lambda: self.write_down(best=self.model_now()))

    def model_now(self) -> ModelFile:
        """Return the model as it is now; the weight of its n-grams is not fitted yet."""
        metrics = {"step": self.state.step, "epoch": self.epoch, "seconds": self.state.seconds}
        return self.model_file(self.learner.model.arrays(), self.learner.counting.mixture(), metrics)

    @property
    def _progress(self) -> tuple[int, float, float]:
        return self.state.step, self.epoch, self.state.seconds

    def _keep_if_due(self) -> None:
        """Keep the model as it is now if the settings ask for it; nothing of the training depends on that."""
        if not (self._keeper.is_due(self._progress) and self.learner.is_finite):
            return
        if lost := self.logbook.kept:
            self._listener(Note(f"the model of step {lost.step:,} is not kept, because it could not be written"))
        self.world.from_first(lambda: self.write_down(kept=self.model_now()))
        with suppress(OSError):
            if note := note_on_size([file.stat().st_size for file in self.run.kept_models().values()]):
                self._listener(Note(note))

    # Saving, rolling back, resuming

    def snapshot(self) -> ModelFile:
        """Return the state that an exact resume needs."""
        return self._file(self.learner.arrays(), self.state.to_json())

    def model_file(self, weights: Arrays, mixture: Mixture | None, metrics: dict[str, Any]) -> ModelFile:
        """Return weights and n-grams as a model file of this run."""
        return self._file(weights | (mixture.arrays() if mixture else {}), metrics)

    def _file(self, arrays: Arrays, metrics: dict[str, Any]) -> ModelFile:
        facts = self.corpus.facts() | self.learner.parts.facts(), self.runtime.facts()
        return ModelFile(arrays, self.corpus.vocabulary, self.config.model_dump(), metrics, *facts, self.base)

    def save(self) -> None:
        """Write the whole state to `last.safetensors`; roll back if it holds numbers that are not finite."""
        if not self.learner.is_finite:
            self._roll_back()
            return
        self._last_good = self.snapshot()
        self._write_last(self._last_good)

    def _save_by_clock(self) -> None:
        """Save in case the process is killed; a rollback still returns to where it would without the clock."""
        if self.learner.is_finite:
            self._write_last(self.snapshot())

    def _write_last(self, state: ModelFile) -> None:
        self._time_budget.saved()
        self.world.from_first(lambda: self.write_down(last=state))
        self._listener(Saved(self.state.step))

    def _roll_back(self) -> None:
        """Return to the last good state with half the rate."""
        assert self._last_good is not None
        before = self.state
        if before.recovery.is_exhausted:
            raise TrainingError(
                f"the loss does not stay finite, even at 1/{2**MAX_ROLLBACKS} of the learning rate",
                f"`{self.run.path}` holds the last good state; a lower `train.learning_rate` may help",
            )
        self._take_over(self._last_good)
        self.state.recovery.count_rollback(before.recovery)
        self.state.seconds = before.seconds
        self._since_record = Losses()
        self._keeper.restart(self._progress)
        self.logbook.rewind(self.state.step)
        self._write_last(self.snapshot())
        self._listener(RolledBack(before.step, self.state.step, self.state.recovery.rate))

    def restore(self, snapshot: ModelFile, is_new_text: bool = False) -> None:
        """Resume from a snapshot of the run.

        Args:
            snapshot: what `snapshot` returned.
            is_new_text: whether the text may be another one; then its streams start with an empty state, and what was
                measured on the old text does not count.

        Raises:
            RunError: it is the state of another text, or no state of such a run.
        """
        self._take_over(snapshot, is_new_text)
        self.clock.resume_from(self.state.seconds)

    def _take_over(self, snapshot: ModelFile, is_new_text: bool = False) -> None:
        is_same_text = snapshot.corpus.get("sha256") == self.corpus.sha256
        if not (is_same_text or is_new_text):
            raise text_has_changed(self.run.path, self.config.data.corpus)
        # Old runs have no smoothed loss, which starts now, no gradient norms, and no plan of the time.
        later: dict[str, Any] = {"smoothed_nats": self.state.smoothed_nats, "gradient_norms": None}
        later |= {"reserved_seconds": 0.0, "evaluation_characters": 0}
        try:
            state = TrainState.from_json(later | snapshot.metrics)
            if snapshot.vocabulary != self.corpus.vocabulary:
                raise ValueError("its symbols are not those of the text")
            has_updated = state.step > state.recovery.skipped
            if has_updated and not self.learner.optimizer.is_described_by(snapshot.arrays):
                raise ValueError("the state of the optimiser is missing")
            self.learner.load_arrays(snapshot.weights, snapshot.arrays, is_same_text=is_same_text)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"`{self.run.last}` holds no state that a run can resume from: {reason}",
                f"`charlm sample --model {self.run.path}` can still use its model, or start a new run",
            ) from error
        self.state = state
        if not is_same_text:
            self._has_new_text = True
            state.best.forget()

    def reopen(self) -> None:
        """Let a finished run whose settings have changed continue, if it is not over by these settings."""
        self.state.regularisation = replace(self.state.regularisation, settled=False)
        if self.share < 1:
            self.state.finished = ""

    # Writing

    def in_units(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return figures under names with their units: characters, bytes, or masked ones."""
        return self.corpus.vocabulary.in_units(values, sees_both_sides=self.learner.model.spec.sees_both_sides)

    def write_down(self, **parts: Any) -> None:
        """Write to the run folder; report when that starts to fail, and when it works again."""
        before = self.logbook.trouble
        is_written = self.logbook.put(**parts)
        if is_written and before:
            self._listener(Note(f"everything is written down again in `{self.run.path}`"))
        elif not is_written and not before:
            self._listener(Note(f"{self.logbook.trouble}; the run continues and tries again"))
