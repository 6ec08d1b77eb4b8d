"""The torch model: the state as argument and result, new weights, dropout outside the kernels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from charlm.cells import CELLS
from charlm.nn.layers import Resets, Variant
from charlm.nn.model import CharModel, Masks, draw_masks
from charlm.spec import ModelSpec

WITH_PRODUCTS = [name for name, cell in CELLS.items() if cell.products]
# Models with and without an embedding, of each direction, with each initial state.
KINDS: list[dict[str, Any]] = [
    {},
    {"embedding_size": 0},
    {"direction": "backward", "initial_state": "learned"},
    {"direction": "both"},
    {"direction": "both", "initial_state": "learned", "embedding_size": 0},
]


def fresh(cell: str, num_layers: int = 2, seed: int = 0, how: str = "auto", **kind: Any) -> CharModel:
    """Make a small model with new weights."""
    model = CharModel(ModelSpec(cell, 7, **{"embedding_size": 6, "hidden_size": 8, "num_layers": num_layers} | kind))
    model.initialise(torch.Generator().manual_seed(seed), how)
    return model


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_model_has_the_weights_of_its_spec(cell: str, kind: dict[str, Any]) -> None:
    """A model's weights have the names and shapes of its spec, and another model can load them."""
    settings = {"cell": cell, "embedding_size": 6, "hidden_size": 8, "num_layers": 2} | kind
    arrays = fresh(cell, **kind).arrays()
    expected = ModelSpec.of_settings(settings, 7).shapes
    assert {name: array.shape for name, array in arrays.items()} == expected
    other = CharModel(ModelSpec.of_settings(settings, 7))
    other.load_arrays(arrays)
    assert other.spec.direction == kind.get("direction", "forward")
    assert all((array == arrays[name]).all() for name, array in other.arrays().items())


@pytest.mark.parametrize("cell", CELLS)
def test_one_block_equals_its_parts_read_in_turn(cell: str) -> None:
    """Ten characters at once give the same logits as three and then seven with the state handed over."""
    model = fresh(cell)
    tokens_TB = torch.randint(8, (10, 3), generator=torch.Generator().manual_seed(1))
    whole_TBV, _ = model(tokens_TB, model.start_state(3))
    first_TBV, state = model(tokens_TB[:3], model.start_state(3))
    rest_TBV, _ = model(tokens_TB[3:], state)
    torch.testing.assert_close(torch.cat([first_TBV, rest_TBV]), whole_TBV, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_a_block_of_both_directions_equals_its_parts(cell: str) -> None:
    """With both directions a block equals its parts, if each part gets all the text to its right."""
    model = fresh(cell, direction="both", initial_state="learned")
    tokens_TB, right_TB = torch.randint(8, (2, 10, 3), generator=torch.Generator().manual_seed(1))
    whole_TBV, _ = model(tokens_TB, model.start_state(3), (), right_TB)
    first_TBV, state = model(tokens_TB[:3], model.start_state(3), (), right_TB)
    rest_TBV, _ = model(tokens_TB[3:], state, (), right_TB[3:])
    torch.testing.assert_close(torch.cat([first_TBV, rest_TBV]), whole_TBV, rtol=0, atol=1e-6)
    cut_TBV, _ = model(tokens_TB[:3], model.start_state(3), (), right_TB[:3])
    assert not torch.allclose(cut_TBV, first_TBV, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_new_weights_are_uniform_and_forget_gates_open(cell: str, kind: dict[str, Any]) -> None:
    """New matrices fill the range up to 1 / sqrt(H), the forget bias is 1, and other biases are 0."""
    model = fresh(cell, **kind)
    assert len(model.all_layers) == (4 if kind.get("direction") == "both" else 2)
    for layer in model.all_layers:
        weights = dict(layer.named_parameters())
        for name in ("weight_ih_l0", *(["weight_hh_l0"] if model.spec.recurrence.products else [])):
            weight, bound = weights.pop(name), 8**-0.5
            assert 0.9 * bound < weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)
        gates = weights.pop("bias_ih_l0").chunk(len(model.spec.recurrence.gates))
        for name, bias in zip(model.spec.recurrence.gates, gates, strict=True):
            assert bias.tolist() == [1.0 if name == "forget" else 0.0] * 8
        # The other biases, and peepholes.
        assert not any(weight.any() for weight in weights.values())
    assert model.embedding is None or model.embedding.weight.std().item() == pytest.approx(1, rel=0.2)
    assert model.initial_state is None or not model.initial_state.any()
    assert not model.output.bias.any()


@pytest.mark.parametrize("cell", CELLS)
def test_an_initialiser_draws_every_matrix_and_no_bias(cell: str) -> None:
    """An initialiser draws embedding, layers and output, and each orthogonal gate separately."""
    tiny, orthogonal = (fresh(cell, how=how, direction="both") for how in ("uniform(1e-05)", "orthogonal"))
    for name, parameter in tiny.named_parameters():
        if "weight" in name:
            assert 0.9e-5 < parameter.abs().max() <= 1.001e-5
        elif "bias_ih" in name and "forget" in tiny.spec.recurrence.gates:
            assert parameter.unique().tolist() == [0.0, 1.0]
        else:
            assert not parameter.any()
    for name, parameter in orthogonal.named_parameters():
        if "weight" in name:
            num_gates = len(orthogonal.spec.recurrence.gates) if "layers" in name else 1
            for gate in parameter.detach().chunk(num_gates):
                products = gate.T @ gate if gate.shape[0] >= gate.shape[1] else gate @ gate.T
                torch.testing.assert_close(products, torch.eye(min(gate.shape)), rtol=0, atol=1e-5)


def test_new_weights_depend_only_on_the_seed() -> None:
    """The same seed draws the same weights, whatever the state of torch's own generator."""
    torch.manual_seed(1)
    first = fresh("lstm", seed=5).arrays()
    torch.manual_seed(2)
    second = fresh("lstm", seed=5).arrays()
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != fresh("lstm", seed=6).arrays()[name]).any() for name in first)


@pytest.mark.parametrize("cell", CELLS)
def test_a_mask_drops_a_share_and_scales_the_rest(cell: str) -> None:
    """Each layer has a mask for outputs and one for recurrent weights, both with mean 1."""
    model = CharModel(ModelSpec(cell, 7, embedding_size=6, hidden_size=100, num_layers=2))
    masks = draw_masks(model, 30, dropout=[0.25, 0.25], weight_dropout=0.5, seed=(1, 2))
    assert len(masks) == 2
    for outputs_BH, recurrent_RH in masks:
        assert outputs_BH is not None
        assert outputs_BH.shape == (30, 100)
        assert (recurrent_RH is None) == (cell in ("mingru", "minlstm"))
        pairs = [(outputs_BH, 4 / 3)]
        if recurrent_RH is not None:
            assert recurrent_RH.shape == (100 * len(model.spec.recurrence.gates), 100)
            pairs.append((recurrent_RH, 2.0))
        for mask, kept in pairs:
            assert mask.dtype == torch.float32
            assert mask.unique().tolist() == pytest.approx([0.0, kept])
            assert mask.mean().item() == pytest.approx(1, abs=0.05)
    assert draw_masks(model, 30, [0.0, 0.0], 0.0, seed=(1, 2)) == [(None, None)] * 2


def test_each_layer_has_its_own_share_of_dropout() -> None:
    """A list gives each layer of a stack its share, the same in both stacks; masks differ between layers."""
    model = CharModel(ModelSpec("gru", 7, embedding_size=6, hidden_size=400, num_layers=3, direction="both"))
    masks = draw_masks(model, 20, dropout=[0.5, 0.0, 0.2], weight_dropout=0.0, seed=(1,))
    shares = [None if outputs_BH is None else (outputs_BH == 0).double().mean().item() for outputs_BH, _ in masks]
    assert shares == [pytest.approx(0.5, abs=0.03), None, pytest.approx(0.2, abs=0.03)] * 2
    assert not torch.equal(masks[0].outputs_BH, masks[3].outputs_BH)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zip"):
        draw_masks(model, 20, [0.5, 0.5], 0.0, seed=(1,))


def test_masks_depend_on_the_seed_and_the_step() -> None:
    """Masks depend only on seed and step, so a resumed run draws the masks of an unbroken one."""
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
    """If the last layer's outputs are dropped, the logits are the output bias and the state is the same."""
    model = fresh(cell)
    tokens_TB = torch.zeros(4, 2, dtype=torch.int64)
    nothing = [Masks(torch.ones(2, 8), None), Masks(torch.zeros(2, 8), None)]
    logits_TBV, state = model(tokens_TB, model.start_state(2), nothing)
    torch.testing.assert_close(logits_TBV, model.output.bias.expand(4, 2, 7))
    _, expected = model(tokens_TB, model.start_state(2))
    torch.testing.assert_close(state[0], expected[0])


@pytest.mark.parametrize("cell", CELLS)
def test_masks_reach_the_stack_they_were_drawn_for(cell: str) -> None:
    """The first masks are for the layers from left to right, the others for those from right to left."""
    model = fresh(cell, direction="both")
    tokens_TB, right_TB = torch.randint(8, (2, 4, 2), generator=torch.Generator().manual_seed(1))
    ones, zeros = Masks(torch.ones(2, 8), None), Masks(torch.zeros(2, 8), None)
    for masks, speaks in (([ones, zeros, ones, ones], slice(8, 16)), ([ones, ones, ones, zeros], slice(8))):
        muted = fresh(cell, direction="both")
        with torch.no_grad():
            kept = muted.output.weight[:, speaks].clone()
            muted.output.weight.zero_()[:, speaks] = kept
        found_TBV, _ = model(tokens_TB, model.start_state(2), masks, right_TB)
        expected_TBV, _ = muted(tokens_TB, muted.start_state(2), (), right_TB)
        torch.testing.assert_close(found_TBV, expected_TBV)


@pytest.mark.parametrize("cell", WITH_PRODUCTS)
def test_a_mask_multiplies_recurrent_weights_and_gradients(cell: str) -> None:
    """A masked block equals one with masked weights; dropped weights get no gradient, and no weight changes."""
    model, thinned = fresh(cell), fresh(cell)
    tokens_TB = torch.randint(7, (5, 2), generator=torch.Generator().manual_seed(0))
    masks = draw_masks(model, 2, [0.0, 0.0], 0.5, seed=(3,))
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
        assert not gradient[recurrent_RH == 0].any()
        # A rectified unit that is never above 0 has no gradient at all.
        assert gradient.any() if cell == "rnn-relu" else gradient[recurrent_RH != 0].all()
    assert all((before[name] == array).all() for name, array in model.arrays().items())


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_stream_starts_from_the_learned_state(cell: str, direction: str) -> None:
    """Each layer starts with its own part of the learned state, and sends a gradient back to it."""
    model = fresh(cell, direction=direction, initial_state="learned")
    assert model.initial_state is not None
    num_parts, num_stacked = len(model.spec.recurrence.state), len(model.all_layers)
    assert model.initial_state.shape == (num_parts, num_stacked, 8)
    torch.nn.init.normal_(model.initial_state, generator=torch.Generator().manual_seed(2))
    start = model.start_state(3)
    assert len(start) == num_parts
    for part_LBH, learned_LH in zip(start, model.initial_state, strict=True):
        assert part_LBH.shape == (2, 3, 8)
        assert all(torch.equal(part_LBH[:, stream], learned_LH[:2]) for stream in range(3))
    tokens_TB = torch.randint(8, (3, 3), generator=torch.Generator().manual_seed(1))
    logits_TBV, _ = model(tokens_TB, start, (), tokens_TB if direction == "both" else None)
    (gradient,) = torch.autograd.grad(logits_TBV.square().sum(), model.initial_state)
    assert gradient.flatten(2).any(-1).all()


def test_without_an_embedding_inputs_are_one_hot() -> None:
    """The first layer has an input weight column for each symbol and one for the start of a text."""
    model = fresh("gru", embedding_size=0)
    weight = model.layers[0].get_parameter("weight_ih_l0")
    assert model.embedding is None
    assert weight.shape == (24, 8)
    model(torch.tensor([[3], [7]]), model.start_state(1))[0].sum().backward()
    assert weight.grad is not None
    assert weight.grad.any(0).tolist() == [index in (3, 7) for index in range(8)]


def test_the_start_of_a_text_is_an_input_but_never_an_output() -> None:
    """There is an embedding but no logit for the start of a text, so it is never drawn."""
    model = fresh("gru")
    logits_TBV, _ = model(torch.tensor([[7]]), model.start_state(1))
    assert model.embedding is not None
    assert (model.embedding.num_embeddings, logits_TBV.shape[-1]) == (8, 7)


@pytest.mark.parametrize("initial_state", ["zero", "learned"])
@pytest.mark.parametrize("embedding_size", [0, 6])
@pytest.mark.parametrize("by_blocks", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_that_is_set_back_reads_a_new_text(
    cell: str, by_blocks: bool, embedding_size: int, initial_state: str
) -> None:
    """Logits, state and gradients are those of each document alone; no gradient flows across a reset."""
    model = fresh(cell, embedding_size=embedding_size, initial_state=initial_state)
    model.choose_kernel(by_blocks)
    if model.initial_state is not None:
        torch.nn.init.normal_(model.initial_state, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(1)
    tokens_TB = torch.randint(8, (12, 4), generator=generator)
    resets_TB = torch.rand(12, 4, generator=generator) < 0.2
    resets_TB[-1, 0] = True
    state = tuple(torch.randn(part.shape, generator=generator).requires_grad_() for part in model.start_state(4))
    weights_TBV = torch.randn(12, 4, 7, generator=generator) * ~resets_TB[..., None]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        inputs = [*state, *model.parameters()]
        return list(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))

    logits_TBV, after = model(tokens_TB, state, (), None, resets_TB)
    loss = (logits_TBV * weights_TBV).sum() + sum((part * part).sum() for part in after)
    expected, afters = torch.zeros(()), []
    for stream in range(4):
        own, places = tuple(part[:, stream : stream + 1] for part in state), resets_TB[:, stream].nonzero()[:, 0]
        for first, last in pairwise([0, *(places + 1).tolist(), 12]):
            if last > first:
                alone_TBV, own = model(tokens_TB[first:last, stream : stream + 1], own)
                expected = expected + (alone_TBV * weights_TBV[first:last, stream : stream + 1]).sum()
            if last - 1 in places:
                own = model.start_state(1)
        expected = expected + sum((part * part).sum() for part in own)
        afters.append(own)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after, tuple(torch.cat(parts, 1) for parts in zip(*afters, strict=True)))
    torch.testing.assert_close(gradients(loss), gradients(expected), rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_TB, state, (), None, resets_TB)[1], after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cell", [name for name in WITH_PRODUCTS if "-" in name and name != "rnn-relu"])
def test_the_loop_for_accelerators_sets_streams_back(cell: str) -> None:
    """It does what the kernel of the CPU does."""
    layer, generator = fresh(cell, num_layers=1).all_layers[0], torch.Generator().manual_seed(1)
    assert isinstance(layer, Variant)
    x_TBE, steps_TB = torch.randn(9, 3, 6, generator=generator), torch.rand(9, 3, generator=generator) < 0.3
    start = tuple(torch.randn(1, 3, 8, generator=generator) for _ in CELLS[cell].state)
    state, resets = tuple(torch.zeros_like(part) for part in start), Resets(steps_TB, start, is_zero=False)
    y_TBH, after = layer(x_TBE, state if len(state) > 1 else state[0], None, resets)
    by_steps_TBH, parts_PBH = layer.read_by_steps(x_TBE, torch.cat(state), resets)
    torch.testing.assert_close(by_steps_TBH, y_TBH)
    torch.testing.assert_close(parts_PBH, torch.cat(after) if isinstance(after, tuple) else after)
