"""The torch module: state in and out, fresh weights, dropout outside the kernels."""

from __future__ import annotations

import pytest
import torch

from charlm.cells import CELLS
from charlm.model import CharModel, Masks, draw_masks


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
    whole_TBV, _ = model(tokens_TB, model.start_state(3))
    first_TBV, state = model(tokens_TB[:3], model.start_state(3))
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


@pytest.mark.parametrize("cell", CELLS)
def test_a_mask_leaves_out_a_share_and_scales_the_rest(cell: str) -> None:
    """So that the mean stays; one for the outputs and one for the recurrent weights of each layer."""
    model = CharModel(cell, 7, embedding_size=6, hidden_size=100, num_layers=2)
    masks = draw_masks(model, 30, dropout=[0.25, 0.25], weight_dropout=0.5, seed=(1, 2))
    assert len(masks) == 2
    for outputs_BH, recurrent_RH in masks:
        assert outputs_BH is not None
        assert recurrent_RH is not None
        assert outputs_BH.shape == (30, 100)
        assert recurrent_RH.shape == (100 * len(model.cell.gates), 100)
        for mask, kept in ((outputs_BH, 4 / 3), (recurrent_RH, 2.0)):
            assert mask.dtype == torch.float32
            assert mask.unique().tolist() == pytest.approx([0.0, kept])
            assert mask.mean().item() == pytest.approx(1, abs=0.05)
    assert draw_masks(model, 30, [0.0, 0.0], 0.0, seed=(1, 2)) == [(None, None)] * 2


def test_masks_depend_on_the_seed_and_the_step() -> None:
    """And on nothing else: a resumed run draws those of the run it resumes."""
    model = fresh("gru")
    drawn = [draw_masks(model, 3, [0.5, 0.5], 0.5, seed) for seed in ((1, 2), (1, 2), (1, 3), (2, 2))]
    outputs = [masks[0].outputs_BH for masks in drawn]
    recurrent = [masks[1].recurrent_RH for masks in drawn]
    for first, same, *others in (outputs, recurrent):
        assert first is not None
        assert torch.equal(first, same)  # type: ignore[arg-type]
        assert not any(torch.equal(first, other) for other in others)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
def test_a_mask_multiplies_the_outputs_of_its_layer(cell: str) -> None:
    """With the last layer's outputs all left out, only the output bias speaks; the state is the same as without."""
    model = fresh(cell)
    tokens_TB = torch.zeros(4, 2, dtype=torch.int64)
    nothing = [Masks(torch.ones(2, 8), None), Masks(torch.zeros(2, 8), None)]
    logits_TBV, state = model(tokens_TB, model.start_state(2), nothing)
    torch.testing.assert_close(logits_TBV, model.output.bias.expand(4, 2, 7))
    _, expected = model(tokens_TB, model.start_state(2))
    torch.testing.assert_close(state[0], expected[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_mask_multiplies_the_recurrent_weights_and_their_gradients(cell: str) -> None:
    """The block is that of a model with those weights; what was left out learns nothing, and nothing is changed."""
    model, thinned = fresh(cell), fresh(cell)
    tokens_TB = torch.randint(7, (5, 2), generator=torch.Generator().manual_seed(0))
    masks = draw_masks(model, 2, 0.0, 0.5, seed=(3,))
    with torch.no_grad():
        for layer, (_, recurrent_RH) in zip(thinned.layers, masks, strict=True):
            layer.get_parameter("weight_hh_l0").mul_(recurrent_RH)  # type: ignore[arg-type]
    before = model.arrays()
    logits_TBV, _ = model(tokens_TB, model.start_state(2), masks)
    torch.testing.assert_close(logits_TBV, thinned(tokens_TB, thinned.start_state(2))[0])
    logits_TBV.square().sum().backward()
    for layer, (_, recurrent_RH) in zip(model.layers, masks, strict=True):
        gradient = layer.get_parameter("weight_hh_l0").grad
        assert gradient is not None
        assert recurrent_RH is not None
        assert torch.equal(gradient != 0, recurrent_RH != 0)
    assert all((before[name] == array).all() for name, array in model.arrays().items())


def test_the_start_of_a_text_is_an_input_but_never_an_output() -> None:
    """There is one embedding more than symbols, and no logit for it: what stands for the start cannot be drawn."""
    model = fresh("gru")
    logits_TBV, _ = model(torch.tensor([[7]]), model.start_state(1))
    assert (model.embedding.num_embeddings, logits_TBV.shape[-1]) == (8, 7)
