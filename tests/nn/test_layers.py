"""Every cell's layer over a block computes its equations step by step, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from charlm.cells import CELLS, Recurrent
from charlm.nn.layers import LSTM, Variant, make_layer
from tests.helpers.training import BF16_WORKS

Block = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# (T, B, E, H): all 1, no multiples of one another, a long and narrow block, and more inputs than units.
SHAPES = [(1, 1, 1, 1), (5, 3, 7, 4), (33, 2, 3, 5), (4, 6, 9, 2)]
TORCH_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "rnn": nn.RNN,
    "rnn-relu": partial(nn.RNN, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "gru": nn.GRU,
}
WITH_PRODUCTS = [name for name, cell in CELLS.items() if cell.products]
VARIANTS = [name for name in CELLS if isinstance(make_layer(name, 1, 1), Variant)]


def random_layer(cell: str, num_inputs: int, num_units: int) -> nn.Module:
    """Make a layer in float64, with every weight, bias and peephole drawn from -0.8 to 0.8."""
    layer = make_layer(cell, num_inputs, num_units).double()
    if isinstance(layer, LSTM):
        layer.by_blocks = True
    generator = torch.Generator().manual_seed(num_inputs * 100 + num_units)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.8, 0.8, generator=generator)
    return layer


def random_inputs(cell: str, T: int, B: int, E: int, H: int) -> tuple[Tensor, Tensor]:
    """Draw the inputs of a block, and the state before it with its parts stacked."""
    generator = torch.Generator().manual_seed(1)
    x_TBE = torch.randn(T, B, E, dtype=torch.float64, generator=generator)
    state_PBH = torch.randn(len(CELLS[cell].state), B, H, dtype=torch.float64, generator=generator)
    return x_TBE.requires_grad_(), state_PBH.requires_grad_()


def read(layer: nn.Module, x_TBE: Tensor, state_PBH: Tensor) -> tuple[Tensor, Tensor]:
    """Read a block, with the state as torch's layers take it: a pair for LSTMs, one tensor for others."""
    state = state_PBH if len(state_PBH) == 1 else tuple(part_BH[None] for part_BH in state_PBH)
    outputs_TBH, after = layer(x_TBE, state)
    assert isinstance(after, tuple) == isinstance(state, tuple)
    return outputs_TBH, torch.cat(after) if isinstance(after, tuple) else after


def follow(cell: str, layer: nn.Module, x_TBE: Tensor, state_PBH: Tensor) -> tuple[Tensor, Tensor]:
    """Read a block with only the equations, step by step."""
    weights = dict(layer.named_parameters())
    num_units = state_PBH.shape[-1]
    ends = [num_units * end for end in itertools.accumulate(CELLS[cell].products, initial=0)]

    def product(start: int, end: int, h_BH: Tensor) -> Tensor:
        return h_BH @ weights["weight_hh_l0"][start:end].T + weights["bias_hh_l0"][start:end]

    products = [partial(product, *pair) for pair in itertools.pairwise(ends)]
    recurrent = Recurrent(products, weights.get("peephole_l0"))
    state: tuple[Tensor, ...] = state_PBH.unbind()
    outputs = []
    for x_BE in x_TBE:
        state, _ = CELLS[cell].step(x_BE @ weights["weight_ih_l0"].T + weights["bias_ih_l0"], recurrent, state)
        outputs.append(state[0])
    return torch.stack(outputs), torch.stack(state)


def loss_of(outputs_TBH: Tensor, state_PBH: Tensor) -> Tensor:
    """Weight every output and every final state differently, so that no gradient hides another."""
    weights = torch.linspace(-1, 1, outputs_TBH.numel(), dtype=torch.float64).view(outputs_TBH.shape)
    state_weights = torch.linspace(2, -1, state_PBH.numel(), dtype=torch.float64).view(state_PBH.shape)
    return (outputs_TBH * weights).sum() + (state_PBH * state_weights).sum()


def results_of(block: Block, x_TBE: Tensor, state_PBH: Tensor, weights: Iterable[Tensor]) -> list[Tensor]:
    """Return outputs, state, and the gradients of inputs, state and weights."""
    outputs_TBH, after_PBH = block(x_TBE, state_PBH)
    gradients = torch.autograd.grad(loss_of(outputs_TBH, after_PBH), [x_TBE, state_PBH, *weights])
    return [outputs_TBH, after_PBH, *gradients]


def assert_close(found: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float = 1e-12) -> None:
    """Compare tensors pair by pair, their shapes and types too."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def skip_torch_without_bf16(cell: str) -> None:
    """Skip torch's own LSTM if it has no kernel for bf16; our kernels work in bf16 everywhere."""
    if cell == "lstm" and not BF16_WORKS:
        pytest.skip("bf16 does not work on this processor")


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    """Return the name of each cell."""
    return str(request.param)


def test_a_layer_has_the_weights_its_cell_names(cell: str) -> None:
    """A layer has exactly the weights of its cell, in name, shape and order."""
    found = {name: tuple(weight.shape) for name, weight in make_layer(cell, 7, 4).named_parameters()}
    assert list(found.items()) == list(CELLS[cell].weight_shapes(7, 4).items())
    assert ("peephole_l0" in found) == (cell == "lstm-peephole")
    assert ("weight_hh_l0" in found) == (cell not in ("mingru", "minlstm"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_equals_the_equations(cell: str, shape: tuple[int, int, int, int]) -> None:
    """Outputs, state and every gradient equal those of the equations, for shapes of every kind."""
    T, B, E, H = shape
    layer, (x_TBE, state_PBH) = random_layer(cell, E, H), random_inputs(cell, *shape)
    found = results_of(partial(read, layer), x_TBE, state_PBH, layer.parameters())
    expected = results_of(partial(follow, cell, layer), x_TBE, state_PBH, layer.parameters())
    assert found[0].shape == (T, B, H)
    assert_close(found, expected, tolerance=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("cell", TORCH_LAYERS)
def test_a_layer_equals_the_layer_of_torch(cell: str, shape: tuple[int, int, int, int]) -> None:
    """Outputs, state and every gradient equal those of torch's layer with the same weights."""
    _, _, E, H = shape
    layer, theirs = random_layer(cell, E, H), TORCH_LAYERS[cell](E, H).double()
    theirs.load_state_dict(layer.state_dict())
    x_TBE, state_PBH = random_inputs(cell, *shape)
    found = results_of(partial(read, layer), x_TBE, state_PBH, layer.parameters())
    expected = results_of(partial(read, theirs), x_TBE, state_PBH, theirs.parameters())
    assert_close(found, expected)


def test_gradients_are_the_slopes_of_the_outputs(cell: str) -> None:
    """Gradients equal finite differences, an oracle that knows neither kernel nor equations."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 2, 3), random_inputs(cell, 3, 2, 2, 3)
    names = [name for name, _ in layer.named_parameters()]

    def run(x_TBE: Tensor, state_PBH: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        substitutes = dict(zip(names, weights, strict=True))

        def layer_with(*arguments: Tensor) -> tuple[Tensor, Tensor]:
            result: tuple[Tensor, Tensor] = torch.func.functional_call(layer, substitutes, arguments)
            return result

        return read(layer_with, x_TBE, state_PBH)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(run, (x_TBE, state_PBH, *layer.parameters()))


def test_outputs_and_state_have_gradients_of_their_own(cell: str) -> None:
    """Gradients are complete if the loss uses only the outputs, and if it uses only the state."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 3, 4), random_inputs(cell, 5, 2, 3, 4)
    wanted = [x_TBE, state_PBH, *layer.parameters()]
    for part in (0, 1):
        found = torch.autograd.grad(read(layer, x_TBE, state_PBH)[part].square().sum(), wanted)
        expected = torch.autograd.grad(follow(cell, layer, x_TBE, state_PBH)[part].square().sum(), wanted)
        assert_close(found, expected, tolerance=1e-11)


def test_two_blocks_in_turn_equal_one_block(cell: str) -> None:
    """Two blocks with the state handed over equal one block, forward and backward."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 3, 4), random_inputs(cell, 7, 2, 3, 4)

    def in_turn(x_TBE: Tensor, state_PBH: Tensor) -> tuple[Tensor, Tensor]:
        first_TBH, between_PBH = read(layer, x_TBE[:3], state_PBH)
        second_TBH, after_PBH = read(layer, x_TBE[3:], between_PBH)
        return torch.cat([first_TBH, second_TBH]), after_PBH

    found = results_of(in_turn, x_TBE, state_PBH, layer.parameters())
    assert_close(found, results_of(partial(read, layer), x_TBE, state_PBH, layer.parameters()))


def test_two_backward_passes_give_the_same_gradients(cell: str) -> None:
    """A backward pass overwrites no saved tensor, so a second one gives the same gradients."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 3, 4), random_inputs(cell, 5, 2, 3, 4)
    loss = loss_of(*read(layer, x_TBE, state_PBH))
    wanted = [x_TBE, state_PBH, *layer.parameters()]
    first = [gradient.clone() for gradient in torch.autograd.grad(loss, wanted, retain_graph=True)]
    for one, other in zip(first, torch.autograd.grad(loss, wanted), strict=True):
        assert torch.equal(one, other)


def test_a_layer_changes_neither_arguments_nor_results(cell: str) -> None:
    """Inputs, state and weights keep every bit, and backward does not change the outputs."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 3, 4), random_inputs(cell, 5, 2, 3, 4)
    given = [x_TBE, state_PBH, *layer.parameters()]
    before = [tensor.detach().clone() for tensor in given]
    outputs_TBH, after_PBH = read(layer, x_TBE, state_PBH)
    kept = [outputs_TBH.detach().clone(), after_PBH.detach().clone()]
    loss_of(outputs_TBH, after_PBH).backward()
    for tensor, copy in zip([*given, outputs_TBH, after_PBH], before + kept, strict=True):
        assert torch.equal(tensor, copy)


def test_under_autocast_products_are_bf16_and_the_state_is_not(cell: str) -> None:
    """Under autocast, results equal float32's to bf16's precision, and the state stays float32."""
    skip_torch_without_bf16(cell)
    layer = random_layer(cell, 16, 32).float()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.25)
    x_TBE, state_PBH = (tensor.detach().float() for tensor in random_inputs(cell, 12, 4, 16, 32))
    expected_TBH, expected_PBH = follow(cell, layer, x_TBE, state_PBH)
    expected = torch.autograd.grad(expected_TBH.sum(), list(layer.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs_TBH, after_PBH = read(layer, x_TBE, state_PBH)
        # The second layer's input is bf16 already, and its caller may have rounded the state too.
        _, second_PBH = read(layer, outputs_TBH[..., :16].bfloat16(), state_PBH.bfloat16())
    torch.testing.assert_close(outputs_TBH.float(), expected_TBH, rtol=0, atol=0.05)
    torch.testing.assert_close(after_PBH.float(), expected_PBH, rtol=0, atol=0.05)
    found = torch.autograd.grad(outputs_TBH.float().sum(), list(layer.parameters()))
    for found_gradient, expected_gradient in zip(found, expected, strict=True):
        assert found_gradient.dtype == torch.float32
        assert (found_gradient - expected_gradient).norm() < 0.03 * expected_gradient.norm()
    if cell != "lstm":
        # torch's own LSTM is all bf16.
        assert (after_PBH.dtype, second_PBH.dtype) == (torch.float32, torch.float32)
        # A rectified sum is 0 or the result of the product itself, which is bf16.
        assert torch.equal(after_PBH, after_PBH.bfloat16().float()) == (cell == "rnn-relu")
        is_scanned = cell not in WITH_PRODUCTS
        assert outputs_TBH.dtype == (torch.float32 if is_scanned else torch.bfloat16)


@pytest.mark.parametrize("cell", WITH_PRODUCTS)
@pytest.mark.parametrize("embedding_size", [0, 3])
def test_ids_are_read_like_the_inputs_they_stand_for(cell: str, embedding_size: int) -> None:
    """Ids give the same outputs, state and gradients as rows of the embedding or one-hot inputs."""
    embedding_VE = torch.randn(6, embedding_size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rows_VE = embedding_VE.requires_grad_() if embedding_size else torch.eye(6, dtype=torch.float64)
    layer, (_, state_PBH) = random_layer(cell, rows_VE.shape[1], 4), random_inputs(cell, 5, 2, 1, 4)
    ids_TB = torch.tensor([[0, 5], [2, 2], [5, 1], [0, 0], [3, 2]])
    wanted = [*layer.parameters(), *([embedding_VE] if embedding_size else [])]
    state = state_PBH if len(state_PBH) == 1 else tuple(part_BH[None] for part_BH in state_PBH)
    outputs_TBH, after = layer(ids_TB, state, embedding_VE if embedding_size else None)
    found = [outputs_TBH, torch.cat(after) if isinstance(after, tuple) else after]
    expected = follow(cell, layer, rows_VE[ids_TB], state_PBH)
    assert_close(found, expected, tolerance=1e-11)
    gradients = [torch.autograd.grad(loss_of(*results), wanted) for results in (found, expected)]
    assert_close(gradients[0], gradients[1], tolerance=1e-11)


@pytest.mark.parametrize(("E", "H"), [(7, 5), (40, 33), (31, 32)])
@pytest.mark.parametrize("cell", WITH_PRODUCTS)
def test_under_autocast_sizes_need_not_be_whole_tiles(cell: str, E: int, H: int) -> None:
    """Under autocast, the padding to whole tiles changes no result."""
    skip_torch_without_bf16(cell)
    layer = random_layer(cell, E, H).float()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.2)
    x_TBE, state_PBH = (tensor.detach().float() for tensor in random_inputs(cell, 6, 3, E, H))
    expected = follow(cell, layer, x_TBE, state_PBH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read(layer, x_TBE, state_PBH)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0, atol=0.05)
    for gradients in zip(
        *(torch.autograd.grad(y.float().sum(), list(layer.parameters())) for y in (found[0], expected[0])), strict=True
    ):
        assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[1].norm() + 1e-6


@pytest.mark.parametrize(("cell", "bias"), [("mingru", [-7.0, 0.0]), ("minlstm", [20.0, -7.0, 0.0])])
def test_autocast_does_not_round_shares_to_one(cell: str, bias: list[float]) -> None:
    """A state that decays per step by less than bf16 can represent has still decayed after many steps."""
    layer = make_layer(cell, 1, 1)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(torch.tensor(bias) if name == "bias_ih_l0" else torch.zeros_like(parameter))
    x_TBE, h_1BH = torch.zeros(500, 1, 1), torch.ones(1, 1, 1)
    expected_TBH, _ = follow(cell, layer, x_TBE, h_1BH)
    assert 0.6 < expected_TBH[-1].item() < 0.7
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_TBH, _ = read(layer, x_TBE, h_1BH)
    torch.testing.assert_close(found_TBH, expected_TBH, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_results_are_the_same(cell: str, mode: Callable[[], torch.no_grad]) -> None:
    """Without gradients the results are the same to the last bits, and nothing is saved for backward."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 3, 4), random_inputs(cell, 5, 2, 3, 4)
    expected = read(layer, x_TBE, state_PBH)
    assert all(tensor.requires_grad for tensor in expected)
    with mode():
        found = read(layer, x_TBE, state_PBH)
    assert not any(tensor.requires_grad for tensor in found)
    assert_close(found, [tensor.detach() for tensor in expected], tolerance=1e-14)


@pytest.mark.parametrize("cell", TORCH_LAYERS)
def test_without_gradients_torchs_own_layers_compute(cell: str) -> None:
    """Without gradients the results equal those of torch's own layer bit for bit."""
    layer, theirs = random_layer(cell, 3, 4), TORCH_LAYERS[cell](3, 4).double()
    theirs.load_state_dict(layer.state_dict())
    x_TBE, state_PBH = random_inputs(cell, 5, 2, 3, 4)
    with torch.inference_mode():
        for expected, found in zip(read(theirs, x_TBE, state_PBH), read(layer, x_TBE, state_PBH), strict=True):
            assert torch.equal(expected, found)


@pytest.mark.parametrize("cell", [name for name in VARIANTS if name in WITH_PRODUCTS])
def test_the_loop_for_accelerators_equals_the_cpu_kernel(cell: str) -> None:
    """The loop that accelerators run, here on the CPU, gives the kernel's results and gradients."""
    layer, (x_TBE, state_PBH) = random_layer(cell, 7, 4), random_inputs(cell, 5, 3, 7, 4)
    assert isinstance(layer, Variant)
    expected = results_of(partial(read, layer), x_TBE, state_PBH, layer.parameters())
    assert_close(results_of(layer.read_by_steps, x_TBE, state_PBH, layer.parameters()), expected, tolerance=1e-11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs_TBH, after_PBH = layer.float().read_by_steps(x_TBE.float(), state_PBH.float())
    torch.testing.assert_close(outputs_TBH.double(), expected[0], rtol=0, atol=0.05)
    torch.testing.assert_close(after_PBH.double(), expected[1], rtol=0, atol=0.05)


def test_the_lists_of_cells_in_these_tests_are_complete() -> None:
    """Every cell is either a layer of torch or a variant, so no test above is empty."""
    assert VARIANTS == ["lstm-peephole", "lstm-coupled", "gru-reset-before", "mingru", "minlstm"]
    assert set(TORCH_LAYERS) | set(VARIANTS) == set(CELLS)
