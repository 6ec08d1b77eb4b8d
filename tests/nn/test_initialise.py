"""How fresh matrices are drawn, by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from charlm.nn.model import draw_matrix_

WAYS = ["glorot", "orthogonal", "normal(0.01)", "uniform(0.08)", "normal(2)", "uniform(1e-3)"]


def drawn(how: str, shape: tuple[int, int], num_gates: int = 1, seed: int = 0) -> Tensor:
    """Draw a matrix over numbers that were there before."""
    weight_OI = torch.full(shape, 7.0)
    draw_matrix_(weight_OI, how, torch.Generator().manual_seed(seed), num_gates)
    return weight_OI


@pytest.mark.parametrize("size", [0.01, 2.0, 1e-05])
def test_normal_has_the_standard_deviation_it_names(size: float) -> None:
    """Mean 0, and a tenth of a percent beyond 3.29 standard deviations, as it should be."""
    weight_OI = drawn(f"normal({size!r})", (600, 500))
    assert weight_OI.std().item() == pytest.approx(size, rel=0.01)
    assert abs(weight_OI.mean().item()) < 0.01 * size
    assert (weight_OI.abs() > 3.29 * size).double().mean().item() == pytest.approx(0.001, rel=0.25)


@pytest.mark.parametrize("size", [0.08, 1.0, 1e-05])
def test_uniform_fills_its_range_evenly(size: float) -> None:
    """From -A to A, as many in each tenth."""
    weight_OI = drawn(f"uniform({size!r})", (600, 500))
    assert weight_OI.abs().max().item() <= size * (1 + 1e-6)
    shares = torch.histc(weight_OI / size, bins=10, min=-1, max=1) / weight_OI.numel()
    assert shares.tolist() == pytest.approx([0.1] * 10, rel=0.03)


@pytest.mark.parametrize(("num_outputs", "num_inputs", "num_gates"), [(400, 300, 1), (1200, 300, 4), (300, 1000, 3)])
def test_glorot_is_as_wide_as_each_gate_asks(num_outputs: int, num_inputs: int, num_gates: int) -> None:
    """Uniform up to the square root of 6 / (inputs + outputs of ONE gate), however many lie below each other."""
    bound = math.sqrt(6 / (num_inputs + num_outputs / num_gates))
    for gate in drawn("glorot", (num_outputs, num_inputs), num_gates).chunk(num_gates):
        assert 0.999 * bound < gate.abs().max().item() <= bound * (1 + 1e-6)
        assert gate.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(("num_units", "num_inputs", "num_gates"), [(24, 24, 1), (24, 24, 4), (40, 7, 3), (5, 30, 2)])
def test_orthogonal_is_so_gate_by_gate(num_units: int, num_inputs: int, num_gates: int) -> None:
    """Each gate's columns, or its rows where they are fewer, are of length 1 and at right angles; no two are equal."""
    weight_OI = drawn("orthogonal", (num_units * num_gates, num_inputs), num_gates)
    gates = weight_OI.view(num_gates, num_units, num_inputs)
    for gate in gates:
        products = gate.T @ gate if num_units >= num_inputs else gate @ gate.T
        torch.testing.assert_close(products, torch.eye(min(num_units, num_inputs)), rtol=0, atol=1e-5)
    for index in range(1, num_gates):
        assert (gates[index] - gates[0]).abs().max() > 0.1


def test_orthogonal_matrices_point_anywhere() -> None:
    """Over many draws every number is as often above 0 as below: no sign is fixed by the way they are made."""
    positive = torch.stack([drawn("orthogonal", (4, 4), seed=seed) > 0 for seed in range(400)]).double().mean(0)
    assert ((positive > 0.35) & (positive < 0.65)).all()


@pytest.mark.parametrize("how", WAYS)
def test_the_generator_alone_decides(how: str) -> None:
    """The same seed draws the same whatever torch's own generator is at, and leaves that one where it was."""
    torch.manual_seed(1)
    first = drawn(how, (12, 5), num_gates=2, seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = drawn(how, (12, 5), num_gates=2, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not (first == drawn(how, (12, 5), num_gates=2, seed=6)).any()


@pytest.mark.parametrize("how", WAYS)
def test_a_weight_that_learns_is_drawn_without_a_trace(how: str) -> None:
    """Nothing is kept for a gradient, and every number is overwritten."""
    weight_OI = torch.nn.Parameter(torch.full((12, 5), 7.0))
    draw_matrix_(weight_OI, how, torch.Generator().manual_seed(0), 3)
    assert weight_OI.requires_grad
    assert weight_OI.grad_fn is None
    assert not (weight_OI == 7).any()


@pytest.mark.parametrize("how", ["", "auto", "normal", "uniform(-1)", "xavier"])
def test_what_has_no_name_is_not_drawn(how: str) -> None:
    """Settings are checked before; here an unknown name is an error and not a default."""
    with pytest.raises(LookupError):
        drawn(how, (3, 3))
