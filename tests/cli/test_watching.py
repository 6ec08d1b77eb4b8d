"""A run on the screen of a terminal: it shows the run's own figures, and its plain lines remain."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from charlm.cli.cockpit import Judged
from charlm.cli.live import TrainingDisplay
from charlm.cli.screen import ENTER, LEAVE
from charlm.cli.train_session import judged
from charlm.cli.watching import Cockpit, watch
from charlm.errors import TrainingError
from charlm.training.events import Event, Note, Preparing, Record, RolledBack, Validating
from charlm.training.trainer import Trainer
from tests.helpers.terminal import Terminal, on_a_terminal, watched_terminal
from tests.helpers.training import Hours, assert_same_run, begin, interrupt, records, resume


def screen_of(cockpit: Cockpit, columns: int = 100, rows: int = 30) -> str:
    """Return what the screen shows now."""
    return "\n".join(line.plain for line in cockpit.lines(columns, rows))


def test_the_screen_shows_the_lines_of_the_metrics_file() -> None:
    """After the run the last figures are those of the last lines, and the baseline and the judgement are there."""
    training = begin(now=Hours())
    cockpit = Cockpit(training, judged)
    training.learn(cockpit.show)
    screen, lines = screen_of(cockpit, 130, 40), records(training)
    last = lines[-1]
    best = min(line["validation_bits_per_character"] for line in lines if "validation_bits_per_character" in line)
    for figure in (
        f"train {last['train_bits_per_character']:.3f}",
        f"validation {last['validation_bits_per_character']:.3f}",
        f"best {best:.3f}",
        f"learning rate {last['learning_rate']:.2g}",
        f"gradient norm {last['gradient_norm']:.2g}",
        "step 20 of 20",
        "-gram ",
        "100%",
        last["sample"].split("\n")[0][:20],
        judged(training).sentence[:40],
    ):
        assert figure in screen


def test_a_screen_changes_no_bit_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the screen has the same bits and records as a run that nobody watches."""
    watched_terminal(monkeypatch, 100, 30)
    seen, unseen = begin("seen"), begin("unseen")
    with watch(seen, judged) as display:
        assert isinstance(display, Cockpit)
        seen.learn(display.show)
    unseen.learn()
    assert_same_run(seen, unseen)


def test_the_plain_lines_remain_after_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the terminal afterwards has every line of a validation that a pipe gets."""
    terminal = watched_terminal(monkeypatch, 100, 30)
    with watch(training := begin("seen", now=Hours()), judged) as display:
        training.learn(display.show)
    written = terminal.getvalue()
    assert written.startswith(ENTER)
    assert written.count(LEAVE) == 1
    after = written.partition(LEAVE)[2]
    plain = Terminal()
    monkeypatch.setattr(sys, "stderr", plain)
    monkeypatch.setenv("NO_COLOR", "1")
    with watch(training := begin("plain", now=Hours()), judged) as display:
        assert type(display) is TrainingDisplay
        training.learn(display.show)
    lines = [line for line in plain.getvalue().splitlines() if "valid" in line]
    assert len(lines) == 5
    assert all(line in after.splitlines() for line in lines)
    assert "best " in after


def test_an_error_is_raised_after_the_screen_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said stays, and whoever reports the error finds the terminal as it was."""
    terminal = watched_terminal(monkeypatch, 100, 30)
    training = begin()
    display = watch(training, judged)

    def fail(event: Event) -> None:
        display.show(Note("the disk is full"))
        raise TrainingError("too large", "")

    with pytest.raises(TrainingError), display:
        training.learn(fail)
    assert terminal.getvalue().partition(LEAVE)[2] == "the disk is full\n"
    assert sys.stderr is terminal


def test_what_happens_apart_from_learning_is_shown() -> None:
    """Preparations and validations come and go; a note and a rollback stay until the next one."""
    training = begin()
    cockpit = Cockpit(training, judged)
    shown: list[tuple[Event, str]] = [
        (Preparing("counting the n-grams to beat"), "counting the n-grams to beat"),
        (Validating(3, 0.4), "validating, 40%"),
        (Note("the disk is full"), "the disk is full"),
        (RolledBack(9, 5, 0.5), "numbers were not finite at step 9: back to step 5"),
    ]
    for event, text in shown:
        cockpit.show(event)
        assert text in screen_of(cockpit)
    cockpit.notify("finishing this block and saving; again to quit at once")
    assert "finishing this block" in screen_of(cockpit)


def test_a_resumed_run_has_its_curve_so_far() -> None:
    """The screen of a resumed run begins with the lines of `metrics.jsonl`."""
    training = begin()
    interrupt(training, 12)
    cockpit = Cockpit(resume(training.run), lambda _: Judged("unclear", "so"))
    lines = records(training)
    validations = [line for line in lines if "validation_bits_per_character" in line]
    screen = screen_of(cockpit)
    assert len(validations) == 2
    assert f"train {lines[-1]['train_bits_per_character']:.3f}" in screen
    assert f"validation {validations[-1]['validation_bits_per_character']:.3f}" in screen
    assert "step 12 of 20" in screen
    assert " 60%" in screen


def test_the_curve_is_judged_after_each_validation() -> None:
    """A drawing without a new validation does not read the log again."""
    calls: list[Trainer] = []

    def judge(trainer: Trainer) -> Judged:
        calls.append(trainer)
        return Judged("flat", f"judged {len(calls)} times")

    cockpit = Cockpit(begin(), judge)
    assert "judged 1 times" in screen_of(cockpit)
    assert "judged 1 times" in screen_of(cockpit)
    cockpit.show(Record(1, 0.1, 1.0, 4.0, 4.0, 0.1, 100.0, validation_bits_per_character=4.0))
    assert "flat: judged 2 times" in screen_of(cockpit)


def test_a_timed_run_counts_down_to_its_budget() -> None:
    """What is left is what remains of the time, not an estimate by the blocks that were learned."""
    now = Hours()
    training = begin(now=now, train__steps=None, train__time=100.0)
    cockpit = Cockpit(training, judged)
    now.seconds += 30
    assert "0:30 of 1:40   1:10 left" in screen_of(cockpit)


def test_a_run_of_steps_estimates_what_is_left() -> None:
    """A quarter of the run took 10 s, so the rest takes 30 s; before the first block nothing is known."""
    clock = Hours()
    training = begin(now=clock)
    clock.seconds += 5
    cockpit = Cockpit(training, judged)
    assert "left" not in screen_of(cockpit)
    clock.seconds += 10
    interrupt(training, 5, cockpit.show)
    assert "25%   0:15 elapsed   0:30 left" in screen_of(cockpit)


def test_a_sample_that_the_settings_ask_for_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the place of the last one, and stays on the terminal afterwards."""
    terminal = watched_terminal(monkeypatch, 100, 30)
    training = begin(train__sample_every=6)
    with watch(training, judged) as display:
        assert isinstance(display, Cockpit)
        interrupt(training, 6, display.show)
        assert "it writes, at step 6" in screen_of(display)
    assert "--- step 6, smoothed " in terminal.getvalue().partition(LEAVE)[2]


def test_something_is_seen_before_torch_is_loaded(tmp_path: Path) -> None:
    """The first thing on a terminal says what takes so long; it is removed before an error is reported."""
    (tmp_path / "torch.py").write_text("raise OSError('no such thing')", encoding="utf-8")
    shown = on_a_terminal("train", "-c", "hello", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    first, _, rest = shown.decode().partition("\x1b[K\r\n")
    assert first.endswith(" loading torch")
    assert "\r\x1b[K\x1b[A\x1b[K" in rest.partition("error:")[0]
    assert "cannot be loaded: OSError: no such thing" in " ".join(rest.split())
