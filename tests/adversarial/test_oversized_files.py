"""Files larger than memory, endless, or slow to read: refused soon and in little memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_arrays

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.spec import ModelSpec
from tests.helpers.commands import assert_refused_in_own_process
from tests.helpers.untrusted import change_metadata, forge, interrupted_run, join_file, split_file

pytestmark = pytest.mark.slow


@pytest.fixture
def model() -> bytes:
    """A valid model file of a run on `text.txt`."""
    return (interrupted_run() / "best.safetensors").read_bytes()


def many_arrays(data: bytes) -> bytes:
    """Add 400,000 names of empty arrays."""
    return forge(data, load_arrays(data) | {f"carried.{number}": np.zeros(0, np.float32) for number in range(400_000)})


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "header of lists": lambda data: join_file(b'{"a":[' + b"[]," * (60 << 20) + b"[]]}", b""),
    "settings of lists": lambda data: forge(data, config="[" + "[]," * (20 << 20) + "[]]"),
    "metrics of nested lists": lambda data: forge(data, metrics="[" + ("[" * 400 + "]" * 400 + ",") * 78_000 + "[]]"),
    "metrics of objects": lambda data: forge(data, metrics='{"a":[' + "{}," * (20 << 20) + "{}]}"),
    "many symbols": lambda data: forge(
        data, vocabulary=json.dumps({"kind": "characters", "symbols": ["a"] * 8_000_000})
    ),
    "many arrays": many_arrays,
    "long name": lambda data: forge(data, load_arrays(data) | {"a" * (50 << 20): np.zeros(1, np.float32)}),
    "many settings": lambda data: change_metadata(data, {f"config.{number}": 0 for number in range(10**5)}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_metadata_that_expands_in_memory_is_refused(model: bytes, bomb: str) -> None:
    """A hundred megabytes of brackets, which are gigabytes of objects, are refused soon and in little memory."""
    # Only a resumed run reads the settings.
    is_run = bomb == "many settings"
    path = Path("run/last.safetensors" if is_run else "m")
    command = ("train", "--resume", "run") if is_run else ("sample", "-m", "m")
    sizes, seconds = [], []
    # The first file is refused too, and shows how long the command takes on this machine.
    for data in (model[:-1], BOMBS[bomb](model)):
        path.write_bytes(data)
        before = time.monotonic()
        assert_refused_in_own_process(*command, seconds=60)
        sizes.append(len(data))
        seconds.append(time.monotonic() - before)
    print(f"\n{bomb}: {sizes[1] / 1e6:.1f} MB, {seconds[1]:.1f} s; cut short {seconds[0]:.1f} s")
    assert seconds[1] < 10 * seconds[0]


def test_a_model_larger_than_memory_is_refused(model: bytes) -> None:
    """A sparse file of 48 GB whose sizes agree with its settings is refused."""
    metadata = split_file(change_metadata(model, {"config.model.hidden_size": 57_000}))[0]["__metadata__"]
    num_symbols = len(json.loads(metadata["vocabulary"])["symbols"])
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in ModelSpec.of_settings(json.loads(metadata["config"])["model"], num_symbols).shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    with Path("m").open("wb") as file:
        file.write(join_file(header, b""))
        file.truncate(file.tell() + end)
    for command in (["sample"], ["predict-next", "a"], ["eval"]):
        assert_refused_in_own_process(*command, "-m", "m", seconds=15)


@pytest.mark.parametrize("command", [["sample"], ["predict-next", "a"], ["eval"], ["eval", "-c", "text.txt"]])
def test_every_command_refuses_endless_files_as_models(model: bytes, command: list[str]) -> None:
    """Pipes, devices and sparse files of 50 GB are refused within fifteen seconds."""
    os.mkfifo("pipe")
    Path("device").symlink_to("/dev/zero")
    header, body = split_file(model)
    for name, dtype in (("optimizer.output.bias.exp_avg", "F32"), ("carried.0", "F32"), ("x", "U8")):
        header |= {name: {"dtype": dtype, "shape": [48 << (28 if dtype == "F32" else 30)]}}
        header[name]["data_offsets"] = [len(body), len(body) + (48 << 30)]
        with Path(f"huge {name}").open("wb") as file:
            file.write(join_file(header, body))
            file.truncate(file.tell() + (48 << 30))
        del header[name]
    for name in ("pipe", "device", "/dev/random", "/dev/tty", *map(str, Path().glob("huge *"))):
        assert_refused_in_own_process(*command, "-m", name, seconds=15)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/**", "/"])
@pytest.mark.parametrize("command", [["eval", "-m", "m"], ["train", "--resume", "run"]], ids=lambda c: c[0])
def test_no_endless_text_is_read_for_an_untrusted_model(model: bytes, command: list[str], name: str) -> None:
    """A pipe, a device or the whole disk as the text of a model or run is refused."""
    os.mkfifo("pipe")
    Path("m").write_bytes(change_metadata(model, {"config.data.corpus": [name]}))
    last = Path("run/last.safetensors")
    last.write_bytes(change_metadata(last.read_bytes(), {"config.data.corpus": [name]}))
    assert_refused_in_own_process(*command, seconds=15)


@pytest.mark.parametrize("fraction", ["1e99999999", "1e-99999999"])
def test_a_fraction_of_a_hundred_million_digits_is_not_computed(model: bytes, fraction: str) -> None:
    """A fraction that spells a hundred million digits in ten characters is refused at once."""
    Path("m").write_bytes(change_metadata(model, {"config.data.validation_fraction": fraction}))
    assert_refused_in_own_process("eval", "-m", "m", seconds=15)


def test_a_model_of_20_megabytes_loads_in_little_time(make_model: Callable[..., ModelFile]) -> None:
    """Checking a model file of 20 MB takes a few times as long as hashing its bytes."""
    make_model(hidden_size=1110).save(Path("m"))
    seconds, hashing = [], []
    for _ in range(11):
        before = time.perf_counter()
        hashlib.sha256(Path("m").read_bytes()).digest()
        hashing.append(time.perf_counter() - before)
        load_checkpoint(Path("m"))
        seconds.append(time.perf_counter() - before - hashing[-1])
    megabytes = Path("m").stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\nload of {megabytes:.1f} MB: {1000 * statistics.median(seconds):.1f} ms; peak of this process {peak:,} kB")
    assert statistics.median(seconds) < 10 * statistics.median(hashing)
