"""The benchmark measures what it says, in turns, and leaves the user's cache alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from charlm.cells import CELLS
from charlm.cli.bench import make_optimizer
from charlm.evaluation import bench
from charlm.evaluation.bench import EMBEDDING_SIZE, PARTS, Size, measure
from charlm.files import cache_folder
from tests.helpers.commands import answer, call
from tests.helpers.evaluation import TINY_WORKLOAD


@pytest.fixture(autouse=True)
def tiny_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the command measure a workload that takes no time, in this process."""

    def run(command: list[str], **_: object) -> None:
        """Run what `charlm` would do in a process of its own."""
        python, option, name, *arguments = command
        assert (python, option) == (sys.executable, "-m" if name == "charlm" else "-c")
        assert name == "import torch" or call(*arguments).exit_code == 0

    monkeypatch.setattr(bench, "WORKLOAD", TINY_WORKLOAD)
    monkeypatch.setattr("charlm.evaluation.bench.subprocess", SimpleNamespace(run=run))


def test_every_part_is_measured_beside_its_alternative() -> None:
    """All cells and sizes, one text and many, reading and starting have figures, and ratios that follow from them."""
    rows = list(measure(PARTS, 1, make_optimizer, TINY_WORKLOAD))
    assert {row.part for row in rows} == set(PARTS)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert {f"{cell} {size}" for cell in ("lstm", "gru", "rnn") for size in ("1x8", "2x8")} <= set(names)
    assert {f"{cell} 1x8" for cell in CELLS} <= set(names)
    for row in rows:
        assert row.charlm > 0
        of_training = {row.gemm_share, row.layers_ratio, row.arithmetic}
        assert (None not in of_training) if row.part == "training" else (of_training == {None})
        if row.beside is None:
            assert row.ratio is None
        elif row.unit == "s":
            assert row.ratio == pytest.approx(row.beside / row.charlm)
        else:
            assert row.ratio == pytest.approx(row.charlm / row.beside)


def test_bench_prints_machine_command_and_rows_as_json() -> None:
    """`--json` names what the figures depend on, and has the fields of each row and its ratio."""
    found = answer("bench", "--only", "sampling", "--rounds", "1", "--json")
    assert {"processor", "cores", "threads", "torch", "numpy", "charlm"} <= set(found["machine"])
    assert found["command"] == "charlm bench --only sampling --rounds 1"
    assert {row["part"] for row in found["rows"]} == {"sampling"}
    assert all(row["ratio"] == pytest.approx(row["charlm"] / row["beside"]) for row in found["rows"])


def test_bench_prints_a_table_under_machine_and_command() -> None:
    """The columns of a row are aligned with the heads of the table, although each row is printed at once."""
    result = call("bench", "--only", "training", "--rounds", "1")
    assert result.exit_code == 0
    command, machine, empty, head, *rows = result.stdout.splitlines()
    assert command.startswith("charlm bench --only training --rounds 1: medians")
    assert f"torch {torch.__version__}" in machine
    assert (empty, head.split()) == ("", ["training", "charlm", "beside", "ratio", "layers", "GEMM", "arithmetic"])
    assert len(rows) == len(CELLS) + 3
    end = head.index("ratio") + len("ratio")
    assert all("." in row[:end].split()[-1] and row[end] == " " for row in rows)


def test_measured_functions_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions run in turns, and their medians leave out the first run."""
    now, order = [0.0], []
    durations = {"a": iter([100.0, 1.0, 5.0, 2.0]), "b": iter([200.0, 7.0, 9.0, 8.0])}
    monkeypatch.setattr("charlm.evaluation.bench.time.perf_counter", lambda: now[0])

    def work(name: str) -> None:
        order.append(name)
        now[0] += next(durations[name])

    assert bench._in_turns(3, lambda: work("a"), lambda: work("b")) == [2.0, 8.0]
    assert "".join(order) == "abababab"


def test_the_torch_model_has_the_same_weights() -> None:
    """The models that are compared differ only in the embedding of the start symbol."""
    for cell in ("lstm", "gru", "rnn"):
        ours, stock = bench._model(cell, Size(2, 8)), bench._StockModel(cell, Size(2, 8))
        count = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, stock)]
        assert count[0] - count[1] == EMBEDDING_SIZE


def test_the_gemm_share_counts_operations_of_all_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six operations for each weight and character, worked out for one GRU layer with given times."""
    # Forward and backward, the optimiser, the same of torch, and a product; the gates of a GRU take three turns.
    monkeypatch.setattr(bench, "_in_turns", lambda *_, **__: [2.0, 0.5 * 3, 6.0, 1.5, 4.0])
    row = bench._training_row("gru", Size(1, 8), 1, make_optimizer, TINY_WORKLOAD)
    weights = 3 * 8 * EMBEDDING_SIZE + 3 * 8 * 8 + 8 * len(bench.SYMBOLS)
    characters = TINY_WORKLOAD.num_streams * TINY_WORKLOAD.block_size
    assert row.gemm_share == pytest.approx(6 * weights * characters / 2.0 / (2 * TINY_WORKLOAD.gemm_size**3 / 4.0))
    assert (row.charlm, row.beside) == (characters / 2.5, characters / 7.5)
    assert row.ratio == pytest.approx(3.0)
    assert row.layers_ratio == pytest.approx(3.0)


def test_bench_leaves_the_cache_of_the_user_alone() -> None:
    """The texts that it encodes are not in the cache afterwards."""
    folder = cache_folder()
    before = sorted(Path(folder).rglob("*"))
    answer("bench", "--only", "texts", "--rounds", "1", "--json")
    assert cache_folder() == folder
    assert sorted(Path(folder).rglob("*")) == before
