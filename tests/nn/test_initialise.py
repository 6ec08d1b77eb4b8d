"""How new matrices are drawn, by the name of the initialiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from charlm.nn.model import draw_matrix_

WAYS = ["glorot", "orthogonal", "normal(0.01)", "uniform(0.08)", "normal(2)", "uniform(1e-3)"]


def drawn(how: str, shape: tuple[int, int], num_gates: int = 1, seed: int = 0) -> Tensor:
    """Draw a matrix over other numbers."""
    weight_OI = torch.full(shape, 7.0)
    draw_matrix_(weight_OI, how, torch.Generator().manual_seed(seed), num_gates)
    return weight_OI


@pytest.mark.parametrize("size", [0.01, 2.0, 1e-05])
def test_normal_has_the_standard_deviation_it_names(size: float) -> None:
    """A matrix of normal(S) has mean 0 and standard deviation S; a tenth of a percent is beyond 3.29 S."""
    weight_OI = drawn(f"normal({size!r})", (600, 500))
    assert weight_OI.std().item() == pytest.approx(size, rel=0.01)
    assert abs(weight_OI.mean().item()) < 0.01 * size
    assert (weight_OI.abs() > 3.29 * size).double().mean().item() == pytest.approx(0.001, rel=0.25)


@pytest.mark.parametrize("size", [0.08, 1.0, 1e-05])
def test_uniform_fills_its_range_evenly(size: float) -> None:
    """A matrix of uniform(A) is spread evenly from -A to A."""
    weight_OI = drawn(f"uniform({size!r})", (600, 500))
    assert weight_OI.abs().max().item() <= size * (1 + 1e-6)
    shares = torch.histc(weight_OI / size, bins=10, min=-1, max=1) / weight_OI.numel()
    assert shares.tolist() == pytest.approx([0.1] * 10, rel=0.03)


@pytest.mark.parametrize(("num_outputs", "num_inputs", "num_gates"), [(400, 300, 1), (1200, 300, 4), (300, 1000, 3)])
def test_glorot_uses_the_shape_of_one_gate(num_outputs: int, num_inputs: int, num_gates: int) -> None:
    """Glorot matrices are uniform up to the square root of 6 / (inputs + outputs of ONE gate)."""
    bound = math.sqrt(6 / (num_inputs + num_outputs / num_gates))
    for gate in drawn("glorot", (num_outputs, num_inputs), num_gates).chunk(num_gates):
        assert 0.999 * bound < gate.abs().max().item() <= bound * (1 + 1e-6)
        assert gate.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(("num_units", "num_inputs", "num_gates"), [(24, 24, 1), (24, 24, 4), (40, 7, 3), (5, 30, 2)])
def test_each_gate_of_an_orthogonal_matrix_is_orthogonal(num_units: int, num_inputs: int, num_gates: int) -> None:
    """Each gate's columns, or its rows if they are fewer, are orthonormal; no two gates are equal."""
    weight_OI = drawn("orthogonal", (num_units * num_gates, num_inputs), num_gates)
    gates = weight_OI.view(num_gates, num_units, num_inputs)
    for gate in gates:
        products = gate.T @ gate if num_units >= num_inputs else gate @ gate.T
        torch.testing.assert_close(products, torch.eye(min(num_units, num_inputs)), rtol=0, atol=1e-5)
    for index in range(1, num_gates):
        assert (gates[index] - gates[0]).abs().max() > 0.1


def test_orthogonal_matrices_have_no_preferred_sign() -> None:
    """Over many draws each entry of an orthogonal matrix is as often above 0 as below."""
    positive = torch.stack([drawn("orthogonal", (4, 4), seed=seed) > 0 for seed in range(400)]).double().mean(0)
    assert ((positive > 0.35) & (positive < 0.65)).all()


@pytest.mark.parametrize("how", WAYS)
def test_an_initialiser_draws_only_from_its_generator(how: str) -> None:
    """The same seed draws the same numbers, and torch's own generator has no effect and does not change."""
    torch.manual_seed(1)
    first = drawn(how, (12, 5), num_gates=2, seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = drawn(how, (12, 5), num_gates=2, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not (first == drawn(how, (12, 5), num_gates=2, seed=6)).any()


@pytest.mark.parametrize("how", WAYS)
def test_drawing_a_parameter_records_no_gradient(how: str) -> None:
    """Every number of a parameter is overwritten, and autograd records nothing."""
    weight_OI = torch.nn.Parameter(torch.full((12, 5), 7.0))
    draw_matrix_(weight_OI, how, torch.Generator().manual_seed(0), 3)
    assert weight_OI.requires_grad
    assert weight_OI.grad_fn is None
    assert not (weight_OI == 7).any()


@pytest.mark.parametrize("how", ["", "auto", "normal", "uniform(-1)", "xavier"])
def test_an_unknown_initialiser_is_an_error(how: str) -> None:
    """An unknown name raises an error and draws nothing; settings are checked earlier."""
    with pytest.raises(LookupError):
        drawn(how, (3, 3))
