"""Model files: save them, and load untrusted ones safely. Knows arrays and metadata, but not torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from charlm.errors import ModelFileError, counted
from charlm.files import write_atomic
from charlm.machine import usable_bytes
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

# Version 2 has n-grams beside the net. A net alone is version 1, which older versions of charlm read.
FORMAT_VERSION = 2
# More than any vocabulary needs.
MAX_HEADER_BYTES = 1 << 25
MAX_FIELD_CHARACTERS = 1 << 20
MAX_STREAMS = 1 << 16
# Products of larger weights overflow; trained weights are far smaller.
MAX_NUMBER = 1e9
# Exact resume needs the arrays with these prefixes; a model file to share has none of them.
TRAINING_PREFIXES = ("optimizer.", "carried.")
# The n-grams beside a net: for each array its number of axes and the types it may have.
NGRAMS_PREFIX = "ngrams."
NGRAMS_ARRAYS = {
    "weight": (0, ("F32",)),
    "packed": (1, ("U8",)),
    "sizes": (1, ("I64",)),
}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ModelFile:
    """A model with its settings and the record of its training.

    Attributes:
        arrays: weights by dotted name, and in `last.safetensors` the optimiser's and the carried state.
        vocabulary: the symbols of its inputs and outputs.
        config: the settings of its run, as plain values.
        metrics: the progress of its training: step, epoch, validation in bits per character, ...
        corpus: name, sha256 and number of characters of its training text.
        runtime: device, precision, threads and torch version of its training.
        base: the model that its training started from, if it started from one, and the text which that had learned.
    """

    arrays: Arrays
    vocabulary: Vocabulary
    config: dict[str, Any]
    metrics: dict[str, Any]
    corpus: dict[str, Any]
    runtime: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def spec(self) -> ModelSpec:
        """The cell, sizes and direction of the model."""
        return ModelSpec.of_settings(self.config["model"], len(self.vocabulary))

    @property
    def weights(self) -> Arrays:
        """The arrays of the net, without its n-grams and what resumes its training."""
        others = (*TRAINING_PREFIXES, NGRAMS_PREFIX)
        return {name: array for name, array in self.arrays.items() if not name.startswith(others)}

    @property
    def step(self) -> int | None:
        """The number of training steps, or None if the file does not say."""
        step = self.metrics.get("step")
        return step if type(step) is int and 0 <= step <= 10**12 else None

    @property
    def corpus_bytes(self) -> int:
        """The size of its text according to the file, or 0. A text named by an untrusted file is read only up to it."""
        size = self.corpus.get("bytes")
        return size if type(size) is int else 0

    def save(self, path: Path) -> None:
        """Write it atomically: afterwards there is either the complete new file or the old one."""
        fields = {
            # A list, because JSON would join two neighbouring lone surrogates in a string to one character.
            "vocabulary": {
                "kind": self.vocabulary.kind,
                "symbols": list(self.vocabulary.symbols),
                "filter": self.vocabulary.filter,
            },
            "config": self.config,
            "metrics": self.metrics,
            "corpus": self.corpus,
            "runtime": self.runtime,
        }
        fields |= {"base": self.base} if self.base else {}
        metadata = {name: json.dumps(value) for name, value in fields.items()}
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        has_ngrams = any(name.startswith(NGRAMS_PREFIX) for name in arrays)
        metadata |= {"format": "charlm", "format_version": str(FORMAT_VERSION if has_ngrams else 1)}
        write_atomic(path, save_safetensors(arrays, metadata | {"sha256": _content_hash(arrays, metadata)}))


def load_checkpoint(path: Path) -> ModelFile:
    """Read a model file with NumPy alone. The file is untrusted: each size is checked before so much is read.

    Raises:
        ModelFileError: the file is missing, is no model file, is damaged, or has a newer format.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"`{path}` is not a file")
        with path.open("rb") as file:
            return _load(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        hint = "a model is a run folder or one of its model files" if isinstance(error, FileNotFoundError) else ""
        raise ModelFileError(f"`{path}` cannot be read: {error.strerror or error}", hint) from error
    except _Refused as error:
        raise ModelFileError(f"`{path}` {error}", error.hint) from error
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        hint = "`charlm train` writes model files"
        raise ModelFileError(f"`{path}` is not a charlm model file, or is damaged: {reason}", hint) from error


class _Refused(Exception):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _load(file: BinaryIO, size: int) -> ModelFile:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ValueError("it does not begin with a header")
    header = json.loads(file.read(length))
    metadata = dict(header.pop("__metadata__", {}))
    if metadata.get("format") != "charlm":
        raise _Refused("is not a charlm model file", "`charlm import` reads nets of other programs")
    if not re.fullmatch("[1-9][0-9]{0,8}", metadata["format_version"]):
        raise _Refused("has a format that is not a number")
    if int(metadata["format_version"]) > FORMAT_VERSION:
        read = f"has format {metadata['format_version']}, this charlm reads up to {FORMAT_VERSION}"
        raise _Refused(read, "a newer charlm can read it")
    if 8 + length + max(entry["data_offsets"][1] for entry in header.values()) != size:
        raise _Refused("is damaged: it is longer or shorter than its header says", "use another copy of it")
    # The file's bytes stay in memory until all arrays are made from them.
    needed, there = 2 * size, usable_bytes()
    if needed > there:
        has = f"this machine or container has {there / 1e9:,.2f}"
        raise _Refused(f"needs {needed / 1e9:,.2f} GB of memory to be read, {has}")
    texts = {name: metadata[name] for name in ("vocabulary", "config", "metrics", "corpus")}
    texts |= {name: metadata.get(name, "{}") for name in ("runtime", "base")}
    # Parsed JSON takes many times the memory of its text. Only a vocabulary can be long.
    if any(len(text) > MAX_FIELD_CHARACTERS for name, text in texts.items() if name != "vocabulary"):
        raise _Refused("has more metadata than any model")
    fields = {name: json.loads(text) for name, text in texts.items()}
    if not all(isinstance(field, dict) for field in fields.values()):
        raise _Refused("has metadata that is not a group of values")
    symbols = fields["vocabulary"]["symbols"]
    if not symbols or not isinstance(symbols, list) or any(len(symbol) != 1 for symbol in symbols):
        raise _Refused("has a vocabulary that is not a list of characters")
    # Files older than `vocab.filter` lack this entry.
    filter = fields["vocabulary"].get("filter", "none")
    vocabulary = Vocabulary(fields["vocabulary"]["kind"], "".join(symbols), filter)
    _check_shapes(_spec_in(fields["config"], len(vocabulary), len(header)), header)

    file.seek(0)
    arrays = load_safetensors(file.read(size))
    if metadata.pop("sha256") != _content_hash(arrays, metadata):
        raise _Refused("is damaged: its content does not match its hash", "use another copy of it")
    for name, array in arrays.items():
        # `not (x <= limit)` also catches NaN.
        if not (np.abs(array) <= np.float32(MAX_NUMBER)).all():
            numbers = f"has NaN, infinite or implausibly large numbers in `{name}`"
            raise _Refused(numbers, "use a model that `charlm train` wrote")
    if isinstance(data := fields["config"].get("data"), dict):
        # Files older than `data.holdout` held out the end.
        data.setdefault("holdout", "end")
    if isinstance(model := fields["config"].get("model"), dict):
        # Files older than `model.ngram_order` have no n-grams.
        model.setdefault("ngram_order", 0)
    others = {name: fields[name] for name in ("config", "metrics", "corpus", "runtime", "base")}
    return ModelFile(arrays, vocabulary, **others)


def hash_of_file(path: Path) -> str:
    """Return the hash of a model file, as `sha256sum` prints it.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"`{path}` cannot be read: {error.strerror or error}") from error


def _content_hash(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def _spec_in(config: Mapping[str, Any], num_symbols: int, num_arrays: int) -> ModelSpec:
    """Return the model that the settings in a file describe."""
    try:
        spec = ModelSpec.of_settings(config["model"], num_symbols)
    except ValueError as error:
        raise _Refused(str(error)) from error
    # Checked before the layers' shapes are listed, because the file may claim a million layers.
    if spec.num_layers > num_arrays:
        raise _Refused(
            f"describes no model: it claims {counted(spec.num_layers, 'layer')}, but has {counted(num_arrays, 'array')}"
        )
    return spec


def _check_shapes(spec: ModelSpec, header: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare the arrays in a header with those of the model."""
    expected = spec.shapes
    for name, entry in header.items():
        found = tuple(entry["shape"])
        if name.startswith(NGRAMS_PREFIX):
            num_axes, types = NGRAMS_ARRAYS.get(name.removeprefix(NGRAMS_PREFIX), (0, ()))
            if len(found) != num_axes or entry["dtype"] not in types:
                raise _Refused(f"has `{name}` as {entry['dtype']} {found}, which is not an array of n-grams")
            continue
        if name in expected:
            allowed = [expected[name]]
        elif name.startswith("optimizer.") and (weight := name.split(".", 1)[1].rpartition(".")[0]) in expected:
            # The optimiser's moments have the weight's shape, its counts are single numbers.
            allowed = [expected[weight], ()]
        elif name.startswith("carried.") and len(found) == 3:
            allowed = [(spec.num_layers, min(found[1], MAX_STREAMS), spec.hidden_size)]
        else:
            raise _Refused(f"has an unknown array `{name}`")
        if found not in allowed or entry["dtype"] != "F32":
            raise _Refused(f"has `{name}` as {entry['dtype']} {found}, not F32 {allowed[0]}")
    for name in sorted(expected.keys() - header.keys()):
        raise _Refused(f"lacks array `{name}`")
