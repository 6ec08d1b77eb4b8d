"""A model as an ONNX graph of one step, with the state going in and coming out. Knows the format, but runs nothing.

The graph has the equations of `cells.py`: they are called with values that write down what is done to them.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, checker, helper

from charlm import __version__
from charlm.cells import Recurrent
from charlm.checkpoint import Arrays, ModelFile
from charlm.errors import UsageError
from charlm.export.onnx_ngrams import OnnxNgrams
from charlm.export.onnx_values import Graph, Value
from charlm.inference.mixture import Mixture
from charlm.spec import ModelSpec

PRODUCER = "charlm"
# Runtimes since December 2020 know this version of the operators and of the format. Nothing here needs a newer one.
OPSET, IR_VERSION = 13, 7
# A file is one message of protobuf, which has less than 2 GB. The rest is room for n-grams.
MAX_BYTES = (1 << 31) - (1 << 27)
CONTEXTS = "contexts"
NEXT = "next_"


def onnx_file(model: ModelFile) -> bytes:
    """Return the file of the graph of a model of one direction, checked by the checker of ONNX.

    Its inputs are `ids`, (B,), int64, and the parts of the state: `h0` and for LSTMs `c0`, (B, H), float32, then those
    of further layers, and with n-grams `contexts`, (B, K), int64. Its outputs are `logits`, (B, V), float32, and the
    parts of the new state with `next_` before their names.

    Raises:
        UsageError: it is too large for the format.
    """
    spec, mixture = model.spec, Mixture.of(model)
    if sum(array.nbytes for array in model.weights.values()) > MAX_BYTES:
        raise UsageError("this model is larger than 2 GB, and an ONNX file cannot be", "export it in another format")
    graph = Graph()
    ids = Value(graph, "ids", 1)
    states = [tuple(Value(graph, name, spec.hidden_size) for name in parts) for parts in state_names(spec)]
    logits, new_states = _net_step(graph, spec, model.weights, ids, states)
    outputs = dict(zip(itertools.chain(*state_names(spec)), itertools.chain(*new_states), strict=True))
    infos = dict.fromkeys(outputs, (TensorProto.FLOAT, spec.hidden_size))
    if mixture:
        ngrams = OnnxNgrams(graph, mixture.ngrams)
        outputs[CONTEXTS] = contexts = ngrams.step(ids, Value(graph, CONTEXTS, ngrams.num_lengths))
        infos[CONTEXTS] = (TensorProto.INT64, ngrams.num_lengths)
        logits = logits * (1 - mixture.weight) + ngrams.log_probabilities(contexts) * mixture.weight
    for name, value in {"logits": logits, **{f"{NEXT}{name}": value for name, value in outputs.items()}}.items():
        graph.add("Identity", value, name=name)

    def info(name: str, type: int, size: int) -> Any:
        return helper.make_tensor_value_info(name, type, ["batch", size])

    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "step",
            [
                helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"]),
                *(info(name, *infos[name]) for name in outputs),
            ],
            [
                info("logits", TensorProto.FLOAT, spec.num_symbols),
                *(info(f"{NEXT}{name}", *infos[name]) for name in outputs),
            ],
            list(graph.constants.values()),
        ),
        producer_name=PRODUCER,
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(proto, description(model, ngrams.num_lengths if mixture else 0))
    checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def is_onnx(path: Path) -> bool:
    """Return whether a file is one that `onnx_file` made, by its first bytes."""
    first = ModelProto(ir_version=IR_VERSION, producer_name=PRODUCER).SerializeToString()
    with path.open("rb") as file:
        return bool(file.read(len(first)) == first)


def state_names(spec: ModelSpec) -> list[list[str]]:
    """Return the names of the parts of the state, for each layer."""
    return [[f"{part[0]}{layer}" for part in spec.recurrence.state] for layer in range(spec.num_layers)]


def description(model: ModelFile, num_lengths: int) -> dict[str, str]:
    """Return what a program has to know of a graph: its vocabulary, and how a text starts.

    Args:
        model: the model.
        num_lengths: K, how many contexts the state has; 0 if there are no n-grams.
    """
    spec, vocabulary = model.spec, model.vocabulary
    start: dict[str, Any] = dict.fromkeys(itertools.chain(*state_names(spec)), 0)
    if spec.initial_state == "learned":
        parts = model.weights["initial_state"].swapaxes(0, 1).reshape(-1, spec.hidden_size)
        start = dict(zip(start, parts.tolist(), strict=True))
    if num_lengths:
        start[CONTEXTS] = [0] + [-1] * (num_lengths - 1)
    return {
        "vocabulary": json.dumps(list(vocabulary.symbols)),
        "vocabulary_kind": vocabulary.kind,
        "vocabulary_filter": vocabulary.filter,
        "start_id": str(spec.start_id),
        "initial_state": json.dumps(start),
        "direction": spec.direction,
        "cell": spec.cell,
        "opset": str(OPSET),
        "charlm_version": __version__,
    }


def _net_step(
    graph: Graph, spec: ModelSpec, weights: Arrays, ids: Value, states: list[tuple[Value, ...]]
) -> tuple[Value, list[tuple[Value, ...]]]:
    """Write one step of a net; return its logits and the new state."""

    def weight(name: str) -> Value:
        return graph.constant(name, weights[name])

    new_states: list[tuple[Value, ...]] = []
    for layer, state in enumerate(states):
        own = f"layers.{layer}."
        if new_states or spec.embedding_size:
            x = new_states[-1][0] if new_states else weight("embedding.weight").select(ids)
            u = x.linear(weight(f"{own}weight_ih_l0"), weight(f"{own}bias_ih_l0"))
        else:
            # A one-hot input selects a column.
            columns = graph.constant(f"{own}weight_ih_l0", weights[f"{own}weight_ih_l0"].T)
            u = columns.select(ids) + weight(f"{own}bias_ih_l0")
        new_states.append(spec.recurrence.step(u, _recurrent(graph, spec, weights, own), state)[0])
    return new_states[-1][0].linear(weight("output.weight"), weight("output.bias")), new_states


def _recurrent(graph: Graph, spec: ModelSpec, weights: Arrays, own: str) -> Recurrent:
    """Return the recurrent weights of a layer, for the equations of its cell."""

    def product(rows: slice) -> Any:
        matrix, bias = (
            graph.constant(f"{own}{name}.{rows.start}", weights[f"{own}{name}"][rows])
            for name in ("weight_hh_l0", "bias_hh_l0")
        )
        return lambda h: h.linear(matrix, bias)

    products = [product(rows) for rows in spec.recurrence.product_rows(spec.hidden_size)]
    peepholes = [
        graph.constant(f"{own}peephole.{gate}", weights[f"{own}peephole_l0"][row])
        for row, gate in enumerate(spec.recurrence.peepholes)
    ]
    return Recurrent(products, peepholes)
