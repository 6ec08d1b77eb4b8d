"""The arithmetic of what limits several GPUs, by hand on round numbers."""

from __future__ import annotations

import pytest

from charlm.training.scaling import LINKS, Link, estimate, pays_from

# 1,000 operations and 100 bytes a second, and kernels that start at once.
SLOW = Link("two GPUs", 2, 1000, 100, 0.0)


def test_an_estimate_is_computing_and_exchange() -> None:
    """10 weights and 50 characters: 3 s on one GPU, 1.5 s on each of two, and a ring of 40 bytes in 0.4 s."""
    found = estimate(SLOW, 10, 50, 5)
    assert found["one_gpu_seconds"] == pytest.approx(3)
    assert found["all_seconds"] == pytest.approx(1.5 + 0.4)
    assert found["speed_up"] == pytest.approx(3 / 1.9)
    assert (found["gradient_bytes"], found["limit"]) == (40, "computing")


def test_one_character_after_another_is_not_shortened() -> None:
    """Five characters forward and backward take 10 s, on one GPU as on two."""
    found = estimate(SLOW._replace(start_seconds=1.0), 10, 50, 5)
    assert found["all_seconds"] == pytest.approx(10.4)
    assert found["limit"] == "one character after another"


def test_a_size_from_which_it_pays_is_the_first_one() -> None:
    """The next smaller size is less than twice as fast; two GPUs with an exchange never are."""
    machine = LINKS[0]
    units = pays_from(machine, 2**18, 64)
    assert units
    assert estimate(machine, 8 * units**2, 2**18, 64)["speed_up"] >= 2
    assert estimate(machine, 8 * (units // 2) ** 2, 2**18, 64)["speed_up"] < 2
    assert pays_from(SLOW, 50, 5) is None
