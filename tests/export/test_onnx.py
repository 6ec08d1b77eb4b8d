"""ONNX: the graph predicts what the stepper predicts, and is checked before it is written."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UsageError
from charlm.export import onnx_graph
from charlm.export.onnx_check import check_onnx
from charlm.export.onnx_graph import onnx_file
from charlm.inference.mixture import Mixture
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, assert_refused, call
from tests.helpers.model_files import random_model

ROOT = Path(__file__).parents[2]
EXPORT = ("export", "--format", "onnx", "-m")


def run_onnx(data: bytes, ids_TB: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Let ONNX Runtime read ids, as a program does that knows only the file; yield the logits of each step."""
    session = onnxruntime.InferenceSession(data)
    start = json.loads(session.get_modelmeta().custom_metadata_map["initial_state"])
    names = [output.name for output in session.get_outputs()]
    state = {}
    for part in session.get_inputs()[1:]:
        dtype = np.float32 if part.type == "tensor(float)" else np.int64
        state[part.name] = np.full((ids_TB.shape[1], part.shape[1]), start[part.name], dtype)
    for ids_B in ids_TB:
        found = dict(zip(names, session.run(names, {"ids": ids_B, **state}), strict=True))
        state = {name: found[f"next_{name}"] for name in state}
        yield found["logits"]


def largest_difference(file: ModelFile, num_streams: int = 3) -> float:
    """Return the largest difference of a logit between ONNX Runtime and the stepper, over random ids with starts."""
    ids_TB = np.random.default_rng(1).integers(len(file.vocabulary) + 1, size=(60, num_streams))
    ids_TB[0] = len(file.vocabulary)
    stepper = Stepper(file)
    state, largest = stepper.before(num_streams), 0.0
    for ids_B, found_BV in zip(ids_TB, run_onnx(onnx_file(file), ids_TB), strict=True):
        expected_BV, state = stepper.step(ids_B, state)
        largest = max(largest, float(np.abs(expected_BV - found_BV).max()))
    return largest


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "settings",
    [
        {"num_layers": 2},
        {"embedding_size": 0, "direction": "backward"},
        {"initial_state": "learned", "num_layers": 2},
        {"symbols": Vocabulary.of_bytes(), "hidden_size": 7},
    ],
    ids=["two layers", "one-hot and backward", "learned start", "bytes"],
)
def test_the_graph_has_the_logits_of_the_stepper(cell: str, settings: dict[str, Any]) -> None:
    """Every cell, with all that a model may have, agrees over 60 steps, one stream or several."""
    assert largest_difference(random_model(cell, **settings)) < 1e-4


@pytest.mark.parametrize(("order", "weight"), [(1, 0.4), (2, 0.4), (3, 1.0), (6, 0.9), (4, 0.0)])
def test_n_grams_are_in_the_graph(make_mixture: Callable[..., ModelFile], order: int, weight: float) -> None:
    """The mixture agrees with the stepper, after seen and unseen contexts, alone and side by side."""
    file = make_mixture(order, weight)
    assert Mixture.of(file).ngrams.order == order  # type: ignore[union-attr]
    assert largest_difference(file, 1) < 1e-4
    assert largest_difference(file, 5) < 1e-4


def test_a_graph_without_n_grams_in_the_model_is_a_net() -> None:
    """Its inputs are the ids and the state of the layers, with the sizes of the model and an open batch."""
    graph = onnx.load_from_string(onnx_file(random_model("lstm", num_layers=2))).graph
    inputs = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input
    }
    assert inputs == {"ids": ["batch"], **{name: ["batch", 12] for name in ("h0", "c0", "h1", "c1")}}
    assert [value.name for value in graph.output] == ["logits", "next_h0", "next_c0", "next_h1", "next_c1"]


def test_old_runtimes_can_read_the_graph(make_mixture: Callable[..., ModelFile]) -> None:
    """It has only operators of ONNX itself, at opset 13, in the format of that time, and says so."""
    proto = onnx.load_from_string(onnx_file(make_mixture()))
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 13)]
    assert (proto.ir_version, {node.domain for node in proto.graph.node}) == (7, {""})
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert (about["opset"], about["cell"], about["start_id"]) == ("13", "lstm", "10")


def test_the_metadata_hold_any_vocabulary() -> None:
    """Lone surrogates, NUL and emoji come back as they were."""
    symbols = '\0\ud83d\ude00\U0001f600"\u2028'
    about = onnx.load_from_string(onnx_file(random_model(symbols=symbols))).metadata_props
    assert [json.loads(entry.value) for entry in about if entry.key == "vocabulary"] == [list(symbols)]


def test_a_graph_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a weight in the graph is wrong, nothing is written, and the file that was there stays."""
    random_model().save(Path("m.safetensors"))
    assert call(*EXPORT, "m.safetensors").exit_code == 0
    before = Path("model.onnx").read_bytes()
    right = onnx_graph.onnx_file

    def wrong(file: ModelFile) -> bytes:
        weights = {name: array + (0.01 if name == "output.bias" else 0) for name, array in file.arrays.items()}
        weights["output.bias"] = weights["output.bias"] * np.linspace(0.9, 1.1, 10, dtype=np.float32)
        return right(replace(file, arrays=weights))

    monkeypatch.setattr(onnx_graph, "onnx_file", wrong)
    assert "more than 1e-04: nothing is written" in assert_refused(call(*EXPORT, "m.safetensors"))
    assert Path("model.onnx").read_bytes() == before


def test_a_model_that_overflows_is_refused() -> None:
    """Weights within the bounds of a file whose state overflows are reported as such."""
    file = random_model("rnn-relu")
    huge = {name: array * np.float32(1e8) if "weight" in name else array for name, array in file.arrays.items()}
    with pytest.raises(ModelFileError, match="overflows"):
        check_onnx(onnx_file(replace(file, arrays=huge)), replace(file, arrays=huge))


def test_a_model_beyond_2_gb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX has no larger files, and the error says so."""
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="2 GB"):
        onnx_file(random_model())


def test_the_command_says_what_it_compared(make_mixture: Callable[..., ModelFile]) -> None:
    """It prints the file, the opset and the largest difference; `--net-only` also what is lost."""
    file = make_mixture()
    measured = {"validation_bits_per_character": 2.0, "validation_net_bits_per_character": 2.5}
    replace(file, metrics=measured).save(Path("m.safetensors"))
    whole = call(*EXPORT, "m.safetensors", "-o", "whole.onnx")
    first, second = whole.stderr.splitlines()
    assert re.fullmatch(r"whole\.onnx \(.* MB\): a graph of one step, ONNX opset 13", first)
    assert re.fullmatch(r"compared .* over 720 predictions: .* by more than \d\.\de-\d\d \(.*\)", second)
    net = call(*EXPORT, "m.safetensors", "-o", "net.onnx", "--net-only")
    assert "needs 2.500 bits per character on held-out text; both together need 2.000" in net.stderr
    assert len(Path("net.onnx").read_bytes()) < len(Path("whole.onnx").read_bytes())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(model: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the two packages the error says which extra installs it."""
    monkeypatch.setitem(sys.modules, package, None)
    result = call(*EXPORT, model)
    assert assert_refused(result) == f"error: the package `{package}` is not installed"
    assert 'pip install "charlm[onnx]"' in result.stderr


def test_the_lines_on_the_page_predict_the_same(model: str) -> None:
    """The program in docs/export.md prints the character that `predict-next` puts first."""
    random_model(symbols="To be").save(Path(model))
    assert call(*EXPORT, model).exit_code == 0
    (program,) = re.findall(r"^```py\n(.*?)^```$", (ROOT / "docs" / "export.md").read_text("utf-8"), re.M | re.S)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, {})
    first = answer("predict-next", "To be", "-m", model, "--json")["candidates"][0]["character"]
    assert printed.getvalue() == f"{first!r}\n"
