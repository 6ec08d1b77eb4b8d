"""Trackers beside a run: what they are told, and that none of them can stop it or keep it waiting."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from threading import Event as Signal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import charlm
from charlm.errors import PackageError, UsageError
from charlm.training import trackers
from charlm.training.events import Event, Note
from charlm.training.trackers import TRACKERS, Figures, TrackedRun, check_trackers
from charlm.training.trainer import Trainer
from tests.helpers.commands import SHORT, call
from tests.helpers.training import assert_same_run, begin, events_of, interrupt, records, resume

ROOT = Path(__file__).parents[2]


class FakeTracker:
    """Remembers what it is told; fails or hangs on request."""

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.is_closed = run, False
        self.told: list[Figures] = []

    def log(self, figures: Figures) -> None:
        """Remember figures."""
        self.told.append(figures)

    def close(self) -> None:
        """Remember the end."""
        self.is_closed = True


def follow(monkeypatch: pytest.MonkeyPatch, training: Trainer, kind: type[FakeTracker] = FakeTracker) -> list[Any]:
    """Let a run be followed by a tracker of this kind; return a list that will hold it."""
    made: list[Any] = []

    def make(run: TrackedRun) -> Any:
        tracker = kind(run)
        made.append(tracker)
        return tracker

    monkeypatch.setitem(TRACKERS, "fake", make)
    training.trackers = ("fake",)
    return made


def notes_in(events: list[Event]) -> list[str]:
    """Return the notes about the tracker."""
    return [event.message for event in events if isinstance(event, Note) and event.message.startswith("fake ")]


def test_a_tracker_is_told_the_figures_of_every_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have their names in `metrics.jsonl`; the samples, the baseline and the settings come as well."""
    training = begin(vocab__kind="bytes")
    made = follow(monkeypatch, training)
    assert notes_in(events_of(training)) == []
    (tracker,) = made
    assert tracker.is_closed
    assert tracker.run.settings["model.hidden_size"] == 16
    assert tracker.run.folder == training.run.path
    baseline, *told = tracker.told
    assert baseline.numbers.keys() == {"baseline_bits_per_byte"}
    lines = records(training)
    assert [figures.step for figures in told] == [line["step"] for line in lines]
    assert [figures.numbers["train_bits_per_byte"] for figures in told] == [
        line["train_bits_per_byte"] for line in lines
    ]
    assert [figures.sample for figures in told] == [line.get("sample", "") for line in lines]
    assert "validation_bits_per_byte" in told[-1].numbers


@pytest.mark.parametrize("method", ["__init__", "log", "close"])
@pytest.mark.parametrize("error", [ValueError("no\nserver " * 100), SystemExit(3)])
def test_a_failing_tracker_is_one_note(method: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends as without it."""

    def fail(*arguments: object) -> None:
        raise error

    straight, followed = begin("straight"), begin("followed")
    interrupt(straight, 100)
    follow(monkeypatch, followed, type("Failing", (FakeTracker,), {method: fail}))
    (note,) = notes_in(events_of(followed))
    assert note.startswith("fake stopped: ")
    assert len(note) < 350
    assert "\n" not in note
    assert_same_run(straight, followed)


@pytest.mark.parametrize("method", ["__init__", "log", "close"])
def test_a_hanging_tracker_does_not_keep_the_run(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run waits for a while at its end, and says what may be missing."""
    release = Signal()

    def hang(*arguments: object) -> None:
        release.wait(60)

    monkeypatch.setattr(trackers, "SECONDS_AT_END", 0.01)
    training = begin()
    follow(monkeypatch, training, type("Hanging", (FakeTracker,), {method: hang}))
    (note,) = notes_in(events_of(training))
    release.set()
    assert "had not ended" in note
    assert training.state.finished == "done"


def test_a_tracker_that_is_too_slow_loses_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, and one note says that the rest is lost."""
    release = Signal()

    class Slow(FakeTracker):
        def __init__(self, run: TrackedRun) -> None:
            super().__init__(run)
            release.wait(60)

    monkeypatch.setattr(trackers, "MAX_WAITING", 2)
    training = begin()
    made = follow(monkeypatch, training, Slow)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if "does not keep up" in getattr(event, "message", ""):
            release.set()

    training.learn(listen)
    (note,) = notes_in(events)
    assert "2 records wait" in note
    assert len(made[0].told) >= 2
    assert made[0].is_closed


def test_an_error_of_the_run_ends_its_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker is closed although the run was cut short."""
    training = begin()
    made = follow(monkeypatch, training)

    def refuse(event: Event) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        training.learn(refuse)
    assert made[0].is_closed


@pytest.mark.parametrize(
    ("asked", "hint"), [("wand", "did you mean `wandb`?"), ("", "charlm knows"), ("zzz", "and mlflow")]
)
def test_an_unknown_tracker_is_refused(asked: str, hint: str) -> None:
    """The hint names the nearest one, or all of them."""
    with pytest.raises(UsageError) as caught:
        check_trackers([asked])
    assert hint in caught.value.hint


def test_a_missing_package_is_an_error_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint names the extra; no run folder is made, by the command or in Python."""
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    result = call("train", *SHORT, "--corpus", "fables", "--track", "wandb")
    assert result.exit_code == 1
    assert 'hint: `pip install "charlm[wandb]"` adds it' in result.stderr
    with pytest.raises(PackageError, match="`mlflow` is not installed"):
        charlm.train("fables", track="mlflow")
    assert not Path("runs").exists()


def test_a_folder_of_that_name_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """W&B makes a folder `wandb`, which Python would import as an empty package."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(PackageError):
        check_trackers(["wandb"])


def test_every_tracker_has_an_extra() -> None:
    """`pip install "charlm[NAME]"` installs the package of that name."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in TRACKERS:
        (requirement,) = extras[name]
        assert requirement.startswith(f"{name}>=")


def test_a_run_of_wandb_stays_offline_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word from the environment nothing is sent; a resumed run continues the same run of W&B."""
    asked: list[dict[str, Any]] = []
    logged: list[int] = []
    run = SimpleNamespace(log=lambda values, step: logged.append(step), finish=lambda: None)

    def init(**options: Any) -> Any:
        asked.append(options)
        return run

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    module.Settings = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    training = begin()
    training.trackers = ("wandb",)
    interrupt(training, 10)
    monkeypatch.setenv("WANDB_MODE", "online")
    again = resume(training.run)
    again.trackers = ("wandb",)
    interrupt(again, 100)
    first, second = asked
    assert (first["mode"], second["mode"]) == ("offline", "online")
    assert first["id"] == second["id"]
    assert logged[-1] == 20


def test_a_run_of_mlflow_goes_on_after_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is made once, and its samples are files."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    class Client:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                calls.append((name, arguments))
                return None if name.startswith("get") else SimpleNamespace(info=SimpleNamespace(run_id="a1"))

            return call

    module = ModuleType("mlflow")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    training = begin()
    training.trackers = ("mlflow",)
    interrupt(training, 10)
    again = resume(training.run)
    again.trackers = ("mlflow",)
    interrupt(again, 100)
    names = [name for name, _ in calls]
    assert names.count("create_run") == 1
    assert names.count("set_terminated") == 2
    assert ("log_text", ("a1", records(training)[-1]["sample"], "samples/step-00000020.txt")) in calls


def test_a_damaged_name_of_a_run_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What stands in the run folder is untrusted."""
    for damaged in (b"", b"../../x", b"\xff\xfe", b"a" * 5000):
        (tmp_path / "run-id").write_bytes(damaged)
        assert trackers._known_id(tmp_path) is None


def test_tensorboard_shows_a_resumed_run_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has one value, also those that were learned twice."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(trackers, "SECONDS_AT_END", 60.0)
    training = begin()
    training.trackers = ("tensorboard",)
    interrupt(training, 10)
    again = resume(training.run)
    again.trackers = ("tensorboard",)
    assert not [event for event in events_of(again) if isinstance(event, Note)]
    shown = accumulator.EventAccumulator(str(training.run.path / "tensorboard")).Reload()
    scalars = shown.Scalars("validation_bits_per_character")
    expected = [line for line in records(training) if "validation_bits_per_character" in line]
    assert [scalar.step for scalar in scalars] == [line["step"] for line in expected]
    values = [line["validation_bits_per_character"] for line in expected]
    assert [scalar.value for scalar in scalars] == pytest.approx(values)
