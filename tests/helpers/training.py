"""Small runs for the tests: started, interrupted, resumed, compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.checkpoint import load_checkpoint
from charlm.data.corpus import load_corpus
from charlm.nn.runtime import Runtime, bf16_works
from charlm.run_folder import RunFolder
from charlm.settings.config import Config
from charlm.settings.config_file import load_config, override_config
from charlm.training.events import BlockLearned, Event, Listener, Record, ignore
from charlm.training.learner import Learner
from charlm.training.schedule import Clock
from charlm.training.trainer import Trainer

BF16_WORKS = bf16_works(torch.device("cpu"))
needs_bf16 = pytest.mark.skipif(not BF16_WORKS, reason="bf16 does not work on this processor")
CAT_AND_DOG = "the cat sat on the mat and the dog sat on the log, said the frog. " * 40


class Hours:
    """A clock that advances only when a test advances it, so that hours pass in no time."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.seconds

    def spend(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        """Let every call of these methods of a run take this many seconds: `learn_block=3.0`."""
        for name, duration in seconds.items():
            owner = Learner if hasattr(Learner, name) else Trainer
            monkeypatch.setattr(owner, name, self._slow(getattr(owner, name), duration))

    def _slow(self, method: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slow(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            self.seconds += seconds
            return result

        return slow


def begin(
    name: str = "run", text: str = CAT_AND_DOG, now: Callable[[], float] | Clock | None = None, **changes: Any
) -> Trainer:
    """Set up a small run."""
    Path("text.txt").write_text(text, encoding="utf-8")
    flags = {
        "model.hidden_size": 16,
        "model.embedding_size": 8,
        "model.dropout": 0.0,
        "model.weight_dropout": 0.0,
        "train.steps": 20,
        "train.batch_size": 4,
        "train.block_size": 10,
        "train.evaluations": 4,
        "train.precision": "fp32",
        "train.threads": 1,
        "seed": 3,
        "data.corpus": "text.txt",
    }
    flags |= {key.replace("__", "."): value for key, value in changes.items()}
    flags = {key: value for key, value in flags.items() if value is not None}
    return training_of(load_config("lstm", (), flags), RunFolder.create(Path(name), ""), now)


def training_of(config: Config, run: RunFolder, now: Callable[[], float] | Clock | None = None) -> Trainer:
    """Set up a run with these settings."""
    clock = Clock(now) if callable(now) else now
    text = load_corpus(config.data.corpus, kind=config.vocab.kind)
    runtime = Runtime.choose(config.train.device, config.train.precision, config.train.threads)
    return Trainer(config, text, run, runtime, clock)


def resume(run: RunFolder, now: Callable[[], float] | Clock | None = None, **changes: Any) -> Trainer:
    """Resume a run, perhaps with other settings of `train`."""
    last = load_checkpoint(run.last)
    flags = {key.replace("__", "."): value for key, value in changes.items()}
    training = training_of(override_config(last.config, (), flags), run, now)
    training.restore(last)
    training.reopen()
    run.truncate_metrics(training.state.step)
    return training


def interrupt(training: Trainer, steps: int, listener: Listener = ignore) -> None:
    """Train for this many blocks and stop."""
    left = steps
    if not left:
        training.stop()

    def count(event: Event) -> None:
        nonlocal left
        listener(event)
        if isinstance(event, BlockLearned):
            left -= 1
            if not left:
                training.stop()

    training.learn(count)


def events_of(training: Trainer) -> list[Event]:
    """Train to the end and return all events."""
    events: list[Event] = []
    training.learn(events.append)
    return events


def records_of(training: Trainer) -> list[Record]:
    """Train to the end and return the records."""
    return [event for event in events_of(training) if isinstance(event, Record)]


def at_records(act: Callable[[Record], object]) -> Listener:
    """Return a listener that calls a function after the block of each record, once it is saved."""
    record: Record | None = None

    def listen(event: Event) -> None:
        nonlocal record
        if isinstance(event, Record):
            record = event
        if isinstance(event, BlockLearned) and record:
            act(record)
            record = None

    return listen


def records(training: Trainer, by: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl` that were written by share of the run, or `by="clock"`."""
    lines = [json.loads(line) for line in training.run.metrics.read_text().splitlines()]
    return [line for line in lines if line.get("by") == by and "baseline" not in line]


def poison(training: Trainer, monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> None:
    """Make some calls of the model return NaN."""
    forward, count = training.learner.model.forward, iter(range(10**9))

    def poisoned(*arguments: Any) -> Any:
        logits_TBV, state = forward(*arguments)
        return (logits_TBV * math.nan, state) if next(count) in calls else (logits_TBV, state)

    monkeypatch.setattr(training.learner.model, "forward", poisoned)
    # Evaluation would use up calls.
    monkeypatch.setattr(Trainer, "_validate", lambda self: 1.0)


def metrics(training: Trainer) -> list[dict[str, Any]]:
    """Read `metrics.jsonl` without what depends on the clock: records by the clock, and figures of time."""
    lines = records(training)
    return [{k: v for k, v in line.items() if k not in ("seconds", "characters_per_second")} for line in lines]


def assert_same_run(one: Trainer, other: Trainer) -> None:
    """Compare everything that two runs have written, bit for bit."""
    for file in ("best", "last"):
        mine, yours = (load_checkpoint(getattr(training.run, file)) for training in (one, other))
        assert mine.arrays.keys() == yours.arrays.keys()
        for name, array in mine.arrays.items():
            np.testing.assert_array_equal(array, yours.arrays[name], err_msg=f"{file} {name}")
        times = ("seconds",)
        assert {k: v for k, v in mine.metrics.items() if k not in times} == {
            k: v for k, v in yours.metrics.items() if k not in times
        }
    assert metrics(one) == metrics(other)
