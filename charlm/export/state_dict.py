"""A net as a plain `state_dict` of torch, in a safetensors file. Knows arrays, but not torch."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from safetensors.numpy import save

from charlm import __version__
from charlm.checkpoint import MAX_HEADER_BYTES, ModelFile
from charlm.spec import ModelSpec

# In the metadata of such a file; a model file has another one.
FORMAT = "charlm state_dict"


def state_dict_names(spec: ModelSpec) -> dict[str, str]:
    """Return the names of weights in a `state_dict`, each by its name in a model file."""
    names = {name: name for name in spec.shapes if not name.startswith("layers.")}
    for layer in range(spec.num_layers):
        for weight in spec.recurrence.weight_shapes(1, 1):
            names[f"layers.{layer}.{weight}"] = f"rnn.{weight.removesuffix('0')}{layer}"
    return names


def state_dict_file(model: ModelFile) -> bytes:
    """Return the file of the `state_dict` of a net; its metadata say what it is, and what its vocabulary is."""
    spec, vocabulary = model.spec, model.vocabulary
    metadata = {
        "format": FORMAT,
        "vocabulary": json.dumps(list(vocabulary.symbols)),
        "kind": vocabulary.kind,
        "filter": vocabulary.filter,
        "cell": spec.cell,
        "direction": spec.direction,
        "charlm_version": __version__,
    }
    return save({name: model.weights[own] for own, name in state_dict_names(spec).items()}, metadata)


def is_state_dict(path: Path) -> bool:
    """Return whether a file is one that `state_dict_file` made."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            return bool(json.loads(file.read(min(length, MAX_HEADER_BYTES)))["__metadata__"]["format"] == FORMAT)
    return False
