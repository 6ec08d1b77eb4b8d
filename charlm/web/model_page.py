"""A page that runs a model: its weights as integers, its n-grams, and what the rounding of the weights costs."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint import NGRAMS_PREFIX, ModelFile
from charlm.errors import UsageError, counted
from charlm.export.net import of_one_direction
from charlm.inference.mixture import Mixture
from charlm.inference.packed_ngrams import CODES_PER_NAT
from charlm.inference.units import gates_of
from charlm.ramps import SEQUENTIAL
from charlm.spec import ModelSpec
from charlm.web.kernel import COLUMNS, ROWS, module
from charlm.web.page import render_page
from charlm.web.quantised import Loss, Matrix, QuantisedNet, Rows
from charlm.web.text_view import MAX_BITS, packed, ramp_colours

# The assets that run the model and draw the page.
SCRIPTS = ("text.js", "chart.js", "net.js", "ngrams.js", "reading.js", "typing.js", "writing.js", "unit_chart.js")
# A browser has to hold the page as a text, and its content once more. An LSTM of 4,096 units has 67 million weights.
MAX_BYTES = 1 << 27
NOT_MEASURED = "What the rounding costs was not measured."


def model_page(model: ModelFile, title: str, net: QuantisedNet | None = None, loss: Loss | str = NOT_MEASURED) -> str:
    """Return a page that runs a model, as the text of one HTML file.

    Args:
        model: the model; `check_fits` does not refuse it.
        title: the heading of the page.
        net: its net with weights of integers, if somebody has rounded them already.
        loss: what the rounding costs, or a sentence that says why this is not known.

    Raises:
        UsageError: the model reads from both sides, or it is too large.
        ModelFileError: its n-grams are damaged.
    """
    check_fits(model)
    mixture = Mixture.of(model)
    units = model.spec.recurrence
    data = {
        "about": _about(model, mixture, loss),
        "typing": {"max_bits": MAX_BITS, "ramp": ramp_colours(SEQUENTIAL)},
        "writing": {"unit": model.vocabulary.unit},
        "units": {"gates": gates_of(units), "all_gates": units.gates, "state": units.state},
        "net": _net(model, net or QuantisedNet(model), mixture),
    }
    return render_page(title, data, SCRIPTS, runs_wasm=True)


def check_fits(model: ModelFile) -> None:
    """Refuse a model that no page can run, before any work is done.

    Raises:
        UsageError: the model reads from both sides, or it is too large.
    """
    of_one_direction(model, "a page")
    packed_ngrams = model.arrays.get(f"{NGRAMS_PREFIX}packed")
    num_bytes = model.spec.num_parameters + (0 if packed_ngrams is None else packed_ngrams.size)
    if num_bytes > MAX_BYTES:
        raise UsageError(
            f"this model would take {num_bytes / 1e6:,.0f} MB, and a page holds at most {MAX_BYTES / 1e6:,.0f}",
            "train a smaller one",
        )


def _about(model: ModelFile, mixture: Mixture | None, loss: Loss | str) -> list[str]:
    """Return what the page says about the model, in paragraphs."""
    spec, unit = model.spec, model.vocabulary.unit
    layers = counted(spec.num_layers, "layer")
    net = f"This page runs a model of {layers} of {counted(spec.hidden_size, spec.cell + ' unit')}"
    knows = f"it knows {counted(len(model.vocabulary), unit)}"
    reads = ". It reads a text from its end and predicts what stands before" if spec.is_backward else ""
    counts = ""
    if mixture:
        counts = f" Beside its net it has {counted(mixture.ngrams.num_ngrams, 'n-gram')}, and both predict together."
    rounded = "The weights of the net are integers of 8 bits here, with a scale for each row."
    if isinstance(loss, str):
        return [f"{net}; {knows}{reads}.{counts}", f"{rounded} {loss}"]
    cost = loss.bits - loss.bits_full
    costs = "less than 0.0001" if abs(cost) < 1e-4 else f"{cost:.4f}"
    measured = (
        f"On {counted(loss.characters, unit)} of {loss.text} the model needs {loss.bits:.4f} bits per {unit} as it is "
        f"here, and {loss.bits_full:.4f} with its full weights: the rounding costs {costs}. No probability there "
        f"changed by more than {loss.tolerance}."
    )
    return [f"{net}; {knows}{reads}.{counts}", f"{rounded} {measured}"]


class _Blobs:
    """Collects integers and floats, which the page gets as two arrays, and says where each stands in them."""

    def __init__(self) -> None:
        self._integers: list[NDArray[np.int8]] = []
        self._floats: list[NDArray[np.float32]] = []
        self._num_integers = self._num_floats = 0

    def floats(self, numbers: NDArray[Any]) -> int:
        """Add floats, and return the place of the first one."""
        self._floats.append(numbers.astype("<f4").ravel())
        self._num_floats += numbers.size
        return self._num_floats - numbers.size

    def integers(self, numbers: NDArray[np.int8]) -> int:
        """Add integers, and return the place of the first one."""
        self._integers.append(numbers.ravel())
        self._num_integers += numbers.size
        return self._num_integers - numbers.size

    def matrix(self, matrix: Matrix) -> dict[str, int]:
        """Add a matrix, laid out for the kernel."""
        num_rows, num_columns = matrix.integers_RC.shape
        return {
            "at": self.integers(blocked(matrix.integers_RC)),
            "rows": num_rows,
            "columns": num_columns,
            "scales": self.floats(matrix.scales_R),
            "bias": self.floats(matrix.bias_R),
            "limit": matrix.limit,
        }

    def rows(self, rows: Rows) -> dict[str, int]:
        """Add rows, one after the other."""
        at, scales = self.integers(rows.integers_RC), self.floats(rows.scales_R)
        return {"at": at, "columns": rows.integers_RC.shape[1], "scales": scales}

    def packed(self) -> dict[str, str]:
        """Return both arrays as a page holds them. What lies behind the integers starts at a multiple of 16 bytes."""
        padding = np.zeros(-self._num_integers % 16, np.int8)
        return {
            "weights": packed(np.concatenate([*self._integers, padding])),
            "floats": packed(np.concatenate(self._floats)),
        }


def blocked(integers_RC: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return a matrix in the order in which the kernel reads it, with zeros around it to fill blocks."""
    num_rows, num_columns = integers_RC.shape
    padded = np.pad(integers_RC, ((0, -num_rows % ROWS), (0, -num_columns % COLUMNS)))
    blocks = padded.reshape(-1, ROWS, padded.shape[1] // COLUMNS, COLUMNS)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def _net(model: ModelFile, net: QuantisedNet, mixture: Mixture | None) -> dict[str, Any]:
    """Return the model as net.js reads it: its sizes, where its arrays stand, and the arrays."""
    spec, cell, vocabulary, blobs = model.spec, model.spec.recurrence, model.vocabulary, _Blobs()
    layers = [
        {
            "inputs": blobs.matrix(layer.inputs) if layer.inputs else None,
            "recurrent": [blobs.matrix(matrix) for matrix in layer.recurrent],
            "bias": blobs.floats(layer.bias_G),
            "peepholes": 0 if layer.peephole_KH is None else blobs.floats(layer.peephole_KH),
        }
        for layer in net.layers
    ]
    return {
        "cell": spec.cell,
        "hidden_size": spec.hidden_size,
        "num_gates": len(cell.gates),
        "num_state": len(cell.state),
        "num_peepholes": len(cell.peepholes),
        "num_symbols": spec.num_symbols,
        "is_backward": spec.is_backward,
        "vocabulary": vocabulary.kind,
        "filter": vocabulary.filter,
        "code_points": [ord(symbol) for symbol in vocabulary.symbols],
        "table": blobs.rows(net.table),
        "layers": layers,
        "output": blobs.matrix(net.output),
        "start": blobs.floats(np.stack([layer.start_PH for layer in net.layers])),
        **_longest(spec),
        "ngrams": _ngrams(model, mixture) if mixture else None,
        "kernels": {name: b64encode(module(name == "relaxed")).decode() for name in ("relaxed", "simd")},
        **blobs.packed(),
    }


def _longest(spec: ModelSpec) -> dict[str, int]:
    """Return how long the longest vectors are that a matrix is multiplied with, and that come of it."""
    sizes = {
        "most_inputs": (COLUMNS, [spec.embedding_size, spec.hidden_size]),
        "most_sums": (ROWS, [len(spec.recurrence.gates) * spec.hidden_size, spec.num_symbols]),
    }
    return {name: -(-max(lengths) // together) * together for name, (together, lengths) in sizes.items()}


def _ngrams(model: ModelFile, mixture: Mixture) -> dict[str, Any]:
    """Return the n-grams as ngrams.js reads them: packed as in the model file."""
    ngrams = mixture.ngrams
    counts = np.float32(mixture.weight)
    return {
        "packed": b64encode(model.arrays[f"{NGRAMS_PREFIX}packed"].tobytes()).decode(),
        "num_ngrams": ngrams.num_ngrams,
        "num_inner": len(ngrams.children_M),
        "integer_bytes": np.min_scalar_type(ngrams.num_symbols).itemsize,
        "codes_per_nat": CODES_PER_NAT,
        "order": max(1, ngrams.order),
        "weights": {"net": float(np.float32(1 - mixture.weight)), "counts": float(counts)},
    }
