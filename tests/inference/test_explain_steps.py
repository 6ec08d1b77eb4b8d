"""The way of a character through a model: every number against an independent computation, and the texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile
from charlm.errors import ModelFileError, UsageError
from charlm.inference.cell_description import describe_cell, parameter_counts
from charlm.inference.cell_texts import CELL_TEXTS
from charlm.inference.equations import Values, equations_of, evaluate, written
from charlm.inference.explanation import Explanation, LayerStep
from charlm.inference.fill import Filler
from charlm.nn.model import CharModel
from charlm.spec import ModelSpec
from tests.helpers.evaluation import module_of
from tests.test_equations import EQUATIONS, START, SYMBOLS, read

Make = Callable[..., ModelFile]
Floats = NDArray[np.float64]
LETTERS_OF_STATE = {"hidden": "h", "cell": "c"}
TEXT = "had a bad cab"


def sigma(x: Any) -> Any:
    """Compute the logistic function."""
    return 1 / (1 + np.exp(-x))


def by_suffix(cell: str, array: Floats) -> dict[str, Floats]:
    """Divide the rows of the gates, by what follows the letter of a weight in the equations."""
    letters = CELLS[cell].letters.values()
    suffixes = [f"_{letter}" for letter in letters] if len(letters) > 1 else [""]
    return dict(zip(suffixes, np.split(array, len(suffixes)), strict=True))


def expected_values(file: ModelFile, stack: str, layer: int, ids: list[int]) -> dict[str, Floats]:
    """Compute in float64, from the weights alone, the terms and gates of the last step of a layer.

    Args:
        file: the model.
        stack: `layers` or `backward_layers`.
        layer: which of its layers, from 0.
        ids: what the stack has read, the edge of the text first.
    """
    cell = file.spec.cell
    prefix = f"{stack}.{layer}."
    weights = {
        name[len(prefix) :]: array.astype(float) for name, array in file.arrays.items() if name.startswith(prefix)
    }
    reading = read(file, ids, stack)
    new, names = reading.states[-1], CELLS[cell].state
    start = file.arrays.get("initial_state")
    above = file.spec.num_layers if stack != "layers" else 0
    old = reading.states[-2][layer] if len(ids) > 1 else None
    if old is None:
        zeros = np.zeros(file.spec.hidden_size)
        old = tuple(zeros if start is None else start[part, above + layer].astype(float) for part in range(len(names)))
    table = file.arrays.get("embedding.weight", np.eye(START + 1)).astype(float)
    x = table[ids[-1]] if layer == 0 else new[layer - 1][0]
    values = {LETTERS_OF_STATE[name]: part for name, part in zip(names, old, strict=True)}
    values |= {f"{LETTERS_OF_STATE[name]}'": part for name, part in zip(names, new[layer], strict=True)}
    letters = CELLS[cell].letters.values()
    values |= dict(zip(letters, reading.gates[-1][layer], strict=True))
    products = by_suffix(cell, weights["weight_ih_l0"] @ x)
    for suffix, bias in by_suffix(cell, weights["bias_ih_l0"]).items():
        values |= {f"U{suffix} x": products[suffix], f"a{suffix}": bias, f"u{suffix}": products[suffix] + bias}
    if CELLS[cell].products:
        biases = by_suffix(cell, weights["bias_hh_l0"])
        for suffix, matrix in by_suffix(cell, weights["weight_hh_l0"]).items():
            is_reset = cell == "gru-reset-before" and suffix == "_n"
            product = matrix @ (values["r"] * values["h"] if is_reset else values["h"])
            name = f"R{suffix} (r * h)" if is_reset else f"R{suffix} h"
            values |= {name: product, f"d{suffix}": biases[suffix]}
            values["R_n(r * h)" if is_reset else f"R{suffix}(h)"] = product + biases[suffix]
    if cell == "lstm-coupled":
        values["i"] = 1 - values["f"]
    if cell == "minlstm":
        values["s"] = sigma(values["u_f"]) + sigma(values["u_i"])
    if CELLS[cell].peepholes:
        values |= dict(zip(("p_i", "p_f", "p_o"), weights["peephole_l0"], strict=True))
    return values


def value_of(text: str, values: dict[str, Floats]) -> Floats:
    """Compute an expression of the equations from the letters in it, with Python itself."""
    for name in sorted((name for name in values if "(" in name), key=len, reverse=True):
        text = text.replace(name, f"values[{name!r}]") if name == text or "R" in name else text
    names = {name.replace("'", "_new"): value for name, value in values.items()}
    functions = {"sigmoid": sigma, "tanh": np.tanh, "max": np.maximum, "values": values}
    plain = re.sub(r"(?<=[hc])'(?!\])", "_new", text)
    result: Floats = eval(plain, functions | names)
    return result


@pytest.mark.parametrize(
    ("direction", "embedding_size", "initial_state"),
    [("forward", 5, "zero"), ("backward", 0, "learned"), ("both", 5, "learned"), ("both", 0, "zero")],
)
@pytest.mark.parametrize("cell", CELLS)
def test_every_number_of_a_step_is_that_of_numpy(
    make_model: Make, cell: str, direction: str, embedding_size: int, initial_state: str
) -> None:
    """Terms, products, gates, sums and states of all layers, at the start, in the middle and at the end."""
    settings = {"direction": direction, "embedding_size": embedding_size, "initial_state": initial_state}
    file = make_model(cell, 2, SYMBOLS, **settings)
    explanation = Explanation(file, TEXT)
    forward = [SYMBOLS.index(character) for character in TEXT]
    for number in (0, 1, 5, len(TEXT)):
        step = explanation.step(number)
        read_left = [START, *(forward[::-1] if direction == "backward" else forward)[:number]]
        read_right = [START, *forward[:number:-1]]
        assert len(step.layers) == (4 if direction == "both" else 2)
        for layer in step.layers:
            ids = read_left if layer.layer.stack == "layers" else read_right
            expected = expected_values(file, layer.layer.stack, layer.layer.number - 1, ids)
            # Every letter is there, and whatever else is there follows from the letters.
            assert expected.keys() <= layer.values.keys()
            for text, found_H in layer.values.items():
                wanted_H = expected[text] if text in expected else value_of(text, expected)
                np.testing.assert_allclose(found_H, wanted_H, rtol=0, atol=2e-5, err_msg=text)


@pytest.mark.parametrize("cell", CELLS)
def test_the_printed_equations_are_those_of_the_code(
    make_model: Make, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the texts compute is bit for bit what the cell computes, except for the quotient of minlstm."""
    explanation = Explanation(make_model(cell, 2), "cab")

    def by_text_alone(*arguments: Any) -> Values:
        cell, inputs_G, recurrent, biases, state, _ = arguments
        return evaluate(cell, inputs_G, recurrent, biases, state, known={})

    monkeypatch.setattr("charlm.inference.explanation.evaluate", by_text_alone)
    by_text = explanation.step()
    monkeypatch.undo()
    for found, wanted in zip(by_text.layers, explanation.step().layers, strict=True):
        for name in ("h'", *CELLS[cell].letters.values()):
            np.testing.assert_allclose(
                found.values[name], wanted.values[name], rtol=0, atol=1e-6 if cell == "minlstm" else 0
            )


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("cell", CELLS)
def test_logits_and_softmax_are_those_of_torch(make_model: Make, cell: str, direction: str) -> None:
    """Each score is a product and a bias, exp is of the logit less the largest, and the shares are torch's softmax."""
    file = make_model(cell, 2, SYMBOLS, direction=direction)
    explanation, module = Explanation(file, "cab"), module_of(file)
    ids = [START, *(SYMBOLS.index(character) for character in ("bac" if direction == "backward" else "cab"))]
    logits_TBV, _ = module(torch.tensor(ids)[:, None], module.start_state(1))
    for step, logits_BV in zip(explanation.steps(), logits_TBV.detach(), strict=True):
        np.testing.assert_allclose(step.logits, logits_BV[0].numpy(), rtol=0, atol=1e-5)
        p_V = logits_BV[0].double().softmax(0).numpy()
        outputs = step.layers[-1].values["h'"]
        assert [score.probability for score in step.scores] == sorted(p_V, reverse=True)[:10] or np.allclose(
            [score.probability for score in step.scores], sorted(p_V, reverse=True)[:10], atol=1e-5
        )
        for score in step.scores:
            index = SYMBOLS.index(score.character)
            assert score.product == pytest.approx(float(file.arrays["output.weight"][index] @ outputs), abs=1e-5)
            assert score.bias == pytest.approx(float(file.arrays["output.bias"][index]))
            assert score.logit == pytest.approx(score.product + score.bias, abs=1e-6)
            assert score.exp == pytest.approx(np.exp(score.logit - step.logits.max()), abs=1e-6)
            assert score.probability == pytest.approx(score.exp / step.total, abs=1e-9)


def test_a_model_of_both_sides_predicts_the_character_between(make_model: Make) -> None:
    """The prediction of each step is what `charlm fill` says about a blank after the character that was read."""
    file = make_model("gru", 2, SYMBOLS, direction="both")
    explanation, filler = Explanation(file, "badge"), Filler(file)
    for number in range(5):
        step = explanation.step(number)
        filling = filler.fill(["badge"[:number], "badge"[number + 1 :]], 3)
        found = [score.character for score in step.scores[:3]]
        assert found == [candidate.character for candidate in filling.blanks[0].candidates]
        shares = [candidate.probability for candidate in filling.blanks[0].candidates]
        assert [score.probability for score in step.scores[:3]] == pytest.approx(shares, abs=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_the_written_arithmetic_adds_up(make_model: Make, cell: str) -> None:
    """In each step that is written out the numbers give the result, and the last result is that of the equation."""
    (_, layer) = Explanation(make_model(cell, 2), "cab").step().layers
    for unit in range(12):
        lines = layer.arithmetic(unit)
        assert [text for text, _ in lines] == re.findall(r"^[\w']+ = .+$", CELLS[cell].text, re.MULTILINE)
        for equation, steps in lines:
            for step in steps:
                *texts, result = re.split(" = | (?=[-0-9.e]+$)", step)
                if re.fullmatch(r"[-+*/ ().,\de]+|(?:sigmoid|tanh|max)\([-\d.e, ]+\)", texts[-1]):
                    found = eval(texts[-1], {"sigmoid": sigma, "tanh": np.tanh, "max": max})
                    assert found == pytest.approx(float(result), abs=4e-3, rel=1e-2), step
            name = equation.partition(" = ")[0]
            assert float(re.split("[ =]", steps[-1])[-1]) == pytest.approx(layer.values[name][unit], abs=5e-4, rel=5e-2)


def test_the_arithmetic_of_an_lstm_is_written_as_in_a_book() -> None:
    """Products with their numbers, and the sum."""
    values = {name: np.array([value]) for name, value in {"f": 0.806, "c": -3.563, "i": 0.938, "g": -1.0}.items()}
    values |= {"f * c": np.array([-2.872]), "i * g": np.array([-0.938]), "c'": np.array([-3.810])}
    lstm = CELLS["lstm"]
    equation = equations_of(lstm)[4]
    steps = ["f * c = 0.806 * -3.563 = -2.872", "i * g = 0.938 * -1.000 = -0.938", "sum -3.810"]
    assert (equation.text, written(equation, values, 0, set())) == ("c' = f * c + i * g", steps)


@pytest.mark.parametrize("cell", CELLS)
def test_pre_activations_are_what_functions_are_applied_to(make_model: Make, cell: str) -> None:
    """A gate is the sigmoid of its pre-activation, the candidate its tanh, unless the cell is a minimal one."""
    layer = Explanation(make_model(cell), "cab").step().layers[0]
    assert tuple(layer.pre_activations) == CELLS[cell].gates
    for name, pre_activation in layer.pre_activations.items():
        value = layer.values[CELLS[cell].letters[name]]
        if cell == "minlstm" and name != "candidate":
            value = value * (sum(sigma(layer.pre_activations[gate]) for gate in ("forget", "input")))
        functions = {"rnn-relu": lambda x: np.maximum(x, 0), "mingru": lambda x: x, "minlstm": lambda x: x}
        function = functions.get(cell, np.tanh) if name == "candidate" else sigma
        np.testing.assert_allclose(value, function(pre_activation), atol=1e-6)


def test_steps_far_apart_can_be_visited_in_any_order(make_model: Make) -> None:
    """Going back and forth in a long text gives the numbers of reading it in order."""
    text = "had a bad cab " * 12
    in_order = [step.logits for step in Explanation(make_model(), text).steps()]
    explanation = Explanation(make_model(), text)
    assert (explanation.num_steps, explanation.text) == (len(text), text)
    for number in (168, 3, 100, 99, 33, 32, 31, 0):
        np.testing.assert_array_equal(explanation.step(number).logits, in_order[number])
    for number in (-1, 169):
        with pytest.raises(UsageError, match=f"no step {number}"):
            explanation.step(number)


def test_a_step_knows_the_text_around_it(make_model: Make) -> None:
    """Left and right are those of the text, also where it is read from its end."""
    explanation = Explanation(make_model(), "bad")
    assert [explanation.around(number) for number in range(3)] == [("", "", "bad"), ("", "b", "ad"), ("b", "a", "d")]
    backward = Explanation(make_model(direction="backward"), "bad")
    assert [backward.around(number) for number in range(3)] == [("bad", "", ""), ("ba", "d", ""), ("b", "a", "d")]


@pytest.mark.parametrize("cell", ["rnn-relu", "mingru", "minlstm"])
def test_weights_that_overflow_are_refused(make_model: Make, cell: str) -> None:
    """A model whose numbers are infinite is a `ModelFileError`, without a warning."""
    file = make_model(cell, 5)
    arrays = {name: np.full_like(array, 1e9) for name, array in file.arrays.items()}
    with pytest.raises(ModelFileError, match="overflows"):
        Explanation(replace(file, arrays=arrays), "cab").step()


def test_logits_that_overflow_are_refused(make_model: Make) -> None:
    """One infinite logit, or none that is finite, is a `ModelFileError`, and its numbers are not printed."""
    file = make_model("rnn-relu")
    large = {name: np.full_like(array, 1e6) for name, array in file.arrays.items()}
    one = np.where(np.arange(10)[:, None] == 3, -1e6, 0).astype(np.float32).repeat(12, axis=1)
    for weight in (-large["output.weight"], one):
        with pytest.raises(ModelFileError, match="overflows"):
            list(Explanation(replace(file, arrays=large | {"output.weight": weight}), "cab" * 9).steps())


def test_two_gates_of_zero_are_divided_as_the_cell_does(make_model: Make) -> None:
    """Where both sigmoids of a minlstm underflow, its gates still add up to 1."""
    file = make_model("minlstm")
    bias = np.repeat(np.array([-1000, -1000, 1], np.float32), 12)
    layer = Explanation(replace(file, arrays=file.arrays | {"layers.0.bias_ih_l0": bias}), "cab").step().layers[0]
    np.testing.assert_allclose(layer.values["f"] + layer.values["i"], 1, rtol=1e-6)


# Texts


def words_about(cell: str) -> str:
    """Return everything that is said about a cell."""
    found = describe_cell(ModelSpec(cell, 65, 64, 512, 1))
    return " ".join([found.text, found.notation, *found.purposes.values(), found.lecture_notation])


@pytest.mark.parametrize("cell", CELLS)
def test_each_gate_of_a_cell_has_a_sentence(cell: str) -> None:
    """Each gate and the candidate has a sentence that names it, and each gate says what it does at a step."""
    purposes, letters = describe_cell(ModelSpec(cell, 65, 64, 512, 1)).purposes, CELLS[cell].letters
    assert purposes.keys() == set(letters.values())
    for name, letter in letters.items():
        what = "state h'" if letter == "h'" else f"{name} {'' if name == 'candidate' else 'gate '}{letter}"
        assert purposes[letter].startswith(f"The {what} ")
        assert purposes[letter].endswith(".")
    assert CELL_TEXTS[cell].effects.keys() == set(letters) - {"candidate"}
    assert all("{}" in effect for effect in CELL_TEXTS[cell].effects.values())


def test_the_texts_teach_what_the_cells_are_for() -> None:
    """An LSTM says why it adds, a GRU what r does, and an RNN has no gates."""
    assert "changes by adding" in words_about("lstm")
    assert "r says how much" in words_about("gru")
    for cell in ("rnn", "rnn-relu"):
        assert re.findall(r"[^.]*\bgates?\b", words_about(cell).replace("It has no gates", "")) == []
    assert "It has no gates" in words_about("rnn")


@pytest.mark.parametrize("cell", CELLS)
def test_no_letter_has_two_meanings(cell: str) -> None:
    """The input x is nothing else, every other name is explained, and no gate is an index."""
    description = describe_cell(ModelSpec(cell, 65, 64, 512, 1))
    equations = "\n".join(re.findall(r"^[\w']+ = .+$", description.text, re.MULTILINE))
    names = set(re.findall(r"[A-Za-z_]\w*'?", equations)) - {"sigmoid", "tanh", "max"}
    of_cell = set(CELLS[cell].letters.values()) | {LETTERS_OF_STATE[part] for part in CELLS[cell].state}
    assert not any(name.startswith("x") for name in names)
    assert {name for name in names if name[:2] not in ("u_", "R_", "p_")} - {"u", "R", "i", "s"} <= {
        variant for letter in of_cell for variant in (letter, f"{letter}'")
    }
    assert "gate i" not in description.notation


@pytest.mark.parametrize("cell", CELLS)
def test_the_notation_of_lecture_notes_says_the_same(make_model: Make, cell: str) -> None:
    """The equations with W [h, x] + b, computed by Python, give the state of the model."""
    layer: LayerStep = Explanation(make_model(cell), "cab").step().layers[0]
    v = {name: array.astype(float) for name, array in layer.values.items()}
    file = make_model(cell)
    matrix = by_suffix(cell, file.arrays["layers.0.weight_hh_l0"].astype(float)) if CELLS[cell].products else {}
    candidate = f"_{CELLS[cell].candidate}" if len(CELLS[cell].gates) > 1 else ""

    def suffix_of(suffix: str) -> str:
        return candidate if suffix in ("_C", "_h") else suffix

    def joint(suffix: str, state: Any) -> Any:
        # One product of a matrix with [h, x] is the sum of two.
        suffix = suffix_of(suffix)
        return v[f"U{suffix} x"] + (matrix[suffix] @ state if state is not None else 0)

    def bias(suffix: str) -> Any:
        return v[f"a{suffix_of(suffix)}"] + v.get(f"d{suffix_of(suffix)}", 0)

    names: dict[str, Any] = {"h": v["h"], "C": v.get("c"), "joint": joint, "bias": bias, "v": v}
    names |= {"sigmoid": sigma, "tanh": np.tanh, "max": np.maximum}
    names |= {name: array for name, array in v.items() if name.startswith("p_")}
    for line in CELL_TEXTS[cell].lecture.split("\n"):
        left, _, right = line.replace("C\u0303", "C_candidate").replace("h\u0303", "h_candidate").partition(" = ")
        right = right.replace("'", "_new")
        right = re.sub(r"W(_\w)? \[(.+?), x\]", lambda found: f"joint({found[1] or ''!r}, {found[2]})", right)
        right = re.sub(r"W(_\w) x", lambda found: f"joint({found[1]!r}, None)", right)
        right = re.sub(r"\bb(_\w)?\b", lambda found: f"bias({found[1] or ''!r})", right)
        right = re.sub(r"\b(U_n x|R_n h|a_n|d_n)\b", lambda found: f"v[{found[1]!r}]", right)
        names[left.replace("'", "_new")] = eval(right, names)
    np.testing.assert_allclose(names["h_new"], v["h'"], atol=1e-5)
    if "C_new" in names:
        np.testing.assert_allclose(names["C_new"], v["c'"], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_drawings_fit_into_a_narrow_terminal(cell: str) -> None:
    """A drawing has at most 12 lines of 40 cells, in ASCII, from x and h to h', with all gates of the cell."""
    drawing = describe_cell(ModelSpec(cell, 65, 64, 512, 1)).drawing
    assert drawing.isascii()
    assert len(drawing.split("\n")) <= 12
    assert max(map(len, drawing.split("\n"))) <= 40
    for letter in {"h'", "x", *(f"{part[0]}'" for part in CELLS[cell].state), *CELLS[cell].letters.values()}:
        assert re.search(rf"(?<![\w_]){re.escape(letter)}(?![\w_(])", drawing), letter


@pytest.mark.parametrize("sizes", [(64, 512, 1, 65), (0, 7, 1, 3), (0, 5, 3, 10), (8, 24, 2, 300)], ids=str)
@pytest.mark.parametrize("cell", EQUATIONS)
def test_the_formulas_count_as_torch_does(cell: str, sizes: tuple[int, int, int, int]) -> None:
    """Each formula with its letters, with its sizes and as a number is the count of torch, for each part."""
    embedding, hidden, layers, symbols = sizes
    settings = {"cell": cell, "embedding_size": embedding, "hidden_size": hidden, "num_layers": layers}
    for others in ({}, {"direction": "backward"}, {"direction": "both", "initial_state": "learned"}):
        module = CharModel(ModelSpec.of_settings(settings | others, symbols))
        counts = parameter_counts(module.spec)
        letters = {"V": symbols, "E": embedding, "H": hidden, "L": layers}
        for count in counts:
            product = re.sub(r"(?<=[\w)]) (?=[\w(])", "*", count.formula)
            assert eval(product, dict(letters)) == eval(count.sizes) == count.number
        totals = {count.part: count.number for count in counts}
        numbers = [sum(p.numel() for p in layer.parameters()) for layer in module.all_layers]
        per_stack = [numbers[index::layers] for index in range(layers)]
        assert totals["layer 1"] == sum(per_stack[0])
        assert sum(totals.values()) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_the_lines_of_a_drawing_meet(cell: str) -> None:
    """Above and below each vertical line and arrow there is something, and no line is wider than 40 cells."""
    rows = describe_cell(ModelSpec(cell, 65, 64, 512, 1)).drawing.split("\n")
    width = max(map(len, rows))
    assert width <= 40
    # The space inside an expression or between two words is no gap.
    rows = ["-" * width, *(re.sub(r"(?<=\S) (?=\S)", "_", row).ljust(width) for row in rows), "-" * width]
    for above, row, below in zip(rows, rows[1:], rows[2:], strict=False):
        for place, sign in enumerate(row):
            if sign in "|^v":
                assert " " not in (above[place], below[place]), (row, place)


def test_fast_kernels_are_the_reason_only_where_there_are_some() -> None:
    """PyTorch and cuDNN have the cells `rnn`, `rnn-relu`, `lstm` and `gru`."""
    with_kernels = {name for name in CELLS if "cuDNN" in describe_cell(ModelSpec(name, 65, 64, 512, 1)).biases}
    assert with_kernels == {"rnn", "rnn-relu", "lstm", "gru"}


def test_two_biases_are_explained() -> None:
    """A cell with two biases for each gate says why, and a cell with one says so."""
    for name, cell in CELLS.items():
        biases = describe_cell(ModelSpec(name, 65, 64, 512, 1)).biases
        assert ("two biases" in biases, "one bias" in biases) == (bool(cell.products), not cell.products)
