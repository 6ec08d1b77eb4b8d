"""What a run will take is told without a run: settings, parameters, memory, time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charlm import config as settings
from charlm import forecast as forecasts
from charlm.errors import TrainingError
from charlm.forecast import forecast, least_memory_bytes
from tests.commands import SHORT, answer, call
from tests.training import begin, interrupt


def test_a_dry_run_prints_a_settings_file_and_writes_nothing(text: str) -> None:
    """What is printed can be trained with, and trains the same."""
    result = call("train", "-c", text, *SHORT, "--seed", "4", "--dry-run")
    assert result.exit_code == 0
    assert not Path("runs").exists()
    Path("printed.yaml").write_text(result.stdout, encoding="utf-8")
    flags = {"data.corpus": [text], "seed": 4}
    overrides = [value for value in SHORT if value != "--set"]
    assert settings.load("printed.yaml") == settings.load("lstm", overrides, flags)
    assert "parameters" in result.stdout
    assert "6 blocks" in result.stdout


def test_a_dry_run_counts_what_a_run_then_has(text: str) -> None:
    """Parameters and blocks are those of the run, the model file is as large as its numbers."""
    told = answer("train", "-c", text, *SHORT, "--seed", "4", "--dry-run", "--json")
    run = answer("train", "-c", text, *SHORT, "--seed", "4", "--json")
    assert told["steps"] == run["step"] == 6
    assert told["epochs"] == pytest.approx(run["epoch"])
    assert told["model_bytes"] == 4 * told["parameters"]
    assert Path(run["model"]).stat().st_size == pytest.approx(told["model_bytes"], abs=8000)
    assert told["settings"]["model"]["hidden_size"] == 24
    assert "cpu" in told["runtime"]


def test_precedence_shows_in_a_dry_run(text: str) -> None:
    """A flag wins over `--set`, `--set` over the file, the file over the default."""
    Path("mine.yaml").write_text("seed: 1\nmodel: {cell: gru, hidden_size: 9}\ntrain: {steps: 3}\n", encoding="utf-8")
    common = ["train", "mine.yaml", "-c", text, "--set", "train.batch_size=4", "--dry-run", "--json"]
    assert answer(*common)["settings"]["seed"] == 1
    told = answer(*common, "--set", "seed=2", "--seed", "3", "--set", "model.hidden_size=11")["settings"]
    assert (told["seed"], told["model"]["hidden_size"], told["model"]["cell"]) == (3, 11, "gru")
    assert told["model"]["embedding_size"] == 64


def test_a_timed_run_takes_its_time() -> None:
    """How many blocks that makes follows from the trial."""
    training = begin(train__steps=None, train__time=30.0)
    expected = forecast(training)
    assert expected.seconds == 30
    assert expected.steps == pytest.approx(
        30 * expected.characters_per_second / (training.num_streams * training.block_size), rel=0.01, abs=1
    )


def test_a_trial_learns_nothing() -> None:
    """The weights are what they were, for the rate is zero."""
    training, untouched = begin(train__weight_decay=0.1), begin("other", train__weight_decay=0.1)
    forecast(training)
    for name, array in untouched.model.arrays().items():
        assert (training.model.arrays()[name] == array).all()


def test_a_run_that_cannot_fit_is_refused_before_it_is_tried(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it needs and what there is, and no folder is made for it."""
    monkeypatch.setattr(forecasts, "usable_bytes", lambda: 1e6)
    for extra in ([], ["--dry-run"]):
        result = call("train", "-c", text, *SHORT, "--set", "model.hidden_size=512", "--out", "large", *extra)
        assert result.exit_code == 1
        assert "GB of memory" in result.stderr
        assert not Path("large").exists()


def test_the_largest_settings_are_refused_on_any_machine(text: str) -> None:
    """A terabyte is more than there is."""
    huge = ["--set", "model.hidden_size=16384", "--set", "model.num_layers=16"]
    result = call("train", "-c", text, *huge, "--dry-run")
    assert (result.exit_code, "Traceback" in result.stderr) == (1, False)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_the_least_memory_counts_every_weight(cell: str) -> None:
    """It grows with the weights by seven numbers each, and with a block's characters."""
    training = begin(model__cell=cell)
    model, symbols = training.config.model.model_dump(), len(training.corpus.vocabulary)
    assert least_memory_bytes(model, symbols, 0) == 4 * 7 * training.num_parameters
    assert least_memory_bytes(model, symbols, 40) > least_memory_bytes(model, symbols, 0)


def test_torch_out_of_memory_is_an_error_of_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the system refuse what the machine has."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("charlm.train.Training.learn_block", refuse)
    result = call("train", "-c", text, *SHORT, "--out", "run")
    assert (result.exit_code, result.stderr.count("error: there is not enough memory")) == (1, 1)


def test_a_dry_run_is_not_of_a_run_that_has_begun(text: str) -> None:
    """Its settings are in its folder."""
    interrupt(begin(), 3)
    result = call("train", "--resume", "run", "--dry-run")
    assert (result.exit_code, "config.yaml" in result.stderr) == (2, True)


def test_the_figures_are_json(text: str) -> None:
    """One line, for programs."""
    result = call("train", "-c", text, *SHORT, "--dry-run", "--json")
    assert len(result.stdout.splitlines()) == 1
    assert json.loads(result.stdout)["memory_bytes"] > 10**7


def test_too_little_memory_is_a_training_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a program that uses charlm can tell it from others."""
    training = begin()
    monkeypatch.setattr(forecasts, "usable_bytes", lambda: 1e3)
    with pytest.raises(TrainingError, match="at least"):
        forecasts.check_memory(training.config, training.corpus)
