"""Cells explained: equations, parameters as torch counts them, and a real step that satisfies its equations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import UnknownCharacterError, UsageError
from charlm.inference.cell_description import cell_summaries, describe_cell
from charlm.inference.explanation import Explanation, UnitStep
from charlm.inference.stepper import Stack
from charlm.nn.model import CharModel
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, call, spawn

Make = Callable[..., ModelFile]
# The letters of the gates in the equations.
LETTERS = {"input": "i", "forget": "f", "output": "o", "reset": "r", "update": "z", "candidate": "[gn]"}
SIZES = [(64, 512, 1, 65), (0, 7, 1, 3), (0, 5, 3, 10), (3, 1, 2, 1), (8, 24, 4, 300)]


def take_step(model: ModelFile, text: str, unknown: str = "error") -> UnitStep:
    """Return the last step of a text, of the unit with the largest output in the last layer."""
    explanation = Explanation(model, text, unknown)
    return explanation.of_unit(explanation.step())


def directed(model: ModelFile, direction: str) -> ModelFile:
    """Return a model of the same layers that reads in another direction, or in both with the same layers twice."""
    arrays, settings = dict(model.arrays), model.config["model"] | {"direction": direction}
    if direction == "both":
        arrays |= {f"backward_{name}": array[::-1] for name, array in arrays.items() if name.startswith("layers")}
        arrays["output.weight"] = np.concatenate([arrays["output.weight"]] * 2, axis=1)
    return replace(model, arrays=arrays, config=model.config | {"model": settings})


@pytest.mark.parametrize("cell", CELLS)
def test_each_gate_of_a_cell_has_an_equation(make_model: Make, cell: str) -> None:
    """Each gate and each part of the state has an equation, and no argument of the Python function is shown."""
    text = describe_cell(ModelSpec(cell, 5, 4, 3, 1)).text
    gates = take_step(make_model(cell), "abc").gates
    assert tuple(gates) == (() if cell in ("rnn", "rnn-relu") else CELLS[cell].gates)
    for name in gates:
        assert re.search(rf"^{LETTERS[name]} = ", text, re.MULTILINE), name
    for part in CELLS[cell].state:
        assert re.search(rf"^{part[0]}' = ", text, re.MULTILINE), part
    assert "Args:" not in text
    assert text == text.strip()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_explain_counts_as_many_parameters_as_torch(cell: str, sizes: tuple[int, int, int, int]) -> None:
    """The counts of all parts and in total agree with torch, for models of all directions and initial states."""
    embedding, hidden, layers, symbols = sizes
    settings = {"cell": cell, "embedding_size": embedding, "hidden_size": hidden, "num_layers": layers}
    for others in ({}, {"direction": "backward"}, {"direction": "both", "initial_state": "learned"}):
        module = CharModel(ModelSpec.of_settings(settings | others, symbols))
        counts = describe_cell(module.spec).parameters
        assert counts["all"] == sum(parameter.numel() for parameter in module.parameters())
        assert counts["all"] == sum(count for part, count in counts.items() if part != "all")
        assert counts["output"] == sum(parameter.numel() for parameter in module.output.parameters())
        assert counts["recurrent layers"] == sum(
            parameter.numel() for layer in module.all_layers for parameter in layer.parameters()
        )
        assert ("embedding" in counts) == bool(embedding)


def weights_of(model: ModelFile, layer: int = 0) -> dict[str, Any]:
    """Return the weights of one layer by their short names, in double precision."""
    prefix = f"layers.{layer}."
    return {
        name.removeprefix(prefix).removesuffix("_l0"): array.astype(float)
        for name, array in model.weights.items()
        if name.startswith(prefix)
    }


def sigma(x: Any) -> Any:
    """Compute the logistic function."""
    return 1 / (1 + np.exp(-x))


def assert_state_follows(cell: str, step: UnitStep) -> None:
    """Recompute the new state of the unit from its gates and its old state."""
    old, gates, new = step.old_state, step.gates, step.new_state
    if cell == "lstm":
        memory = gates["forget"] * old["cell"] + gates["input"] * gates["candidate"]
        assert new["cell"] == pytest.approx(memory, abs=1e-6)
        assert new["hidden"] == pytest.approx(gates["output"] * math.tanh(memory), abs=1e-6)
    elif cell == "gru":
        mixed = (1 - gates["update"]) * gates["candidate"] + gates["update"] * old["hidden"]
        assert new["hidden"] == pytest.approx(mixed, abs=1e-6)
    elif cell == "mingru":
        mixed = (1 - gates["update"]) * old["hidden"] + gates["update"] * gates["candidate"]
        assert new["hidden"] == pytest.approx(mixed, abs=1e-6)
    else:
        assert gates == {}


@pytest.mark.parametrize("text", ["a", "ab", "had a bad cab\n"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_the_numbers_of_a_step_satisfy_the_equations(make_model: Make, cell: str, num_layers: int, text: str) -> None:
    """The new state follows from the gates and from the state after all characters but the last."""
    model = make_model(cell, num_layers)
    step = take_step(model, text)
    assert_state_follows(cell, step)
    assert (step.before, step.name) == (text[:-1], model.vocabulary.name(model.vocabulary.symbols.index(text[-1])))
    assert step.unit.layer.number == num_layers
    if len(text) > 1:
        stack = Stack(model)
        state = stack.read([len(model.vocabulary), *model.vocabulary.encode(text[:-1])], stack.start(1))
        assert step.old_state["hidden"] == pytest.approx(float(state[-1][0][0, step.unit.index]), abs=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_explain_shows_the_unit_with_the_largest_output(make_model: Make, cell: str) -> None:
    """The unit has the largest absolute output, and a step by hand gives its gates."""
    for seed in range(8):
        model = make_model(cell, seed=seed)
        step = take_step(model, "cab")
        stack = Stack(model)
        states = [stack.start(1)]
        for index in [len(model.vocabulary), *model.vocabulary.encode("cab")]:
            states.append(stack.step(np.array([index]), states[-1]))
        h = states[-1][-1][0][0]
        assert step.unit.index == int(np.abs(h).argmax())
        assert step.new_state["hidden"] == pytest.approx(float(h[step.unit.index]))
        weights, old = weights_of(model), states[-2][-1][0][0].astype(float)
        x = weights["weight_ih"] @ model.weights["embedding.weight"][model.vocabulary.symbols.index("b")]
        sums = x + weights["bias_ih"]
        if cell != "mingru":
            sums = sums + weights["weight_hh"] @ old + weights["bias_hh"]
        own = sums.reshape(-1, len(h))[:, step.unit.index]
        first = {"lstm": "input", "gru": "reset", "rnn": "candidate", "mingru": "update"}[cell]
        wanted = math.tanh(own[0]) if cell == "rnn" else sigma(own[0])
        found = step.new_state["hidden"] if cell == "rnn" else step.gates[first]
        assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_explain_reads_a_text_backward_with_a_backward_model(make_model: Make, cell: str) -> None:
    """The last step of a backward model reads the first character, as of the reversed text from the left."""
    model = make_model(cell, 2)
    found = take_step(directed(model, "backward"), "had")
    assert found == replace(take_step(model, "dah"), before="ad")
    assert_state_follows(cell, found)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru"])
def test_explain_shows_the_left_layers_of_a_model_of_both_sides(make_model: Make, cell: str) -> None:
    """The step of a model of both sides is that of the model without its right layers."""
    model = make_model(cell, 2)
    assert take_step(directed(model, "both"), "had") == take_step(model, "had")


def test_a_step_reports_the_text_as_it_was_read(make_model: Make) -> None:
    """A skipped character is not in the text of a step, and a replaced one is there as its replacement."""
    model = make_model()
    assert take_step(model, "aZbZ", "skip") == take_step(model, "ab")
    assert take_step(model, "aZbZ", "replace=c") == take_step(model, "acbc")
    backward = directed(model, "backward")
    assert take_step(backward, "ZaZb", "skip") == take_step(backward, "ab")


def test_a_step_of_bytes_reports_the_bytes_before(make_model: Make) -> None:
    """The bytes of an unfinished character are shown as a replacement mark."""
    model = make_model(symbols=Vocabulary.of_bytes())
    assert take_step(model, "狐a").before == "狐"
    step = take_step(model, "aé")
    assert (step.before, step.name) == ("a\ufffd", "byte 0xa9")
    step = take_step(directed(model, "backward"), "éa")
    assert (step.before, step.name) == ("\ufffda", "byte 0xc3")


def test_explain_reads_letters_through_the_filter(make_model: Make) -> None:
    """Letters become lower case, all else becomes one space, and the command prints what it has read."""
    model = make_model(symbols=Vocabulary("characters", " abcdefgh", "letters"))
    assert take_step(model, "A--B, C") == take_step(model, "a b c")
    assert take_step(model, "A, ").name == "space"
    model.save(Path("letters.safetensors"))
    result = call("explain", "--model", "letters.safetensors", "--text", "A--B")
    assert "'a b'" in result.stderr


def test_explain_refuses_an_empty_text(make_model: Make) -> None:
    """A text that is empty, or empty after unknown characters are skipped, is a `UsageError`."""
    model = make_model()
    for text, unknown in (("", "error"), ("ZZ", "skip")):
        with pytest.raises(UsageError, match="no character"):
            take_step(model, text, unknown)
    with pytest.raises(UnknownCharacterError, match="position 1"):
        take_step(model, "aZ")


# The command


def test_explain_without_a_cell_lists_all_cells() -> None:
    """Text has a line for each cell, and JSON has the same."""
    lines = call("explain").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(CELLS)
    assert answer("explain", "--json") == cell_summaries()
    assert all(cell_summaries().values())


@pytest.mark.parametrize("cell", CELLS)
def test_explain_shows_a_cell_with_its_parameters(cell: str) -> None:
    """Text and JSON agree, and the default sizes are those of training."""
    values = answer("explain", cell, "--json")
    assert values.keys() >= {"cell", "text", "notation", "letters", "parameters", "step"}
    assert values.keys() >= {"purposes", "drawing", "lecture", "lecture_notation", "counts", "sizes", "biases"}
    assert tuple(values["letters"]) == CELLS[cell].gates
    assert all(f"{letter} = " in values["text"] for letter in values["letters"].values())
    assert (values["cell"], values["step"]) == (cell, None)
    module = CharModel(ModelSpec(cell, 65, 64, 512, 1))
    assert values["parameters"]["all"] == sum(parameter.numel() for parameter in module.parameters())
    shown = call("explain", cell).stdout
    assert shown.startswith(f"{cell}: {values['text']}\n\n{values['notation']}\n")
    assert f"{values['parameters']['all']:,}" in shown


def test_explain_shows_equations_where_docstrings_are_removed() -> None:
    """Under `python -OO` the command prints what it always prints."""
    done = spawn("explain", "gru", env={"PYTHONOPTIMIZE": "2"})
    assert done.stdout.decode() == call("explain", "gru").stdout
    assert spawn("explain", env={"PYTHONOPTIMIZE": "2"}).stdout.decode() == call("explain").stdout


def test_explain_takes_sizes() -> None:
    """Each size changes the number of parameters, and a size out of bounds is refused."""
    sizes = ["--hidden-size", "8", "--embedding-size", "0", "--layers", "2", "--symbols", "9"]
    module = CharModel(ModelSpec("gru", 9, 0, 8, 2))
    found = answer("explain", "gru", *sizes, "--json")["parameters"]
    assert found["all"] == sum(parameter.numel() for parameter in module.parameters())
    for option, value in (("--layers", "0"), ("--hidden-size", "x"), ("--symbols", "0"), ("--embedding-size", "-1")):
        assert call("explain", "gru", option, value).exit_code == 2


def test_explain_shows_a_model_with_a_step(model: str, make_model: Make) -> None:
    """The cell and the sizes are those of the model, and the step is the last one."""
    values = answer("explain", "--model", model, "--text", "had", "--json")
    assert values["step"] == take_step(make_model(), "had").to_json()
    assert values["parameters"]["all"] == sum(array.size for array in make_model().weights.values())
    assert answer("explain", "lstm", "--model", model, "--json")["step"] is None
    shown = call("explain", "--model", model, "--text", "had").stdout
    unit = values["step"]["unit"]
    assert f"unit {unit}," in shown
    assert f"hidden h = {values['step']['new_state']['hidden']:+.6f}" in shown
    assert f"forget f = {values['step']['gates']['forget']:+.6f}" in shown


def test_explain_refuses_sizes_beside_a_model(model: str) -> None:
    """A size beside a model, which has its own, is refused or reported."""
    result = call("explain", "--model", model, "--hidden-size", "99", "--json")
    assert result.exit_code == 2 or result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["lstn"], 2, "no cell `lstn`"),
        ([""], 2, "no cell"),
        (["gru", "--model", "small.safetensors"], 2, "is of the cell lstm, not gru"),
        (["--model", "small.safetensors", "--text", ""], 2, "no character"),
        (["--model", "small.safetensors", "--text", "aZ"], 1, "position 1"),
        (["--model", "small.safetensors", "--text", "a", "--unknown", "no"], 2, "not a policy"),
        (["--model", "missing.safetensors"], 1, "missing.safetensors"),
        (["--text", "a"], 1, "there is no model here"),
    ],
)
def test_explain_reports_mistakes_in_one_line(model: str, arguments: list[str], code: int, said: str) -> None:
    """A mistake has its exit code, one line, at most one hint, and nothing on standard output."""
    result = call("explain", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) <= 2
