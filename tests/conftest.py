"""What every test stands on: a cache and a working folder of its own, and small models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.config import Config, ModelConfig
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary
from tests.helpers.commands import TEXT

# Two test processes with two threads each on two cores slow each other many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own cache and works in its own folder."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ModelFile]:
    """Return a function that makes a small model file with random weights, large enough to make sharp predictions."""

    def make(
        cell: str = "lstm",
        num_layers: int = 1,
        symbols: str = "\n abcdefgh",
        hidden_size: int = 12,
        seed: int = 0,
        **others: Any,
    ) -> ModelFile:
        sizes = {"embedding_size": 5, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": 0.0}
        config = Config(model=ModelConfig.model_validate({"cell": cell} | sizes | others), seed=seed).model_dump()
        random = np.random.default_rng(seed)
        shapes = ModelSpec.of_settings(config["model"], len(symbols)).shapes
        # The recurrence stays short of chaos, or rounding would decide what comes after some steps.
        scales = {name: 0.9 * shape[-1] ** -0.5 if "layers." in name else 1.0 for name, shape in shapes.items()}
        arrays = {name: random.normal(0, scales[name], shape).astype(np.float32) for name, shape in shapes.items()}
        corpus = {"name": "made up", "sha256": "0" * 64, "characters": 1, "bytes": 1}
        return ModelFile(arrays, Vocabulary("characters", symbols), config, {"step": 0}, corpus)

    return make


@pytest.fixture
def model(make_model: Callable[..., ModelFile]) -> str:
    """A small model file."""
    make_model().save(Path("small.safetensors"))
    return "small.safetensors"


@pytest.fixture
def text() -> str:
    """A small text."""
    Path("hare.txt").write_text(TEXT, encoding="utf-8")
    return "hare.txt"
