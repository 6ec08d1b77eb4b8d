"""Model files load bit for bit or are refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from charlm import checkpoint
from charlm.checkpoint import Arrays, load_checkpoint
from charlm.errors import ModelFileError
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary
from tests.helpers.model_files import SYMBOLS, assert_same, load_error, saved, tiny_model

# Saving and loading


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_saved_model_loads_unchanged(own_folders: Path, cell: str, layers: int) -> None:
    """Arrays, vocabulary, settings, metrics and corpus are the same after save and load."""
    model = tiny_model(cell, layers=layers)
    model.save(own_folders / "m.safetensors")
    assert_same(model, load_checkpoint(own_folders / "m.safetensors"))


@given(
    weights=st.lists(st.floats(-(2.0**29), 2.0**29, width=32), min_size=4, max_size=4),
    symbols=st.text(st.characters(), min_size=1, max_size=20).map(lambda text: "".join(sorted(set(text)))),
    metrics=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)),
)
@settings(max_examples=50, deadline=None)
def test_any_bits_and_any_symbols_load_unchanged(
    tmp_path_factory: pytest.TempPathFactory, weights: list[float], symbols: str, metrics: dict[str, Any]
) -> None:
    """Negative zero, subnormals and lone surrogates load unchanged: nothing is normalised."""
    path = tmp_path_factory.mktemp("any") / "m.safetensors"
    odd = np.array(weights, dtype=np.float32).reshape(2, 2)
    model = tiny_model(symbols=symbols)
    model = replace(model, arrays=model.arrays | {"layers.0.weight_hh_l0": odd}, metrics=metrics)
    model.save(path)
    assert_same(model, load_checkpoint(path))


def test_a_vocabulary_of_bytes_loads_unchanged(own_folders: Path) -> None:
    """A model of bytes is a model of bytes after loading."""
    vocabulary = Vocabulary.of_bytes()
    model = replace(tiny_model(symbols=vocabulary.symbols), vocabulary=vocabulary)
    model.save(own_folders / "m.safetensors")
    assert_same(model, load_checkpoint(own_folders / "m.safetensors"))


def test_arrays_of_any_memory_layout_load_unchanged(own_folders: Path) -> None:
    """A transposed or strided array is saved by its values and not by its memory."""
    base = np.arange(16, dtype=np.float32).reshape(4, 4)
    strange = {"layers.0.weight_hh_l0": base[::2, 3:0:-2], "layers.0.weight_ih_l0": base[:2, :2].T}
    model = replace(tiny_model(), arrays=tiny_model().arrays | strange)
    model.save(own_folders / "m.safetensors")
    back = load_checkpoint(own_folders / "m.safetensors").arrays
    assert back["layers.0.weight_hh_l0"].tolist() == [[3.0, 1.0], [11.0, 9.0]]
    assert back["layers.0.weight_ih_l0"].tolist() == [[0.0, 4.0], [1.0, 5.0]]


# Arrays for resuming: two moments of one weight, a count of steps, and the state of three streams.
STATE: Arrays = {
    "optimizer.output.bias.exp_avg": np.linspace(-1, 1, len(SYMBOLS), dtype=np.float32),
    "optimizer.output.bias.step": np.array(7.0, dtype=np.float32),
    "carried.0": np.arange(6, dtype=np.float32).reshape(1, 3, 2),
}


def test_arrays_for_resuming_are_not_weights(own_folders: Path) -> None:
    """Arrays of the optimiser and the carried state load unchanged, and `weights` lacks them."""
    model = tiny_model(extra=STATE)
    model.save(own_folders / "last.safetensors")
    back = load_checkpoint(own_folders / "last.safetensors")
    assert_same(model, back)
    assert set(tiny_model().arrays) == set(back.weights)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((3, 4)), np.zeros((1, 1 << 17, 2)), np.zeros((1, 3, 3))])
@pytest.mark.parametrize("name", STATE)
def test_arrays_for_resuming_have_the_shapes_of_the_model(own_folders: Path, name: str, array: NDArray[Any]) -> None:
    """Arrays for resuming are checked, so no file makes a model of two units ask for gigabytes."""
    tiny_model(extra=STATE | {name: array.astype(np.float32)}).save(own_folders / "last.safetensors")
    assert f"`{name}`" in load_error(own_folders / "last.safetensors")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["output.weight", "optimizer.output.bias.exp_avg", "carried.0"])
def test_nan_infinite_and_huge_numbers_are_refused(own_folders: Path, name: str, number: float) -> None:
    """No text can be drawn from a model with NaN, infinite or huge numbers, and no run can resume it."""
    model = tiny_model(extra=STATE)
    array = model.arrays[name].copy()
    array.flat[-1] = number
    replace(model, arrays=model.arrays | {name: array}).save(own_folders / "m")
    assert f"implausibly large numbers in `{name}`" in load_error(own_folders / "m")


def test_a_model_file_can_be_moved(own_folders: Path) -> None:
    """A model file contains no path and loads from any folder."""
    here = own_folders / "a-folder-of-its-own"
    here.mkdir()
    data = saved(tiny_model(), here / "m.safetensors")
    assert b"a-folder-of-its-own" not in data
    assert str(Path.home()).encode() + b"/" not in data
    (here / "m.safetensors").rename(own_folders / "renamed")
    assert_same(tiny_model(), load_checkpoint(own_folders / "renamed"))


def test_loaded_arrays_do_not_depend_on_the_file(own_folders: Path) -> None:
    """A loaded model does not change when its file is replaced."""
    path = own_folders / "m.safetensors"
    tiny_model().save(path)
    model = load_checkpoint(path)
    replace(tiny_model(), arrays={name: array * 0 for name, array in tiny_model().arrays.items()}).save(path)
    assert_same(tiny_model(), model)


def test_the_shapes_of_a_spec_are_those_of_pytorch() -> None:
    """A spec has the names and shapes of PyTorch's layers, and an embedding for the start of a text."""
    torch = pytest.importorskip("torch")
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    for cell, kind in kinds.items():
        config = {"model": {"cell": cell, "embedding_size": 3, "hidden_size": 5, "num_layers": 2}}
        shapes = {"embedding.weight": (8, 3), "output.weight": (7, 5), "output.bias": (7,)}
        for layer, size in enumerate((3, 5)):
            for name, parameter in kind(size, 5).named_parameters():
                shapes[f"layers.{layer}.{name}"] = tuple(parameter.shape)
        assert shapes == ModelSpec.of_settings(config["model"], 7).shapes


# Refusing


class Trap:
    """An object that makes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.canary), "w")


def test_a_pickle_is_refused_unopened(own_folders: Path) -> None:
    """A pickle is not a model file, and nothing in it is run."""
    canary, path = own_folders / "canary", own_folders / "evil.safetensors"
    path.write_bytes(pickle.dumps(Trap(canary)))
    load_error(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes()).close()
    assert canary.exists()  # the trap was a good one


def test_a_missing_model_file_is_refused(own_folders: Path) -> None:
    """The error names the missing model file, with the reason."""
    assert "No such file" in load_error(own_folders / "absent.safetensors")


def test_a_folder_in_place_of_a_model_file_is_refused(own_folders: Path) -> None:
    """The error names a folder in place of a model file."""
    assert "is not a file" in load_error(own_folders)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"\0" * 100,
        b"\xff" * 100,
        b"Once upon a time there was a text.\n" * 10,
        b"PK\x03\x04" + b"\0" * 60,
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (19).to_bytes(8, "little") + b'{"__metadata__": 5}',
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        (100_006).to_bytes(8, "little") + b'{"a": ' + b"[" * 100_000,
        (1 << 63).to_bytes(8, "little") + b"{}",
    ],
    ids=lambda data: f"{data[:14]!r}",
)
def test_a_file_of_another_kind_is_refused(own_folders: Path, data: bytes) -> None:
    """Text, archives and meaningless headers are refused in one line that names the file."""
    path = own_folders / "m.safetensors"
    path.write_bytes(data)
    load_error(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "C64", "F4", "x"]),
        "shape": st.lists(st.integers(-1, 3) | st.just(2**63), max_size=3),
        "data_offsets": st.just([0, 4]) | st.lists(st.integers(-1, 9), max_size=3),
    }
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "format": st.just("charlm") | st.just("pt"),
        "format_version": st.sampled_from(["1", "0", "x", "", "1e3", "9" * 5000]),
        "sha256": st.just("ab" * 32),
        "vocabulary": JSON.map(json.dumps),
        "config": JSON.map(json.dumps),
    },
)


@given(data=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes raise a `ModelFileError` and nothing else."""
    path = tmp_path_factory.mktemp("any") / "m"
    path.write_bytes(data)
    load_error(path)


@given(header=JSON | st.fixed_dictionaries({"__metadata__": METADATA | JSON, "a": TENSOR}), body=st.binary(max_size=9))
@settings(max_examples=100, deadline=None)
def test_any_header_is_refused(tmp_path_factory: pytest.TempPathFactory, header: Any, body: bytes) -> None:
    """Any header raises a `ModelFileError` and nothing else, however close it comes to a good one."""
    path = tmp_path_factory.mktemp("any") / "m"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    load_error(path)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "charlm"}], ids=str)
def test_a_safetensors_file_of_another_program_is_refused(own_folders: Path, metadata: dict[str, str] | None) -> None:
    """The error says that a file without charlm's metadata is no charlm model file."""
    path = own_folders / "other.safetensors"
    save_file(tiny_model().arrays, path, metadata)
    assert "not a charlm model file" in load_error(path)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E5M2"])
def test_dtypes_that_numpy_lacks_are_refused(own_folders: Path, dtype: str) -> None:
    """A dtype without a NumPy counterpart is refused like any other wrong dtype."""
    size = 2 if dtype == "BF16" else 1
    tensor = {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"format": "charlm", "format_version": "1"}, "a": tensor}).encode()
    (own_folders / "m").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * size)
    load_error(own_folders / "m")


def test_a_file_cut_short_anywhere_is_refused(own_folders: Path) -> None:
    """Truncation is detected at every offset, and so is one byte too many."""
    path = own_folders / "m.safetensors"
    data = saved(tiny_model("rnn", "ab"), path)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        load_error(path)
    path.write_bytes(data + b"\0")
    load_error(path)


def test_a_flipped_bit_anywhere_is_detected(own_folders: Path) -> None:
    """A single wrong bit in any byte of the file is detected."""
    path = own_folders / "m.safetensors"
    data = bytearray(saved(tiny_model("rnn", "ab"), path))
    for index in range(len(data)):
        for bit in {index % 8, 0}:
            data[index] ^= 1 << bit
            path.write_bytes(data)
            load_error(path)
            data[index] ^= 1 << bit
    path.write_bytes(data)
    assert_same(tiny_model("rnn", "ab"), load_checkpoint(path))


def test_damaged_weights_are_called_damaged(own_folders: Path) -> None:
    """A wrong bit in the weights, which only the hash can detect, is reported as damage."""
    path = own_folders / "m.safetensors"
    data = bytearray(saved(tiny_model(), path))
    data[-1] ^= 0x40
    path.write_bytes(data)
    assert "damaged" in load_error(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"shape":[1,3,2]', b'"shape":[1,2,2]'), (b'"dtype":"F32"', b'"dtype":"I32"'), (b'"carried.0"', b'"carried.1"')],
)
def test_shape_dtype_and_name_are_checked(own_folders: Path, old: bytes, new: bytes) -> None:
    """A changed header is detected, at least by the hash."""
    path = own_folders / "m.safetensors"
    data = saved(tiny_model(extra=STATE), path)
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    load_error(path)


def test_a_wrong_shape_is_refused(own_folders: Path) -> None:
    """The error names an array of another shape, with both shapes."""
    model = replace(
        tiny_model(), arrays=tiny_model().arrays | {"layers.0.weight_hh_l0": np.zeros((2, 3), dtype=np.float32)}
    )
    model.save(own_folders / "m")
    message = load_error(own_folders / "m")
    assert "layers.0.weight_hh_l0" in message
    assert "(2, 3)" in message
    assert "(2, 2)" in message


def test_a_transposed_array_is_refused(own_folders: Path) -> None:
    """An array with the right number of elements in a wrong shape is refused."""
    wrong = tiny_model().arrays["embedding.weight"].T
    replace(tiny_model(), arrays=tiny_model().arrays | {"embedding.weight": wrong}).save(own_folders / "m")
    assert "embedding.weight" in load_error(own_folders / "m")


@pytest.mark.parametrize("name", sorted(tiny_model().arrays))
def test_a_missing_array_is_refused(own_folders: Path, name: str) -> None:
    """The error names a missing weight."""
    replace(tiny_model(), arrays={key: array for key, array in tiny_model().arrays.items() if key != name}).save(
        own_folders / "m"
    )
    assert f"lacks array `{name}`" in load_error(own_folders / "m")


@pytest.mark.parametrize("name", ["layers.1.weight_hh_l0", "head", "optimizers.x", "optimizer"])
def test_an_extra_array_is_refused(own_folders: Path, name: str) -> None:
    """The error names an array that is neither a weight nor needed to resume."""
    tiny_model(extra={name: np.zeros(1, dtype=np.float32)}).save(own_folders / "m")
    assert f"unknown array `{name}`" in load_error(own_folders / "m")


@pytest.mark.parametrize("dtype", ["F16", "F64", "I32", "U8"])
def test_a_wrong_dtype_is_refused(own_folders: Path, dtype: str) -> None:
    """Weights must be float32; nothing is converted silently."""
    kinds = {"F16": "float16", "F64": "float64", "I32": "int32", "U8": "uint8"}
    arrays = tiny_model().arrays | {"output.bias": tiny_model().arrays["output.bias"].astype(kinds[dtype])}
    replace(tiny_model(), arrays=arrays).save(own_folders / "m")
    message = load_error(own_folders / "m")
    assert "output.bias" in message
    assert dtype in message


def test_a_newer_format_is_refused(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a file of a newer charlm names both versions and does not call it damaged."""
    path = own_folders / "m.safetensors"
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 7)
    tiny_model(extra={"ngrams.weight": np.array(0.5, dtype=np.float32)}).save(path)
    monkeypatch.undo()
    with pytest.raises(ModelFileError) as raised:
        load_checkpoint(path)
    assert "format 7" in str(raised.value)
    assert "up to 2" in str(raised.value)
    assert "newer" in raised.value.hint


@pytest.mark.parametrize(
    "model",
    [{}, {"model": None}, {"model": []}, {"model": {}}, [], None, "model", {"model": {"cell": "transformer"}}],
    ids=str,
)
def test_settings_that_make_no_model_are_refused(own_folders: Path, model: Any) -> None:
    """A file with a right hash and impossible settings is refused."""
    replace(tiny_model(), config=model).save(own_folders / "m")
    load_error(own_folders / "m")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cell", "transformer"),
        ("cell", ["rnn"]),
        ("cell", None),
        ("num_layers", -1),
        ("num_layers", 1.0),
        ("num_layers", "1"),
        ("hidden_size", 2.0),
        ("hidden_size", -2),
        ("hidden_size", "2"),
        ("embedding_size", None),
        ("embedding_size", 2.0),
        ("embedding_size", 10**30),
    ],
)
def test_a_setting_that_makes_no_model_is_refused(own_folders: Path, key: str, value: Any) -> None:
    """Each setting that decides a shape must have the right type and be within bounds."""
    config = {"model": tiny_model().config["model"] | {key: value}}
    replace(tiny_model(), config=config).save(own_folders / "m")
    load_error(own_folders / "m")


def test_a_huge_number_of_layers_is_refused_at_once(own_folders: Path) -> None:
    """A file that claims a million million layers costs neither time nor memory."""
    resource = pytest.importorskip("resource")
    replace(tiny_model(), config={"model": tiny_model().config["model"] | {"num_layers": 10**12}}).save(
        own_folders / "m"
    )
    script = (
        "import resource, sys; from pathlib import Path; from charlm.checkpoint import load_checkpoint\n"
        "from charlm.errors import ModelFileError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try: load_checkpoint(Path(sys.argv[1]))\n"
        "except ModelFileError: print('refused')\n"
    )
    command = [sys.executable, "-c", script, str(own_folders / "m")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert resource is not None
    assert done.stdout == "refused\n", done.stderr[-300:]


def test_a_model_larger_than_the_memory_is_refused(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading needs twice the file's size in memory: for its bytes and for the arrays made from them."""
    path = own_folders / "m.safetensors"
    tiny_model().save(path)
    monkeypatch.setattr(checkpoint, "usable_bytes", lambda: 2.0 * path.stat().st_size)
    load_checkpoint(path)
    monkeypatch.setattr(checkpoint, "usable_bytes", lambda: 2.0 * path.stat().st_size - 1)
    assert "GB of memory to be read" in load_error(path)


@pytest.mark.parametrize(
    ("kind", "symbols"),
    [
        ("words", SYMBOLS),
        (None, SYMBOLS),
        ("characters", "aabcd"),
        ("characters", None),
        ("characters", 5),
        ("characters", ["ab", "c", "d", "e", "f"]),
        ("characters", ["a", 1, "c", "d", "e", "f"]),
        ("bytes", SYMBOLS),
    ],
)
def test_an_impossible_vocabulary_is_refused(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, symbols: Any
) -> None:
    """Unknown kinds, repeated symbols, symbols of the wrong type, and bytes that are not all 256 are refused."""
    whole = json.dumps
    written = {"kind": kind, "symbols": list(symbols) if isinstance(symbols, str) else symbols}

    def forged(value: Any, **options: Any) -> str:
        return whole(written if isinstance(value, dict) and "symbols" in value else value, **options)

    monkeypatch.setattr(json, "dumps", forged)
    tiny_model().save(own_folders / "m")
    monkeypatch.undo()
    load_error(own_folders / "m")
