"""A linear recurrence over a block, by steps and by rounds, against plain Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from charlm.nn.scan import by_rounds, by_steps, scan

# One step, powers of two and their neighbours, where a missing or extra round would show.
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 64, 100]


def drawn(T: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a, b and the state before, for three streams of two units."""
    generator = torch.Generator().manual_seed(seed)
    a_TBH = torch.rand(T, 3, 2, dtype=torch.float64, generator=generator) * 2 - 1
    b_TBH, h_BH = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((T, 3, 2), (3, 2)))
    return a_TBH, b_TBH, h_BH


def written_out(a_TBH: Tensor, b_TBH: Tensor, h_BH: Tensor) -> Tensor:
    """Compute the recurrence number by number."""
    a, b, h = a_TBH.tolist(), b_TBH.tolist(), h_BH.tolist()
    steps = []
    for t in range(len(a)):
        h = [[a[t][s][u] * h[s][u] + b[t][s][u] for u in range(len(h[s]))] for s in range(len(h))]
        steps.append(h)
    return torch.tensor(steps, dtype=torch.float64)


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("recur", [by_steps, by_rounds])
def test_steps_and_rounds_equal_the_recurrence_from_zero(recur: Callable[[Tensor, Tensor], Tensor], T: int) -> None:
    """Steps and rounds from a zero state equal plain Python for any length."""
    a_TBH, b_TBH, h_BH = drawn(T)
    given = a_TBH.clone(), b_TBH.clone()
    expected_TBH = written_out(a_TBH, b_TBH, torch.zeros_like(h_BH))
    torch.testing.assert_close(recur(a_TBH, b_TBH), expected_TBH, rtol=1e-12, atol=1e-12)
    assert torch.equal(a_TBH, given[0])
    assert torch.equal(b_TBH, given[1])


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("recur", [by_steps, by_rounds])
def test_a_scan_continues_from_a_state(
    monkeypatch: pytest.MonkeyPatch, recur: Callable[[Tensor, Tensor], Tensor], T: int
) -> None:
    """From a given state both kinds of scan equal plain operations, forward and backward."""
    monkeypatch.setattr("charlm.nn.scan._recur", recur)
    inputs = [tensor.requires_grad_() for tensor in drawn(T, seed=1)]
    a_TBH, b_TBH, h_BH = inputs
    found_TBH = scan(a_TBH, b_TBH, h_BH)
    torch.testing.assert_close(found_TBH.detach(), written_out(a_TBH, b_TBH, h_BH), rtol=1e-12, atol=1e-12)
    steps, weights = [h_BH], torch.linspace(-1, 2, found_TBH.numel(), dtype=torch.float64).view_as(found_TBH)
    for a_BH, b_BH in zip(a_TBH, b_TBH, strict=True):
        steps.append(a_BH * steps[-1] + b_BH)
    expected = torch.autograd.grad((torch.stack(steps[1:]) * weights).sum(), inputs)
    for one, other in zip(torch.autograd.grad((found_TBH * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("T", [1, 2, 5])
@pytest.mark.parametrize("recur", [by_steps, by_rounds])
def test_the_gradients_of_a_scan_are_slopes(
    monkeypatch: pytest.MonkeyPatch, recur: Callable[[Tensor, Tensor], Tensor], T: int
) -> None:
    """The gradients of a, b and the state before equal finite differences."""
    monkeypatch.setattr("charlm.nn.scan._recur", recur)
    assert torch.autograd.gradcheck(scan, tuple(tensor.requires_grad_() for tensor in drawn(T, seed=2)))


def test_a_scan_is_exact_for_shares_of_zero_and_one() -> None:
    """With a = 0 a scan forgets everything before, with a = 1 it sums everything, both exactly."""
    b_TBH = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None, None]
    h_11 = torch.full((1, 1), 100.0, dtype=torch.float64)
    for recur in (by_steps, by_rounds):
        assert recur(torch.zeros_like(b_TBH), b_TBH).flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
        assert recur(torch.ones_like(b_TBH), b_TBH).flatten().tolist() == [1, 3, 6, 10, 15, 21, 28, 36]
    assert scan(torch.zeros_like(b_TBH), b_TBH, h_11)[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert scan(torch.ones_like(b_TBH), b_TBH, h_11)[:, 0, 0].tolist() == [101, 103, 106, 110, 115, 121, 128, 136]
