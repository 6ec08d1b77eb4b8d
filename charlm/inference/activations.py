"""What every unit of a net does while it reads a text: its states and gates at each character.

N-grams beside the net have no units, and nothing here depends on them. Letters: T symbols of the text, H units.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.cells import CELLS, Cell
from charlm.checkpoint import ModelFile
from charlm.errors import OVERFLOW, ModelFileError, UsageError, counted
from charlm.inference.sampling import Floats
from charlm.inference.stepper import Progress, Stack, streams_of
from charlm.inference.units import Layer, gates_of, layers_of, part_named, parts_of
from charlm.machine import usable_bytes
from charlm.vocab import Ids, Vocabulary

# A text with its activations may take this share of the memory: what is computed from them needs some, too.
SHARE_OF_MEMORY = 0.25


@dataclass(frozen=True, eq=False)
class Activations:
    """The states and gates of the units of one layer at each symbol of a text.

    Row t is what they are when symbol t has just been read. A layer from right to left has then read all from the end
    of the text to symbol t.

    Attributes:
        layer: the layer.
        reads_backward: whether it reads from right to left.
        parts: each part of the state and each gate by name, shape (T, H), float32.
    """

    layer: Layer
    reads_backward: bool
    parts: dict[str, Floats]


@dataclass(frozen=True, eq=False)
class Moment:
    """What one layer does at one step: one symbol in each of B texts that are read side by side.

    Attributes:
        layer: the layer.
        rows_B: which symbols of the joined texts were just read.
        parts: each part of the state and each gate by name, shape (B, H).
    """

    layer: Layer
    rows_B: NDArray[np.int64]
    parts: dict[str, Floats]


def moments(model: ModelFile, texts: Sequence[Ids], progress: Progress | None = None) -> Iterator[Moment]:
    """Let every layer of a net read texts, each from its own start, and yield what its units do at each step.

    Nothing is kept, so that texts of any length need no memory.

    Args:
        model: the model; its n-grams have no part in it.
        texts: the texts, which are read side by side.
        progress: called after each step with how many symbols of how many were read.

    Raises:
        ModelFileError: the weights are so large that a state overflows.
    """
    spec = model.spec
    num_read, num_to_read = 0, sum(map(len, texts)) * len(spec.stacks)
    for name in spec.stacks:
        layers = [layer for layer in layers_of(spec) if layer.stack == name]
        for rows_B, parts_of_layers in _steps(model, name, texts, spec.is_backward or layers[0].is_from_the_right):
            for layer, parts in zip(layers, parts_of_layers, strict=True):
                yield Moment(layer, rows_B, parts)
            num_read += len(rows_B)
            if progress:
                progress(num_read, num_to_read)


def _steps(
    model: ModelFile, name: str, texts: Sequence[Ids], reads_backward: bool
) -> Iterator[tuple[NDArray[np.int64], list[dict[str, Floats]]]]:
    """Yield the rows of the symbols that are read at each step, and for each layer of a stack what its units do."""
    stack = Stack(model, name)
    ids_T = np.concatenate([*texts, np.zeros(0, np.uint8)]).astype(np.int64)
    ends = np.cumsum([len(text) for text in texts])
    # The longest text comes first: those that are still read are the first streams.
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    lengths_B = np.array([len(texts[index]) for index in order])
    edges_B = np.array([ends[index] - (1 if reads_backward else len(texts[index])) for index in order])
    state = stack.step(np.full(len(texts), len(model.vocabulary)), stack.start(len(texts)))
    for position in range(max(lengths_B, default=0)):
        num_reading = int((lengths_B > position).sum())
        rows_B = edges_B[:num_reading] + (-position if reads_backward else position)
        state, gates = stack.look(ids_T[rows_B], streams_of(state, slice(num_reading)))
        if not all(np.isfinite(part).all() for layer_state in state for part in layer_state):
            raise ModelFileError(*OVERFLOW)
        names = stack.cell.state
        yield (
            rows_B,
            [
                {**dict(zip(names, layer_state, strict=True)), **layer_gates}
                for layer_state, layer_gates in zip(state, gates, strict=True)
            ],
        )


def read_activations(
    model: ModelFile,
    texts: Sequence[Ids],
    parts: Sequence[str] | None = None,
    layers: Sequence[Layer] | None = None,
    progress: Progress | None = None,
) -> list[Activations]:
    """Return the states and gates of all units at each symbol of texts, which are read side by side.

    Args:
        model: the model; its n-grams have no part in it.
        texts: each is read from its own start. Their rows are joined in order.
        parts: which parts of the state and which gates; None for all.
        layers: which layers; None for all.
        progress: called after each step with how many symbols of how many were read.

    Raises:
        UsageError: they do not fit into memory.
        ModelFileError: the weights are so large that a state overflows.
    """
    spec = model.spec
    kept = [part_named(spec.recurrence, part) for part in parts or parts_of(spec.recurrence)]
    wanted = layers_of(spec) if layers is None else layers
    num_symbols = sum(map(len, texts))
    row_bytes = 4 * spec.hidden_size * len(kept) * len(wanted)
    most = int(usable_bytes() * SHARE_OF_MEMORY) // row_bytes
    if num_symbols > most:
        unit = model.vocabulary.unit
        raise UsageError(
            f"the activations of {counted(num_symbols, unit)} need {num_symbols * row_bytes / 1e9:,.1f} GB",
            f"there is memory for those of {counted(most, unit)}",
        )
    found = {
        layer: Activations(
            layer,
            layer.is_from_the_right or spec.is_backward,
            {part: np.empty((num_symbols, spec.hidden_size), np.float32) for part in kept},
        )
        for layer in wanted
    }
    for moment in moments(model, texts, progress):
        if moment.layer in found:
            for part, array_TH in found[moment.layer].parts.items():
                array_TH[moment.rows_B] = moment.parts[part]
    return list(found.values())


def characters_of(vocabulary: Vocabulary, ids_T: Ids) -> tuple[str, NDArray[np.int64]]:
    """Return the characters that ids stand for, and how many ids each of them is.

    A byte that is no part of a character is a character of its own, U+DC80 to U+DCFF.
    """
    if vocabulary.kind == "characters":
        return vocabulary.decode(ids_T), np.ones(len(ids_T), np.int64)
    text = codecs.decode(bytes(ids_T.tolist()), "utf-8", "surrogateescape")
    sizes = [1 if 0xDC80 <= ord(character) <= 0xDCFF else len(character.encode()) for character in text]
    return text, np.array(sizes, np.int64)


def rows_of_characters(lengths_C: Sequence[int], reads_backward: bool) -> list[int]:
    """Return for each character the row of its symbol that is read last."""
    ends = np.cumsum(lengths_C)
    return [int(row) for row in (ends - np.asarray(lengths_C) if reads_backward else ends - 1)]


def shown_values(cell: Cell, part: str, values: Floats) -> tuple[Floats, int, str]:
    """Return values as shades show them.

    Args:
        cell: the cell that they are from.
        part: the name of the part of its state or of the gate.
        values: any shape.

    Returns:
        The values on a scale that ends at 1; where it begins, at 0 or -1; and what was done to them, or an empty text.
    """
    if part in gates_of(cell):
        return values, 0, ""
    if part == "cell":
        return np.tanh(values), -1, "tanh of it"
    unbounded = (CELLS["rnn-relu"], CELLS["mingru"], CELLS["minlstm"])
    if cell in unbounded and (largest := float(abs(values).max(initial=0))):
        lowest = 0 if cell is CELLS["rnn-relu"] else -1
        return values / np.float32(largest), lowest, f"divided by {largest:.3g}, the largest"
    return values, -1, ""
