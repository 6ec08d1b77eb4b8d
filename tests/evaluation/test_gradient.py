"""The size of a gradient over distance equals differences of losses that NumPy computes by the equations alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from charlm.cells import CELLS, Recurrent
from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UsageError
from charlm.evaluation import gradient
from charlm.evaluation.gradient import gradient_by_distance
from tests.helpers.evaluation import random_ids

Make = Callable[..., ModelFile]
SMALL = 1e-5


def product(weights: dict[str, np.ndarray], rows: slice, h_1H: np.ndarray) -> np.ndarray:
    """Return what the state adds to some gates."""
    return np.asarray(h_1H @ weights["weight_hh_l0"][rows].T + weights["bias_hh_l0"][rows])


def loss(file: ModelFile, inputs_TI: np.ndarray, target: int) -> float:
    """Return the loss in nats after these inputs, in float64, by the equations of the cell."""
    weights = {name: array.astype(float) for name, array in file.weights.items()}
    cell, x_T1I = file.spec.recurrence, inputs_TI[:, None]
    for layer in range(file.spec.num_layers):
        own = {name: weights[f"layers.{layer}.{name}"] for name in cell.weight_shapes(1, 1)}
        ends = np.cumsum((0, *cell.products)) * file.spec.hidden_size
        products = [partial(product, own, slice(*pair)) for pair in itertools.pairwise(ends)]
        start = weights.get("initial_state", np.zeros((len(cell.state), file.spec.num_layers, file.spec.hidden_size)))
        state, outputs = tuple(part_LH[layer : layer + 1] for part_LH in start), []
        for x_1I in x_T1I:
            added = x_1I @ own["weight_ih_l0"].T + own["bias_ih_l0"]
            state, _ = cell.step(added, Recurrent(products, own.get("peephole_l0")), state)
            outputs.append(state[0])
        x_T1I = np.array(outputs)
    logits_V = weights["output.weight"] @ x_T1I[-1, 0] + weights["output.bias"]
    return float(np.log(np.exp(logits_V).sum()) - logits_V[target])


def norm_by_differences(file: ModelFile, ids: np.ndarray, place: int, distance: int) -> float:
    """Return the norm of the gradient at an input, from the losses beside it; four characters are read before."""
    table = file.weights.get("embedding.weight", np.eye(len(file.vocabulary) + 1)).astype(float)
    slopes = []
    for unit in range(table.shape[1]):
        losses = []
        for step in (SMALL, -SMALL):
            inputs_TI = table[ids[place - 4 : place]].copy()
            inputs_TI[-distance, unit] += step
            losses.append(loss(file, inputs_TI, int(ids[place])))
        slopes.append((losses[0] - losses[1]) / (2 * SMALL))
    return float(np.linalg.norm(slopes))


@pytest.mark.parametrize(
    ("cell", "settings"),
    [*((cell, {}) for cell in CELLS), ("lstm", {"embedding_size": 0}), ("gru", {"initial_state": "learned"})],
)
def test_the_gradient_is_the_slope_of_the_loss(make_model: Make, cell: str, settings: dict[str, Any]) -> None:
    """For two layers of every cell, at both distances for which a short text has room."""
    file, ids = make_model(cell, 2, hidden_size=6, **settings), random_ids(9)
    rows = gradient_by_distance(file, [ids], num_targets=1000)
    assert [row.distance for row in rows] == [1, 2]
    for row in rows:
        wanted = np.mean([norm_by_differences(file, ids, place, row.distance) for place in range(4, 9)])
        assert row.norm == pytest.approx(wanted, rel=1e-5)
        assert row.relative == pytest.approx(row.norm / rows[0].norm)


def test_the_gradient_of_a_linear_net_falls_by_its_weight(make_model: Make) -> None:
    """One unit with h' = max(0, x + h / 2), which stays positive, halves its gradient at each step."""
    file = make_model("rnn-relu", hidden_size=1, embedding_size=1)
    arrays = {name: np.ones_like(array) for name, array in file.weights.items()}
    arrays["layers.0.weight_hh_l0"] = np.array([[0.5]], np.float32)
    arrays["output.weight"][0] = 2
    rows = gradient_by_distance(replace(file, arrays=arrays), [random_ids(100)])
    assert [row.distance for row in rows] == [1, 2, 4, 8, 16]
    assert [row.relative for row in rows] == pytest.approx([2.0 ** (1 - row.distance) for row in rows])


def test_a_gradient_does_not_depend_on_what_is_read_together(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of another size give the same figures, and a backward model those of the reversed text."""
    ids, sizes = random_ids(60), []
    for together in (16, 5):
        monkeypatch.setattr(gradient, "STREAMS_TOGETHER", together)
        rows = gradient_by_distance(make_model("lstm"), [ids, ids[:30]])
        sizes.append([row.norm for row in rows])
    assert sizes[0] == pytest.approx(sizes[1])
    backward = gradient_by_distance(make_model("lstm", direction="backward"), [ids])
    assert backward == gradient_by_distance(make_model("lstm"), [ids[::-1]])


def test_the_shortest_text_has_a_gradient(make_model: Make) -> None:
    """Of two characters the second is predicted from the first, and one is too short."""
    assert [row.distance for row in gradient_by_distance(make_model(), [random_ids(2)])] == [1]
    with pytest.raises(UsageError, match="too short"):
        gradient_by_distance(make_model(), [random_ids(1)])


def test_a_gradient_that_is_no_number_is_refused(make_model: Make) -> None:
    """Weights of an untrusted file give an error."""
    file = make_model("rnn-relu", 2)
    large = {name: array * np.float32(1e30) for name, array in file.weights.items()}
    with pytest.raises(ModelFileError, match="overflows"):
        gradient_by_distance(replace(file, arrays=large), [random_ids(600)])
