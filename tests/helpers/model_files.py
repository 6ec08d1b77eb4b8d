"""Small model files for the tests, and checks on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.checkpoint import Arrays, ModelFile, load_checkpoint
from charlm.errors import ModelFileError
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.settings.config import Config, ModelConfig
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

SYMBOLS = "\0aé\u2028😀"
TINY_SETTINGS = ("cell", "embedding_size", "hidden_size", "num_layers", "dropout", "ngram_order")


def random_model(
    cell: str = "lstm",
    num_layers: int = 1,
    symbols: str | Vocabulary = "\n abcdefgh",
    hidden_size: int = 12,
    seed: int = 0,
    **settings: Any,
) -> ModelFile:
    """Make a small model with random weights, which are large enough for sharp predictions.

    Args:
        cell: the recurrence.
        num_layers: how many layers each stack has.
        symbols: the vocabulary, or the characters of it.
        hidden_size: units in each layer.
        seed: of the weights.
        settings: any other settings of `model`, such as `direction="both"`.
    """
    vocabulary = Vocabulary("characters", symbols) if isinstance(symbols, str) else symbols
    sizes = {"embedding_size": 5, "hidden_size": hidden_size, "num_layers": num_layers, "dropout": 0.0}
    config = Config(model=ModelConfig.model_validate({"cell": cell} | sizes | settings), seed=seed).model_dump()
    random = np.random.default_rng(seed)
    shapes = ModelSpec.of_settings(config["model"], len(vocabulary)).shapes
    # The recurrence stays short of chaos, or rounding would decide what comes after some steps.
    scales = {name: 0.9 * shape[-1] ** -0.5 if "layers." in name else 1.0 for name, shape in shapes.items()}
    arrays = {name: random.normal(0, scales[name], shape).astype(np.float32) for name, shape in shapes.items()}
    corpus = {"name": "made up", "sha256": "0" * 64, "characters": 1, "bytes": 1}
    return ModelFile(arrays, vocabulary, config, {"step": 0}, corpus)


def with_ngrams(file: ModelFile) -> ModelFile:
    """Put the trigrams of a random text of at most ten symbols beside a net."""
    num_symbols = len(file.vocabulary)
    text = np.random.default_rng(1).integers(min(num_symbols, 10), size=300).astype(np.uint8)
    levels = count([text], num_symbols, 3)
    mixture = Mixture(trie(levels, smooth(levels, num_symbols), num_symbols), 0.4)
    return replace(file, arrays=file.arrays | mixture.arrays())


def tiny_model(cell: str = "rnn", symbols: str = SYMBOLS, layers: int = 1, extra: Arrays | None = None) -> ModelFile:
    """Make a model of two units, with few settings and short metadata, and perhaps with arrays beside its weights."""
    model = random_model(cell, layers, symbols, hidden_size=2, embedding_size=2)
    return replace(
        model,
        arrays=model.arrays | (extra or {}),
        config={"model": {name: model.config["model"][name] for name in TINY_SETTINGS}},
        metrics={"step": 3, "validation": 2.25},
        corpus={"name": "fables", "sha256": "ab" * 32, "characters": 1000},
    )


def saved(model: ModelFile, path: Path) -> bytes:
    """Save a model and return the bytes of its file."""
    model.save(path)
    return path.read_bytes()


def load_error(path: Path) -> str:
    """Load a model file that must be refused, and return the error: one line that names the file."""
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
    """Return dtype, shape and bytes of an array."""
    return str(array.dtype), array.shape, array.tobytes()
