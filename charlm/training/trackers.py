"""Trackers: TensorBoard, W&B and MLflow listen to a run. None of them can stop it or keep it waiting.

Each works in a thread of its own, and gets its figures through a bounded queue. What goes wrong becomes one note.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Full, Queue
from textwrap import shorten
from threading import Thread
from typing import Any, NamedTuple, Protocol

from charlm.errors import PackageError, UsageError, counted, did_you_mean, one_line
from charlm.files import write_atomic
from charlm.training.events import Baseline, Event, Listener, Note, Record

PROJECT = "charlm"
# What may wait for a tracker at most.
MAX_WAITING = 1000
# How long a run waits at its end for its trackers, all together.
SECONDS_AT_END = 5.0
# The longest reason in a note. Some packages explain at length.
MAX_REASON = 200
RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told about a run at its start.

    Attributes:
        folder: the run folder, where a tracker keeps its files.
        step: blocks learned before.
        settings: by dotted key.
    """

    folder: Path
    step: int
    settings: dict[str, Any]


class Figures(NamedTuple):
    """What a tracker is told about an event.

    Attributes:
        step: blocks learned so far.
        numbers: by their names in `metrics.jsonl`.
        sample: a text that the model has written; empty if there is none.
    """

    step: int
    numbers: dict[str, float]
    sample: str


class _Tracker(Protocol):
    def log(self, figures: Figures) -> None:
        """Take figures."""

    def close(self) -> None:
        """Write everything down."""


class _TensorBoard:
    def __init__(self, run: TrackedRun) -> None:
        # After a crash the later steps come again.
        purge_step = run.step + 1 if run.step else None
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run.folder / "tensorboard"), purge_step=purge_step, flush_secs=10)
        settings = "\n".join(f"{name}: {value}" for name, value in run.settings.items())
        self._writer.add_text("settings", _as_code(settings), run.step)

    def log(self, figures: Figures) -> None:
        for name, value in figures.numbers.items():
            self._writer.add_scalar(name, value, figures.step)
        if figures.sample:
            self._writer.add_text("sample", _as_code(figures.sample), figures.step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of W&B, which stays on this machine unless the environment says otherwise."""

    def __init__(self, run: TrackedRun) -> None:
        wandb = import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            id=_known_id(run.folder / "wandb") or _keep_id(run.folder / "wandb", uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run.folder),
            config=run.settings,
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, figures: Figures) -> None:
        self._run.log(figures.numbers | ({"sample": figures.sample} if figures.sample else {}), step=figures.step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: TrackedRun) -> None:
        home = run.folder / "mlflow"
        # It keeps what it is told where MLflow is configured to, so that `mlflow ui` shows it.
        self._client = import_module("mlflow").MlflowClient()
        if run_id := _known_id(home):
            self._run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._run_id = self._client.create_run(experiment, run_name=run.folder.name).info.run_id
        for setting, value in run.settings.items():
            self._client.log_param(self._run_id, setting, value)
        _keep_id(home, self._run_id)

    def log(self, figures: Figures) -> None:
        for name, value in figures.numbers.items():
            self._client.log_metric(self._run_id, name, value, step=figures.step)
        if figures.sample:
            self._client.log_text(self._run_id, figures.sample, f"samples/step-{figures.step:08}.txt")

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


# By the name of the package and of the extra that installs it.
TRACKERS: dict[str, Callable[[TrackedRun], _Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
}


def check_trackers(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names without repetitions, after checking that the packages of these trackers are installed.

    Raises:
        UsageError: there is no such tracker.
        PackageError: its package is missing.
    """
    asked = tuple(dict.fromkeys(names))
    for name in asked:
        if name not in TRACKERS:
            *others, last = TRACKERS
            hint = did_you_mean(name, TRACKERS) or f"charlm knows {', '.join(others)} and {last}"
            raise UsageError(f"there is no tracker `{name}`", hint)
        spec = find_spec(name)
        # A folder of that name without code in it, such as W&B makes, is found as well, and has no origin.
        if spec is None or spec.origin is None:
            raise PackageError(f"the package `{name}` is not installed", f'`pip install "charlm[{name}]"` adds it')
    return asked


@contextmanager
def tracked(
    names: Sequence[str], run: TrackedRun, in_units: Callable[[dict[str, Any]], dict[str, Any]], listener: Listener
) -> Iterator[Listener]:
    """Let trackers follow a run, beside its listener.

    Args:
        names: of the trackers.
        run: what they are told at the start.
        in_units: gives figures the names that they have in `metrics.jsonl`.
        listener: of the run; it also hears notes about the trackers.

    Yields:
        a listener for the run.
    """
    workers = [_Worker(name, run) for name in names]

    def listen(event: Event) -> None:
        listener(event)
        if isinstance(event, Record | Baseline):
            figures = _figures(event, run.step, in_units)
            for worker in workers:
                worker.put(figures)
        _report(workers, listener)

    try:
        yield listen if workers else listener
    finally:
        until = time.monotonic() + SECONDS_AT_END
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.wait(until - time.monotonic())
    _report(workers, listener)


def _report(workers: Sequence[_Worker], listener: Listener) -> None:
    for worker in workers:
        if note := worker.new_trouble():
            listener(Note(note))


class _Worker:
    """A tracker in a thread of its own."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self._name, self._run = name, run
        self._queue: Queue[Figures | None] = Queue(MAX_WAITING)
        self._trouble = ""
        self._is_reported = self._is_closed = False
        # A thread that hangs does not keep the process.
        self._thread = Thread(target=self._work, name=f"charlm-{name}", daemon=True)
        self._thread.start()

    def put(self, figures: Figures) -> None:
        """Hand over figures; they are lost if the tracker is far behind."""
        try:
            self._queue.put_nowait(figures)
        except Full:
            self._trouble = (
                self._trouble or f"does not keep up: {counted(MAX_WAITING, 'record')} wait, later ones are lost"
            )

    def close(self) -> None:
        """Let the tracker end after what waits."""
        self._is_closed = True
        # If it is full, the thread sees the flag when it has emptied it.
        with suppress(Full):
            self._queue.put_nowait(None)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(max(seconds, 0.0))
        if self._thread.is_alive():
            self._trouble = self._trouble or f"had not ended after {SECONDS_AT_END:.0f} s: what it lacks may be lost"

    def new_trouble(self) -> str:
        """Return what went wrong, once."""
        if self._is_reported or not self._trouble:
            return ""
        self._is_reported = True
        return f"{self._name} {self._trouble}; the run and its `metrics.jsonl` are complete without it"

    def _work(self) -> None:
        # Some packages end the process that they are in, which would end only this thread.
        try:
            tracker = TRACKERS[self._name](self._run)
            while not (self._is_closed and self._queue.empty()) and (figures := self._queue.get()):
                tracker.log(figures)
            tracker.close()
        except BaseException as error:
            reason = shorten(one_line(str(error)), MAX_REASON, placeholder=" ...").rstrip(".")
            self._trouble = f"stopped: {reason or type(error).__name__}"


def _figures(event: Record | Baseline, step_at_start: int, in_units: Callable[..., dict[str, Any]]) -> Figures:
    """Return what trackers are told about an event."""
    values = in_units(event.to_json())
    step = event.step if isinstance(event, Record) else step_at_start
    numbers = {name: float(value) for name, value in values.items() if type(value) in (int, float) and name != "step"}
    return Figures(step, numbers, values.get("sample", ""))


def flat(settings: dict[str, Any], group: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        values |= flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return values


def _as_code(text: str) -> str:
    """Return a text as Markdown that shows it as it is."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _known_id(folder: Path) -> str | None:
    """Return the name that a tracker has given a run before it was resumed."""
    with suppress(OSError, ValueError):
        with (folder / "run-id").open(encoding="ascii") as file:
            found = file.read(100).strip()
        return found if RUN_ID.fullmatch(found) else None
    return None


def _keep_id(folder: Path, run_id: str) -> str:
    """Keep the name of a run for when it is resumed, and return it."""
    folder.mkdir(exist_ok=True)
    write_atomic(folder / "run-id", f"{run_id}\n".encode())
    return run_id
