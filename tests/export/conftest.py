"""Models with n-grams beside their net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import Mixture
from tests.helpers.model_files import random_model


@pytest.fixture(scope="session")
def make_mixture() -> Callable[..., ModelFile]:
    """Return a function that makes a model with n-grams of up to so many symbols, of a text of few words."""

    def make(order: int = 4, weight: float = 0.4, **settings: Any) -> ModelFile:
        file = random_model(**settings)
        num_symbols = len(file.vocabulary)
        random = np.random.default_rng(0)
        words = [random.integers(num_symbols, size=size) for size in (2, 3, 4, 5)]
        text = np.concatenate([words[word] for word in random.integers(4, size=150)])
        levels = count([text], num_symbols, order)
        mixture = Mixture(trie(levels, smooth(levels, num_symbols), num_symbols), weight)
        return replace(file, arrays=file.arrays | mixture.arrays())

    return make
