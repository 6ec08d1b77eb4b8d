"""A `state_dict` and the lines of torch that load it: they need torch alone, and predict what charlm predicts."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from charlm.cells import CELLS
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary
from tests.helpers.commands import call
from tests.helpers.model_files import random_model

VARIANTS: list[dict[str, Any]] = [
    {"num_layers": 2},
    {"embedding_size": 0, "initial_state": "learned", "direction": "backward"},
]
MODELS = {f"{cell}_{number}": (cell, variant) for cell in CELLS for number, variant in enumerate(VARIANTS)}
# Loads each module in a process that has torch, but neither charlm nor safetensors, and prints the logits of ids.
READ = """
import importlib, json, sys
sys.modules["charlm"] = sys.modules["safetensors"] = None
import torch
sys.path.insert(0, ".")
ids = torch.tensor(json.loads(sys.argv[1]))
result = {}
for name in sys.argv[2:]:
    model, vocabulary = importlib.import_module(name).load()
    first, state = model(ids[:4])
    second, state = model(ids[4:], state)
    result[name] = torch.cat([first, second]).tolist()
    assert len(vocabulary) == first.shape[-1]
    second.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
print(json.dumps(result))
"""


def run(*arguments: str) -> str:
    """Run Python and return what it prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lines_have_the_logits_of_the_stepper() -> None:
    """Every cell gives the same logits in torch alone, also with a state that is carried on, and has gradients."""
    ids_TB = np.random.default_rng(0).integers(11, size=(12, 3))
    for name, (cell, variant) in MODELS.items():
        random_model(cell, **variant).save(Path(f"{name}.model"))
        done = call("export", "-f", "torch", "-m", f"{name}.model", "-o", f"{name}.safetensors".replace("-", "_"))
        assert done.exit_code == 0, done.stderr
    names = [name.replace("-", "_") for name in MODELS]
    found = json.loads(run("-W", "error", "-c", READ, json.dumps(ids_TB.tolist()), *names))
    for name, (cell, variant) in zip(names, MODELS.values(), strict=True):
        stepper = Stepper(random_model(cell, **variant))
        state = stepper.before(3)
        for ids_B, logits_BV in zip(ids_TB, found[name], strict=True):
            expected_BV, state = stepper.step(ids_B, state)
            np.testing.assert_allclose(logits_BV, expected_BV, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("settings", "prompt"),
    [({}, "abc"), ({"symbols": Vocabulary.of_bytes()}, "\u00e9"), ({"direction": "backward"}, "abc")],
    ids=["characters", "bytes", "backward"],
)
def test_the_program_continues_a_text(
    settings: dict[str, Any], prompt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the text that it is given and 200 symbols more, before it if the model reads from the end."""
    random_model(**settings).save(Path("m"))
    assert call("export", "-f", "torch", "-m", "m", "-o", 'a net\'s """.safetensors').exit_code == 0
    program = 'a net\'s """.py'
    monkeypatch.setattr(sys, "argv", [program, prompt])
    capsys.readouterr()
    runpy.run_path(program, run_name="__main__")
    printed = capsys.readouterr().out.removesuffix("\n")
    assert printed.endswith(prompt) if settings.get("direction") else printed.startswith(prompt)
    assert len(printed) > 100


def test_torch_has_its_own_names_for_weights() -> None:
    """The names are those of a module with an embedding, a recurrent net and a linear layer."""
    random_model(num_layers=2).save(Path("m"))
    call("export", "-f", "torch", "-m", "m")
    layers = [f"rnn.{part}_{side}_l{layer}" for layer in (0, 1) for part in ("weight", "bias") for side in ("ih", "hh")]
    assert set(load_file("model.safetensors")) == {"embedding.weight", *layers, "output.weight", "output.bias"}
