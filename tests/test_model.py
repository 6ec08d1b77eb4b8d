"""The torch module: state in and out, fresh weights, dropout outside the kernels."""

from __future__ import annotations

import pytest
import torch

from charlm.cells import CELLS
from charlm.model import CharModel, dropout_masks


def fresh(cell: str, num_layers: int = 2, seed: int = 0) -> CharModel:
    """Make a small model with fresh weights."""
    model = CharModel(cell, 7, embedding_size=6, hidden_size=8, num_layers=num_layers)
    model.initialise(torch.Generator().manual_seed(seed))
    return model


@pytest.mark.parametrize("cell", CELLS)
def test_one_block_equals_its_parts_read_in_turn(cell: str) -> None:
    """Ten characters at once, or three and seven with the state handed over, give the same logits."""
    model = fresh(cell)
    tokens_TB = torch.randint(8, (10, 3), generator=torch.Generator().manual_seed(1))
    whole_TBV, _ = model(tokens_TB, model.zero_state(3))
    first_TBV, state = model(tokens_TB[:3], model.zero_state(3))
    rest_TBV, _ = model(tokens_TB[3:], state)
    torch.testing.assert_close(torch.cat([first_TBV, rest_TBV]), whole_TBV, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_fresh_weights_are_of_even_size_and_remember(cell: str) -> None:
    """Matrices fill the range up to 1 / sqrt(H); the LSTM's forget gate starts open and no other bias is set."""
    model = fresh(cell)
    for layer in model.layers:
        for name in ("weight_ih_l0", "weight_hh_l0"):
            weight, bound = layer.get_parameter(name), 8**-0.5
            assert 0.9 * bound < weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
        gates = layer.get_parameter("bias_ih_l0").chunk(len(model.cell.gates))
        for name, bias in zip(model.cell.gates, gates, strict=True):
            assert bias.tolist() == [1.0 if name == "forget" else 0.0] * 8
        assert layer.get_parameter("bias_hh_l0").abs().sum() == 0


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    """The same seed draws the same weights whatever torch's own generator is at."""
    torch.manual_seed(1)
    first = fresh("lstm", seed=5).arrays()
    torch.manual_seed(2)
    second = fresh("lstm", seed=5).arrays()
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != fresh("lstm", seed=6).arrays()[name]).any() for name in first)


def test_dropout_is_one_mask_for_a_whole_block() -> None:
    """What is left out is left out at every step, and what stays is scaled so that the mean stays."""
    masks = dropout_masks(2, 3, 400, 0.25, torch.Generator().manual_seed(0))
    assert masks is not None
    assert [mask.shape for mask in masks] == [(3, 400), (3, 400)]
    assert torch.cat(masks).unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.cat(masks).mean().item() == pytest.approx(1, abs=0.05)
    assert dropout_masks(2, 3, 400, 0.0, torch.Generator()) is None


@pytest.mark.parametrize("cell", CELLS)
def test_a_mask_multiplies_the_outputs_of_its_layer(cell: str) -> None:
    """With the last layer's outputs all left out, only the output bias speaks; the state is the same as without."""
    model = fresh(cell)
    tokens_TB = torch.zeros(4, 2, dtype=torch.int64)
    nothing = [torch.ones(2, 8), torch.zeros(2, 8)]
    logits_TBV, state = model(tokens_TB, model.zero_state(2), nothing)
    torch.testing.assert_close(logits_TBV, model.output.bias.expand(4, 2, 7))
    _, expected = model(tokens_TB, model.zero_state(2))
    torch.testing.assert_close(state[0], expected[0])


def test_the_start_of_a_text_is_an_input_but_never_an_output() -> None:
    """There is one embedding more than symbols, and no logit for it: what stands for the start cannot be drawn."""
    model = fresh("gru")
    logits_TBV, _ = model(torch.tensor([[7]]), model.zero_state(1))
    assert (model.embedding.num_embeddings, logits_TBV.shape[-1]) == (8, 7)
