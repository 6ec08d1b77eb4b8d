"""Compares an ONNX graph with the stepper: ONNX Runtime reads what the stepper reads, in several streams."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError
from charlm.export.onnx_graph import NEXT
from charlm.inference.sampling import Floats, draw, log2_probabilities
from charlm.inference.stepper import Stepper

NUM_STEPS = 120
# One stream alone, and several.
NUMBERS_OF_STREAMS = (1, 5)
# Of a probability. Both compute in 32 bits, which makes differences of about 1e-6.
TOLERANCE = 1e-4


class Comparison(NamedTuple):
    """How far ONNX Runtime and the stepper are apart.

    Attributes:
        difference: the largest of a probability.
        predictions: how many distributions were compared.
    """

    difference: float
    predictions: int


class OnnxRunner:
    """A graph in ONNX Runtime, as programs use it.

    Args:
        data: the content of the file.
    """

    def __init__(self, data: bytes) -> None:
        options = SessionOptions()
        # Only errors: the user reads no warnings about the graph.
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def start(self, num_streams: int) -> dict[str, NDArray[Any]]:
        """Return the state before a text, by the names of its parts."""
        start = json.loads(self.metadata["initial_state"])
        state = {}
        for part in self._session.get_inputs()[1:]:
            dtype = np.float32 if part.type == "tensor(float)" else np.int64
            state[part.name] = np.full((num_streams, part.shape[1]), start[part.name], dtype)
        return state

    def step(self, ids_B: NDArray[Any], state: dict[str, NDArray[Any]]) -> tuple[Floats, dict[str, NDArray[Any]]]:
        """Read one character in each stream; return the logits, (B, V), and the new state."""
        outputs = self._session.run(self._outputs, {"ids": ids_B.astype(np.int64), **state})
        found = dict(zip(self._outputs, outputs, strict=True))
        return found["logits"], {name: found[f"{NEXT}{name}"] for name in state}


def check_onnx(data: bytes, model: ModelFile) -> Comparison:
    """Compare a graph with its model over texts: half of the streams read what the model writes, the others random ids.

    In the middle the start of a text comes again, with the state as it is.

    Raises:
        ModelFileError: a probability differs by more than `TOLERANCE`, or the model overflows.
    """
    runner, stepper, random = OnnxRunner(data), Stepper(model), np.random.default_rng(0)
    difference, predictions = 0.0, 0
    for num_streams in NUMBERS_OF_STREAMS:
        own, other = stepper.before(num_streams), runner.start(num_streams)
        ids_B = np.full(num_streams, model.spec.start_id)
        for step in range(NUM_STEPS):
            own_logits_BV, own = stepper.step(ids_B, own)
            other_logits_BV, other = runner.step(ids_B, other)
            p_BV, other_BV = (np.exp2(log2_probabilities(logits_BV)) for logits_BV in (own_logits_BV, other_logits_BV))
            difference = max(difference, float(np.abs(p_BV - other_BV).max()))
            predictions += num_streams
            ids_B = _next_ids(p_BV, random) if step != NUM_STEPS // 2 else np.full(num_streams, model.spec.start_id)
    if difference > TOLERANCE:
        raise ModelFileError(
            f"a probability in ONNX Runtime differs by {difference:.1e}, more than {TOLERANCE:.0e}: nothing is written",
            "a model that amplifies every rounding error predicts something else in each program; use another model",
        )
    return Comparison(difference, predictions)


def _next_ids(p_BV: NDArray[np.float64], random: np.random.Generator) -> NDArray[Any]:
    num_streams, num_symbols = p_BV.shape
    written_B = draw(p_BV, random.random((num_streams,)))
    return np.where(np.arange(num_streams) % 2, random.integers(num_symbols, size=num_streams), written_B)
