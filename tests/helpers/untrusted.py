"""Model files as a stranger may make them: forged with the right hash, corrupted by chance, opened as commands do."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from typer.testing import Result

from charlm.checkpoint import Arrays, load_checkpoint
from charlm.errors import CharlmError
from charlm.evaluation.evaluate import evaluate
from charlm.evaluation.held_out import load_own_text
from charlm.inference.generate import Sampling, generate
from charlm.inference.predict import predict
from charlm.inference.stepper import Stepper
from charlm.nn.model import CharModel
from charlm.spec import ModelSpec
from tests.helpers.commands import spawn
from tests.helpers.training import begin, interrupt

MAX_MEMORY = 3 << 30
# What a hostile file may make a command write before it is stopped: a device has no end, a disk has.
MAX_WRITTEN = 256 << 20
FIELDS = ("vocabulary", "config", "metrics", "corpus")


class Removed:
    """Stands for a value that is taken out."""

    def __repr__(self) -> str:
        return "removed"


REMOVED = Removed()


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._canary, "w")


def begun() -> Path:
    """Make a run in `run` that was stopped after six of eight steps, with a best model, on `text.txt`."""
    training = begin("run", train__steps=8, train__evaluations=2)
    interrupt(training, 6)
    return training.run.path


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a file apart into its header and the bytes of its arrays."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, data[8 + length :]


def joined(header: Any, body: bytes) -> bytes:
    """Put a header, given as bytes or as what JSON can write, before the bytes of arrays."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def content_hash(arrays: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str]) -> str:
    """Compute what a model file's `sha256` must be: of its metadata, and of each array's name, dtype, shape, bytes."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def forged(data: bytes, arrays: Arrays | None = None, /, **texts: str | None) -> bytes:
    """Give a model file other arrays, or other texts as metadata (None: none), and the hash that is right for them."""
    metadata = parted(data)[0]["__metadata__"] | texts
    metadata = {name: text for name, text in metadata.items() if text is not None and name != "sha256"}
    arrays = {name: np.asarray(array, order="C") for name, array in (arrays or load_arrays(data)).items()}
    return save_arrays(arrays, metadata | {"sha256": content_hash(arrays, metadata)})


def altered(data: bytes, changes: Mapping[str, Any]) -> bytes:
    """Change values of the metadata by dotted key, such as `config.data.corpus`; `REMOVED` takes one out."""
    metadata = parted(data)[0]["__metadata__"]
    fields = {name: json.loads(metadata[name]) for name in FIELDS}
    for key, value in changes.items():
        branch: Any = fields
        *groups, last = key.split(".")
        for group in groups:
            branch = branch[group]
        branch[last] = value
        if value is REMOVED:
            del branch[last]
    return forged(data, **{name: json.dumps(value) for name, value in fields.items()})


def respoken(data: bytes, symbols: str) -> bytes:
    """Give a model file another vocabulary and arrays of the shapes that go with it."""
    config = json.loads(parted(data)[0]["__metadata__"]["config"])
    random = np.random.default_rng(0)
    shapes, before = ModelSpec.of_settings(config["model"], len(symbols)).shapes, load_arrays(data)
    arrays = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays = {name: before[name] if before[name].shape == array.shape else array for name, array in arrays.items()}
    for name, array in before.items():
        if name not in arrays:
            weight = name.removeprefix("optimizer.").rpartition(".")[0]
            is_moment = weight in shapes and array.ndim
            arrays[name] = np.zeros(shapes[weight], np.float32) if is_moment else array
    return forged(data, arrays, vocabulary=json.dumps({"kind": "characters", "symbols": list(symbols)}))


def is_right(data: bytes) -> bool:
    """Tell whether the hash in a file is that of its content, asked without charlm."""
    try:
        metadata = parted(data)[0]["__metadata__"]
        return bool(metadata.pop("sha256") == content_hash(load_arrays(data), metadata))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return False


def works(path: Path) -> bool:
    """Open a file as every command does: True where it is a working model, False where it is refused as it must be.

    All else, a warning too, is an exception of the test. Its own text is `text.txt` in the current folder.
    """
    try:
        model = load_checkpoint(path)
        stepper = Stepper(model)
        pieces = generate(stepper, "", length=4, sampling=Sampling(0.7), seeds=[0, 1])
        assert all(0 <= index <= 1 for index, _ in pieces)
        entropy = predict(stepper, "", 3).entropy_bits
        net = CharModel(model.spec)
        net.load_arrays(model.weights)
        some = np.arange(8, dtype=model.vocabulary.dtype) % len(model.vocabulary)
        nats = evaluate(net, some).nats_per_character
    except CharlmError:
        return False
    assert np.isfinite([entropy, nats]).all(), (entropy, nats)
    try:
        ids = load_own_text(model).ids
        assert np.isfinite(evaluate(net, ids[:8]).nats_per_character)
    except CharlmError:
        pass
    return True


def assert_refused(result: Result) -> str:
    """Check that a command in this process told one error in one line, perhaps with a hint, and return that line."""
    assert result.exit_code in (1, 2), (result.exit_code, result.stderr[-300:], result.stdout[:100])
    return _error_line(result.stderr)


def assert_refuses(*arguments: str, seconds: float = 20) -> str:
    """Check the same of a process of its own, which has little memory and little time."""
    resource = pytest.importorskip("resource")

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN, MAX_WRITTEN))

    try:
        done = spawn(*arguments, timeout=seconds, stdin=subprocess.DEVNULL, preexec_fn=confine)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it takes more than {seconds} seconds") from None
    told = done.stderr.decode()
    assert done.returncode in (1, 2), (done.returncode, told[-300:])
    line = _error_line(told)
    assert "File too large" not in line  # the limit, not charlm, ended it
    return line


def _error_line(told: str) -> str:
    # The lines of str.splitlines() would hide what other programs take for the end of one.
    lines = told.removesuffix("\n").split("\n")
    first = next((index for index, line in enumerate(lines) if line.startswith("error: ")), None)
    assert first is not None, told[-300:]
    assert len(lines) - first <= 1 + lines[-1].startswith("hint: "), lines[first:]
    assert lines[first].isprintable(), repr(lines[first])
    assert len(lines[first]) < 4096, f"a line of {len(lines[first]):,} characters"
    return lines[first]
