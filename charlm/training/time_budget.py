"""What depends on the clock during a run: when a record or a save is due, and what a timed run still has time for."""

from __future__ import annotations

from collections import deque

from charlm.training.schedule import Clock, Every, Pace

# The longest time between two saves and between two records, and to the first record.
SAVE_SECONDS = 60.0
RECORD_SECONDS = 10.0
FIRST_RECORD_SECONDS = 5.0
# The share of its time that a timed run may have spent on evaluations when it starts another one.
MAX_EVALUATION_SHARE = 0.03
# The same for the samples that the model writes with its evaluations; a single one takes no more of all its time.
MAX_SAMPLE_SHARE = 0.005
# The share of its time that a timed run reserves at most for the final scoring, and for all work at its end.
MAX_SCORING_SHARE = 0.1
MAX_RESERVED_SHARE = 0.5
# The time by which a timed run may exceed its budget: for a started block, or for a scoring slower than measured.
GRACE_SHARE = 0.05
# The end of a run takes as long as this many first saves: `last` is larger by the optimiser's moments, and `best` is
# saved twice.
SAVES_AT_END = 6


class TimeBudget:
    """Measures the time of blocks, saves and evaluations, and knows when a record or a save is due.

    Attributes:
        pace: characters per second of learning.
        save_seconds: the time of the first save; 0 if the run is resumed.
    """

    def __init__(self, clock: Clock, budget: float | None) -> None:
        """Start without measurements.

        Args:
            clock: of the run.
            budget: seconds that a timed run has; None for runs of steps or epochs.
        """
        self._clock, self._budget = clock, budget
        # Two, because one may have had to wait for another program.
        self._block_seconds: deque[float] = deque(maxlen=2)
        self._evaluation_seconds = self._last_evaluation_seconds = 0.0
        self._sample_seconds = 0.0
        self.save_seconds = 0.0
        self.restart(0)

    def restart(self, characters: int) -> None:
        """Count from now on to the next record and save, with so many characters learned."""
        seconds = self._clock.seconds
        self.pace = Pace(self._clock, characters)
        self._records = Every(RECORD_SECONDS, seconds, FIRST_RECORD_SECONDS)
        self._saves = Every(SAVE_SECONDS, seconds)

    def block_took(self, seconds: float) -> None:
        """Note how long a block took."""
        self._block_seconds.append(seconds)

    def evaluation_took(self, seconds: float) -> None:
        """Note how long an evaluation took."""
        self._last_evaluation_seconds = seconds
        self._evaluation_seconds += seconds

    def is_sample_too_long(self, seconds: float) -> bool:
        """Return whether a sample of a timed run has taken so long that its text has to end."""
        return self._budget is not None and seconds > MAX_SAMPLE_SHARE * self._budget

    def sample_took(self, seconds: float) -> None:
        """Note how long a sample took."""
        self._sample_seconds += seconds

    def recorded(self, seconds: float) -> None:
        """Note when a record was written."""
        self._records.done(seconds)

    def saved(self) -> None:
        """Note that the state was saved now."""
        self._saves.done(self._clock.seconds)

    def is_record_due(self, seconds: float) -> bool:
        """Return whether a record is due by the clock."""
        return self._records.is_due(seconds)

    def is_save_due(self, seconds: float) -> bool:
        """Return whether a save is due by the clock."""
        # The next block may be followed by a validation before it can be saved.
        return self._saves.is_due(seconds, ahead=self._last_evaluation_seconds)

    def can_afford_evaluation(self, seconds: float) -> bool:
        """Return whether a timed run may spend time on an evaluation; its clock does not stop meanwhile."""
        return self._budget is None or self._evaluation_seconds <= MAX_EVALUATION_SHARE * seconds

    def can_afford_sample(self, seconds: float) -> bool:
        """Return whether a timed run may spend time on a sample; any other run may, because its records repeat."""
        return self._budget is None or self._sample_seconds <= MAX_SAMPLE_SHARE * seconds

    def fits_another_block(self, seconds: float, reserved_seconds: float) -> bool:
        """Return whether another block ends before the time that a timed run has reserved for its end."""
        if self._budget is None:
            return True
        end = self._budget - reserved_seconds + GRACE_SHARE * self._budget
        return seconds + min(self._block_seconds) <= end
