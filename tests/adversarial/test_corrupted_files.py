"""Randomly corrupted model files and runs by the thousand, each of them refused or working."""

from __future__ import annotations

import json
import math
import os
import random
import re
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.spec import ModelSpec
from tests.helpers.commands import call, within
from tests.helpers.untrusted import (
    FIELDS,
    altered,
    assert_refuses,
    begun,
    forged,
    is_right,
    joined,
    parted,
    works,
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
    header, body = parted(data)
    return joined(disturb(chance, header), body)


def change_metadata_value(chance: random.Random, data: bytes) -> bytes:
    """Change a value in the metadata, with the right hash."""
    field = chance.choice(FIELDS)
    tree = json.loads(parted(data)[0]["__metadata__"][field])
    return forged(data, **{field: json.dumps(disturb(chance, tree))})


def change_metadata_text(chance: random.Random, data: bytes) -> bytes:
    """Change a number, a letter or a bracket in the text of the metadata, with the right hash."""
    field = chance.choice([*FIELDS, "format_version", "format"])
    text = parted(data)[0]["__metadata__"][field]
    found = list(re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?" if chance.random() < 0.7 else r".", text))
    spot = chance.choice(found) if found else None
    other = chance.choice([*NUMBERS, "", "{", "]", '"', "[" * 5000, "\\ud800", "\n"])
    return forged(data, **{field: text[: spot.start()] + other + text[spot.end() :] if spot else other})


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
        return forged(data, arrays)


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
    run = begun()
    good = [(run / f"{name}.safetensors").read_bytes() for name in ("best", "last")]
    counts: Counter[str] = Counter()
    faults = []
    path = Path("m.safetensors")
    for seed in range(NUM_MODELS):
        kind, bad = corrupted(good[seed % 2], seed)
        path.write_bytes(bad)
        try:
            with within(10):
                outcome = "works" if works(path) else "refused"
            assert outcome == "refused" or is_right(bad), "works though its hash is wrong"
        except (Exception, Warning) as error:
            outcome = "fault"
            faults.append(f"seed {seed}, {kind}: {type(error).__name__} {error!s:.80}")
        counts[f"{kind} {outcome}"] += 1
    print(f"\n{NUM_MODELS} corrupted model files, {len(faults)} faults: {dict(sorted(counts.items()))}")
    assert faults == []


def test_hundreds_of_corrupted_runs_are_refused_or_resume() -> None:
    """A run resumes from a corrupted state and ends in a sound one, or reports in one line why it cannot."""
    run = begun()
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
            assert outcome == "refused" or is_right(bad), "resumes though its hash is wrong"
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


# Larger than memory, endless, slow


@pytest.fixture
def model() -> bytes:
    """A valid model file of a run on `text.txt`."""
    return (begun() / "best.safetensors").read_bytes()


def many_arrays(data: bytes) -> bytes:
    """Add 400,000 names of empty arrays."""
    return forged(data, load_arrays(data) | {f"carried.{number}": np.zeros(0, np.float32) for number in range(400_000)})


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "header of lists": lambda data: joined(b'{"a":[' + b"[]," * (60 << 20) + b"[]]}", b""),
    "settings of lists": lambda data: forged(data, config="[" + "[]," * (20 << 20) + "[]]"),
    "metrics of nested lists": lambda data: forged(data, metrics="[" + ("[" * 400 + "]" * 400 + ",") * 78_000 + "[]]"),
    "metrics of objects": lambda data: forged(data, metrics='{"a":[' + "{}," * (20 << 20) + "{}]}"),
    "many symbols": lambda data: forged(
        data, vocabulary=json.dumps({"kind": "characters", "symbols": ["a"] * 8_000_000})
    ),
    "many arrays": many_arrays,
    "long name": lambda data: forged(data, load_arrays(data) | {"a" * (50 << 20): np.zeros(1, np.float32)}),
    "many settings": lambda data: altered(data, {f"config.{number}": 0 for number in range(10**5)}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_metadata_that_expands_in_memory_is_refused(model: bytes, bomb: str) -> None:
    """A hundred megabytes of brackets, which are gigabytes of objects, are refused soon and in little memory."""
    data = BOMBS[bomb](model)
    Path("m").write_bytes(data)
    before = time.monotonic()
    if bomb == "many settings":  # only a resumed run reads these
        Path("run/last.safetensors").write_bytes(data)
        assert_refuses("train", "--resume", "run", seconds=30)
    else:
        assert_refuses("sample", "-m", "m", seconds=30)
    seconds = time.monotonic() - before
    print(f"\n{bomb}: {len(data) / 1e6:.1f} MB, {seconds:.1f} s")
    assert seconds < 5


def test_a_model_larger_than_memory_is_refused(model: bytes) -> None:
    """A sparse file of 48 GB whose sizes agree with its settings is refused."""
    metadata = parted(altered(model, {"config.model.hidden_size": 57_000}))[0]["__metadata__"]
    num_symbols = len(json.loads(metadata["vocabulary"])["symbols"])
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in ModelSpec.of_settings(json.loads(metadata["config"])["model"], num_symbols).shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    with Path("m").open("wb") as file:
        file.write(joined(header, b""))
        file.truncate(file.tell() + end)
    for command in (["sample"], ["predict-next", "a"], ["eval"]):
        assert_refuses(*command, "-m", "m", seconds=15)


@pytest.mark.parametrize("command", [["sample"], ["predict-next", "a"], ["eval"], ["eval", "-c", "text.txt"]])
def test_every_command_refuses_endless_files_as_models(model: bytes, command: list[str]) -> None:
    """Pipes, devices and sparse files of 50 GB are refused within fifteen seconds."""
    os.mkfifo("pipe")
    Path("device").symlink_to("/dev/zero")
    header, body = parted(model)
    for name, dtype in (("optimizer.output.bias.exp_avg", "F32"), ("carried.0", "F32"), ("x", "U8")):
        header |= {name: {"dtype": dtype, "shape": [48 << (28 if dtype == "F32" else 30)]}}
        header[name]["data_offsets"] = [len(body), len(body) + (48 << 30)]
        with Path(f"huge {name}").open("wb") as file:
            file.write(joined(header, body))
            file.truncate(file.tell() + (48 << 30))
        del header[name]
    for name in ("pipe", "device", "/dev/random", "/dev/tty", *map(str, Path().glob("huge *"))):
        assert_refuses(*command, "-m", name, seconds=15)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/**", "/"])
@pytest.mark.parametrize("command", [["eval", "-m", "m"], ["train", "--resume", "run"]], ids=lambda c: c[0])
def test_no_endless_text_is_read_for_an_untrusted_model(model: bytes, command: list[str], name: str) -> None:
    """A pipe, a device or the whole disk as the text of a model or run is refused."""
    os.mkfifo("pipe")
    Path("m").write_bytes(altered(model, {"config.data.corpus": [name]}))
    last = Path("run/last.safetensors")
    last.write_bytes(altered(last.read_bytes(), {"config.data.corpus": [name]}))
    assert_refuses(*command, seconds=15)


@pytest.mark.parametrize("fraction", ["1e99999999", "1e-99999999"])
def test_a_fraction_of_a_hundred_million_digits_is_not_computed(model: bytes, fraction: str) -> None:
    """A fraction that spells a hundred million digits in ten characters is refused at once."""
    Path("m").write_bytes(altered(model, {"config.data.validation_fraction": fraction}))
    assert_refuses("eval", "-m", "m", seconds=15)


def test_a_model_of_20_megabytes_loads_in_little_time(make_model: Callable[..., ModelFile]) -> None:
    """Reading and checking a model file of 20 MB takes less than 0.2 seconds."""
    make_model(hidden_size=1110).save(Path("m"))
    seconds = []
    for _ in range(11):
        before = time.perf_counter()
        load_checkpoint(Path("m"))
        seconds.append(time.perf_counter() - before)
    megabytes = Path("m").stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\nload of {megabytes:.1f} MB: {1000 * statistics.median(seconds):.1f} ms; peak of this process {peak:,} kB")
    assert statistics.median(seconds) < 0.2
