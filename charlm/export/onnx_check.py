"""Compares an ONNX graph with the stepper: ONNX Runtime reads what the stepper writes, side by side in some streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from charlm.checkpoint import ModelFile
from charlm.errors import OVERFLOW, ModelFileError
from charlm.export.onnx_graph import NEXT
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Stepper

# Half of the streams read what the model writes, the others anything.
NUM_STREAMS = 4
NUM_STEPS = 250
# Of a probability. Both compute with 32 bits; after so many steps they differ by about 1e-6.
TOLERANCE = 1e-4


class Comparison(NamedTuple):
    """How far ONNX Runtime is from the stepper.

    Attributes:
        difference: the largest of a probability.
        predictions: how many distributions were compared.
    """

    difference: float
    predictions: int


class OnnxRunner:
    """A graph in ONNX Runtime, one step after the other.

    Args:
        data: the file.
    """

    def __init__(self, data: bytes) -> None:
        options = SessionOptions()
        options.log_severity_level = 3
        self._session = InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._start = json.loads(self._session.get_modelmeta().custom_metadata_map["initial_state"])
        self._types = {value.name: value.type for value in self._session.get_inputs()}
        ...
