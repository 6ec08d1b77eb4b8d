"""Untrusted model files: no pickle is opened, damage is reported in one line, and all other files work."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays

import charlm
from tests.helpers.commands import assert_refused, assert_refused_in_own_process, call
from tests.helpers.model_files import SYMBOLS, load_error, saved, tiny_model
from tests.helpers.untrusted import (
    FIELDS,
    REMOVED,
    change_metadata,
    forge,
    has_right_hash,
    interrupted_run,
    is_usable,
    join_file,
    replace_symbols,
    split_file,
)

FILE = Path("m.safetensors")
NAN = float("nan")
HUGE = 10**4000
COMMANDS = (["sample", "-n", "3"], ["predict-next", "a"], ["eval"])
RESUME = ("train", "--resume", "run", "--sample-length", "0")
LEARNED = SYMBOLS * 40


@pytest.fixture
def run() -> Path:
    """A small interrupted run."""
    return interrupted_run()


# Pickles


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._canary, "w")


def traps(canary: Path) -> dict[str, bytes]:
    """Make a pickle that creates a file when it is opened, in each format that models are passed around in."""
    trap, zipped, array = Trap(canary), io.BytesIO(), io.BytesIO()
    torch.save(trap, zipped)
    np.save(array, np.array([trap], dtype=object), allow_pickle=True)
    return {"pickle": pickle.dumps(trap), "torch.save": zipped.getvalue(), "numpy": array.getvalue()}


OPENERS: dict[str, Callable[[bytes], Any]] = {
    "pickle": pickle.loads,
    "torch.save": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "numpy": lambda data: np.load(io.BytesIO(data), allow_pickle=True)[0],
}


@pytest.fixture(params=OPENERS)
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """One of these pickles after another."""
    return traps(tmp_path / "canary")[request.param]


@pytest.mark.parametrize("shape", OPENERS)
def test_an_opened_pickle_creates_its_file(tmp_path: Path, shape: str) -> None:
    """Opening one of the pickles creates the file that the other tests look for."""
    OPENERS[shape](traps(tmp_path / "canary")[shape]).close()
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_pickle_is_refused_as_a_model(tmp_path: Path, evil: bytes, command: list[str]) -> None:
    """Every command that takes a model refuses a pickle unopened, under any name and in a run folder."""
    Path("run").mkdir()
    for name in ("m", "m.pt", "m.pkl", "m.npy", "m.safetensors", "run/last.safetensors"):
        Path(name).write_bytes(evil)
        assert_refused(call(*command, "-m", name))
    assert_refused(call(*command, "-m", "run"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_pickle_is_refused_as_the_state_of_a_run(tmp_path: Path, run: Path, evil: bytes, name: str) -> None:
    """Resuming a run unpickles neither its last state nor its best model."""
    last = run / "last.safetensors"
    last.write_bytes(change_metadata(last.read_bytes(), {"metrics.finished": "done", "metrics.step": 8}))
    (run / name).write_bytes(evil)
    assert_refused(call(*RESUME))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("suffix", ["json", "ids"])
def test_a_pickle_in_the_cache_is_replaced(tmp_path: Path, run: Path, evil: bytes, suffix: str) -> None:
    """A pickle in place of a cached text is not opened; the text is encoded again and scores the same."""
    before = call("eval", "-m", "run", "--json").stdout
    entries = list((tmp_path / "cache").rglob(f"*.{suffix}"))
    for entry in entries:
        entry.write_bytes(evil)
    after = call("eval", "-m", "run", "--json")
    assert entries
    assert (after.exit_code, after.stdout) == (0, before)
    assert not (tmp_path / "canary").exists()


def test_yaml_tags_create_no_objects(tmp_path: Path, run: Path) -> None:
    """A Python tag in a settings file or in `--set` is refused, and the `config.yaml` of a run is not read."""
    tag = f"!!python/object/apply:builtins.open [{tmp_path / 'canary'}, w]"
    Path("evil.yaml").write_text(f"seed: {tag}\n")
    assert_refused(call("train", "evil.yaml"))
    assert_refused(call("train", "--set", f"seed={tag}"))
    (run / "config.yaml").write_text(f"seed: {tag}\n")
    assert call(*RESUME).exit_code == 0
    assert not (tmp_path / "canary").exists()


def test_no_source_file_can_run_what_it_reads() -> None:
    """No source file imports pickle, calls eval or exec, or uses an unsafe loader of torch, NumPy or YAML."""
    modules = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"}
    calls = {"eval", "exec", "compile", "__import__", "np.load", "numpy.load", "torch.load", "torch.jit.load"}
    calls |= {f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load", "unsafe_load_all")}
    loaders = {f"yaml.{name}" for name in ("Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader")}
    found = []
    for path in sorted(Path(charlm.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = modules & {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = modules & {(node.module or "").partition(".")[0]}
                names |= (calls | loaders) & {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Call):
                names = calls & {ast.unparse(node.func)} | {word.arg for word in node.keywords if word.arg} & {
                    "allow_pickle"
                }
            elif isinstance(node, ast.Attribute):
                names = loaders & {ast.unparse(node)}
            found += [f"{path.name}:{getattr(node, 'lineno', 0)}: {name}" for name in names]
    assert found == []


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A valid model file that was trained on `text.txt`."""
    data = {"corpus": ["text.txt"], "encoding": "utf-8", "validation_fraction": 0.1, "test_fraction": 0.0}
    digest = hashlib.sha256(LEARNED.encode()).hexdigest()
    file = saved(tiny_model("lstm"), tmp_path_factory.mktemp("whole") / "m")
    return change_metadata(file, {"config.data": data, "corpus.sha256": digest})


@pytest.fixture
def learned(own_folders: Path) -> None:
    """The text that the model file was trained on."""
    Path("text.txt").write_text(LEARNED, encoding="utf-8")


def test_a_valid_file_works_before_and_after_rewriting(whole: bytes, learned: None) -> None:
    """The file that the tests below damage is a usable model, and stays one when their tools rewrite it unchanged."""
    for data in (
        whole,
        join_file(*split_file(whole)),
        change_metadata(whole, {}),
        forge(whole),
        replace_symbols(whole, SYMBOLS),
    ):
        FILE.write_bytes(data)
        assert has_right_hash(data)
        assert is_usable(FILE)


per_example = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # every example writes the file again


@given(data=st.data())
@per_example
def test_flipped_bits_and_cut_ends_are_refused(whole: bytes, data: st.DataObject) -> None:
    """A file works if and only if no bit of it is flipped and nothing is cut off."""
    places = data.draw(st.lists(st.integers(0, 8 * len(whole) - 1), max_size=4, unique=True))
    bent = bytearray(whole)
    for place in places:
        bent[place // 8] ^= 1 << place % 8
    FILE.write_bytes(bent[: data.draw(st.just(len(bent)) | st.integers(0, len(bent)))])
    assert is_usable(FILE) == (FILE.read_bytes() == whole)


ODD = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([2**31, -(2**63), 2**64, HUGE, 1e308, -1e-320, NAN, float("inf"), "", "lstm", "a\nb", "\ud800"])
    | st.text(max_size=3)
    | st.lists(st.none() | st.integers(0, 9), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to all values in a tree of JSON."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path] + [found for key in keys for found in paths_in(value[key], (*path, key))]


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """Return the tree with another value at that path."""
    if not path:
        return other
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


@given(data=st.data())
@per_example
def test_forged_metadata_is_refused_or_harmless(whole: bytes, learned: None, data: st.DataObject) -> None:
    """Any value in place of another in vocabulary, settings, metrics or corpus gives a refusal or a usable model."""
    field = data.draw(st.sampled_from(FIELDS))
    tree = json.loads(split_file(whole)[0]["__metadata__"][field])
    changed = put(tree, data.draw(st.sampled_from(paths_in(tree))), data.draw(ODD))
    FILE.write_bytes(forge(whole, **{field: json.dumps(changed)}))
    is_usable(FILE)


@given(data=st.data())
@per_example
def test_a_forged_header_is_refused(whole: bytes, data: st.DataObject) -> None:
    """A header with any value in place of another works only if the hash of the file is right."""
    header, body = split_file(whole)
    path = data.draw(st.sampled_from(paths_in(header)))
    FILE.write_bytes(join_file(put(header, path, data.draw(ODD)), body))
    assert is_usable(FILE) <= has_right_hash(FILE.read_bytes())


@given(bits=st.integers(0, 2**32 - 1), data=st.data())
@per_example
def test_weights_of_any_bits_are_refused_or_predict(whole: bytes, bits: int, data: st.DataObject) -> None:
    """No bit pattern of a weight gives an invalid probability or a warning."""
    arrays = {name: array.copy() for name, array in load_arrays(whole).items()}
    array = arrays[data.draw(st.sampled_from(sorted(arrays)))]
    array.view(np.uint32)[(slice(None), 0)[: array.ndim]] = bits
    FILE.write_bytes(forge(whole, arrays))
    is_usable(FILE)


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf, 3e38, -3e38], ids=str)
@pytest.mark.parametrize("name", sorted(tiny_model("lstm").arrays))
def test_extreme_weights_are_refused_or_harmless(whole: bytes, name: str, value: float) -> None:
    """NaN and infinity are refused on loading; the largest finite numbers predict or are refused."""
    arrays = {key: array.copy() for key, array in load_arrays(whole).items()}
    arrays[name][-1] = value
    FILE.write_bytes(forge(whole, arrays))
    assert is_usable(FILE) <= bool(np.isfinite(value))
    if not np.isfinite(value):
        load_error(FILE)


@pytest.mark.parametrize(
    "text", ["null", "[]", "5", '"x"', "true", "NaN", "{", "", "[" * 10**5, "1" * 5000, None], ids=repr
)
@pytest.mark.parametrize("field", FIELDS)
def test_metadata_that_is_no_json_object_is_refused(whole: bytes, field: str, text: str | None) -> None:
    """Vocabulary, settings, metrics and corpus must be JSON objects."""
    FILE.write_bytes(forge(whole, **{field: text}))
    load_error(FILE)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocabulary.kind": REMOVED},
        {"vocabulary.kind": ["characters"]},
        {"vocabulary.symbols": {"a": 1, "b": 2}},
        {"vocabulary.symbols": "abcde"},
        {"vocabulary.symbols": [["a"], ["b"], ["c"], ["d"], ["e"]]},
        {"vocabulary.symbols": ["a", "b", "c", "d", ""]},
        {"vocabulary.symbols": ["a", "b", "c", "d", "d"]},
        {"vocabulary.symbols": list("abcdef")},
        {"config.model.cell": "mamba"},
        {"config.model.cell": {}},
        {"config.model.hidden_size": True},
        {"config.model.hidden_size": HUGE},
        {"config.model.num_layers": 0},
        {"config.model": REMOVED},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_metadata_that_describes_no_model_is_refused(whole: bytes, changes: dict[str, Any]) -> None:
    """Loading refuses an impossible vocabulary or impossible settings, although the hash is right."""
    FILE.write_bytes(change_metadata(whole, changes))
    load_error(FILE)


def test_a_model_without_symbols_is_refused(whole: bytes) -> None:
    """A file with an empty vocabulary, and arrays of the shapes for it, is refused."""
    FILE.write_bytes(replace_symbols(whole, ""))
    load_error(FILE)


@pytest.mark.parametrize("repeated", ['"__metadata__"', '"output.bias"', '"dtype"', '"format_version"', '"sha256"'])
def test_a_repeated_header_key_is_refused_or_harmless(whole: bytes, repeated: str) -> None:
    """A key that occurs twice in the header, with the same or another value, gives a refusal or a usable model."""
    text = json.dumps(split_file(whole)[0])
    start = text.index(repeated)
    _, end = json.JSONDecoder().raw_decode(text, start + len(repeated) + 2)
    pair = text[start:end]
    others = {"__metadata__": "{}", "output.bias": '{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'}
    other = f"{repeated}: {others.get(json.loads(repeated), json.dumps('I32'))}"
    for twice in (f"{pair}, {pair}", f"{other}, {pair}", f"{pair}, {other}"):
        FILE.write_bytes(join_file(f"{text[:start]}{twice}{text[end:]}".encode(), split_file(whole)[1]))
        is_usable(FILE)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\rerror: none", "x" * 10**6], ids=lambda name: repr(name)[:9])
def test_no_name_in_a_model_file_breaks_the_error_line(whole: bytes, name: str) -> None:
    """Names from a file appear in an error without line ends, control sequences and endless length."""
    FILE.write_bytes(forge(whole, load_arrays(whole) | {name: np.zeros(1, np.float32)}))
    assert_refused(call("sample", "-m", str(FILE)))


@pytest.mark.parametrize("version", ["3", " 7\n", "1" * 4000, "x", "", None, "-1", "1.5"], ids=lambda v: repr(v)[:9])
def test_an_unknown_format_version_is_reported_in_one_line(whole: bytes, version: str | None) -> None:
    """A format version that is newer, malformed or missing is refused."""
    FILE.write_bytes(forge(whole, format_version=version))
    assert_refused(call("sample", "-m", str(FILE)))


# Files that are no models


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_refuses_files_that_are_no_models(command: list[str]) -> None:
    """An empty file, a text, zeros, folders, circular links, missing and unreadable files are refused as models."""
    Path("nothing").touch()
    Path("a.txt").write_text("Once upon a time.\n" * 100)
    Path("zeros").write_bytes(bytes(1000))
    Path("folder/best.safetensors").mkdir(parents=True)
    Path("loop").symlink_to("loop")
    names = ["nothing", "a.txt", "zeros", "folder", "loop", ".", "absent", "~nobody-at-all/m", "/dev/null"]
    # Root may read any file, but not this one.
    for name in [*names, *(["/proc/self/mem"] if Path("/proc/self/mem").exists() else [])]:
        assert_refused(call(*command, "-m", name))


def test_endless_and_huge_files_are_refused_at_once(whole: bytes) -> None:
    """A pipe without a writer, a device and sparse files of 50 GB are refused within ten seconds."""
    os.mkfifo("pipe")
    with Path("zeros").open("wb") as file:
        file.truncate(50 << 30)
    header, body = split_file(whole)
    header["carried.0"] = {"dtype": "F32", "shape": [12 << 30], "data_offsets": [len(body), len(body) + (48 << 30)]}
    with Path("weights").open("wb") as file:
        file.write(join_file(header, body))
        file.truncate(file.tell() + (48 << 30))
    for name in ("pipe", "/dev/zero", "zeros", "weights"):
        assert_refused_in_own_process("sample", "-m", name, seconds=10)
