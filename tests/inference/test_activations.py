"""Activations: states and gates of every unit, as stepping by hand and torch give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UsageError
from charlm.inference import activations
from charlm.inference.activations import read_activations
from charlm.inference.language_model import LanguageModel
from charlm.inference.stepper import Stack
from charlm.inference.units import Layer, parts_of
from charlm.vocab import Vocabulary

Make = Callable[..., ModelFile]
TEXT = "bad cab\nhad"


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_activations_are_those_of_stepping_by_hand(make_model: Make, cell: str, direction: str) -> None:
    """Each row is what a stack that reads one character at a time has after that character, in each layer."""
    model = make_model(cell, 2, direction=direction)
    found = {str(layer.layer): layer for layer in LanguageModel(model).activations(TEXT)}
    assert list(found) == (["1", "2", "right.1", "right.2"] if direction == "both" else ["1", "2"])
    ids_T = model.vocabulary.encode(TEXT)
    for name in model.spec.stacks:
        reads_backward = direction == "backward" or name == "backward_layers"
        stack = Stack(model, name)
        state = stack.step(np.array([len(model.vocabulary)]), stack.start(1))
        for row in reversed(range(len(TEXT))) if reads_backward else range(len(TEXT)):
            state, gates = stack.look(ids_T[row : row + 1], state)
            for number, (layer_state, layer_gates) in enumerate(zip(state, gates, strict=True), 1):
                layer = found[f"right.{number}" if name == "backward_layers" else str(number)]
                assert layer.reads_backward == reads_backward
                assert tuple(layer.parts) == parts_of(CELLS[cell])
                expected = dict(zip(CELLS[cell].state, layer_state, strict=True)) | layer_gates
                for part, values_TH in layer.parts.items():
                    np.testing.assert_array_equal(values_TH[row], expected[part][0])


def test_hidden_states_are_those_of_torch(make_model: Make) -> None:
    """The layers of torch, with the same weights, have the same outputs."""
    model = make_model("lstm", 2)
    module = torch.nn.LSTM(5, 12, 2)
    weights = {name: torch.from_numpy(array) for name, array in model.weights.items()}
    for layer in range(2):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(module, f"{name}_l{layer}").data = weights[f"layers.{layer}.{name}_l0"]
    ids_T = [len(model.vocabulary), *model.vocabulary.encode(TEXT).tolist()]
    output_TH, _ = module(weights["embedding.weight"][ids_T])
    hidden_TH = LanguageModel(model).activations(TEXT)[1].parts["hidden"]
    np.testing.assert_allclose(hidden_TH, output_TH[1:].detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_texts_side_by_side_are_read_as_each_alone(make_model: Make, direction: str) -> None:
    """The rows of several texts of any lengths are those of each text alone, bit for bit, in order."""
    model = make_model("gru", 2, direction=direction)
    texts = [model.vocabulary.encode(text) for text in ("bad", "", "a cab had", "d", "had")]
    alone = [read_activations(model, [text]) for text in texts]
    for index, layer in enumerate(read_activations(model, texts)):
        for part, values_TH in layer.parts.items():
            expected_TH = np.concatenate([each[index].parts[part] for each in alone])
            np.testing.assert_array_equal(values_TH, expected_TH)


def test_only_the_parts_and_layers_asked_for_are_kept(make_model: Make) -> None:
    """One gate of one layer has the same numbers as among all."""
    model = make_model("lstm", 2)
    ids_T = model.vocabulary.encode(TEXT)
    (found,) = read_activations(model, [ids_T], ["forget"], [Layer(2)])
    assert list(found.parts) == ["forget"]
    np.testing.assert_array_equal(found.parts["forget"], read_activations(model, [ids_T])[1].parts["forget"])
    with pytest.raises(UsageError, match="no `update`"):
        LanguageModel(model).activations(TEXT, ["update"])


def test_texts_too_long_for_the_memory_are_refused(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much memory is missing, and for how long a text there is enough."""
    model = make_model("gru")
    row_bytes = 4 * 4 * 12
    monkeypatch.setattr(activations, "usable_bytes", lambda: 10 * row_bytes / activations.SHARE_OF_MEMORY)
    assert len(LanguageModel(model).activations("a" * 10)[0].parts["reset"]) == 10
    with pytest.raises(UsageError, match="11 characters need") as raised:
        LanguageModel(model).activations("a" * 11)
    assert "10 characters" in raised.value.hint


@pytest.mark.filterwarnings("error")
def test_weights_that_overflow_are_refused(make_model: Make) -> None:
    """A state that is not finite is an error, and no number."""
    model = make_model("rnn-relu")
    arrays = {name: array * np.float32(1e8) for name, array in model.arrays.items()}
    with pytest.raises(ModelFileError, match="overflows"):
        LanguageModel(replace(model, arrays=arrays)).activations("abcdefgh" * 4)


def test_a_model_of_bytes_has_a_row_for_each_byte(make_model: Make) -> None:
    """The rows are those of the ids of the vocabulary."""
    model = LanguageModel(make_model(symbols=Vocabulary.of_bytes()))
    assert len(model.activations("é狐")[0].parts["cell"]) == 5
