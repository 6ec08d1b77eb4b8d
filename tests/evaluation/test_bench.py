"""The benchmark measures what it says, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from charlm.evaluation import bench
from charlm.files import cache_folder
from charlm.nn.runtime import Runtime
from tests.helpers.commands import answer, call


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure things that take no time."""
    monkeypatch.setattr(bench, "SIZES", {"1x8": (1, 8), "2x8": (2, 8)})
    monkeypatch.setattr(bench, "CHARACTERS_SAMPLED", 5)
    monkeypatch.setattr(bench, "TEXT_BYTES", 1000)
    monkeypatch.setattr(bench, "GEMM_SIZE", 64)


def test_every_part_is_measured_with_what_it_is_measured_beside() -> None:
    """All cells, all sizes, one text and many, reading, starting; each ratio follows from its figures."""
    found = answer("bench", "--rounds", "1", "--json")
    assert {row["part"] for row in found["rows"]} == set(bench.PARTS)
    names = [row["name"] for row in found["rows"]]
    assert len(set(names)) == len(names)
    assert {f"{cell} {size}" for cell in ("lstm", "gru", "rnn") for size in ("1x8", "2x8")} <= set(names)
    for row in found["rows"]:
        assert row["charlm"] > 0
        of_training = {"gemm_share", "layers_ratio", "arithmetic"}
        assert {name for name in of_training if row[name] is not None} == (
            of_training if row["part"] == "training" else set()
        )
        if row["beside"] is None:
            assert row["ratio"] is None
        elif row["unit"] == "s":
            assert row["ratio"] == pytest.approx(row["beside"] / row["charlm"])
        else:
            assert row["ratio"] == pytest.approx(row["charlm"] / row["beside"])
    assert {"processor", "cores", "threads", "torch", "numpy", "charlm"} <= set(found["machine"])
    assert found["command"] == "charlm bench --rounds 1"


def test_the_table_says_what_was_measured_where() -> None:
    """A person reads the machine, the command and a line a figure."""
    result = call("bench", "--only", "texts", "--rounds", "1")
    assert result.exit_code == 0
    assert result.stdout.startswith("charlm bench --only texts --rounds 1: medians")
    assert f"torch {torch.__version__}" in result.stdout
    assert "read and encode" in result.stdout
    assert "lstm" not in result.stdout


def test_works_take_turns_and_the_first_run_of_each_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the works move, medians are those of the later runs."""
    now, order = [0.0], []
    durations = {"a": iter([100.0, 1.0, 5.0, 2.0]), "b": iter([200.0, 7.0, 9.0, 8.0])}
    monkeypatch.setattr("charlm.evaluation.bench.time.perf_counter", lambda: now[0])

    def work(name: str) -> None:
        order.append(name)
        now[0] += next(durations[name])

    assert bench._in_turns(3, lambda: work("a"), lambda: work("b")) == [2.0, 8.0]
    assert "".join(order) == "abababab"


def test_the_model_beside_has_the_same_weights() -> None:
    """But for the symbol that begins a text, and for nothing else."""
    for cell in ("lstm", "gru", "rnn"):
        ours, stock = bench._model(cell, 8, 2), bench._StockModel(cell, 8, 2)
        count = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, stock)]
        assert count[0] - count[1] == bench.EMBEDDING_SIZE


def test_the_share_counts_products_once_forward_and_twice_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six operations for each weight and character: written out for one GRU layer, on a clock of our own."""
    monkeypatch.setattr(bench, "SIZES", {"1x8": (1, 8)})
    # Forward and back, the optimiser, the same of torch's, and a product; a GRU's gates take three turns.
    monkeypatch.setattr(bench, "_in_turns", lambda *_, **__: [2.0, 0.5 * 3, 6.0, 1.5, 4.0])
    (row,) = (row for row in bench._training(Runtime(torch.device("cpu"), "fp32", 1), 1) if row.name == "gru 1x8")
    weights = 3 * 8 * bench.EMBEDDING_SIZE + 3 * 8 * 8 + 8 * len(bench.SYMBOLS)
    characters = bench.STREAMS * bench.BLOCK_SIZE
    assert row.gemm_share == pytest.approx(6 * weights * characters / 2.0 / (2 * 64**3 / 4.0))
    assert (row.charlm, row.beside) == (characters / 2.5, characters / 7.5)
    assert row.ratio == pytest.approx(3.0)
    assert row.layers_ratio == pytest.approx(3.0)


def test_the_users_cache_is_left_alone() -> None:
    """The texts it reads are its own and go with it."""
    folder = cache_folder()
    before = sorted(Path(folder).rglob("*"))
    answer("bench", "--only", "texts", "--rounds", "1", "--json")
    assert cache_folder() == folder
    assert sorted(Path(folder).rglob("*")) == before
