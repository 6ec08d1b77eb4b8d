"""What one symbol does in each layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.inference.activations import read_activations
from charlm.inference.incremental import IncrementalReader
from charlm.inference.stepper import Stepper


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "mingru"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_changes_are_the_last_of_the_activations(
    make_model: Callable[..., ModelFile], cell: str, direction: str
) -> None:
    """Gates and outputs are those of `inspect`, and the units with the largest difference come first."""
    model, text = make_model(cell, 2, direction=direction), "a bad cab"
    reader = IncrementalReader(Stepper(model))
    reader.read(text)
    now, before = (0, 1) if direction == "backward" else (-1, -2)
    expected = read_activations(model, [model.vocabulary.encode(text)])
    for change, activations in zip(reader.last_changes(), expected, strict=True):
        assert change.layer == activations.layer
        hidden_TH = activations.parts["hidden"]
        assert np.allclose(change.new_H, hidden_TH[now])
        assert np.allclose(change.old_H, hidden_TH[before])
        assert set(change.gates) == set(activations.parts) - {"hidden", "cell", "candidate"}
        assert all(np.allclose(values_H, activations.parts[gate][now]) for gate, values_H in change.gates.items())
        order = [unit.index for unit in change.most_changed(12)]
        assert order == np.argsort(-abs(change.new_H - change.old_H), kind="stable").tolist()


def test_an_empty_text_changes_nothing(make_model: Callable[..., ModelFile]) -> None:
    """Before the first character no unit has changed."""
    assert IncrementalReader(Stepper(make_model())).last_changes() == []
