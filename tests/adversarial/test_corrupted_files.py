"""Randomly corrupted model files and runs by the thousand, each of them refused or working."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays

from charlm.checkpoint import load_checkpoint
from tests.helpers.commands import call, within
from tests.helpers.untrusted import (
    FIELDS,
    forge,
    has_right_hash,
    interrupted_run,
    is_usable,
    join_file,
    split_file,
)

pytestmark = pytest.mark.slow

NUM_MODELS = 2000
NUM_RUNS = 500
ODD = [
    *[None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, -(2**64), 10**4000, 0.5, -0.0, 1e308, 5e-324],
    *[float("nan"), float("inf"), "", "x", "lstm", "gru", "bytes", "a\nb", "\x1b[2J", "\0", "\ud800", "9" * 5000],
    *[[], [1], ["a"], [[]], {}, {"a": 1}, {"corpus": ["text.txt"]}],
]
NUMBERS = [
    "-1",
    "0",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "1" + "0" * 4000,
    "9" * 5000,
    "1.5",
    "null",
    '"1"',
    "1e-400",
]
Mutation = Callable[[random.Random, bytes], bytes]


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """List every value in a tree of JSON, as its container and its key there."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *nodes(value[key])]]


def disturb(chance: random.Random, tree: Any) -> Any:
    """Change, remove, rename, copy or replace something in a tree of JSON."""
    branch, key = chance.choice(nodes(tree))
    kind = chance.randrange(5)
    if kind == 0:
        del branch[key]
    elif kind == 1 and isinstance(branch, dict):
        branch[chance.choice(["x", "a\nb", "cell", "step", "symbols", "config"])] = branch.pop(key)
    elif kind == 2:
        other, place = chance.choice(nodes(tree))
        branch[key] = json.loads(json.dumps(other[place]))
    else:
        branch[key] = chance.choice(ODD)
    return tree


def flip_bits(chance: random.Random, data: bytes) -> bytes:
    """Flip up to eight bits."""
    bent = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
    return bytes(bent)


def edit_range(chance: random.Random, data: bytes) -> bytes:
    """Cut, insert, repeat, remove, blank or overwrite a range."""
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    end = min(end, start + chance.choice([1, 2, 8, 64, 10**9]))
    part = data[start:end]
    kinds = ["", chance.randbytes(len(part)), part + part, bytes(len(part)), part[::-1], b" " * len(part)]
    chosen = chance.choice(kinds) or b""
    return data[:start] if chance.random() < 0.2 else data[:start] + bytes(chosen) + data[end:]  # type: ignore[arg-type]


def change_header(chance: random.Random, data: bytes) -> bytes:
    """Change the header, or its length, without changing the hash."""
    if chance.random() < 0.2:
        length = chance.choice([0, 1, 7, 2**31, 2**63, 2**64 - 1, chance.randrange(len(data) * 2)])
        return length.to_bytes(8, "little") + data[8:]
    header, body = split_file(data)
    return join_file(disturb(chance, header), body)


def change_metadata_value(chance: random.Random, data: bytes) -> bytes:
    """Change a value in the metadata, with the right hash."""
    field = chance.choice(FIELDS)
    tree = json.loads(split_file(data)[0]["__metadata__"][field])
    return forge(data, **{field: json.dumps(disturb(chance, tree))})


def change_metadata_text(chance: random.Random, data: bytes) -> bytes:
    """Change a number, a letter or a bracket in the text of the metadata, with the right hash."""
    field = chance.choice([*FIELDS, "format_version", "format"])
    text = split_file(data)[0]["__metadata__"][field]
    found = list(re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?" if chance.random() < 0.7 else r".", text))
    spot = chance.choice(found) if found else None
    other = chance.choice([*NUMBERS, "", "{", "]", '"', "[" * 5000, "\\ud800", "\n"])
    return forge(data, **{field: text[: spot.start()] + other + text[spot.end() :] if spot else other})


def change_arrays(chance: random.Random, data: bytes) -> bytes:
    """Change an array's bits, shape, dtype or name, remove one, or add one, with the right hash."""
    arrays = {name: array.copy() for name, array in load_arrays(data).items()}
    name = chance.choice(sorted(arrays))
    array, kind = arrays[name], chance.randrange(7)
    if kind == 0:
        array.reshape(-1).view(np.uint8)[:: chance.randint(1, 9)] ^= chance.randrange(1, 256)
    elif kind == 1:
        array[...] = chance.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e30, 1e-45, 0.0])
    elif kind == 2:
        arrays[name] = chance.choice(
            [array.T, array[None], np.atleast_1d(array)[..., :1], array.ravel(), array.ravel()[:0]]
        )
    elif kind == 3:
        arrays[name] = array.astype(chance.choice(["f8", "f2", "i8", "i4", "u1", "?", "c8"]))
    elif kind == 4:
        arrays[chance.choice(["x", "a\nb", "optimizer.x", "carried.7", "layers.9.bias_ih_l0"])] = arrays.pop(name)
    elif kind == 5:
        arrays[chance.choice(["x", "optimizer.x.y", "carried.7"])] = array
    else:
        del arrays[name]
    with np.errstate(all="ignore"):
        return forge(data, arrays)


MUTATIONS: list[Mutation] = [
    flip_bits,
    edit_range,
    change_header,
    change_metadata_value,
    change_metadata_value,
    change_metadata_text,
    change_arrays,
    change_arrays,
]


def corrupted(data: bytes, seed: int) -> tuple[str, bytes]:
    """Corrupt a file in one way, and sometimes in two."""
    chance = random.Random(seed)
    mutation = chance.choice(MUTATIONS)
    bad = mutation(chance, data)
    return mutation.__name__, flip_bits(chance, bad) if chance.random() < 0.05 and bad else bad


def test_thousands_of_corrupted_models_are_refused_or_work() -> None:
    """A corrupted model file gives a known error, or works and has the right hash."""
    run = interrupted_run()
    good = [(run / f"{name}.safetensors").read_bytes() for name in ("best", "last")]
    counts: Counter[str] = Counter()
    faults = []
    path = Path("m.safetensors")
    for seed in range(NUM_MODELS):
        kind, bad = corrupted(good[seed % 2], seed)
        path.write_bytes(bad)
        try:
            with within(10):
                outcome = "works" if is_usable(path) else "refused"
            assert outcome == "refused" or has_right_hash(bad), "works though its hash is wrong"
        except (Exception, Warning) as error:
            outcome = "fault"
            faults.append(f"seed {seed}, {kind}: {type(error).__name__} {error!s:.80}")
        counts[f"{kind} {outcome}"] += 1
    print(f"\n{NUM_MODELS} corrupted model files, {len(faults)} faults: {dict(sorted(counts.items()))}")
    assert faults == []


def test_hundreds_of_corrupted_runs_are_refused_or_resume() -> None:
    """A run resumes from a corrupted state and ends in a sound one, or reports in one line why it cannot."""
    run = interrupted_run()
    state = {path.name: path.read_bytes() for path in run.iterdir()}
    counts: Counter[str] = Counter()
    faults = []
    for seed in range(NUM_RUNS):
        kind, bad = corrupted(state["last.safetensors"], seed)
        for name, data in (state | {"last.safetensors": bad}).items():
            (run / name).write_bytes(data)
        try:
            with within(20):
                result = call("train", "--resume", "run", "--sample-length", "0", stdin="")
            outcome = {0: "resumes", 1: "refused", 2: "refused"}[result.exit_code]
            assert outcome == "refused" or has_right_hash(bad), "resumes though its hash is wrong"
            errors = [line for line in result.stderr.split("\n") if line.startswith("error: ")]
            assert len(errors) == (outcome == "refused"), errors
            assert all(line.isprintable() and len(line) < 4096 for line in errors), errors
            assert "not stay finite" not in result.stderr, "trained on numbers that are not finite"
            assert outcome == "refused" or load_checkpoint(run / "last.safetensors").metrics["finished"], "not finished"
        except (Exception, Warning) as error:
            outcome = "fault"
            faults.append(f"seed {seed}, {kind}: {type(error).__name__} {error!s:.80}")
        counts[f"{kind} {outcome}"] += 1
    print(f"\n{NUM_RUNS} corrupted states of a run, {len(faults)} faults: {dict(sorted(counts.items()))}")
    assert faults == []
