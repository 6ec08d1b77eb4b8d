"""Saturation and memory: counted from the activations, and for gates whose values are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UsageError
from charlm.inference.language_model import LanguageModel

Make = Callable[..., ModelFile]
TEXT = "had a bad cab\nbad " * 5
KEPT = {"gru": "update", "gru-reset-before": "update", "mingru": "update", "minlstm": "forget"}


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("cell", [cell for cell in CELLS if not cell.startswith("rnn")])
def test_statistics_are_counted_over_units_and_characters(make_model: Make, cell: str, direction: str) -> None:
    """Each share and each time follows from the activations."""
    model = make_model(cell, 2, direction=direction)
    arrays = {name: array * np.float32(3) for name, array in model.arrays.items()}
    model = replace(model, arrays=arrays)
    layers = {str(layer.layer): layer for layer in LanguageModel(model).activations(TEXT)}
    found = LanguageModel(model).gate_statistics(TEXT)
    gates = [gate for gate in CELLS[cell].gates if gate != "candidate"]
    assert [(row.layer, row.gate) for row in found.saturation] == [(layer, gate) for layer in layers for gate in gates]
    for row in found.saturation:
        values_TH = layers[row.layer].parts[row.gate]
        assert row.closed == pytest.approx((values_TH < 0.1).mean())
        assert row.open == pytest.approx((values_TH > 0.9).mean())
        assert row.units_closed == pytest.approx(((values_TH < 0.1).mean(axis=0) > 0.9).mean())
        assert row.units_open == pytest.approx(((values_TH > 0.9).mean(axis=0) > 0.9).mean())
    for memory in found.memory:
        kept_TH = layers[memory.layer].parts[KEPT.get(cell, "forget")].astype(float)
        kept_TH = 1 - kept_TH if cell == "mingru" else kept_TH
        times = sorted(-1 / np.log(kept_TH.mean(axis=0)))
        assert memory.quartiles == pytest.approx((times[2], times[5], times[8]), rel=1e-4)
        assert list(memory.longest.values()) == pytest.approx(times[:1:-1], rel=1e-4)
        for name, time in memory.longest.items():
            unit = int(name.rpartition(".")[2])
            assert time == pytest.approx(-1 / np.log(kept_TH[:, unit].mean()), rel=1e-4)


def test_a_gate_of_a_known_value_gives_a_known_time(make_model: Make) -> None:
    """A forget gate of 0.9 leaves 1/e after 9.49 characters, of 1 forgets nothing, and of 0 keeps nothing."""
    model = make_model("lstm", hidden_size=4)
    arrays = {name: np.zeros_like(array) for name, array in model.arrays.items()}
    arrays["layers.0.bias_ih_l0"][4:8] = [math.log(9), 50, -200, 0]
    memory = LanguageModel(replace(model, arrays=arrays)).gate_statistics("abc").memory[0]
    assert memory.longest["1.1"] is None
    assert list(memory.longest) == ["1.1", "1.0", "1.3", "1.2"]
    assert memory.longest["1.0"] == pytest.approx(9.4912, rel=1e-4)
    assert memory.longest["1.3"] == pytest.approx(1 / math.log(2), rel=1e-6)
    assert memory.longest["1.2"] == pytest.approx(0, abs=0.02)


def test_an_rnn_has_no_statistics_of_gates(make_model: Make) -> None:
    """A net without gates has none, and an empty text is refused."""
    found = LanguageModel(make_model("rnn")).gate_statistics("abc")
    assert (found.saturation, found.memory) == ([], [])
    with pytest.raises(UsageError, match="no character"):
        LanguageModel(make_model("lstm")).gate_statistics("")
