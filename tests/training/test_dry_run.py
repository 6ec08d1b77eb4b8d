"""A dry run reports the settings, parameters, memory and time of a run without starting it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charlm.cells import CELLS
from charlm.data.corpus import load_corpus
from charlm.errors import TrainingError
from charlm.nn.runtime import Runtime
from charlm.settings.config_file import load_config
from charlm.training import dry_run as forecasts
from charlm.training.dry_run import estimate_run, least_memory_bytes
from charlm.training.learner import Learner
from tests.helpers.commands import SHORT, answer, call
from tests.helpers.training import begin, interrupt


def test_a_dry_run_prints_a_settings_file_and_writes_nothing(text: str) -> None:
    """The printed settings can be trained with, and train the same model."""
    result = call("train", "-c", text, *SHORT, "--seed", "4", "--dry-run")
    assert result.exit_code == 0
    assert not Path("runs").exists()
    Path("printed.yaml").write_text(result.stdout, encoding="utf-8")
    flags = {"data.corpus": [text], "seed": 4}
    overrides = [value for value in SHORT if value != "--set"]
    assert load_config("printed.yaml") == load_config("lstm", overrides, flags)
    assert "parameters" in result.stdout
    assert "6 blocks" in result.stdout


def test_a_dry_run_counts_what_a_run_then_has(text: str) -> None:
    """Parameters and blocks equal those of the run, and the model file is as large as its parameters require."""
    reported = answer("train", "-c", text, *SHORT, "--seed", "4", "--dry-run", "--json")
    run = answer("train", "-c", text, *SHORT, "--seed", "4", "--json")
    assert reported["steps"] == run["step"] == 6
    assert reported["epochs"] == pytest.approx(run["epoch"])
    assert reported["model_bytes"] == 4 * reported["parameters"]
    assert Path(run["model"]).stat().st_size == pytest.approx(reported["model_bytes"], abs=8000)
    assert reported["settings"]["model"]["hidden_size"] == 24
    assert "cpu" in reported["runtime"]


def test_precedence_shows_in_a_dry_run(text: str) -> None:
    """A flag wins over `--set`, `--set` over the file, the file over the default."""
    Path("mine.yaml").write_text("seed: 1\nmodel: {cell: gru, hidden_size: 9}\ntrain: {steps: 3}\n", encoding="utf-8")
    common = ["train", "mine.yaml", "-c", text, "--set", "train.batch_size=4", "--dry-run", "--json"]
    assert answer(*common)["settings"]["seed"] == 1
    reported = answer(*common, "--set", "seed=2", "--seed", "3", "--set", "model.hidden_size=11")["settings"]
    assert (reported["seed"], reported["model"]["hidden_size"], reported["model"]["cell"]) == (3, 11, "gru")
    assert reported["model"]["embedding_size"] == 64


def test_a_dry_run_of_a_timed_run_reports_its_time() -> None:
    """The number of blocks follows from the trial."""
    training = begin(train__steps=None, train__time=30.0)
    expected = estimate_run(training.config, training.corpus, training.runtime)
    assert expected.seconds == 30
    steps = 30 * expected.characters_per_second / training.learner.characters_per_block
    assert expected.steps == pytest.approx(steps, rel=0.01, abs=1)


def test_a_trial_of_blocks_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights do not change, because the rate is zero."""
    training, learners = begin(train__weight_decay=0.1), []
    arrays = Learner.arrays

    def noted(self: Learner) -> Any:
        learners.append(self)
        return arrays(self)

    monkeypatch.setattr(Learner, "arrays", noted)
    estimate_run(training.config, training.corpus, training.runtime)
    (tried,) = learners
    for name, array in training.learner.model.arrays().items():
        assert (tried.model.arrays()[name] == array).all()
    assert any(tensor.any() for tensor in tried.optimizer.tensors())


def test_a_dry_run_has_no_run_folder(text: str) -> None:
    """The current folder has the same content before and after, even if it is an old run."""
    interrupt(begin("old"), 3)
    before = {path: path.read_bytes() for path in Path("old").iterdir()}
    with contextlib.chdir("old"):
        assert call("train", "-c", f"../{text}", *SHORT, "--dry-run").exit_code == 0
    assert {path: path.read_bytes() for path in Path("old").iterdir()} == before


def test_a_run_that_cannot_fit_is_refused_before_it_is_tried(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives the memory needed and the memory there is, and no folder is made."""
    monkeypatch.setattr(forecasts, "usable_bytes", lambda: 1e6)
    for extra in ([], ["--dry-run"]):
        result = call("train", "-c", text, *SHORT, "--set", "model.hidden_size=512", "--out", "large", *extra)
        assert result.exit_code == 1
        assert "GB of memory" in result.stderr
        assert not Path("large").exists()


def test_the_largest_settings_are_refused_on_any_machine(text: str) -> None:
    """A terabyte is more than any machine has."""
    huge = ["--set", "model.hidden_size=16384", "--set", "model.num_layers=16"]
    result = call("train", "-c", text, *huge, "--dry-run")
    assert (result.exit_code, "Traceback" in result.stderr) == (1, False)


def in_a_small_container(monkeypatch: pytest.MonkeyPatch, gigabytes: float = 1.0) -> None:
    """Limit the memory to that of a small container for a process that has loaded torch and nothing else."""
    monkeypatch.setattr(forecasts, "usable_bytes", lambda: gigabytes * 1e9)
    monkeypatch.setattr(forecasts, "resident_bytes", lambda: 265_000_000)


def needed(precision: str = "fp32", device: str = "cpu", **changes: Any) -> float:
    """Return the estimate of the bytes that a run on fables needs."""
    flags: dict[str, Any] = {"data.corpus": "fables", "train.steps": 3}
    config = load_config(
        "lstm",
        (),
        {"model.hidden_size": 512} | flags | {key.replace("__", "."): value for key, value in changes.items()},
    )
    return least_memory_bytes(config, load_corpus(["fables"]), Runtime(torch.device(device), precision, 1))


@pytest.mark.parametrize(("hidden_size", "fits"), [(512, True), (1024, True), (2048, False)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gigabyte_holds_the_runs_that_fit_into_it(
    monkeypatch: pytest.MonkeyPatch, hidden_size: int, fits: bool, precision: str
) -> None:
    """Measured, these runs take at most 0.59, 0.88 and 1.55 GB, including torch itself."""
    in_a_small_container(monkeypatch)
    assert (needed(precision, model__hidden_size=hidden_size) <= 1e9) == fits


def test_memory_that_the_process_already_holds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that already holds another gigabyte needs one more."""
    in_a_small_container(monkeypatch)
    before = needed()
    monkeypatch.setattr(forecasts, "resident_bytes", lambda: 1_265_000_000)
    assert needed() - before == 1e9


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ({"precision": "bf16"}, {}),
        ({"train__batch_size": 32}, {}),
        ({"train__block_size": 32}, {}),
        ({"model__direction": "both", "model__hidden_size": 256}, {"model__direction": "both"}),
        ({}, {"model__direction": "both"}),
        ({}, {"model__num_layers": 2}),
        ({"model__cell": "rnn"}, {"model__cell": "gru"}),
        ({"model__cell": "mingru"}, {"model__cell": "minlstm"}),
        ({"device": "cuda"}, {}),
        ({"train__optimizer": "sgd", "model__hidden_size": 4096}, {"model__hidden_size": 4096}),
        ({"model__hidden_size": 4096}, {"train__optimizer": "adam", "model__hidden_size": 4096}),
    ],
)
def test_what_makes_a_run_larger_needs_more_memory(
    monkeypatch: pytest.MonkeyPatch, smaller: dict[str, Any], larger: dict[str, Any]
) -> None:
    """Larger sizes, full precision, a second direction and the state of an optimiser all add to the memory."""
    in_a_small_container(monkeypatch)
    assert needed(**smaller) < needed(**larger)


@pytest.mark.parametrize(("device", "hidden_size"), [("cpu", 4096), ("cuda", 512)])
def test_what_torch_loads_to_exchange_gradients_counts(
    monkeypatch: pytest.MonkeyPatch, device: str, hidden_size: int
) -> None:
    """Several processes load it also where the save, not the block, decides: on a GPU, and with a large model."""
    in_a_small_container(monkeypatch)
    flags = {"model.hidden_size": hidden_size, "train.batch_size": 2, "train.block_size": 2}
    config, text = load_config("lstm", (), {"data.corpus": "fables", "train.steps": 3} | flags), load_corpus(["fables"])
    alone = Runtime(torch.device(device), "fp32", 1)
    together = least_memory_bytes(config, text, replace(alone, processes=2))
    assert together - least_memory_bytes(config, text, alone) == forecasts.EXCHANGE_CODE_BYTES


@pytest.mark.parametrize("name", forecasts.MOMENTS)
def test_the_estimate_counts_the_state_of_the_optimiser(name: str) -> None:
    """Each has some values per weight, besides a step count; Muon has more for the weights it leaves to AdamW."""
    training = begin(train__optimizer=name)
    training.learner.learn_block(0, 1.0, training.state.regularisation)
    moments = sum(tensor.numel() for tensor in training.learner.optimizer.tensors() if tensor.dim())
    most = 2 if name == "muon" else forecasts.MOMENTS[name]
    num_parameters = training.learner.model.spec.num_parameters
    assert forecasts.MOMENTS[name] * num_parameters <= moments <= most * num_parameters


# The run has its own process: otherwise it would first use memory that other tests have freed.
MEASURED_RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from charlm.training import dry_run, lifecycle
from charlm.cli.app import app

needed = []
lifecycle.check_memory = lambda *arguments: needed.append(dry_run.least_memory_bytes(*arguments))
app(sys.argv[1:], standalone_mode=False)
peak = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(f"\\n{needed[0]} {int(peak[0]) * 1024}")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")
@pytest.mark.parametrize(
    "cell", [cell if cell == "lstm" else pytest.param(cell, marks=pytest.mark.slow) for cell in CELLS]
)
def test_a_run_needs_as_much_memory_as_estimated(cell: str) -> None:
    """The estimate is close: it rarely refuses a run that fits and rarely allows one that does not."""
    changes = ["model.cell=" + cell, "train.steps=2", "train.evaluations=1", "train.precision=fp32", "train.threads=1"]
    changes += ["data.validation_fraction=0.01", "model.hidden_size=384"]
    options = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-c", MEASURED_RUN, "train", *options, "--seed", "1", "--sample-length", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, peak = map(float, done.stdout.split()[-2:])
    assert 0.7 * peak < said < 1.1 * peak


def test_torch_out_of_memory_is_an_error_of_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This covers a system that refuses memory which the machine has."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("charlm.training.learner.Learner.learn_block", refuse)
    result = call("train", "-c", text, *SHORT, "--out", "run")
    assert (result.exit_code, result.stderr.count("error: there is not enough memory")) == (1, 1)


def test_a_dry_run_of_a_started_run_is_refused(text: str) -> None:
    """The settings of a started run are in its folder."""
    interrupt(begin(), 3)
    result = call("train", "--resume", "run", "--dry-run")
    assert (result.exit_code, "config.yaml" in result.stderr) == (2, True)


def test_the_figures_of_a_dry_run_are_json(text: str) -> None:
    """The output is one line, for programs."""
    result = call("train", "-c", text, *SHORT, "--dry-run", "--json")
    assert len(result.stdout.splitlines()) == 1
    assert json.loads(result.stdout)["memory_bytes"] > 10**7


def test_too_little_memory_is_a_training_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that uses charlm can distinguish the error from others."""
    training = begin()
    in_a_small_container(monkeypatch, gigabytes=0.25)
    with pytest.raises(TrainingError, match=r"at least 0\.2\d GB of memory, .* has 0\.25"):
        forecasts.check_memory(training.config, training.corpus, training.runtime)
