"""The lines of torch that load a `state_dict`, as a program that needs torch alone. Knows torch only as text."""

from __future__ import annotations

from string import Template

from charlm.errors import counted
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

FIRST_WORDS = '"""A charlm model in torch'
# The cells that torch has: the module, and its further arguments.
TORCH_CELLS = {
    "rnn": ("RNN", ""),
    "rnn-relu": ("RNN", ', nonlinearity="relu"'),
    "lstm": ("LSTM", ""),
    "gru": ("GRU", ""),
}
# One step of each other cell. `u` is what the input adds to the gates, and the last arguments are recurrent weights.
STEPS = {
    "lstm-peephole": """
def step(u, state, W, b, p):
    h, c = state
    i, f, g, o = (u + linear(h, W, b)).chunk(4, -1)
    i, f, g = torch.sigmoid(i + p[0] * c), torch.sigmoid(f + p[1] * c), torch.tanh(g)
    c = f * c + i * g
    return torch.sigmoid(o + p[2] * c) * torch.tanh(c), c
""",
    "lstm-coupled": """
def step(u, state, W, b):
    h, c = state
    f, g, o = (u + linear(h, W, b)).chunk(3, -1)
    f, g, o = torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * c + (1 - f) * g
    return o * torch.tanh(c), c
""",
    "gru-reset-before": """
def step(u, state, W, b):
    (h,) = state
    (u_r, u_z, u_n), (W_r, W_z, W_n), (b_r, b_z, b_n) = u.chunk(3, -1), W.chunk(3), b.chunk(3)
    r, z = torch.sigmoid(u_r + linear(h, W_r, b_r)), torch.sigmoid(u_z + linear(h, W_z, b_z))
    n = torch.tanh(u_n + linear(r * h, W_n, b_n))
    return ((1 - z) * n + z * h,)
""",
    "mingru": """
def step(u, state):
    (h,), (z, n) = state, u.chunk(2, -1)
    z = torch.sigmoid(z)
    return ((1 - z) * h + z * n,)
""",
    "minlstm": """
def step(u, state):
    (h,), (f, i, g) = state, u.chunk(3, -1)
    f = torch.sigmoid(logsigmoid(f) - logsigmoid(i))
    return (f * h + (1 - f) * g,)
""",
}
# The weights of a layer in the order in which its step takes them.
ORDER = ["weight_ih", "bias_ih", "weight_hh", "bias_hh", "peephole"]
# The layers of such a cell. Names and shapes are those of torch.
LAYERS = """
NAMES = $names

$step

class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        for layer in range($num_layers):
            num_inputs = $num_units if layer else $num_inputs
            for name, shape in zip(NAMES, $shapes):
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.zeros(shape)))

    def forward(self, x, state):
        new_states = []
        for layer in range($num_layers):
            W_x, b_x, *recurrent = (self.get_parameter(f"{name}_l{layer}") for name in NAMES)
            layer_state, outputs = [part[layer] for part in state], []
            for u in linear(x, W_x, b_x):
                layer_state = step(u, layer_state, *recurrent)
                outputs.append(layer_state[0])
            x = torch.stack(outputs)
            new_states.append(layer_state)
        return x, tuple(map(torch.stack, zip(*new_states)))
"""
PROGRAM = '''$first_words: $summary.

`model, vocabulary = load()` reads the weights from the file beside this program.
"""

import json
import math
import sys
from pathlib import Path

import torch
from torch import nn
$imports$layers

class CharModel(nn.Module):
    def __init__(self):
        super().__init__()
$modules

    def forward(self, ids, state=None):
        """Read ids (T, B): return the logits of what comes next, (T, B, $num_symbols), and the new state."""
        if state is None:
            state = $start_state
        y, state = self.rnn($inputs, state)
        return self.output(y), state


def load(path=Path(__file__).with_name($name)):
    data = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    vocabulary = json.loads(header.pop("__metadata__")["vocabulary"])
    weights = {}
    for name, entry in header.items():
        place, shape = end + entry["data_offsets"][0], entry["shape"]
        weights[name] = torch.frombuffer(data, dtype=torch.float32, count=math.prod(shape), offset=place).reshape(shape)
    model = CharModel()
    model.load_state_dict(weights)
    return model.eval(), vocabulary


if __name__ == "__main__":  # It continues the text that follows its name.
    model, vocabulary = load()
    text = " ".join(sys.argv[1:])
    ids = $ids
    with torch.no_grad():
        logits, state = model(torch.tensor([$num_symbols, *ids])[:, None])
        for _ in range(200):
            ids.append(int(torch.multinomial(torch.softmax(logits[-1, 0] / 0.7, -1), 1)))
            logits, state = model(torch.tensor([ids[-1:]]), state)
    print($text)
'''


def torch_program(spec: ModelSpec, vocabulary: Vocabulary, name: str) -> str:
    """Return a program that loads the `state_dict` of a net.

    Args:
        spec: the net.
        vocabulary: its symbols.
        name: the name of the file, which is in the same folder as the program.
    """
    what = f"{spec.cell}, {counted(spec.num_layers, 'layer')} of {counted(spec.hidden_size, 'unit')}"
    reads = ", which reads a text from its end" if spec.is_backward else ""
    module, further = TORCH_CELLS.get(spec.cell, ("", ""))
    inputs = "self.embedding(ids)" if spec.embedding_size else f"one_hot(ids, {spec.num_inputs}).float()"
    step = STEPS.get(spec.cell, "")
    ids, text = _ids_and_text(vocabulary, "[::-1]" if spec.is_backward else "")
    needed = {"linear": bool(step), "logsigmoid": "logsigmoid" in step, "one_hot": not spec.embedding_size}
    functions = ", ".join(function for function, is_needed in needed.items() if is_needed)
    return Template(PROGRAM).substitute(
        first_words=FIRST_WORDS,
        summary=f"{what}, {counted(len(vocabulary), vocabulary.unit)}{reads}",
        name=ascii(name),
        num_symbols=len(vocabulary),
        imports=f"from torch.nn.functional import {functions}\n" if functions else "",
        layers=_layers(spec, step) if step else "",
        modules="\n".join(f"        {line}" for line in _modules(spec, module, further)),
        start_state=_start_state(spec, module),
        inputs=inputs,
        ids=ids,
        text=text,
    )


def _layers(spec: ModelSpec, step: str) -> str:
    num_units, num_rows = spec.hidden_size, spec.hidden_size * len(spec.recurrence.gates)
    shapes = spec.recurrence.weight_shapes(spec.num_inputs, num_units)
    names = sorted((name.removesuffix("_l0") for name in shapes), key=ORDER.index)
    spelled = {name: str(shapes[f"{name}_l0"]) for name in names} | {"weight_ih": f"({num_rows}, num_inputs)"}
    return Template(LAYERS).substitute(
        step=step,
        num_layers=spec.num_layers,
        num_units=num_units,
        num_inputs=spec.num_inputs,
        shapes=f"[{', '.join(spelled[name] for name in names)}]",
        names=names,
    )


def _modules(spec: ModelSpec, module: str, further: str) -> list[str]:
    """Return the lines that make the modules of a net."""
    lines = []
    if spec.embedding_size:
        lines.append(f"self.embedding = nn.Embedding({spec.num_symbols + 1}, {spec.embedding_size})")
    arguments = f"{spec.num_inputs}, {spec.hidden_size}, {spec.num_layers}{further}"
    lines.append(f"self.rnn = nn.{module}({arguments})" if module else "self.rnn = Layers()")
    if spec.initial_state == "learned":
        lines.append(f"self.initial_state = nn.Parameter(torch.zeros{spec.shapes['initial_state']})")
    return [*lines, f"self.output = nn.Linear({spec.hidden_size}, {spec.num_symbols})"]


def _start_state(spec: ModelSpec, module: str) -> str:
    """Return the state before a text as an expression; torch's modules take a tensor, or a pair of them."""
    if spec.initial_state == "learned":
        parts = "self.initial_state[:, :, None].repeat(1, 1, ids.shape[1], 1)"
    else:
        shape = f"{len(spec.recurrence.state)}, {spec.num_layers}, ids.shape[1], {spec.hidden_size}"
        parts = f"torch.zeros({shape}, device=ids.device)"
    return f"{parts}[0]" if module in ("RNN", "GRU") else f"tuple({parts})"


def _ids_and_text(vocabulary: Vocabulary, order: str) -> tuple[str, str]:
    """Return two expressions: the ids of a text, and the text of ids."""
    if vocabulary.kind == "bytes":
        return f"list(text.encode(){order})", f'bytes(ids{order}).decode(errors="replace")'
    known = f"[vocabulary.index(character) for character in text{order} if character in vocabulary]"
    return known, f'"".join(vocabulary[index] for index in ids{order})'
