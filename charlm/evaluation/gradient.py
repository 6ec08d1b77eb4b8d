"""How far back the gradient of a loss reaches: its size at the inputs before a character. Changes no model.

Letters, beside those of the models: `N` distances, `W` characters of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, one_hot

from charlm.checkpoint import ModelFile
from charlm.errors import OVERFLOW, ModelFileError
from charlm.inference.reach import (
    MAX_DISTANCE,
    distances_within,
    evenly_spaced,
    in_groups,
    in_reading_order,
    windows_at,
)
from charlm.inference.stepper import Progress
from charlm.nn.layers import Variant
from charlm.vocab import Ids

NUM_TARGETS = 64
# All steps are kept for the way back: more streams at once would take much memory.
STREAMS_TOGETHER = 16


@dataclass(frozen=True)
class GradientSize:
    """The size of the gradient at one distance.

    Attributes:
        distance: how far the input is from the predicted character.
        norm: the mean norm of the derivative of the loss in nats with respect to the input of the first layer, which
            is the embedding of a character or its one-hot vector.
        relative: the same as a multiple of that at distance 1.
    """

    distance: int
    norm: float
    relative: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def gradient_by_distance(
    file: ModelFile,
    stretches: Sequence[Ids],
    max_distance: int = MAX_DISTANCE,
    num_targets: int = NUM_TARGETS,
    progress: Progress | None = None,
) -> list[GradientSize]:
    """Measure how much the loss at a character depends on each input 1, 2, 4, ... characters before it.

    The gradient is that of the net, in float64. Each character is predicted after twice as many characters as the
    largest distance.

    Args:
        file: the model; it reads in one direction.
        stretches: a text, or several that follow one another with gaps.
        max_distance: the largest distance; a short text has smaller ones.
        num_targets: at how many characters to measure; they are evenly spaced.
        progress: called now and then with how many of them are done, and of how many.

    Raises:
        UsageError: the text is too short, or a number is less than 1.
        ModelFileError: the numbers of the model overflow.
    """
    texts = in_reading_order(file.spec.is_backward, stretches)
    distances, net = distances_within(texts, max_distance, 2), _Net(file)
    context = min(2 * distances[-1], max(map(len, texts)) - 1)
    places_B2 = evenly_spaced(texts, num_targets, context, 0)
    found: list[NDArray[np.float64]] = []
    for group_B2 in in_groups(places_B2, STREAMS_TOGETHER):
        if progress:
            progress(sum(norms_NB.shape[1] for norms_NB in found), len(places_B2))
        found.append(net.gradient_norms(windows_at(texts, group_B2, context, 0), distances[-1]))
    norms_NB = np.concatenate(found, axis=1)
    norms_N = norms_NB[[-distance for distance in distances]].mean(axis=1)
    if not np.isfinite(norms_N).all():
        raise ModelFileError(*OVERFLOW)
    relative_N = norms_N / norms_N[0] if norms_N[0] else norms_N
    return [
        GradientSize(distance, float(norm), float(relative))
        for distance, norm, relative in zip(distances, norms_N, relative_N, strict=True)
    ]


class _Net:
    """The layers of a model by their equations, in float64; the kernels of training are for float32."""

    def __init__(self, file: ModelFile) -> None:
        spec = file.spec
        self._weights = {name: torch.from_numpy(array.astype(np.float64)) for name, array in file.weights.items()}
        sizes = [spec.num_inputs, *[spec.hidden_size] * spec.num_layers]
        self._layers = [Variant(spec.cell, size, spec.hidden_size).double() for size in sizes[:-1]]
        for index, layer in enumerate(self._layers):
            layer.load_state_dict({name: self._weights[f"layers.{index}.{name}"] for name in layer.state_dict()})
            layer.requires_grad_(False)
        shape = (len(spec.recurrence.state), spec.num_layers, spec.hidden_size)
        self._start_PLH = self._weights.get("initial_state", torch.zeros(shape, dtype=torch.float64))
        self._num_inputs = spec.num_symbols + 1

    def gradient_norms(self, window_WB: Ids, num_steps: int) -> NDArray[np.float64]:
        """Return the norms of the gradient at the last inputs before the last character; shape (num_steps, B)."""
        ids_WB = torch.from_numpy(window_WB)
        states = self._start_PLH[:, :, None].expand(-1, -1, ids_WB.shape[1], -1).unbind(1)
        if len(ids_WB) > num_steps + 1:
            _, states = self._read(self._inputs(ids_WB[: -num_steps - 1]), states)
        inputs_TBI = self._inputs(ids_WB[-num_steps - 1 : -1]).requires_grad_()
        h_BH, _ = self._read(inputs_TBI, states)
        logits_BV = linear(h_BH, self._weights["output.weight"], self._weights["output.bias"])
        # Streams do not depend on one another, so the gradient of the sum is that of each.
        loss = cross_entropy(logits_BV, ids_WB[-1], reduction="sum")
        (gradient_TBI,) = torch.autograd.grad(loss, inputs_TBI)
        norms_TB: NDArray[np.float64] = gradient_TBI.norm(dim=-1).numpy()
        return norms_TB

    def _inputs(self, ids_TB: Tensor) -> Tensor:
        if "embedding.weight" in self._weights:
            return self._weights["embedding.weight"][ids_TB]
        return one_hot(ids_TB, self._num_inputs).double()

    def _read(self, x_TBI: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the last output of the last layer, and the new state of each layer, (P, B, H)."""
        after: list[Tensor] = []
        for layer, state_PBH in zip(self._layers, states, strict=True):
            x_TBI, new_state_PBH = layer.read_by_steps(x_TBI, state_PBH)
            after.append(new_state_PBH)
        return x_TBI[-1], tuple(after)
