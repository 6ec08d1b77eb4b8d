"""`charlm explain` with a text: which step, layer and unit it writes out, as text, as JSON, and on a walk."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.cells import cell_len

from charlm.cells import CELLS
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.explain_step import head_lines, step_lines, tail_lines
from charlm.cli.explain_walk import Walk, key_bindings, walk
from charlm.cli.layout import kept_together
from charlm.errors import ModelFileError
from charlm.inference.explanation import Explanation
from charlm.inference.kneser_ney import count, smooth, trie
from charlm.inference.mixture import Mixture
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, call
from tests.helpers.terminal import on_a_terminal

Make = Callable[..., ModelFile]


@pytest.fixture
def deep(make_model: Make) -> Explanation:
    """A model of two layers in both directions, saved as `deep.safetensors`, which reads a text."""
    file = make_model("gru", 2, direction="both")
    file.save(Path("deep.safetensors"))
    return Explanation(file, "bad cab")


DEEP = ["explain", "--model", "deep.safetensors", "--text", "bad cab"]


@pytest.mark.usefixtures("deep")
def test_a_text_is_followed_from_embedding_to_prediction(deep: Explanation) -> None:
    """The embedding, each layer in each direction, the logits and the most probable character are there in order."""
    shown = call(*DEEP).stdout
    step = deep.step()
    titles = ["step 7 of 7", "embedding: ", "layer 1 from the left, ", "layer 2 from the left, "]
    titles += [
        "layer 1 from the right, ",
        "layer 2 from the right, ",
        "logits: ",
        "softmax: ",
        "predicted between 'b' and ",
    ]
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)
    best = step.scores[0]
    assert f"the end of the text: {best.name}, with {best.probability:.2%}" in shown
    for layer in step.layers:
        for equation, steps in layer.arithmetic(layer.largest_unit):
            assert f"  {equation}\n" in shown
            assert all(text in " ".join(shown.split()) for text in steps)


@pytest.mark.usefixtures("deep")
def test_step_layer_and_unit_are_those_that_are_asked_for(deep: Explanation) -> None:
    """One step, one layer and one unit are written out; of the other layers there is a line."""
    shown = call(*DEEP, "--step", "2", "--layer", "1", "--unit", "3").stdout
    layer = deep.step(2).layers[0]
    assert "step 2 of 7: after 'b' it reads 'a'" in shown
    assert "layer 1 from the left, unit 3 of 0 to 11" in shown
    assert f"hidden h = {layer.new_state['hidden'][3]:+.6f}" in shown
    assert f"{layer.values['r'][3]:.1%} of R_n(h) is used" in shown
    assert shown.count("h' = (1 - z) * n + z * h") == 2
    assert "layer 2 from the left: unit" in shown
    values = answer(*DEEP, "--step", "2", "--layer", "1", "--unit", "3", "--json")
    assert (values["step"]["layer"], values["step"]["unit"]) == (1, 3)
    assert [(found["stack"], found["layer"]) for found in values["steps"][0]["layers"]] == [
        ("layers", 1), ("backward_layers", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["1.3", "right.1.3", "right.2.11"])
def test_a_unit_may_be_named_with_its_layer(deep: Explanation, name: str) -> None:
    """As `inspect` names it: that layer alone is written out, also in JSON, and a walk begins there."""
    direction = "right" if name.startswith("right") else "left"
    layer, unit = map(int, name.removeprefix("right.").split("."))
    shown = call(*DEEP, "--step", "2", "--unit", name).stdout
    assert re.findall(r"^layer .*, unit .*", shown, re.MULTILINE) == [
        f"layer {layer} from the {direction}, unit {unit} of 0 to 11"
    ]
    assert shown.count(" has the largest absolute output, ") == 3
    values = answer(*DEEP, "--step", "2", "--unit", name, "--json")
    (of_step,) = [found for found in deep.step(2).layers if str(found.layer) == f"{name.rpartition('.')[0]}"]
    found = values["step"]
    assert (found["stack"], found["layer"], found["unit"]) == (of_step.layer.stack, layer, unit)
    assert values["step"]["new_state"] == {"hidden": float(of_step.values["h'"][unit])}
    assert values["steps"][0]["layers"] == [of_step.to_json()]
    assert [found["layer"] for found in answer(*DEEP, "--layer", "right.2", "--json")["steps"][0]["layers"]] == [2]
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        terminal.send_text("q")
        walk(deep, of_step.layer, unit)


def test_of_a_long_text_only_what_is_near_is_shown(make_model: Make) -> None:
    """What a layer read before a step is cut to its nearest characters, on the side where the layer reads."""
    text = "bad cab\n" * 20
    for direction in ("forward", "backward"):
        make_model(direction=direction).save(Path("long.safetensors"))
        shown = call("explain", "--model", "long.safetensors", "--text", f"{text}dab{text}", "--step", "100").stdout
        (line,) = [line for line in shown.splitlines() if line.startswith("step 100 of 323")]
        assert len(line) < 140
        before = re.search("after '(.*)' it reads", line)
        assert before is not None
        assert before[1].startswith("...") if direction == "forward" else before[1].endswith("...")


def test_a_model_of_bytes_reads_and_predicts_bytes(make_model: Make) -> None:
    """They are not called characters."""
    file = make_model(symbols=Vocabulary.of_bytes())
    file.save(Path("bytes.safetensors"))
    shown = call("explain", "--model", "bytes.safetensors", "--text", "\u72d0").stdout
    assert "for each of the 256 bytes" in shown
    assert re.search(r"^byte +row \* h'", shown, re.MULTILINE)
    assert "byte 2 of 3: reads byte 0x8b" in "\n".join(Walk(Explanation(file, "\u72d0"), 2).lines(80))


@pytest.mark.usefixtures("deep")
def test_a_text_may_come_from_standard_input() -> None:
    """A dash stands for it, as in other commands, and its last line end is no part of it."""
    from_pipe = answer(*DEEP[:-1], "-", "--json", stdin="bad cab\n")
    assert from_pipe == answer(*DEEP, "--json")


@pytest.mark.usefixtures("deep")
def test_json_has_all_steps_units_and_gates(deep: Explanation) -> None:
    """Every number of every step is there, the start of the text first; with `--step` only that step."""
    values = answer(*DEEP, "--json")
    assert values["read"] == "bad cab"
    assert [step["step"] for step in values["steps"]] == list(range(8))
    assert answer(*DEEP, "--json", "--step", "through")["steps"] == values["steps"]
    assert answer(*DEEP, "--json", "--step", "5")["steps"] == values["steps"][5:6]
    for found, step in zip(values["steps"], deep.steps(), strict=True):
        assert found == step.to_json()
        for layer, expected in zip(found["layers"], step.layers, strict=True):
            assert layer["values"].keys() >= {"u_n", "R_n(h)", "r * R_n(h)", "1 - z", "z * h", "h'"}
            assert {len(array) for array in layer["values"].values()} == {12}
            assert list(layer["gates"]) == ["reset", "update"]
            np.testing.assert_array_equal(np.float32(layer["gates"]["reset"]), expected.values["r"])
            np.testing.assert_array_equal(np.float32(layer["candidate"]), expected.values["n"])


@pytest.mark.usefixtures("deep")
def test_through_prints_all_steps_off_a_terminal() -> None:
    """In a pipe, and on a dumb terminal, each step is printed, from the start of the text to its end."""
    shown = call(*DEEP, "--step", "through").stdout
    assert re.findall(r"^step (\d) of 7", shown, re.MULTILINE) == list("01234567")
    assert call(*DEEP, "--step", "Through").stdout == shown
    assert b"step 7 of 7" in on_a_terminal(*DEEP, "--step", "through", env={"TERM": "dumb"})


@pytest.mark.parametrize("cell", ["rnn", "rnn-relu"])
def test_an_rnn_is_not_said_to_have_gates(make_model: Make, cell: str) -> None:
    """Neither the text, nor the numbers, nor the JSON name a gate, except to say that there is none."""
    make_model(cell).save(Path("rnn.safetensors"))
    arguments = ["explain", "--model", "rnn.safetensors"]
    shown = call(*arguments).stdout + call(*arguments, "--text", "cab").stdout
    assert re.findall("gate", shown.replace("It has no gates", "").replace("so nothing decides", "")) == []
    values = answer(*arguments, "--text", "cab", "--json")
    assert values["step"]["gates"] == {}
    assert {str(layer["gates"]) for step in values["steps"] for layer in step["layers"]} == {"{}"}


def test_ngrams_beside_the_net_are_said_to_be_missing(make_model: Make) -> None:
    """The numbers are those of the net, and a line says so if the model has n-grams, too."""
    file = make_model()
    ids = file.vocabulary.encode("had a bad cab " * 20)
    without = call_text(file)
    num_symbols = len(file.vocabulary)
    levels = count([ids], num_symbols, 3)
    mixture = Mixture(trie(levels, smooth(levels, num_symbols), num_symbols), 0.5)
    mixed = call_text(replace(file, arrays=file.arrays | mixture.arrays()))
    assert "n-grams" not in without
    assert mixed.replace("\n" + mixed.splitlines()[-1], "") == without
    assert "the numbers of the net" in mixed.splitlines()[-1]
    assert answer("explain", "--model", "this.safetensors", "--text", "cab", "--json")["has_ngrams"] is True
    with_ngrams = Explanation(load_checkpoint(Path("this.safetensors")), "cab")
    assert any(line.startswith("predicted next by the net:") for line in Walk(with_ngrams, 1).lines(80))
    assert any(line.startswith("predicted next:") for line in Walk(Explanation(file, "cab"), 1).lines(80))


def call_text(file: ModelFile) -> str:
    """Save a model and return what is printed about a text."""
    file.save(Path("this.safetensors"))
    return call("explain", "--model", "this.safetensors", "--text", "cab").stdout


@pytest.mark.usefixtures("deep")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--step", "8"], "there is no step `8`"),
        (["--step", "-1"], "there is no step `-1`"),
        (["--step", "2.5"], "there is no step `2.5`"),
        (["--step", ""], "there is no step ``"),
        (["--step", "\u00b2"], "there is no step"),
        (["--step", "9" * 5000], "there is no step"),
        (["--step", "trough"], "there is no step `trough`"),
        (["--layer", "3"], "this model has no layer `3`"),
        (["--layer", "right.3"], "this model has no layer `right.3`"),
        (["--unit", "3.1"], "this model has no layer `3`"),
        (["--unit", "right.2.12"], "this model has no unit `right.2.12`"),
        (["--unit", "-1"], "`-1` is not a unit"),
        (["--unit", "left.1.1"], "this model has no layer `left.1`"),
        (["--unit", "\u00b2"], "is not a unit"),
        (["--unit", "1.5", "--layer", "1"], "exclude each other"),
        (["--unit", "12"], "this model has no unit 12"),
    ],
)
def test_a_step_layer_or_unit_that_is_not_there_is_refused(arguments: list[str], said: str) -> None:
    """One line and a hint that says which there are, also for JSON, of which then nothing is printed."""
    for others in ([], ["--json"]):
        result = call(*DEEP, *arguments, *others)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr
        assert "hint: " in result.stderr
        assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("option", [["--step", "1"], ["--layer", "1"], ["--unit", "0"]])
def test_a_step_needs_a_text(model: str, option: list[str]) -> None:
    """A step, layer or unit without a text is refused with a hint on `--text`, for a cell and for a model."""
    for arguments in (["gru"], ["--model", model], []):
        result = call("explain", *arguments, *option)
        assert result.exit_code == 2
        assert "`--text`" in result.stderr


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_fits_at_every_width(make_model: Make, cell: str) -> None:
    """From 40 columns on no line is longer than the terminal is wide, and the equations are whole."""
    explanation = Explanation(make_model(cell, 2, direction="both"), "abc abc abc abc abc abc abc")
    step = explanation.step()
    for width in (40, 41, 57, 80, 120):
        lines = head_lines(explanation, width) + step_lines(explanation, step, [], None, width)
        lines += tail_lines(explanation, width)
        assert max(map(cell_len, lines)) <= width
        for equation, _ in step.layers[0].arithmetic(0):
            assert any(line.strip() == equation for line in lines)


def test_items_stay_whole_where_they_fit() -> None:
    """An item that is too long for a line is broken before its signs of equality."""
    items = ["a = 1", "f * c = 0.806 * -3.563 = -2.872", "sum 3"]
    assert kept_together("  ", items, 80) == ["  a = 1, f * c = 0.806 * -3.563 = -2.872, sum 3"]
    assert kept_together("  ", items, 36) == ["  a = 1,", "    f * c = 0.806 * -3.563 = -2.872,", "    sum 3"]
    assert kept_together("  ", items, 24) == ["  a = 1, f * c", "    = 0.806 * -3.563", "    = -2.872, sum 3"]


def test_a_terminal_without_unicode_gets_a_tilde() -> None:
    """The combining tilde of the candidates becomes one of ASCII."""
    shown = on_a_terminal("explain", "gru", env={"PYTHONIOENCODING": "ascii"})
    assert b"h~ = tanh" in shown
    assert shown.isascii()
    assert "h\u0303 = tanh" in call("explain", "gru").stdout


# The walk


def press(state: Walk, *keys: str) -> None:
    """Press keys that move."""
    bindings = key_bindings(state)
    for key in keys:
        (binding,) = bindings.get_bindings_for_keys((key,))
        binding.handler(None)  # type: ignore[arg-type]


def test_arrow_keys_walk_over_characters_units_and_layers(deep: Explanation) -> None:
    """Left and right go over characters, up and down over units, Tab and Shift with an arrow over layers."""
    state = Walk(deep, 1)
    press(state, "right", "right")
    assert (state.number, state.step.number, state.unit) == (3, 3, None)
    press(state, "left", "left", "left", "left", "left")
    assert state.number == 0
    press(state, "end", "right")
    assert state.number == 7
    largest = state.step.layers[0].largest_unit
    press(state, "up")
    assert state.unit == max(0, largest - 1)
    press(state, *["down"] * 20)
    assert state.unit == 11
    assert "unit 11 of 0 to 11" in "\n".join(state.lines(80))
    press(state, "c-i", "c-i", "s-up")
    assert state.place == 3
    assert "layer 2 of 2 from the right" in "\n".join(state.lines(80))
    press(state, "c-i", "m")
    assert state.place == 0
    assert f"unit {state.step.layers[0].largest_unit} of" in " ".join(state.lines(80))
    press(state, "s-down", "home")
    assert (state.place, state.number) == (3, 0)


def test_the_walk_shows_the_arithmetic_of_its_place(deep: Explanation) -> None:
    """The lines have the equations with the numbers of the unit, and what is predicted."""
    state = Walk(deep, 4, 1, 5)
    shown = " ".join("\n".join(state.lines(80)).split())
    layer = deep.step(4).layers[1]
    for equation, steps in layer.arithmetic(5):
        assert equation in shown
        assert all(step in shown for step in steps)
    assert "character 4 of 7: reads space" in shown
    assert deep.step(4).scores[0].name in shown
    assert state.text(80) == ("bad", " ", "cab")


def test_the_text_of_a_walk_fits_around_its_character(make_model: Make) -> None:
    """In a long text the character stays in the line; at the start of the text there is a mark."""
    explanation = Explanation(make_model(), "bad cab\n" * 40)
    for number in (0, 1, 150, 319, 320):
        left, here, right = Walk(explanation, number).text(40)
        assert len(left + here + right) <= 40
        assert here == {0: "|", 320: "\\n"}.get(number, explanation.around(number)[1])
    assert len("".join(Walk(explanation, 160).text(40))) >= 38


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_walk_shows_predictions_at_every_width(make_model: Make, width: int) -> None:
    """The most probable character is there, however long the names of the characters around it are."""
    symbols = "ab\u0301\u202e\u20de"
    explanation = Explanation(make_model("gru", symbols=symbols, direction="both"), "a\u20de\u202eb\u0301\u20de")
    for number in range(7):
        state = Walk(explanation, number)
        best = state.step.scores[0]
        shown = state.lines(width)
        assert max(map(cell_len, shown)) <= max(width, 40)
        assert f"{best.name} {best.probability:.0%}" in " ".join(" ".join(shown).split())


def test_a_layer_from_the_right_says_what_it_reads(deep: Explanation) -> None:
    """Of a model of both sides it reads another character than the layers from the left."""
    assert "character 2 of 7: reads 'a' " in Walk(deep, 2, 0).lines(200)[0]
    assert "character 2 of 7: reads space from the right" in Walk(deep, 2, 3).lines(200)[0]


def test_numbers_that_overflow_end_the_walk_with_an_error(make_model: Make) -> None:
    """Going to a character where the weights of an untrusted file overflow is a `ModelFileError`."""
    file = make_model("rnn-relu")
    arrays = {name: np.full_like(array, 1e5) for name, array in file.arrays.items()}
    explanation = Explanation(replace(file, arrays=arrays), "abc" * 9)
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        terminal.send_text("\x1b[C" * 20)
        with pytest.raises(ModelFileError, match="overflows"):
            walk(explanation, None, None)


@pytest.mark.parametrize("keys", ["q", "\x03", "\x04", "\x1b[C\x1b[B\tq"])
def test_the_walk_ends_with_a_key(deep: Explanation, keys: str) -> None:
    """`q`, Ctrl-C and Ctrl-D leave the walk."""
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        terminal.send_text(keys)
        walk(deep, None, None)
