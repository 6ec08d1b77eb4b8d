"""Held units: every state as by hand, texts that do not depend on one another, and typed errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.language_model import LanguageModel
from charlm.inference.stepper import Stepper, StepperState
from tests.helpers.commands import answers, assert_refused, call

Make = Callable[..., ModelFile]
CLAMP = {"1.3": 0.75, "1.5": -0.5}


def sigma(x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(file: ModelFile, ids: list[int], hold: Callable[[int, Any, Any, Any], None]) -> list[Any]:
    """Read a text with an LSTM written out here; `hold(layer, h, c, o)` changes the new state of a layer."""
    weights = {name: array.astype(float) for name, array in file.weights.items()}
    state = [[np.zeros(12), np.zeros(12)] for _ in range(file.spec.num_layers)]
    for index in ids:
        x = weights["embedding.weight"][index]
        for layer, (h, c) in enumerate(state):
            w = {
                name: weights[f"layers.{layer}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            i, f, g, o = np.split(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"], 4)
            c = sigma(f) * c + sigma(i) * np.tanh(g)
            h = sigma(o) * np.tanh(c)
            hold(layer, h, c, sigma(o))
            state[layer], x = [h, c], h
    return state


def read(file: ModelFile, clamp: dict[str, float], ids: list[int]) -> StepperState:
    """Read a text with held units."""
    stepper = Stepper(file).holding(clamp)
    state = stepper.before(1)
    for index in ids:
        state = stepper.advance(np.array([index]), state)
    return state


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_held_hidden_state_is_read_by_the_next_layer(make_model: Make, num_layers: int) -> None:
    """The state of all layers is that of an LSTM by hand whose unit is overwritten before anything reads it."""
    file, ids = make_model("lstm", num_layers), [10, 3, 4, 3, 9]

    def hold(layer: int, h: Any, c: Any, o: Any) -> None:
        if layer == 0:
            h[3], h[5] = 0.75, -0.5

    for layer, wanted in zip(read(file, CLAMP, ids), lstm_by_hand(file, ids, hold), strict=True):
        for found_1H, wanted_H in zip(layer, wanted, strict=True):
            np.testing.assert_allclose(found_1H[0], wanted_H, atol=1e-5)


def test_the_output_of_a_held_cell_follows_from_it(make_model: Make) -> None:
    """With a held cell, h = o * tanh(c) with the output gate of the step; both may be held."""
    file, ids = make_model("lstm", 2), [10, 3, 4, 3, 9]

    def hold(layer: int, h: Any, c: Any, o: Any) -> None:
        if layer == 1:
            c[7], c[8] = 2.0, 0.0
            h[7], h[8] = o[7] * np.tanh(2.0), 0.0
            h[8] = 0.25

    found = read(file, {"2.8": 0.25, "2.7.cell": 2.0, "2.8.cell": 0.0}, ids)
    for layer, wanted in zip(found, lstm_by_hand(file, ids, hold), strict=True):
        for found_1H, wanted_H in zip(layer, wanted, strict=True):
            np.testing.assert_allclose(found_1H[0], wanted_H, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_every_part_of_every_cell_can_be_held(make_model: Make, cell: str) -> None:
    """After each step the unit has its value, and other units depend on it only through later steps."""
    file = make_model(cell)
    for index, part in enumerate(CELLS[cell].state):
        held, free = (read(file, clamp, [10]) for clamp in ({f"1.3.{part}": 0.75}, {}))
        assert held[0][index][0, 3] == 0.75
        others = np.arange(12) != 3
        assert (held[0][index][0, others] == free[0][index][0, others]).all()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_held_texts_do_not_depend_on_one_another(make_model: Make, direction: str) -> None:
    """Text k of many is bit for bit the text of its seed alone, streamed or not, and not the text without a clamp."""
    model = LanguageModel(make_model("lstm", 2, direction=direction))
    options: dict[str, Any] = {"length": 40, "clamp": {"1.3": 0.75, "2.5.cell": -2}}
    texts = model.generate("bad", seed=1, num=5, **options)
    assert texts == [model.generate("bad", seed=seed, **options) for seed in range(1, 6)]
    pieces = list(model.stream("bad", seed=1, **options))
    streamed = "".join(pieces[::-1]) + "bad" if direction == "backward" else "bad" + "".join(pieces)
    assert streamed == texts[0]
    assert texts[0] != model.generate("bad", seed=1, length=40)


def test_a_clamp_leaves_the_model_as_it_was(make_model: Make) -> None:
    """After a text with held units, the text of a seed is what it was before; an empty clamp is none."""
    model = LanguageModel(make_model())
    before = model.generate("bad", seed=1, length=40)
    model.generate("bad", seed=1, length=40, clamp=CLAMP)
    assert model.generate("bad", seed=1, length=40) == model.generate("bad", seed=1, length=40, clamp={}) == before


def test_the_command_holds_what_the_method_holds(model: str, make_model: Make) -> None:
    """`--clamp` writes the text of `generate`, for each of several texts."""
    options = ["--clamp", "1.3=0.75", "--clamp", " 1.5.cell = -2 "]
    rows = answers("sample", "bad", "-m", model, "--seed", "4", "--num", "2", "-n", "30", "-t", "1", "--json", *options)
    wanted = LanguageModel(make_model()).generate(
        "bad", seed=4, num=2, length=30, temperature=1, clamp={"1.3": 0.75, "1.5.cell": -2}
    )
    assert [row["text"] for row in rows] == wanted


@pytest.mark.parametrize(
    ("clamp", "said", "hint"),
    [
        ("3=1", "`3` is not a unit", "the last is `1.11`"),
        ("cell=1", "`cell` is not a unit", "the last is `1.11`"),
        ("1.3", "does not name a unit", "holds unit 17 of layer 1"),
        ("1.cell.3=1", "no layer `1.cell`", "its only layer is 1"),
        ("1.3=high", "`high`, which is not a number", "holds unit 17"),
        ("1.3=nan", "cannot be held at nan", "from -1,000,000 to 1,000,000"),
        ("1.3=1e9", "cannot be held at 1000000000.0", "from -1,000,000 to 1,000,000"),
        ("0.3=1", "no layer `0`", "its only layer is 1"),
        ("2.3=1", "no layer `2`", "its only layer is 1"),
        ("1.12=1", "no unit `1.12`", "the last one of this layer is `1.11`"),
        ("1.3.sell=1", "has no `sell`", "did you mean `cell`?"),
    ],
)
def test_a_wrong_clamp_is_refused_with_what_exists(model: str, clamp: str, said: str, hint: str) -> None:
    """A mistake in layer, unit, part or value is a line with a hint, and nothing is written."""
    result = call("sample", "a", "-m", model, "--clamp", clamp)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in assert_refused(result)
    assert hint in result.stderr


def test_a_cell_without_a_cell_state_has_none_to_hold(make_model: Make) -> None:
    """A gru has only a hidden state, and no unit is held at two values."""
    model = LanguageModel(make_model("gru", 2))
    for clamp, said in (
        ({"1.3.cell": 1.0}, "a unit of the cell gru has no `cell`"),
        ({"3.3": 1.0}, "no layer `3`"),
        ({"1.3": 1.0, "1.3.hidden": 0.0}, "two values"),
    ):
        with pytest.raises(UsageError, match=said):
            model.generate("a", clamp=clamp)
    model._file.save(Path("gru"))
    assert "two values" in assert_refused(call("sample", "-m", "gru", "--clamp", "1.3=1", "--clamp", "1.3=0"))
