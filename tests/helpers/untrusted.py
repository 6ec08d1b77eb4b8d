"""Untrusted model files: taken apart, forged with the right hash, and used as commands use them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from charlm.checkpoint import Arrays, load_checkpoint
from charlm.errors import CharlmError
from charlm.evaluation.evaluate import evaluate
from charlm.evaluation.scored_text import load_own_text
from charlm.inference.generate import generate
from charlm.inference.predict import predict
from charlm.inference.sampling import Sampling
from charlm.inference.stepper import Stepper
from charlm.spec import ModelSpec
from tests.helpers.evaluation import module_of
from tests.helpers.training import begin, interrupt

FIELDS = ("vocabulary", "config", "metrics", "corpus")


class Removed:
    """Marks a value that is removed."""

    def __repr__(self) -> str:
        return "removed"


REMOVED = Removed()


def interrupted_run() -> Path:
    """Make a run in `run` on `text.txt` that is interrupted after six of eight steps and has a best model."""
    training = begin("run", train__steps=8, train__evaluations=2)
    interrupt(training, 6)
    return training.run.path


def split_file(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a model file into its header and the bytes of its arrays."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def join_file(header: Any, body: bytes) -> bytes:
    """Join a header, as bytes or as a value for JSON, and the bytes of arrays to a model file."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def content_hash(arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]) -> str:
    """Compute the hash of metadata and of each array's name, dtype, shape and bytes, which a model file must have."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def forge(data: bytes, arrays: Arrays | None = None, /, **texts: str | None) -> bytes:
    """Give a model file other arrays, or other texts as metadata (None removes one), with the right hash."""
    metadata = split_file(data)[0]["__metadata__"] | texts
    metadata = {name: text for name, text in metadata.items() if text is not None and name != "sha256"}
    arrays = {name: np.asarray(array, order="C") for name, array in (arrays or load_arrays(data)).items()}
    return save_arrays(arrays, metadata | {"sha256": content_hash(arrays, metadata)})


def change_metadata(data: bytes, changes: Mapping[str, Any]) -> bytes:
    """Change values of the metadata by dotted key, such as `config.data.corpus`; `REMOVED` removes one."""
    metadata = split_file(data)[0]["__metadata__"]
    fields = {name: json.loads(metadata[name]) for name in FIELDS}
    for key, value in changes.items():
        branch: Any = fields
        *groups, last = key.split(".")
        for group in groups:
            branch = branch[group]
        branch[last] = value
        if value is REMOVED:
            del branch[last]
    return forge(data, **{name: json.dumps(value) for name, value in fields.items()})


def replace_symbols(data: bytes, symbols: str) -> bytes:
    """Give a model file another vocabulary and arrays of the shapes that go with it."""
    config = json.loads(split_file(data)[0]["__metadata__"]["config"])
    random = np.random.default_rng(0)
    shapes, before = ModelSpec.of_settings(config["model"], len(symbols)).shapes, load_arrays(data)
    arrays = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays = {name: before[name] if before[name].shape == array.shape else array for name, array in arrays.items()}
    for name, array in before.items():
        if name not in arrays:
            weight = name.removeprefix("optimizer.").rpartition(".")[0]
            is_moment = weight in shapes and array.ndim
            arrays[name] = np.zeros(shapes[weight], np.float32) if is_moment else array
    return forge(data, arrays, vocabulary=json.dumps({"kind": "characters", "symbols": list(symbols)}))


def has_right_hash(data: bytes) -> bool:
    """Tell whether a file has the hash of its content, without asking charlm."""
    try:
        metadata = split_file(data)[0]["__metadata__"]
        return bool(metadata.pop("sha256") == content_hash(load_arrays(data), metadata))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return False


def is_usable(path: Path) -> bool:
    """Use a file as every command does: True if the model works, False if it is refused with a known error.

    All else is an exception of the test, a warning too. The text of the model is `text.txt` in the current folder.
    """
    try:
        model = load_checkpoint(path)
        stepper = Stepper(model)
        pieces = generate(stepper, "", length=4, sampling=Sampling(0.7), seeds=[0, 1])
        assert all(0 <= index <= 1 for index, _ in pieces)
        entropy = predict(stepper, "", 3).entropy_bits
        module = module_of(model)
        some = np.arange(8, dtype=model.vocabulary.dtype) % len(model.vocabulary)
        nats = evaluate(module, some).nats_per_character
    except CharlmError:
        return False
    assert np.isfinite([entropy, nats]).all(), (entropy, nats)
    try:
        ids = load_own_text(model).ids
        assert np.isfinite(evaluate(module, ids.beginnings(8)).nats_per_character)
    except CharlmError:
        pass
    return True
