"""A run keeps small model files along the way, and trains the same bits whether it does or not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.errors import ConfigError, ModelFileError
from charlm.evaluation.compare import compare_runs
from charlm.run_folder import find_model
from charlm.settings.durations import Interval
from charlm.training import keeping
from charlm.training.events import Note
from charlm.training.trainer import Trainer
from tests.helpers.commands import SHORT, answer, assert_refused, call
from tests.helpers.settings_files import loaded, refusal
from tests.helpers.training import Hours, assert_same_run, begin, events_of, interrupt, poison, resume


def kept_steps(training: Trainer) -> list[int]:
    """Return the steps of the kept models, by their files."""
    files = sorted(training.run.kept.iterdir())
    steps = [load_checkpoint(file).step for file in files]
    assert [file.name for file in files] == [f"step-{step:08}.safetensors" for step in steps]
    return [step for step in steps if step is not None]


# The setting


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("500", 500, "steps"),
        ("1 step", 1, "steps"),
        ("0.5 epochs", 0.5, "epochs"),
        ("1epoch", 1, "epochs"),
        ("30s", 30, "seconds"),
        ("1.5 m", 90, "seconds"),
        ("2h", 7200, "seconds"),
    ],
)
def test_an_interval_is_steps_epochs_or_a_time(text: str, amount: float, unit: str) -> None:
    """A bare number is steps; everything else has its unit."""
    value = loaded(f"train: {{keep_every: {text}}}\n").train.keep_every
    assert value is not None
    assert Interval.parse(value) == (amount, unit)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-5",
        "1.5",
        "0.0 epochs",
        "1.5 steps",
        "1 day",
        "'500'",
        "true",
        "[5]",
        "1e9s",
        "0.0000001 epochs",
        "10000000000",
    ],
)
def test_another_interval_is_refused(text: str) -> None:
    """The error shows the three forms."""
    assert "as in 500, `0.5 epochs` or `30s`" in refusal(f"train: {{keep_every: {text}}}\n")


# Keeping


def test_models_are_kept_at_steps() -> None:
    """Each is a model file like the best one: it has the weights of its step, and no optimiser."""
    training = begin(train__keep_every=6)
    interrupt(training, 100)
    assert kept_steps(training) == [6, 12, 18]
    other = begin("other")
    interrupt(other, 12)
    kept, expected = load_checkpoint(training.run.kept_model(12)), load_checkpoint(other.run.last)
    assert kept.arrays.keys() == kept.weights.keys() == expected.weights.keys()
    for name, array in kept.arrays.items():
        np.testing.assert_array_equal(array, expected.arrays[name])
    assert set(kept.metrics) == {"step", "epoch", "seconds"}


def test_models_are_kept_at_epochs_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch is a reading of the training part; a time that passes during a validation counts after it."""
    training = begin(train__keep_every="0.1 epochs", train__steps=30)
    per_epoch = training.learner.batches.batches_per_epoch
    interrupt(training, 100)
    expected = [step for step in range(1, 31) if (10 * step) // per_epoch > (10 * (step - 1)) // per_epoch]
    assert kept_steps(training) == expected
    hours = Hours()
    hours.spend(monkeypatch, learn_block=2.0)
    timed = begin("timed", now=hours, train__keep_every="9s", train__steps=20)
    interrupt(timed, 100)
    assert kept_steps(timed) == [5, 9, 14, 18]


def test_keeping_changes_no_trained_bit() -> None:
    """Weights, optimiser, records and best model are those of a run that keeps nothing."""
    one, other = begin("one", model__dropout=0.3), begin("other", model__dropout=0.3, train__keep_every=1)
    interrupt(one, 100)
    interrupt(other, 100)
    other.config = one.config
    assert_same_run(one, other)
    assert not one.run.kept.exists()


def test_a_resumed_run_keeps_the_same_models() -> None:
    """None is missing, none is there twice, and the interval may change."""
    straight, broken = begin("straight", train__keep_every=3), begin("broken", train__keep_every=3)
    interrupt(straight, 100)
    interrupt(broken, 6)
    interrupt(resume(broken.run), 1)
    last = resume(broken.run)
    interrupt(last, 100)
    assert kept_steps(last) == kept_steps(straight) == [3, 6, 9, 12, 15, 18]
    for step in kept_steps(last):
        assert last.run.kept_model(step).read_bytes()
        one, other = (load_checkpoint(run.run.kept_model(step)) for run in (last, straight))
        np.testing.assert_array_equal(one.arrays["output.weight"], other.arrays["output.weight"])
    longer = resume(broken.run, train__steps=30, train__keep_every=10)
    interrupt(longer, 100)
    assert kept_steps(longer) == [3, 6, 9, 12, 15, 18, 30]


def test_a_rewound_run_drops_only_later_models() -> None:
    """What was kept after the last save belongs to blocks that are learned again; other files stay."""
    training = begin(train__keep_every=2, train__evaluations=2)
    interrupt(training, 8)
    saved = training.run.last.read_bytes()
    again = resume(training.run)
    interrupt(again, 7)
    (training.run.kept / "notes.txt").write_text("mine", encoding="utf-8")
    training.run.last.write_bytes(saved)
    again.logbook.rewind(8)
    assert sorted(path.name for path in training.run.kept.iterdir()) == [
        "notes.txt", *(f"step-0000000{step}.safetensors" for step in (2, 4, 6, 8)),
    ]  # fmt: skip


def test_a_rolled_back_run_keeps_its_models_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of the blocks that did not stay finite are dropped, and no step is left out after them."""
    training = begin(train__keep_every=2, train__evaluations=4)
    poison(training, monkeypatch, set(range(5, 10)))
    interrupt(training, 100)
    assert training.state.recovery.rollbacks == 1
    assert kept_steps(training) == list(range(2, 21, 2))


# The disk


def test_a_full_disk_costs_only_kept_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one waits for room; the run goes on, and says which models it has lost."""
    save = ModelFile.save
    full = {"step-00000004.safetensors", "step-00000008.safetensors"}

    def fail(model: ModelFile, path: Path) -> None:
        if path.name in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(model, path)

    monkeypatch.setattr(ModelFile, "save", fail)
    training = begin(train__keep_every=4)
    notes = [event.message for event in events_of(training) if isinstance(event, Note)]
    assert training.state.finished == "done"
    assert not training.logbook.trouble
    assert kept_steps(training) == [12, 16, 20]
    assert "step-00000004.safetensors` could not be written: No space left" in notes[0]
    assert [note for note in notes if "is not kept" in note] == [
        f"the model of step {step} is not kept, because it could not be written" for step in (4, 8)
    ]
    assert "written down again" in notes[-1]


def test_nothing_is_kept_outside_the_run_folder() -> None:
    """A link in place of the folder is not followed, neither to write nor to remove."""
    Path("elsewhere").mkdir()
    mine = Path("elsewhere/step-00000019.safetensors")
    mine.write_bytes(b"mine")
    training = begin(train__keep_every=4, train__steps=8)
    training.run.kept.symlink_to(Path("elsewhere").absolute())
    training.logbook.rewind(0)
    interrupt(training, 100)
    assert (list(Path("elsewhere").iterdir()), mine.read_bytes()) == ([mine], b"mine")
    assert "kept" in training.logbook.trouble


def test_a_note_says_when_kept_models_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note comes before the run if its length is known, and at the limit in any case."""
    monkeypatch.setattr(keeping, "MUCH", 20_000.0)
    training = begin(train__keep_every=2)
    size = 4 * training.learner.model.spec.num_parameters
    assert 20_000 / 10 < size < 20_000
    assert f"train.keep_every 2 keeps 10 models, {10 * size / 1e9:.1f} GB" in training.notes
    notes = [event.message for event in events_of(training) if isinstance(event, Note)]
    files = [path.stat().st_size for path in sorted(training.run.kept.iterdir())]
    number = next(count for count in range(11) if sum(files[:count]) > 20_000)
    assert notes == [f"{number} kept models take 0.0 GB now"]
    assert not [note for note in begin("few", train__keep_every=15).notes if "keeps" in note]


def test_a_dry_run_counts_the_models_to_keep(text: str) -> None:
    """It prints how many there will be, and how large they are together."""
    options = ["train", "-c", text, *SHORT, "--set", "train.keep_every=2", "--seed", "1", "--dry-run"]
    found = answer(*options, "--json")
    assert found["kept_models"] == 3
    assert f"# about 3 kept models, {3 * found['model_bytes'] / 1e6:.1f} MB" in call(*options).stdout
    options[options.index("train.keep_every=2")] = "train.keep_every=6"
    assert "# about 1 kept model, " in call(*options).stdout


# Use


def test_kept_models_can_be_used_and_compared(text: str) -> None:
    """`sample`, `eval`, `compare` and `--from` take them; a comparison shows the validation at their step."""
    options = [*SHORT, "--set", "train.keep_every=3", "--set", "train.evaluations=6"]
    assert call("train", "-c", text, *options, "--seed", "1", "--out", "run", "--sample-length", "0").exit_code == 0
    first, second = (f"run/kept/step-0000000{step}.safetensors" for step in (3, 6))
    assert len(answer("sample", "-m", first, "-n", "9", "--json")["text"]) == 9
    rows = {row.run: row for row in compare_runs([Path("run"), Path(first), Path(second)]).rows}
    assert [rows[name].steps for name in ("run", first, second)] == [6, 3, 6]
    assert rows[first].best == pytest.approx(answer("eval", "-m", first, "--json")["bits_per_character"], abs=1e-6)
    assert "`best` of a model that was kept" in call("compare", "run", first).stderr
    started = call("train", "--from", first, "-c", text, *SHORT[4:], "--sample-length", "0")
    assert started.exit_code == 0, started.stderr
    with pytest.raises(ModelFileError) as raised:
        find_model(Path("run/kept"))
    assert first in raised.value.hint
    assert "--resume run" in call("train", "--resume", first).stderr
    assert [row.run for row in compare_runs([Path("run/kept")]).rows] == [second, first]
    assert "did you mean its run, `run`?" in call("train", "--resume", "run/kept").stderr


def test_kept_models_are_no_part_of_a_text(text: str) -> None:
    """`-c .` means the same text after a run below the folder has kept models."""
    options = ["train", "-c", ".", *SHORT, "--set", "train.keep_every=3", "--sample-length", "0"]
    for _ in range(2):
        result = call(*options)
        assert result.exit_code == 0, result.stderr
        assert "binary" not in result.stderr
    assert call("eval").exit_code == 0


@pytest.mark.parametrize("value", ["never", 0, [], "1 epochs\n"])
def test_a_model_with_a_false_interval_does_not_resume(text: str, value: Any) -> None:
    """The settings of a file are checked like those of a user."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    last = Path("run/last.safetensors")
    file = load_checkpoint(last)
    file.config["train"]["keep_every"] = value
    file.save(last)
    assert_refused(call("train", "--resume", "run"))


def test_an_interval_in_a_program_has_its_unit() -> None:
    """A string without a unit is no interval."""
    with pytest.raises(ConfigError, match="keep_every"):
        charlm.train("fables", keep_every="500")
