"""Reads the arrays of any safetensors file, which is untrusted: each size is checked before so much is read."""

from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from charlm.checkpoint import MAX_HEADER_BYTES, MAX_NUMBER, Arrays
from charlm.errors import ModelFileError, UsageError
from charlm.machine import usable_bytes
from charlm.run_folder import best_in

# The types of weights, and how their bytes are read. NumPy has no bfloat16, which is the upper half of a float32.
TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
# What a file begins with that torch.save wrote, as it does today and as it did before.
PICKLES = (b"PK\x03\x04", b"\x80")
HOW_TO_MAKE = "in torch, `safetensors.torch.save_file(model.state_dict(), FILE)` writes a file to import"


class SafetensorsFile(NamedTuple):
    """What is in a safetensors file.

    Attributes:
        arrays: by name, float32.
        metadata: texts by name.
    """

    arrays: Arrays
    metadata: dict[str, str]


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read a safetensors file.

    Raises:
        ModelFileError: it is missing, damaged or too large, or holds something other than weights.
        UsageError: it is a model of charlm.
    """
    try:
        if path.is_dir() and best_in(path):
            raise _is_ours(path)
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(f"`{path}` is not a file", HOW_TO_MAKE)
        with path.open("rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise ModelFileError(f"`{path}` cannot be read: {error.strerror or error}", HOW_TO_MAKE) from error
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ModelFileError(f"`{path}` is not a safetensors file, or is damaged: {reason}", HOW_TO_MAKE) from error


def _read(file: BinaryIO, size: int, path: Path) -> SafetensorsFile:
    first = file.read(8)
    if first.startswith(PICKLES) and path.suffix != ".safetensors":
        raise ModelFileError(f"`{path}` is a pickle, which can run programs and is not opened", HOW_TO_MAKE)
    length = int.from_bytes(first, "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ValueError("it does not begin with a header")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no dictionary")
    # The bytes stay in memory, beside the copy of each array and what is made of it.
    needed, there = 4 * size, usable_bytes()
    if needed > there:
        raise ModelFileError(
            f"`{path}` needs {needed / 1e9:,.2f} GB of memory to be read, "
            f"this machine or container has {there / 1e9:,.2f}"
        )
    metadata = {str(name): str(text) for name, text in dict(header.pop("__metadata__", None) or {}).items()}
    if metadata.get("format") == "charlm":
        raise _is_ours(path)
    for name, entry in header.items():
        if not isinstance(entry, dict) or "dtype" not in entry:
            raise ValueError(f"`{name}` has no type")
        if entry["dtype"] not in TYPES:
            raise ModelFileError(f"`{path}` has `{name}` as {entry['dtype']}, and weights are {', '.join(TYPES)}")
    file.seek(0)
    arrays = {name: _array(entry) for name, entry in deserialize(file.read(size))}  # type: ignore[no-untyped-call]
    for name, array in arrays.items():
        if not array.size:
            raise ModelFileError(f"`{path}` has `{name}` with the shape {array.shape}, which is empty")
        # `not (x <= limit)` also catches NaN.
        if not (np.abs(array) <= np.float32(MAX_NUMBER)).all():
            raise ModelFileError(f"`{path}` has NaN, infinite or implausibly large numbers in `{name}`")
    return SafetensorsFile(arrays, metadata)


def _is_ours(path: Path) -> UsageError:
    hint = f"it needs no import: `charlm sample -m {shlex.quote(str(path))}` writes with it"
    return UsageError(f"`{path}` is a model of charlm already", hint)


def _array(entry: dict[str, Any]) -> NDArray[np.float32]:
    array: NDArray[Any] = np.frombuffer(entry["data"], TYPES[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    # Numbers beyond float32 become infinite, and are refused.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)
