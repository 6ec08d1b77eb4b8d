"""Time in which the process sleeps is not training time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from charlm.settings.config_file import load_config
from charlm.training import lifecycle
from charlm.training.events import Note
from charlm.training.learner import Learner
from charlm.training.schedule import Clock, awake_clock
from charlm.training.trainer import Trainer
from tests.helpers.training import Hours, assert_same_run, begin, events_of, metrics, resume


class Laptop(Hours):
    """A fake machine whose cores compute all the time, except when it sleeps."""

    asleep = 0.0

    def computed(self) -> float:
        """Return how long its cores have computed."""
        return self.seconds - self.asleep

    def sleep(self, seconds: float) -> None:
        """Let time pass in which nothing is computed; the thread looks at the clock just before and after it."""
        self._clock.now()
        self.seconds += seconds
        self.asleep += seconds
        self._clock.now()

    def clock(self) -> Clock:
        """Return a new clock that leaves out the time asleep."""
        self._clock = Clock(self, self.computed)
        return self._clock


@pytest.fixture
def laptop() -> Laptop:
    """A machine that is awake."""
    return Laptop()


def names_of_threads() -> list[str]:
    """Return the names of all threads."""
    return [thread.name for thread in threading.enumerate()]


# The clock


def test_a_clock_leaves_out_the_time_asleep(laptop: Laptop) -> None:
    """Seconds awake count, however the sleep lies between them."""
    clock = laptop.clock()
    for _ in range(50):
        laptop.seconds += 0.2
        clock.now()
    laptop.sleep(60)
    assert clock.seconds == pytest.approx(10)
    laptop.seconds += 0.2
    laptop.sleep(3600)
    laptop.seconds += 0.2
    assert clock.seconds == pytest.approx(10.4)
    assert clock.seconds_asleep == pytest.approx(3660)
    before = clock.now()
    laptop.seconds += 1
    assert clock.now() - before == pytest.approx(1)


def test_work_counts_however_long_it_takes(laptop: Laptop) -> None:
    """Minutes without a look count if the cores compute, and so does a short wait for something else."""
    clock = laptop.clock()
    laptop.seconds += 300
    assert clock.seconds == 300
    laptop.sleep(4)
    assert clock.seconds == 304
    assert clock.seconds_asleep == 0
    # A core that is shared with another program.
    laptop.seconds += 60
    laptop.asleep += 25
    assert (clock.seconds, clock.seconds_asleep) == (364, 0)


def test_waiting_counts_if_somebody_looks_at_the_clock(laptop: Laptop) -> None:
    """A process that waits for a slow disk computes nothing, but its threads run."""
    clock = laptop.clock()
    for _ in range(300):
        laptop.sleep(0.2)
        clock.now()
    assert clock.seconds == pytest.approx(60)
    assert clock.seconds_asleep == 0


def test_a_clock_that_does_not_know_the_cores_counts_everything(laptop: Laptop) -> None:
    """So do the clocks of runs of steps and epochs, which do not end by the clock."""
    clock = Clock(laptop)
    laptop.seconds += 600
    assert (clock.seconds, clock.seconds_asleep) == (600, 0)


def test_a_thread_looks_at_the_clock_of_a_timed_run() -> None:
    """It ends with the run; a run of steps has none."""
    before = names_of_threads()
    with awake_clock(is_timed=True) as clock:
        assert names_of_threads() == [*before, "charlm clock"]
        assert 0 <= clock.seconds < 60
    assert names_of_threads() == before
    with pytest.raises(ValueError, match="in the run"), awake_clock(is_timed=True):
        raise ValueError("in the run")
    assert names_of_threads() == before
    with awake_clock(is_timed=False):
        assert names_of_threads() == before


@pytest.mark.parametrize(("duration", "is_watched"), [("train.time=9s", True), ("train.steps=1", False)])
def test_a_new_and_a_resumed_run_have_the_clock(duration: str, is_watched: bool) -> None:
    """Both leave out the time asleep if they end by the clock."""
    overrides = [duration, "model.hidden_size=8", "train.threads=1", "train.precision=fp32", "data.corpus=hello"]
    with lifecycle.begin(load_config("lstm", overrides), None) as trainer:
        assert ("charlm clock" in names_of_threads()) == is_watched
        trainer.save()
    with lifecycle.resume(trainer.run.path, [], {}, False):
        assert ("charlm clock" in names_of_threads()) == is_watched
    assert "charlm clock" not in names_of_threads()


# A run


def sleeping_in(name: str, call: int, laptop: Laptop, monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0) -> None:
    """Let the machine sleep in one call of a method of a run."""
    owner = Learner if hasattr(Learner, name) else Trainer
    method: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(10**6))

    def sleepy(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            laptop.sleep(seconds)
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, sleepy)


TIMED: dict[str, Any] = {"train__steps": None, "train__time": 10.0}
WORK = {"learn_block": 0.25, "_validate": 0.02, "_write_last": 0.02}


@pytest.mark.parametrize("name", WORK)
def test_a_timed_run_that_slept_equals_one_that_did_not(
    name: str, laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute asleep while it learns, validates or saves changes no bit, no record and no learning rate."""
    awake = Laptop()
    with monkeypatch.context() as patch:
        awake.spend(patch, **WORK)
        straight = begin("straight", now=awake.clock(), **TIMED)
        assert not any(isinstance(event, Note) for event in events_of(straight))
    with monkeypatch.context() as patch:
        laptop.spend(patch, **WORK)
        sleeping_in(name, 3, laptop, patch)
        slept = begin("slept", now=laptop.clock(), **TIMED)
        notes = [event.message for event in events_of(slept) if isinstance(event, Note)]
    assert notes == ["the process slept for about 60 s, which is not counted"]
    assert_same_run(straight, slept)
    assert straight.state.seconds == pytest.approx(slept.state.seconds)
    assert straight.state.step == slept.state.step > 30
    assert metrics(slept)[-1]["learning_rate"] < 0.1 * max(record["learning_rate"] for record in metrics(slept))


def test_each_sleep_is_noted_once(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sleeps have two notes, each with its own length."""
    laptop.spend(monkeypatch, **WORK)
    sleeping_in("learn_block", 3, laptop, monkeypatch, 60.0)
    sleeping_in("learn_block", 9, laptop, monkeypatch, 7200.0)
    events = events_of(begin(now=laptop.clock(), **TIMED))
    notes = [event.message for event in events if isinstance(event, Note)]
    assert [re.findall(r"[\d,]+(?= s)", note) for note in notes] == [["60"], ["7,200"]]


def test_a_resumed_run_does_not_count_an_earlier_sleep(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a run saves is the time that it was awake."""
    laptop.spend(monkeypatch, **WORK)
    sleeping_in("learn_block", 3, laptop, monkeypatch)
    first = begin(now=laptop.clock(), **TIMED)
    first.learn(lambda event: first.stop() if first.state.step == 8 else None)
    assert 2 < first.state.seconds < 3
    again = resume(first.run, laptop.clock())
    assert again.clock.seconds == pytest.approx(first.state.seconds)
    assert 0.2 < again.share < 0.3


# A text that is learned long before the time is over


def test_a_timed_run_ends_when_a_tiny_text_is_memorised(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five characters need far less than a minute, and nothing is held out that more training could improve."""
    laptop.spend(monkeypatch, learn_block=0.01)
    training = begin(text="hello", now=laptop.clock(), train__steps=None, train__time=60.0)
    events_of(training)
    assert training.state.finished == "the text is memorised"
    assert training.clock.seconds < 10
    assert metrics(training)[-1]["train_bits_per_character"] < 0.25


def test_a_run_of_steps_learns_a_tiny_text_to_the_end() -> None:
    """Steps and epochs are always done as they were asked for."""
    training = begin(text="hello", train__steps=150)
    events_of(training)
    assert (training.state.step, training.state.finished) == (150, "done")
    assert metrics(training)[-1]["train_bits_per_character"] < 0.2


def test_a_text_that_is_long_enough_to_validate_uses_its_time(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text that is easy to predict has enough held out, so that its validation says when to stop."""
    laptop.spend(monkeypatch, learn_block=0.25)
    training = begin(text="ab" * 500, now=laptop.clock(), train__steps=None, train__time=30.0)
    events_of(training)
    assert metrics(training)[-1]["train_bits_per_character"] < 0.005
    assert training.state.finished == "done"
