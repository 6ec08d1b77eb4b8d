"""Cells at equal size: parameters, seed, and runs that are those of a cell trained alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import charlm
from charlm.cells import CELLS
from charlm.checkpoint import load_checkpoint
from charlm.data.recall import recall_text
from charlm.settings.config import Config
from charlm.settings.config_file import load_config
from charlm.training.family import Member, equal_members
from tests.helpers.commands import HARE_AND_FOX, SHORT, call


def members(*overrides: str, cells: tuple[str, ...] = tuple(CELLS)) -> list[Member]:
    """Return a family on a short text."""
    Path("text.txt").write_text(HARE_AND_FOX)
    flags = {"data.corpus": "text.txt", "train.steps": 5, "train.threads": 1}
    return equal_members([load_config(None, overrides, {**flags, "model.cell": cell}) for cell in cells])


def num_weights(config: Config, num_symbols: int) -> int:
    """Count the weights of a model of one layer that reads forward, independently of its spec."""
    model, size, num_inputs = config.model, config.model.num_units, config.model.embedding_size
    rows = {"lstm": 4, "gru": 3, "rnn": 1}[model.cell]
    layer = rows * size * (num_inputs + size + 2)
    return (num_symbols + 1) * num_inputs + layer + num_symbols * (size + 1)


@pytest.mark.parametrize("size", [5, 16, 64, 200])
def test_all_cells_have_about_as_many_parameters(size: int) -> None:
    """The first cell has the size that was given, and the others come as near as whole units can."""
    found = members(f"model.hidden_size={size}")
    assert found[0].config.model.cell == next(iter(CELLS))
    assert found[0].config.model.hidden_size == size
    target = found[0].num_parameters
    for config, num_parameters in found:
        model = config.model
        step = model.spec(17, model.num_units + 1).num_parameters - model.spec(17).num_parameters
        assert abs(num_parameters - target) <= max(0.02 * target, step), model.cell


def test_the_parameters_are_counted_independently() -> None:
    """The counts are those of the shapes: gates, inputs, biases, embedding and output."""
    for config, num_parameters in members("model.hidden_size=24", cells=("lstm", "gru", "rnn")):
        assert num_parameters == num_weights(config, len(set(HARE_AND_FOX)))


def test_sizes_are_multiples_of_8_where_these_are_near() -> None:
    """At usual sizes the units of gru and rnn are a multiple of 8."""
    found = members("model.hidden_size=512", cells=("lstm", "gru", "rnn"))
    sizes = [member.config.model.num_units for member in found]
    assert all(size % 8 == 0 for size in sizes)


def test_auto_is_the_size_of_the_first_cell_alone() -> None:
    """Without a time limit an lstm has 512 units, and a gru that comes first the units of such a model."""
    assert members(cells=("lstm", "rnn"))[0].config.model.hidden_size == 512
    first, second = members(cells=("gru", "lstm"))
    assert second.config.model.num_units == pytest.approx(512, abs=8)
    assert first.num_parameters == pytest.approx(second.num_parameters, rel=0.02)


def test_a_family_differs_in_cell_and_size_alone() -> None:
    """Seed, text and every other setting are the same; a seed is drawn if none is given."""
    found = [config.model_dump() for config, _ in members("model.hidden_size=16")]
    for settings in found:
        del settings["model"]["cell"], settings["model"]["hidden_size"]
    assert all(settings == found[0] for settings in found)
    assert found[0]["seed"] is not None
    assert members("model.hidden_size=16", "seed=7")[0].config.seed == 7


def test_a_run_of_a_family_is_that_of_its_cell_alone() -> None:
    """The second and the third run have the bits of runs that are started alone with their settings."""
    Path("text.txt").write_text(HARE_AND_FOX)
    given = ["--corpus", "text.txt", *SHORT, "--seed", "5"]
    result = call("train", "--family", "lstm,gru,rnn", *given, "--out", "family")
    assert result.exit_code == 0, result.stderr
    for cell in ("gru", "rnn"):
        together = load_checkpoint(Path("family", cell, "last.safetensors"))
        size = together.spec.hidden_size
        sizes = ["--set", f"model.cell={cell}", "--set", f"model.hidden_size={size}"]
        assert call("train", *given, *sizes, "--out", cell, "--sample-length", "0").exit_code == 0
        alone = load_checkpoint(Path(cell, "last.safetensors"))
        assert all(np.array_equal(alone.weights[name], together.weights[name]) for name in alone.weights)


@pytest.mark.slow
def test_only_gates_solve_the_task_that_needs_memory() -> None:
    """After 250 blocks the gated cells predict the repeated key of `recall`, and the plain net guesses among eight."""
    text = recall_text(100, seed=2)
    keys = [place for place in range(1, len(text)) if text[place - 1] == "?"]
    configs = [
        load_config(None, ["model.hidden_size=128"], {"data.corpus": "recall", "train.steps": 250, "model.cell": cell})
        for cell in ("lstm", "gru", "rnn")
    ]
    bits = {}
    for config, _ in equal_members(configs):
        model = config.model
        run = charlm.train(
            "recall", cell=model.cell, hidden_size=model.hidden_size, steps=250, seed=1, ngram_order=0, out=model.cell
        )
        bits[model.cell] = run.load().score(text)[keys].mean()
    assert max(bits["lstm"], bits["gru"]) < 0.1
    assert bits["rnn"] > 2.9
