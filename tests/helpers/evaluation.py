"""What the tests of evaluation share: torch models made from model files, and a benchmark that takes no time."""

from __future__ import annotations

from charlm.checkpoint import ModelFile
from charlm.evaluation.bench import Size, Workload
from charlm.nn.model import CharModel

TINY_WORKLOAD = Workload(
    sizes=(Size(1, 8), Size(2, 8)), typical_size=Size(1, 8), characters_sampled=5, text_bytes=1000, gemm_size=64
)


def module_of(file: ModelFile) -> CharModel:
    """Load a model file into torch."""
    module = CharModel(file.spec)
    module.load_arrays(file.weights)
    return module
