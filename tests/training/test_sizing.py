"""The size of a net follows from the pace of the machine, the time, and the length of the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from charlm.cells import CELLS
from charlm.nn.runtime import Runtime
from charlm.settings.config import Config, ModelConfig
from charlm.spec import ModelSpec
from charlm.training import sizing
from charlm.training.sizing import (
    SIZES,
    Sized,
    equal_size,
    measure,
    predicted,
    reference_size,
    seconds_of_block,
    settle,
)
from tests.helpers.commands import answer, call

# The time of a block on a machine: a part in proportion to the square of the size, and a constant part.
PACES = {"slow": 20.0, "laptop": 1.0, "fast": 0.1}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that simulates a machine of some pace."""

    def be(name: str) -> None:
        measured = {size: PACES[name] * (0.01 + 1e-6 * size**2) for size in (64, 128, 256, 512)}
        monkeypatch.setattr(sizing, "measure", lambda make, limit: measured)

    return be


def settled(seconds: float | None, num_characters: int = 1_000_000, **model: object) -> Sized:
    """Choose a size without a real machine."""
    values = {"model": {"hidden_size": "auto"} | model, "train": {"time": seconds} if seconds else {"steps": 100}}
    runtime = Runtime(torch.device("cpu"), "fp32", 1)
    return settle(Config.model_validate(values), num_characters, 65, lambda: runtime)


def test_more_time_and_a_faster_machine_bring_a_larger_net(machine: Callable[[str], None]) -> None:
    """The size grows with every tenfold time, up to the largest size that the rule was fitted for."""
    sizes = []
    for name in PACES:
        machine(name)
        sizes.append([settled(seconds).size for seconds in (10, 100, 1000)])
    for row in [*sizes, *zip(*sizes, strict=True)]:
        assert list(row) == sorted(row)
    flat = [size for row in sizes for size in row]
    assert len(set(flat)) > 4
    assert set(flat) <= set(SIZES)


def test_a_short_text_brings_a_small_net(machine: Callable[[str], None]) -> None:
    """A large net would overfit a short text, however fast the machine is."""
    machine("fast")
    sizes = [settled(100, num_characters).size for num_characters in (2_000, 20_000, 2_000_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_predicted_loss_falls_with_reading_then_overfits() -> None:
    """More blocks are better, more readings of a short text are worse, and a larger net loses more by them."""
    assert predicted(256, 2e6, 10**7) < predicted(256, 1e6, 10**7)
    by_heart = [predicted(size, 1e7, 10**5) - predicted(size, 1e7, 10**7) for size in (128, 512)]
    assert 0 < by_heart[0] < by_heart[1]
    assert predicted(512, 1e7, 10**7) < predicted(128, 1e7, 10**7)


def test_a_block_between_two_measured_sizes_takes_a_time_between() -> None:
    """The time follows a power law, and beyond the largest size the square of the size."""
    measured = {64: 0.01, 128: 0.02, 256: 0.08}
    assert [seconds_of_block(size, measured) for size in (32, 64, 128, 256)] == pytest.approx([0.01, 0.01, 0.02, 0.08])
    assert seconds_of_block(181, measured) == pytest.approx(0.04, rel=0.01)
    assert seconds_of_block(512, measured) == pytest.approx(0.32)


def test_measuring_block_times_ends_before_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine measures the first size only, whatever it takes; the first block of each size does not count."""
    now = [0.0]
    monkeypatch.setattr("charlm.training.sizing.time.perf_counter", lambda: now[0])

    def make(size: int) -> Callable[[], None]:
        durations = iter([9.0, 1.0, 2.0])

        def learn() -> None:
            now[0] += next(durations)

        return learn

    assert measure(make, limit=0.1) == {64: 1.0}
    assert measure(make, limit=30.0) == {64: 1.0, 128: 1.0}
    assert list(measure(make, limit=1e9)) == list(sizing.MEASURED_SIZES)


@pytest.mark.parametrize("cell", CELLS)
def test_cells_of_auto_size_have_equal_parameters(cell: str) -> None:
    """They are equal within a few percent, so that a comparison is fair, and the inverse gives the same size."""
    model = ModelConfig.model_validate({"cell": cell})
    size = equal_size(model, 256, 65)

    def count(cell: str, size: int) -> int:
        settings = model.model_dump() | {"cell": cell, "hidden_size": size}
        shapes = ModelSpec.of_settings(settings, 65).shapes
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    assert count(cell, size) == pytest.approx(count("lstm", 256), rel=0.03)
    assert reference_size(model, size, 65) == pytest.approx(256, rel=0.03)


def test_without_a_time_the_size_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a given number of steps is the same everywhere."""
    monkeypatch.setattr(sizing, "measure", lambda *_: pytest.fail("it is measured"))
    assert settled(None) == Sized(512, "")
    assert settled(None, hidden_size=100) == Sized(100, "")
    assert settled(None, cell="rnn").size > 512


def test_a_given_size_is_kept_and_reported_if_far_off(machine: Callable[[str], None]) -> None:
    """The note reports how often the net reads the text and which size would do better; a good size has no note."""
    machine("slow")
    kept = settled(20, hidden_size=1024)
    assert kept.size == 1024
    assert "1024 units should read the text 0.0034 times in this time" in kept.reason
    assert "are predicted to be better" in kept.reason
    best = settled(20)
    assert settled(20, hidden_size=best.size) == Sized(best.size, "")


@pytest.mark.parametrize(
    ("number", "words"),
    [(6900.4, "6,900 times"), (101.2, "101 times"), (11.24, "11.2 times"), (0.0034, "0.0034 times")],
)
def test_readings_are_plain_numbers(number: float, words: str) -> None:
    """A short text is read thousands of times, a long one not even once."""
    assert sizing._times(number) == words


def test_the_chosen_size_is_reported_and_saved(text: str) -> None:
    """The first lines of a run report the size, and its settings have it as a number that gives the same run again."""
    done = call("train", "--corpus", text, "--time", "0.5s", "--out", "run", "--sample-length", "1")
    assert done.exit_code == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "units are predicted to be best" in line)
    size = int(line.split()[1])
    assert size in SIZES
    assert f"hidden_size: {size}\n" in Path("run/config.yaml").read_text(encoding="utf-8")


def test_a_dry_run_says_which_size_and_why(text: str) -> None:
    """The size is a remark for readers and a field for programs."""
    found = answer("train", "--corpus", text, "--time", "2s", "--dry-run", "--json")
    assert found["settings"]["model"]["hidden_size"] in SIZES
    assert "units are predicted to be best" in found["size"]
