"""A net of another program, as a model of charlm: which array is what, by names and shapes. Knows arrays, not torch.

What fits is an embedding or one-hot inputs, recurrent layers as torch or charlm has them, and a linear layer.
"""

from __future__ import annotations

import json
import re
import string
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from charlm.cells import CELLS
from charlm.checkpoint import Arrays, ModelFile
from charlm.errors import ModelFileError, UsageError, counted
from charlm.export.foreign_start import with_start
from charlm.export.safetensors_file import SafetensorsFile
from charlm.export.state_dict import FORMAT
from charlm.settings.config_file import validate_settings
from charlm.vocab import Filter, Kind, Vocabulary

RECURRENT = re.compile(
    r"(?P<where>.*?)(?P<weight>(?:weight|bias)_(?:[ih]h|hr)|peephole)(?:_l(?P<layer>[0-9]{1,4}))?(?P<reverse>_reverse)?"
)
# What programs call an embedding and a linear layer. These names count before biases and shapes do.
EMBEDDINGS = {"encoder", "embedding", "embeddings", "embed", "emb", "wte", "tok_emb", "token_embedding", "embed_tokens"}
OUTPUTS = {"decoder", "output", "out", "fc", "linear", "head", "lm_head", "proj", "projection", "classifier"}
# The cell of torch that has so many gates.
USUAL_CELLS = {4: "lstm", 3: "gru", 1: "rnn"}
WHAT_FITS = "charlm has an embedding, recurrent layers and a linear layer, and nothing between them"


class Imported(NamedTuple):
    """A net of another program.

    Attributes:
        model: as charlm has it.
        notes: what a person should know of it.
    """

    model: ModelFile
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Names:
    """The names of arrays by what they are; an empty name for what a net lacks.

    Attributes:
        layers: for each recurrent layer the names of its weights, by their names in a cell.
        embedding, output, output_bias, initial_state: names.
    """

    layers: list[dict[str, str]]
    embedding: str
    output: str
    output_bias: str
    initial_state: str


def import_net(file: SafetensorsFile, vocabulary: Vocabulary | None, cell: str | None, origin: str) -> Imported:
    """Return a net of another program as a model of charlm.

    Args:
        file: its arrays.
        vocabulary: its symbols; None if the file says what they are.
        cell: its cell; None for the one of torch that its shapes fit.
        origin: where it is from.

    Raises:
        ModelFileError: its arrays are not those of such a net.
        UsageError: the vocabulary is missing, or is not that of the net.
    """
    metadata, is_ours = file.metadata, file.metadata.get("format") == FORMAT
    names = _names_in(file.arrays)
    chosen = cell or (metadata.get("cell", "") if is_ours else _usual_cell(file.arrays, names.layers[0]))
    if chosen not in CELLS:
        raise ModelFileError("its metadata name a cell that charlm does not know", "`--cell` names one")
    weights = _weights(file.arrays, names, chosen)
    known = vocabulary or (_own_vocabulary(metadata) if is_ours else None)
    symbols = _checked(known, len(weights["output.weight"]), names.output)
    notes, num_layers = [], len(names.layers)
    inputs = weights["embedding.weight"] if names.embedding else weights["layers.0.weight_ih_l0"].T
    if len(inputs) == len(symbols):
        if names.initial_state:
            raise ModelFileError(
                f"`{names.initial_state}` has no place in a net without the start of a text", WHAT_FITS
            )
        before = weights["output.weight"].shape
        weights = with_start(weights, chosen, CELLS[chosen].gates, num_layers)
        if weights["output.weight"].shape != before:
            notes.append("each layer has one unit more, which marks the start of a text")
    if chosen == "rnn" and not (cell or is_ours):
        notes.append("its units are taken for tanh; `--cell rnn-relu` takes them for rectified linear units")
    config = {
        "model": {
            "cell": chosen,
            "embedding_size": weights["embedding.weight"].shape[1] if names.embedding else 0,
            "hidden_size": weights["output.weight"].shape[1],
            "num_layers": num_layers,
            "direction": metadata.get("direction", "forward") if is_ours else "forward",
            "initial_state": "learned" if "initial_state" in weights else "zero",
            "ngram_order": 0,
        },
        "vocab": {"kind": symbols.kind, "filter": symbols.filter},
    }
    settings = validate_settings(config, {}, "the imported model").model_dump()
    model = ModelFile(weights, symbols, settings, {"step": 0}, {"name": "unknown"}, {"imported_from": origin})
    return Imported(model, tuple(notes))


def _names_in(arrays: Arrays) -> _Names:
    """Find out which array is what."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    others = []
    for name in sorted(arrays):
        match = RECURRENT.fullmatch(name)
        if match and (match["reverse"] or match["weight"].endswith("hr")):
            what = "a layer that reads from the right" if match["reverse"] else "a projection"
            raise ModelFileError(f"`{name}` with the shape {arrays[name].shape} belongs to {what}", WHAT_FITS)
        if match:
            weights = found.setdefault((match["where"], int(match["layer"] or 0)), {})
            if other := weights.get(f"{match['weight']}_l0"):
                raise ModelFileError(f"`{other}` and `{name}` are the same weight of a layer", WHAT_FITS)
            weights[f"{match['weight']}_l0"] = name
        else:
            others.append(name)
    if not found:
        raise ModelFileError("there are no recurrent layers: no array is named `weight_ih_l0` at its end", WHAT_FITS)
    for (where, number), names in found.items():
        if number and (where, number - 1) not in found:
            raise ModelFileError(f"`{min(names.values())}` stands without the layer before it", WHAT_FITS)
    layers = [found[place] for place in sorted(found, key=lambda place: (*_in_order(place[0]), place[1]))]
    if len({re.sub("[0-9]+", "", where) for where, _ in found}) > 1:
        first, *_, last = (next(iter(layer.values())) for layer in layers)
        raise ModelFileError(f"`{first}` and `{last}` belong to different recurrent nets", WHAT_FITS)
    for layer in layers:
        if "weight_ih_l0" not in layer:
            raise ModelFileError(f"`{next(iter(layer.values()))}` stands without its `weight_ih`", WHAT_FITS)
        for weight, name in layer.items():
            if arrays[name].ndim != (1 if "bias" in weight else 2):
                raise ModelFileError(
                    f"`{name}` has the shape {arrays[name].shape}, which no such weight has", WHAT_FITS
                )
    matrices = [name for name in others if arrays[name].ndim == 2]
    biases = [name for name in others if arrays[name].ndim == 1]
    num_inputs = arrays[layers[0]["weight_ih_l0"]].shape[-1]
    output = _output_among(matrices, arrays, num_inputs)
    embedding = min(
        (name for name in matrices if name != output),
        key=lambda name: (not _words_in(name) & EMBEDDINGS, arrays[name].shape[1] != num_inputs, name),
        default="",
    )
    num_symbols, size = arrays[output].shape
    if not embedding and size == num_inputs not in (num_symbols, num_symbols + 1):
        # One matrix is both.
        embedding = output
    own = output.removesuffix("weight") + "bias"
    bias = own if own in biases else biases[0] if len(biases) == 1 else ""
    initial = "initial_state" if "initial_state" in others else ""
    for name in others:
        if name not in (embedding, output, bias, initial):
            raise ModelFileError(f"`{name}` with the shape {arrays[name].shape} has no place in this net", WHAT_FITS)
    return _Names(layers, embedding, output, bias, initial)


def _in_order(where: str) -> tuple[int, ...]:
    """Return what sorts names by their numbers: layer 10 comes after layer 9."""
    return tuple(map(int, re.findall("[0-9]{1,9}", where)))


def _words_in(name: str) -> set[str]:
    return set(name.lower().split("."))


def _output_among(matrices: list[str], arrays: Arrays, num_inputs: int) -> str:
    """Return the matrix of the linear layer: by its name, else by its bias, else by its shape."""
    if not matrices:
        raise ModelFileError("there is no linear layer from the recurrent layers to the symbols", WHAT_FITS)
    words = {name: _words_in(name) for name in matrices}
    tests = [
        [name for name in matrices if words[name] & OUTPUTS and not words[name] & EMBEDDINGS],
        [name for name in matrices if not words[name] & EMBEDDINGS],
        [name for name in matrices if name.removesuffix("weight") + "bias" in arrays],
        [name for name in matrices if arrays[name].shape[1] != num_inputs],
        matrices,
    ]
    for candidates in tests:
        if len(candidates) == 1:
            return candidates[0]
    shapes = " and ".join(f"`{name}` {arrays[name].shape}" for name in matrices[:3])
    raise ModelFileError(f"it is not clear which of {shapes} is the linear layer", WHAT_FITS)


def _usual_cell(arrays: Arrays, layer: dict[str, str]) -> str:
    """Return the cell of torch that has as many gates as a layer."""
    if "weight_hh_l0" not in layer:
        raise ModelFileError(f"`{layer['weight_ih_l0']}` stands without its `weight_hh`", WHAT_FITS)
    rows, (_, size) = arrays[layer["weight_ih_l0"]].shape[0], arrays[layer["weight_hh_l0"]].shape
    if rows % size or rows // size not in USUAL_CELLS:
        gates = "an LSTM has 4 rows for each unit, a GRU 3 and a simple network 1"
        raise ModelFileError(
            f"`{layer['weight_ih_l0']}` has {counted(rows, 'row')} for {counted(size, 'unit')}: {gates}", WHAT_FITS
        )
    return USUAL_CELLS[rows // size]


def _weights(arrays: Arrays, names: _Names, cell: str) -> Arrays:
    """Return the weights of a net by their names in a model file, after checking their shapes."""
    wanted, needs = _wanted(arrays, names, cell)
    weights = {}
    for own, (name, shape) in wanted.items():
        if name:
            if arrays[name].shape != shape:
                raise ModelFileError(
                    f"`{name}` has the shape {arrays[name].shape}, but {needs} needs {shape}", WHAT_FITS
                )
            weights[own] = arrays[name]
        elif "bias" in own:
            # Layers may be without biases.
            weights[own] = np.zeros(shape, np.float32)
        else:
            raise ModelFileError(f"{needs} needs `{own}` with the shape {shape}, and there is none", WHAT_FITS)
    known = {name for name, _ in wanted.values()}
    for layer in names.layers:
        for name in layer.values():
            if name not in known:
                raise ModelFileError(f"`{name}` with the shape {arrays[name].shape} has no place in {needs}", WHAT_FITS)
    return weights


def _wanted(arrays: Arrays, names: _Names, cell: str) -> tuple[dict[str, tuple[str, tuple[int, ...]]], str]:
    """Return what each weight of a net is called in the file, and its shape; and in words what the net is."""
    num_symbols, size = arrays[names.output].shape
    first = names.layers[0]
    if "weight_hh_l0" in first:
        size = arrays[first["weight_hh_l0"]].shape[1]
    num_inputs = arrays[first["weight_ih_l0"]].shape[1]
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    # A net by charlm has one input more, for the start of a text.
    if names.embedding:
        has_start = len(arrays[names.embedding]) == num_symbols + 1
        wanted["embedding.weight"] = (names.embedding, (num_symbols + has_start, num_inputs))
    elif num_inputs != num_symbols + 1:
        num_inputs = num_symbols
    for number, layer in enumerate(names.layers):
        for weight, shape in CELLS[cell].weight_shapes(size if number else num_inputs, size).items():
            wanted[f"layers.{number}.{weight}"] = (layer.get(weight, ""), shape)
    if names.initial_state:
        wanted["initial_state"] = (names.initial_state, (len(CELLS[cell].state), len(names.layers), size))
    wanted["output.weight"] = (names.output, (num_symbols, size))
    wanted["output.bias"] = (names.output_bias, (num_symbols,))
    embedding = "an embedding" if names.embedding else "one-hot inputs"
    return wanted, f"a net ({cell}, {counted(size, 'unit')}, {counted(num_symbols, 'symbol')}, {embedding})"


def _checked(vocabulary: Vocabulary | None, num_symbols: int, name: str) -> Vocabulary:
    """Return the vocabulary, if it is that of the net."""
    if vocabulary is None:
        usual = "; char-rnn.pytorch has `--vocabulary printable`" if num_symbols == len(string.printable) else ""
        raise UsageError(
            f"the file has {counted(num_symbols, 'symbol')} and does not say which",
            f"`--vocabulary FILE` does, in JSON, or as the text that was learned{usual}",
        )
    if len(vocabulary) != num_symbols:
        raise UsageError(
            f"the vocabulary has {counted(len(vocabulary), vocabulary.unit)}, and `{name}` has {num_symbols:,} rows",
            "`--vocabulary` takes a list of the symbols in JSON, or the text that was learned, all of it",
        )
    return vocabulary


def _own_vocabulary(metadata: dict[str, str]) -> Vocabulary:
    """Return the vocabulary in a `state_dict` by charlm."""
    try:
        symbols = json.loads(metadata["vocabulary"])
        if not symbols or any(len(symbol) != 1 for symbol in symbols):
            raise ValueError("not each of its entries is one character")
        return Vocabulary(cast(Kind, metadata["kind"]), "".join(symbols), cast(Filter, metadata["filter"]))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelFileError(f"the vocabulary in its metadata is damaged: {error}") from error
