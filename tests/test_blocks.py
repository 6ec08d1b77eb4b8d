"""The block kernels compute what torch's own layers compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from charlm import layers

PAIRS = {"gru": (nn.GRU, layers.GRU), "rnn": (nn.RNN, layers.RNN)}
# (T, B, E, H): one of everything, none a multiple of another, a long and narrow block, and inputs wider than units.
SHAPES = [(1, 1, 1, 1), (5, 3, 7, 4), (33, 2, 3, 5), (4, 6, 9, 2)]


def pair(cell: str, num_inputs: int, num_units: int) -> tuple[nn.Module, nn.Module]:
    """Return torch's layer and ours with the same weights, in float64."""
    torch.manual_seed(num_inputs * 100 + num_units)
    theirs, ours = (layer(num_inputs, num_units).double() for layer in PAIRS[cell])
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def loss_of(outputs_TBH: Tensor, state_1BH: Tensor) -> Tensor:
    """Weigh every output and every final state differently, so that no gradient hides another."""
    weights = torch.linspace(-1, 1, outputs_TBH.numel(), dtype=torch.float64).view(outputs_TBH.shape)
    state_weights = torch.linspace(2, -1, state_1BH.numel(), dtype=torch.float64).view(state_1BH.shape)
    return (outputs_TBH * weights).sum() + (state_1BH * state_weights).sum()


@pytest.fixture(params=PAIRS)
def cell(request: pytest.FixtureRequest) -> str:
    """Return the name of each cell that has a block kernel."""
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_state_and_every_gradient_are_those_of_torch(cell: str, shape: tuple[int, int, int, int]) -> None:
    """Forward and backward, from a given state, on shapes of every kind."""
    T, B, E, H = shape
    theirs, ours = pair(cell, E, H)
    results = []
    for layer in (theirs, ours):
        torch.manual_seed(1)
        x_TBE = torch.randn(T, B, E, dtype=torch.float64, requires_grad=True)
        h_1BH = torch.randn(1, B, H, dtype=torch.float64, requires_grad=True)
        outputs_TBH, state_1BH = layer(x_TBE, h_1BH)
        gradients = torch.autograd.grad(loss_of(outputs_TBH, state_1BH), [x_TBE, h_1BH, *layer.parameters()])
        results.append((outputs_TBH, state_1BH, *gradients))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_the_slopes_of_the_outputs(cell: str) -> None:
    """Finite differences, an oracle that knows neither kernel."""
    _, ours = pair(cell, 2, 3)
    names = [name for name, _ in ours.named_parameters()]

    def run(x_TBE: Tensor, h_1BH: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = torch.func.functional_call(
            ours, dict(zip(names, weights, strict=True)), (x_TBE, h_1BH)
        )
        return outputs

    x_TBE = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    h_1BH = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x_TBE, h_1BH, *ours.parameters()))


def test_two_blocks_may_wait_for_their_gradients(cell: str) -> None:
    """Nothing a block needs to go back is overwritten by the next: gradients through both are torch's."""
    theirs, ours = pair(cell, 3, 4)
    x_TBE = torch.randn(6, 2, 3, dtype=torch.float64)
    gradients = []
    for layer in (theirs, ours):
        state_1BH = torch.zeros(1, 2, 4, dtype=torch.float64)
        losses = []
        for block_TBE in x_TBE.split(3):
            outputs_TBH, state_1BH = layer(block_TBE, state_1BH)
            losses.append(loss_of(outputs_TBH, state_1BH))
        gradients.append(torch.autograd.grad(losses[0] + losses[1], list(layer.parameters())))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_state_given_is_left_as_it_was(cell: str) -> None:
    """The kernel steps in place, but on a copy."""
    _, ours = pair(cell, 3, 4)
    h_1BH = torch.randn(1, 2, 4, dtype=torch.float64)
    before = h_1BH.clone()
    ours(torch.randn(3, 2, 3, dtype=torch.float64), h_1BH)
    assert torch.equal(h_1BH, before)


def test_under_autocast_products_are_bf16_and_the_state_is_not(cell: str) -> None:
    """Outputs and gradients are float32's to bf16's precision; the state keeps float32."""
    theirs, ours = (layer.float() for layer in pair(cell, 16, 32))
    x_TBE, h_1BH = torch.randn(12, 4, 16), torch.randn(1, 4, 32)
    expected_TBH, _ = theirs(x_TBE, h_1BH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs_TBH, state_1BH = ours(x_TBE, h_1BH)
        # The second layer's input is bf16 already, and its caller may have rounded the state too.
        _, second_1BH = ours(outputs_TBH[..., :16], h_1BH.bfloat16())
    assert (outputs_TBH.dtype, state_1BH.dtype, second_1BH.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(outputs_TBH.float(), expected_TBH, rtol=0, atol=0.05)
    expected = torch.autograd.grad(expected_TBH.sum(), list(theirs.parameters()))
    found = torch.autograd.grad(outputs_TBH.float().sum(), list(ours.parameters()))
    for theirs_gradient, ours_gradient in zip(expected, found, strict=True):
        assert ours_gradient.dtype == torch.float32
        assert (ours_gradient - theirs_gradient).norm() < 0.03 * theirs_gradient.norm()


def test_without_gradients_torch_itself_computes(cell: str) -> None:
    """The results are torch's to the bit."""
    theirs, ours = pair(cell, 3, 4)
    x_TBE, h_1BH = torch.randn(5, 2, 3, dtype=torch.float64), torch.zeros(1, 2, 4, dtype=torch.float64)
    with torch.inference_mode():
        for expected, found in zip(theirs(x_TBE, h_1BH), ours(x_TBE, h_1BH), strict=True):
            assert torch.equal(expected, found)
