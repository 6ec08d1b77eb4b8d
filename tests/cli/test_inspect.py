"""`charlm inspect`: coloured text, strips and tables of units, whose numbers are those of the library."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.cli import inspect as command
from charlm.cli.inspect_text import strip_lines
from charlm.cli.shades import Style, shaded_lines
from charlm.data.corpus import load_corpus
from charlm.inference.activations import rows_of_characters
from charlm.inference.language_model import LanguageModel
from charlm.ramps import DIVERGING
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, assert_refused, call
from tests.helpers.terminal import on_a_terminal

Make = Callable[..., ModelFile]
TEXT = "had a bad cab\nbad "


def test_a_text_is_coloured_by_one_unit(model: str, make_model: Make) -> None:
    """Marks beneath the text are those of the tanh of the cell, of a gate as it is."""
    (layer,) = LanguageModel(make_model()).activations(TEXT)
    hidden, cell = layer.parts["hidden"][:, 3], np.tanh(layer.parts["cell"][:, 3])
    for options, values_T in (([], cell), (["--gate", "hidden"], hidden)):
        shown = call("inspect", TEXT, "-m", model, "--unit", "1.3", *options).stdout
        expected = shaded_lines(list(zip(TEXT, values_T.tolist(), strict=True)), None, Style(DIVERGING, 0))
        assert "\n".join(expected) in shown
    values = answer("inspect", TEXT, "-m", model, "--unit", "1.3", "--json")
    assert values == {
        "unit": "1.3",
        "text": TEXT,
        "values": {part: array[:, 3].tolist() for part, array in layer.parts.items()},
    }
    one = answer("inspect", TEXT, "-m", model, "--unit", "1.3", "--gate", "forget", "--json")
    assert one["values"] == {"forget": layer.parts["forget"][:, 3].tolist()}


def test_every_gate_of_a_unit_is_a_strip(model: str) -> None:
    """Below the coloured text there is a row for each part of the state, each gate and the candidate."""
    shown = call("inspect", TEXT, "-m", model, "--unit", "1.3").stdout
    names = re.findall(r"^(hidden|cell|input|forget|output|candidate) {2,}", shown, re.MULTILINE)
    assert names == ["hidden", "cell", "input", "forget", "output", "candidate"]
    assert "gates" not in call("inspect", TEXT, "-m", model, "--unit", "1.3", "--gate", "forget").stdout


def test_a_text_that_is_the_name_of_a_file_is_read_with_a_note(model: str) -> None:
    """The note has the command that reads the file."""
    Path("cab bed").write_text("a")
    result = call("inspect", "cab bed", "-m", model)
    assert result.exit_code == 0
    assert "note: `cab bed` is read as a text; `charlm inspect - < 'cab bed'` reads the file\n" in result.stderr
    assert "note" not in call("inspect", "cab bad", "-m", model).stderr


@pytest.mark.parametrize(
    ("cell", "share"),
    [
        ("lstm", "a share of its state, the value of its forget gate."),
        ("minlstm", "a share of its state, the value of its forget gate."),
        ("gru", "a share of its state, the value of its update gate."),
        ("mingru", "a share of its state, 1 minus its update gate."),
    ],
)
def test_a_time_constant_is_explained_by_the_gate_of_the_cell(make_model: Make, cell: str, share: str) -> None:
    """The table says which gate keeps the state."""
    make_model(cell).save(Path(cell))
    assert share in call("inspect", TEXT, "-m", cell).stdout


def test_units_that_vary_most_are_strips(model: str, make_model: Make) -> None:
    """As many as asked for, the one that varies most first, and the statistics are those of the library."""
    loaded = LanguageModel(make_model())
    (layer,) = loaded.activations(TEXT)
    order = np.argsort(-np.tanh(layer.parts["cell"]).std(axis=0))[:3].tolist()
    values = answer("inspect", TEXT, "-m", model, "--units", "3", "--json")
    assert values["units"] == {f"1.{unit}": layer.parts["cell"][:, unit].tolist() for unit in order}
    expected = loaded.gate_statistics(TEXT).to_json()
    assert values["saturation"] == expected["saturation"]
    assert values["memory"] == [row | {"quartiles": list(row["quartiles"])} for row in expected["memory"]]
    lines = call("inspect", TEXT, "-m", model, "--units", "3").stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("1.")] == [f"1.{unit}" for unit in order]
    assert any(line.split()[:2] == ["1", "forget"] for line in lines)


def test_an_rnn_is_shown_without_a_word_about_gates(make_model: Make) -> None:
    """Neither strips nor tables name what an RNN does not have."""
    make_model("rnn").save(Path("rnn.safetensors"))
    for options in ([], ["--unit", "1.2"]):
        result = call("inspect", TEXT, "-m", "rnn.safetensors", *options)
        assert "gate" not in result.stdout
        assert "remember" not in result.stdout
    assert "no `forget`" in assert_refused(call("inspect", TEXT, "-m", "rnn.safetensors", "--gate", "forget"))


def test_units_are_found_in_a_given_text(model: str, make_model: Make) -> None:
    """The table and the JSON have the figures of the library, and a stretch of the second half is coloured."""
    text = "".join(np.random.default_rng(1).choice(list("\n abcdefgh"), 600))
    search = LanguageModel(make_model()).find_units(text, {"b or c": "[bc]"})
    values = answer("inspect", "-", "-m", model, "--hypothesis", "b or c=[bc]", "--json", stdin=text)
    assert values == {"text": "the text", **search.to_json()}
    best = search.findings[-1].followers[0]
    shown = call("inspect", "-", "-m", model, "--find", "--hypothesis", "b or c=[bc]", stdin=text).stdout
    row = next(line for line in shown.splitlines() if line.startswith("b or c ")).split()
    assert row[3:6] == [f"{best.figure:.3f}", str(best.unit), best.part]
    assert "digit (0 and 0)" in shown
    only = answer("inspect", "-", "-m", model, "--find", "--gate", "forget", "--json", stdin=text)["findings"]
    assert {unit["part"] for finding in only for unit in finding["units"]} == {"forget"}


def test_without_a_text_the_own_held_out_text_is_read(text: str, make_model: Make) -> None:
    """The validation part of the corpus, if it can be found; otherwise the error says how to give a text."""
    corpus = load_corpus([text])
    learned = make_model(symbols=corpus.vocabulary)
    facts = {"name": "hare", "sha256": corpus.sha256, "characters": len(corpus.ids), "bytes": len(corpus.ids)}
    data = {"corpus": [text], "holdout": "end", "validation_fraction": 0.25, "test_fraction": 0.0}
    learned = replace(learned, config=learned.config | {"data": data}, corpus=facts)
    learned.save(Path("learned.safetensors"))
    values = answer("inspect", "-m", "learned.safetensors", "--find", "--json")
    num_held_out = len(corpus.ids) // 4
    assert values["text"] == f"{num_held_out} characters of the validation part of hare.txt"
    own = LanguageModel(learned).find_units(Path(text).read_text(encoding="utf-8")[-num_held_out:])
    assert values == {"text": values["text"], **own.to_json()}
    assert f"text {values['text']}\n" in call("inspect", "-m", "learned.safetensors").stderr
    Path(text).unlink()
    result = call("inspect", "-m", "learned.safetensors", "--find")
    assert "held-out text cannot be read" in assert_refused(result)
    assert "charlm inspect - < FILE" in result.stderr


def test_a_long_text_is_cut_with_a_note(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not read is reported."""
    monkeypatch.setattr(command, "MOST_SYMBOLS", 10)
    result = call("inspect", TEXT, "-m", model, "--unit", "1.0", "--json")
    assert "only the first 10 of 18 characters" in result.stderr
    assert answer("inspect", TEXT, "-m", model, "--unit", "1.0", "--json")["text"] == TEXT[:10]


def test_a_model_of_both_sides_has_layers_from_the_right(make_model: Make) -> None:
    """A name with `right` means the layers that read from right to left."""
    both = make_model("gru", 2, direction="both")
    both.save(Path("both.safetensors"))
    layer = LanguageModel(both).activations(TEXT)[3]
    values = answer("inspect", TEXT, "-m", "both.safetensors", "--unit", "right.2.5", "--json")
    assert values["values"]["update"] == layer.parts["update"][:, 5].tolist()
    values = answer("inspect", TEXT, "-m", "both.safetensors", "--layer", "right.2", "--units", "1", "--json")
    assert next(iter(values["units"])).startswith("right.2.")


def test_a_character_of_several_bytes_has_one_shade(make_model: Make) -> None:
    """It is the value after its last byte, or for a layer from the right after its first byte."""
    assert rows_of_characters([1, 3, 2], reads_backward=False) == [0, 3, 5]
    assert rows_of_characters([1, 3, 2], reads_backward=True) == [0, 1, 4]
    make_model(symbols=Vocabulary.of_bytes()).save(Path("bytes.safetensors"))
    assert "狐é" in call("inspect", "狐é", "-m", "bytes.safetensors", "--unit", "1.0").stdout


def test_strips_stand_beneath_their_characters() -> None:
    """A wide character has two marks, and a line is broken where the screen ends."""
    values = [-1.0, 0.0, 1.0, 1.0]
    lines = strip_lines("ab狐c", [("1.0", values, -1)], 10)
    assert lines == ["", "     ab狐c", "1.0  e EEE"]
    lines = strip_lines("a" * 9, [("1.0", [1.0] * 9, -1)], 13)
    assert lines == ["", "     " + "a" * 8, "1.0  " + "E" * 8, "", "     a", "1.0  E"]


def test_a_terminal_has_colours_and_no_line_is_too_long(model: str) -> None:
    """On a terminal the text is coloured; where colours are not wanted there are marks."""
    shown = on_a_terminal("inspect", TEXT, "-m", model, "--unit", "1.3", env={"NO_COLOR": ""}).decode()
    assert "\x1b[" in shown
    plain = on_a_terminal("inspect", TEXT, "-m", model, env={"NO_COLOR": "1", "COLUMNS": "40"}).decode()
    assert "\x1b" not in plain
    assert max(len(line.rstrip("\r")) for line in plain.split("\n")) <= 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--unit", "3"], "not a unit"),
        (["--unit", "1.12"], "no unit"),
        (["--unit", "right.1.0"], "no layer"),
        (["--layer", "2"], "no layer `2`"),
        (["--gate", "forgt"], "no `forgt`"),
        (["--find"], "too short"),
        (["--find", "--unit", "1.1"], "exclude"),
        (["--layer", "1", "--unit", "1.1"], "exclude"),
        (["--find", "--units", "3"], "strips"),
        (["--hypothesis", "vowel"], "not a hypothesis"),
        (["--hypothesis", "x=("], "not a regular expression"),
        (["--hypothesis", "digit=1"], "built-in"),
        (["--hypothesis", "x=1", "--hypothesis", "x=2"], "two hypotheses"),
        (["--hypothesis", "x=1", "--hypothesis", " x =2"], "two hypotheses"),
        (["--hypothesis", "x="], "`x` has no regular expression"),
        (["--hypothesis", " =x"], "needs a name"),
        (["--unknown", "no"], "not a policy"),
    ],
)
def test_inspect_reports_mistakes_in_one_line(model: str, options: list[str], said: str) -> None:
    """A mistake has one line, a hint that can be followed, and nothing on standard output."""
    result = call("inspect", "had Z" if "--unknown" in options else "had", "-m", model, *options)
    assert said in assert_refused(result)
    assert result.stdout == ""


def test_an_empty_text_is_refused(model: str) -> None:
    """There is nothing to read, and the error says so."""
    assert "no character" in assert_refused(call("inspect", "", "-m", model))
    assert "held-out text cannot be read" in assert_refused(call("inspect", "-m", model))
