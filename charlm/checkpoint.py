"""Model files and run folders: save, load, keep the best and the last. Knows arrays and metadata, nothing of torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from charlm.cells import CELLS
from charlm.errors import ModelFileError, RunError
from charlm.files import sweep_temporary, write_atomic
from charlm.vocab import Vocabulary

FORMAT_VERSION = 1
RUNS_FOLDER = "runs"
# Arrays under these prefixes are what exact resume needs; a model file to share has none of them.
TRAINING_PREFIXES = ("optimizer.", "carried.")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelFile:
    """A model and all that is known about it.

    Attributes:
        arrays: weights by dotted name, and in `last.safetensors` the optimiser's and the carried state.
        vocabulary: the symbols of its inputs and outputs.
        config: the settings of its run, as plain values.
        metrics: where its training stood: step, epoch, validation in bits per character, ...
        corpus: name, sha256 and number of characters of the text it learned.
    """

    arrays: Arrays
    vocabulary: Vocabulary
    config: dict[str, Any]
    metrics: dict[str, Any]
    corpus: dict[str, Any]

    @property
    def weights(self) -> Arrays:
        """The arrays that make the model."""
        return {name: array for name, array in self.arrays.items() if not name.startswith(TRAINING_PREFIXES)}

    def save(self, path: Path) -> None:
        """Write it in one piece: either the whole new file is there afterwards or the old one."""
        fields = {
            # One by one: JSON would join two lone surrogates that stand side by side to one character.
            "vocabulary": {"kind": self.vocabulary.kind, "symbols": list(self.vocabulary.symbols)},
            "config": self.config,
            "metrics": self.metrics,
            "corpus": self.corpus,
        }
        metadata = {name: json.dumps(value) for name, value in fields.items()}
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        metadata |= {"format": "charlm", "format_version": str(FORMAT_VERSION)}
        write_atomic(path, save_safetensors(arrays, metadata | {"sha256": _content_hash(arrays, metadata)}))


def load(path: Path) -> ModelFile:
    """Read a model file with NumPy alone.

    Raises:
        ModelFileError: it is missing, no model file, damaged, or of a newer format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"`{path}` cannot be read: {error.strerror or error}") from error
    try:
        metadata = _metadata(data)
        arrays = load_safetensors(data)
        if metadata.get("format") != "charlm":
            raise ModelFileError(f"`{path}` is not a charlm model file")
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise ModelFileError(
                f"`{path}` has format {metadata['format_version']}, this charlm reads up to {FORMAT_VERSION}",
                "a newer charlm can read it",
            )
        if metadata.pop("sha256") != _content_hash(arrays, metadata):
            raise ModelFileError(f"`{path}` is damaged: its content does not match its hash", "use another copy of it")
        fields = {name: json.loads(metadata[name]) for name in ("vocabulary", "config", "metrics", "corpus")}
        symbols = fields["vocabulary"]["symbols"]
        if not isinstance(symbols, list) or any(len(symbol) != 1 for symbol in symbols):
            raise ModelFileError(f"`{path}`: its vocabulary is not a list of characters")
        vocabulary = Vocabulary(fields["vocabulary"]["kind"], "".join(symbols))
        model = ModelFile(arrays, vocabulary, fields["config"], fields["metrics"], fields["corpus"])
        _check_shapes(model, path)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(
            f"`{path}` is not a charlm model file, or is damaged: {reason}", "a model file is made by `charlm train`"
        ) from error
    return model


def expected_shapes(config: Mapping[str, Any], num_symbols: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight of a model with these settings and that many symbols.

    The embedding has one row more than there are symbols: the last stands for the start of a text.
    """
    settings = config["model"]
    embedding, hidden, layers = settings["embedding_size"], settings["hidden_size"], settings["num_layers"]
    gates = len(CELLS[settings["cell"]].gates)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (num_symbols + 1, embedding)}
    for layer in range(layers):
        shapes[f"layers.{layer}.weight_ih_l0"] = (gates * hidden, embedding if layer == 0 else hidden)
        shapes[f"layers.{layer}.weight_hh_l0"] = (gates * hidden, hidden)
        shapes[f"layers.{layer}.bias_ih_l0"] = (gates * hidden,)
        shapes[f"layers.{layer}.bias_hh_l0"] = (gates * hidden,)
    return shapes | {"output.weight": (num_symbols, hidden), "output.bias": (num_symbols,)}


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return dict(header["__metadata__"])


def _content_hash(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _check_shapes(model: ModelFile, path: Path) -> None:
    sizes = [model.config["model"][name] for name in ("embedding_size", "hidden_size", "num_layers")]
    # Before they are used: a million million layers must not be enumerated.
    if not all(type(size) is int and 1 <= size <= 1 << 20 for size in sizes) or sizes[2] > len(model.arrays):
        raise ModelFileError(f"`{path}`: there is no model with the sizes {sizes}")
    expected = expected_shapes(model.config, len(model.vocabulary))
    weights = model.weights
    for name in sorted(expected.keys() ^ weights.keys()):
        raise ModelFileError(f"`{path}` {'lacks' if name in expected else 'has an unknown'} array `{name}`")
    for name, shape in expected.items():
        if weights[name].shape != shape or weights[name].dtype != np.float32:
            found = weights[name]
            raise ModelFileError(f"`{path}`: `{name}` is {found.dtype} {found.shape}, not float32 {shape}")


class RunFolder:
    """One run on disk: `config.yaml`, `metrics.jsonl`, `best.safetensors`, `last.safetensors`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The effective settings."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON record per report."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The model file to share."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model file that training goes on from."""
        return self.path / "last.safetensors"

    @classmethod
    def create(cls, path: Path | None, name: str) -> RunFolder:
        """Make a new run folder: `path`, or the first free `runs/<name>-<number>`.

        Raises:
            RunError: `path` holds a run already, is a file, or cannot be written.
        """
        try:
            if path is None:
                return cls(_first_free(Path(RUNS_FOLDER), name))
            path = path.expanduser()
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunError(
                    f"`{path}` is not empty, and no run is overwritten",
                    f"choose another `--out`, go on with `--resume {path}`, or remove it",
                )
            return cls(path)
        except OSError as error:
            raise RunError(f"`{path or RUNS_FOLDER}` cannot be made: {error.strerror or error}") from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run to go on with it.

        Raises:
            RunError: there is no run that could go on.
        """
        run = cls(path.expanduser())
        if not run.last.is_file():
            raise RunError(f"there is no run to resume in `{path}`", "a run folder holds `last.safetensors`")
        return run

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, so that two trainings never write to one run, and clear leftovers away.

        Raises:
            RunError: another process holds it.
        """
        try:
            import fcntl
        except ImportError:  # a platform without file locks
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(f"another process is training in `{self.path}`", "wait for it, or stop it") from error
            sweep_temporary(self.path)
            yield
        finally:
            os.close(descriptor)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def truncate_metrics(self, last_step: int) -> None:
        """Drop the records after `last_step`: training resumes there and will write them again."""
        kept = []
        for line in self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else []:
            with suppress(ValueError, KeyError, TypeError):  # a line cut short by a crash
                if json.loads(line)["step"] <= last_step:
                    kept.append(line + b"\n")
        write_atomic(self.metrics, b"".join(kept))


def find_model(path: Path | None) -> Path:
    """Return the model file that is meant: a model file, a run folder, or where None the newest run's best.

    Raises:
        ModelFileError: there is none.
    """
    if path is None:
        found = [file for run in Path(RUNS_FOLDER).glob("*") if (file := _best_in(run))]
        if not found:
            raise ModelFileError(
                f"there is no model here: `{RUNS_FOLDER}/` holds no run", "`charlm train` makes one, or pass `--model`"
            )
        return max(found, key=lambda file: file.stat().st_mtime_ns)
    path = path.expanduser()
    if not path.is_dir():
        return path
    if best := _best_in(path):
        return best
    raise ModelFileError(f"there is no model file in `{path}`", "a run folder holds `best.safetensors`")


def _best_in(folder: Path) -> Path | None:
    run = RunFolder(folder)
    return next((file for file in (run.best, run.last) if file.is_file()), None)


def _first_free(parent: Path, name: str) -> Path:
    number = 1
    while True:
        path = parent / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise
            number += 1
        else:
            return path
