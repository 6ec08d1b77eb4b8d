"""Torch models made from model files, ids to score with them, and a benchmark that takes no time."""

from __future__ import annotations

import numpy as np

from charlm.checkpoint import ModelFile
from charlm.evaluation.bench import Size, Workload
from charlm.nn.model import CharModel

# As many as `random_model` has by default.
NUM_SYMBOLS = 10
TINY_WORKLOAD = Workload(
    sizes=(Size(1, 8), Size(2, 8)),
    typical_size=Size(1, 8),
    num_streams=3,
    block_size=4,
    characters_sampled=5,
    text_bytes=1000,
    gemm_size=64,
)


def module_of(file: ModelFile) -> CharModel:
    """Load a model file into torch."""
    module = CharModel(file.spec)
    module.load_arrays(file.weights)
    return module


def random_ids(length: int, seed: int = 6) -> np.ndarray:
    """Return a text of random ids."""
    return np.random.default_rng(seed).integers(NUM_SYMBOLS, size=length).astype(np.uint8)
