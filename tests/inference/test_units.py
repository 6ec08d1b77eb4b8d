"""The names of units: a name finds what prints it, and any other name is refused with a hint."""

from __future__ import annotations

import pytest

from charlm.cells import CELLS
from charlm.errors import UsageError
from charlm.inference.units import Layer, Unit, layer_named, part_named, parts_of, unit_named
from charlm.spec import ModelSpec


def test_a_unit_is_named_by_its_layer_and_number() -> None:
    """The name that a unit prints is the one that finds it; layers from the right have a prefix."""
    both = ModelSpec.of_settings(
        {"cell": "gru", "embedding_size": 4, "hidden_size": 12, "num_layers": 2, "direction": "both"}, 9
    )
    for unit in (Unit(Layer(1), 0), Unit(Layer(2), 11), Unit(Layer(2, is_from_the_right=True), 7)):
        assert unit_named(both, str(unit)) == unit
    assert str(Unit(Layer(2, is_from_the_right=True), 7)) == "right.2.7"
    assert layer_named(both, "right.1") == Layer(1, is_from_the_right=True)


@pytest.mark.parametrize(
    "name", ["", "3", "1.12", "3.0", "0.1", "1.-1", "1.x", "right.1.0", "1.1.1", "1.99999999999", "1.٣"]
)
def test_a_name_of_no_unit_is_refused(name: str) -> None:
    """The error has a hint with names that exist."""
    with pytest.raises(UsageError) as raised:
        unit_named(ModelSpec("gru", 9, 4, 12, 2), name)
    assert raised.value.hint


@pytest.mark.parametrize("cell", CELLS)
def test_an_rnn_has_no_gates(cell: str) -> None:
    """A cell with one candidate and nothing else has its state alone; without a name the last part of it is meant."""
    names = parts_of(CELLS[cell])
    assert part_named(CELLS[cell], None) == ("cell" if "lstm" in cell and cell != "minlstm" else "hidden")
    if cell in ("rnn", "rnn-relu"):
        assert names == ("hidden",)
    else:
        assert set(names) == {*CELLS[cell].state, *CELLS[cell].gates}
