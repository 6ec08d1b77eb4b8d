"""Small model files for the tests, and what to ask of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import Arrays, ModelFile, load_checkpoint
from charlm.errors import ModelFileError
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

SYMBOLS = "\0aé\u2028😀"


def tiny(cell: str = "rnn", symbols: str = SYMBOLS, layers: int = 1, extra: Arrays | None = None) -> ModelFile:
    """Return the smallest model that is one: two units, every weight different."""
    config = {"model": {"cell": cell, "embedding_size": 2, "hidden_size": 2, "num_layers": layers, "dropout": 0.0}}
    arrays: Arrays = {}
    for name, shape in ModelSpec.of_settings(config["model"], len(symbols)).shapes.items():
        count = int(np.prod(shape))
        arrays[name] = (np.arange(count, dtype=np.float32) / 7 + len(arrays)).reshape(shape)
    metrics = {"step": 3, "validation": 2.25}
    corpus = {"name": "fables", "sha256": "ab" * 32, "characters": 1000}
    return ModelFile(arrays | (extra or {}), Vocabulary("characters", symbols), config, metrics, corpus)


def saved(model: ModelFile, path: Path) -> bytes:
    """Save a model and return the bytes of its file."""
    model.save(path)
    return path.read_bytes()


def refusal(path: Path) -> str:
    """Load what must be refused, and return what is said: one line that names the file."""
    with pytest.raises(ModelFileError) as raised:
        load_checkpoint(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_same(expected: ModelFile, actual: ModelFile) -> None:
    """Compare two models, the arrays by their bits."""
    assert {name: bits(array) for name, array in expected.arrays.items()} == {
        name: bits(array) for name, array in actual.arrays.items()
    }
    assert expected.vocabulary == actual.vocabulary
    for field in ("config", "metrics", "corpus", "runtime"):
        assert getattr(expected, field) == getattr(actual, field)


def bits(array: np.ndarray[Any, Any]) -> tuple[str, tuple[int, ...], bytes]:
    """Return all there is to an array."""
    return str(array.dtype), array.shape, array.tobytes()
