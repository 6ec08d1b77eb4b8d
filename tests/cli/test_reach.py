"""`charlm reach`: one table of one model, models side by side, and refusals in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import charlm
from charlm.checkpoint import ModelFile
from charlm.cli.reach import Reach, names_of, reach_lines
from charlm.evaluation.gradient import GradientSize, gradient_by_distance
from charlm.inference.reach import ChangeEffect, ContextLoss
from tests.helpers.commands import ONE_STEP, answer, assert_refused, call
from tests.helpers.terminal import on_a_terminal

Make = Callable[..., ModelFile]
TEXT = "abba had a cab\nbad head gab\n" * 8
CONTEXTS = [1, 2, 4, 8, 16, 32, 64, None]


@pytest.fixture(autouse=True)
def files(make_model: Make) -> None:
    """A text, and models of several cells and directions."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    for name in ("lstm", "gru", "rnn"):
        make_model(name).save(Path(name))
    make_model("lstm", 2).save(Path("deep"))
    make_model("gru", symbols="\n abcdefghZ").save(Path("other"))
    for direction in ("backward", "both"):
        make_model(direction=direction).save(Path(direction))


def figures(bits: list[float], ngrams: bool, gradient: bool, file: ModelFile, name: str = "run") -> Reach:
    """Make results with these bits of the net."""
    contexts = [*(1 << power for power in range(len(bits) - 1)), None]
    losses = [
        ContextLoss(context, b - 0.25, b, 128) if ngrams else ContextLoss(context, b, None, 128)
        for context, b in zip(contexts, bits, strict=True)
    ]
    changes = [ChangeEffect(1, 4.5, 5.25 if ngrams else None, 1.0, 128), ChangeEffect(2, 2.0, 2.5, 0.5, 128)]
    sizes = [GradientSize(1, 3.0, 1.0), GradientSize(2, 1.5, 0.5), GradientSize(4, 0.375, 0.125)]
    return Reach(name, file, losses, changes, sizes if gradient else None)


def test_the_figures_are_those_of_the_methods() -> None:
    """JSON has what `charlm.load` gives, and the gradient of `gradient_by_distance`."""
    found = answer("reach", "lstm", "-c", "text.txt", "--targets", "20", "--seed", "3", "--gradient", "--json")
    model = charlm.load("lstm")
    (one,) = found["models"]
    assert (found["corpus"], found["unit"], found["seed"]) == ("text.txt", "character", 3)
    assert one["contexts"] == [row.to_json() for row in model.loss_by_context(TEXT, num_targets=20)]
    assert [row["context"] for row in one["contexts"]] == CONTEXTS
    assert one["changes"] == [row.to_json() for row in model.change_effect(TEXT, num_changes=20, seed=3)]
    sizes = gradient_by_distance(model._file, [model.vocabulary.encode(TEXT)])
    assert one["gradient"] == [row.to_json() for row in sizes]
    assert one["gradient_factor_per_step"] == pytest.approx(sizes[-1].relative ** (1 / (sizes[-1].distance - 1)))
    assert (one["cell"], one["num_layers"], one["hidden_size"]) == ("lstm", 1, 12)


def test_models_stand_side_by_side() -> None:
    """Each has a column under its cell, or under its number if two have one cell; arguments and options are alike."""
    common = ["-c", "text.txt", "--targets", "8"]
    three = call("reach", "lstm", "gru", "-m", "rnn", *common, "--gradient").stdout
    assert three.count("distance      lstm       gru       rnn\n") == 4
    assert call("reach", "-m", "lstm", "-m", "gru", "-m", "rnn", *common, "--gradient").stdout == three
    assert "distance         1         2\n" in call("reach", "lstm", "deep", *common).stdout
    alone = [answer("reach", name, *common, "--json")["models"][0] for name in ("lstm", "rnn")]
    assert answer("reach", "lstm", "rnn", *common, "--json")["models"] == alone


def test_the_text_may_come_from_standard_input() -> None:
    """It is read once for models of one vocabulary, and refused for models of several."""
    common = ["-c", "-", "--targets", "8", "--json"]
    found = answer("reach", "lstm", "gru", *common, stdin=TEXT)
    wanted = answer("reach", "lstm", "gru", "-c", "text.txt", "--targets", "8", "--json")
    assert found["models"] == wanted["models"]
    assert "standard input is read once" in assert_refused(call("reach", "lstm", "other", *common, stdin=TEXT))
    assert answer("reach", "lstm", "other", "-c", "text.txt", "--json")["models"][1]["cell"] == "gru"


def test_the_held_out_text_of_a_run_is_read(make_model: Make) -> None:
    """Without `--corpus` it is the validation part, as in `charlm eval`; runs of other texts are not comparable."""
    for number, text in ((1, TEXT * 30), (2, TEXT * 31)):
        Path(f"{number}.txt").write_text(text, encoding="utf-8")
        trained = call("train", "-c", f"{number}.txt", *ONE_STEP, "--out", f"run{number}", "--seed", "1")
        assert trained.exit_code == 0, trained.stderr
    own = answer("reach", "run1", "--targets", "4", "--context", "8", "--json")
    assert own["corpus"] == "validation part of 1.txt" == answer("eval", "-m", "run1", "--json")["corpus"]
    learned = answer("reach", "run1", "--part", "train", "--targets", "4", "--context", "8", "--json")
    assert (learned["corpus"], learned["models"] != own["models"]) == ("train part of 1.txt", True)
    result = call("reach", "run1", "run2", "--targets", "4", "--context", "8")
    assert "do not read the same characters" in assert_refused(result)
    assert "`--corpus FILE` names it" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["both", "-c", "text.txt"], 2, "reads from both sides"),
        (["lstm", "backward", "-c", "text.txt"], 2, "do not read the same characters in the same order"),
        (["text.txt"], 1, "`text.txt` is not a charlm model file"),
        (["lstm", "text.txt"], 2, "`text.txt` is a text"),
        (["missing", "-c", "text.txt"], 1, "missing"),
        (["Once upon a time"], 1, "`Once upon a time`"),
        (["other", "lstm", "-c", "z.txt"], 1, "not in the model's vocabulary"),
        (["lstm", "-c", "one.txt"], 2, "too short: it has 1 character"),
        (["lstm", "-c", "text.txt", "--targets", "0"], 2, "`--targets`"),
        (["lstm", "--encoding", "utf-8"], 2, "`--encoding` is for `--corpus`"),
        (["lstm"], 2, "no longer what it was"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], code: int, said: str) -> None:
    """A mistake is one line with a hint, and nothing is printed."""
    Path("z.txt").write_text("abcZabcZ", encoding="utf-8")
    Path("one.txt").write_text("a", encoding="utf-8")
    result = call("reach", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in assert_refused(result)
    assert "hint: " in result.stderr


def test_a_text_in_place_of_a_model_has_its_option() -> None:
    """The hint is the option that reads it."""
    assert "`--corpus text.txt`" in call("reach", "text.txt").stderr
    assert "`--corpus -`" in call("reach", "Once upon a time").stderr


def test_a_short_context_hides_no_change() -> None:
    """The table has a row for each distance that any of the figures has."""
    shown = call("reach", "lstm", "-c", "text.txt", "--targets", "4", "--context", "2").stdout
    rows = [line.split() for line in shown.splitlines() if line[:8].strip() and not line[:1].strip()]
    distances = [row["distance"] for row in answer("reach", "lstm", "-c", "text.txt", "--json")["models"][0]["changes"]]
    assert [row[0] for row in rows] == [*map(str, distances), "all"]
    assert [len(row) for row in rows] == [5, 5, *[3] * (len(distances) - 2), 3]


def test_only_the_figures_of_the_table_are_explained(make_model: Make) -> None:
    """A terminal that is too narrow for a column has no line about it."""
    found = figures([4.0, 3.0, 2.5], True, False, make_model())
    for width, explained in ((80, ["bits", "its net", "change", "state"]), (36, ["bits", "its net", "change"])):
        lines = reach_lines([found], "a text", width)
        names = [line.partition(":")[0] for line in lines if re.match(r"(bits|its net|change|state|gradient):", line)]
        assert names == explained


def test_a_backward_model_sees_what_comes_after(make_model: Make) -> None:
    """Its table says so."""
    assert "distances in characters after each" in call("reach", "backward", "-c", "text.txt").stdout
    assert "distances in characters before each" in call("reach", "lstm", "-c", "text.txt").stdout


def test_the_reach_is_the_shortest_context_near_the_best(make_model: Make) -> None:
    """It is the net's, within 0.05 bits of every longer one, and the gradient falls by the mean factor of a step."""
    found = figures([4.0, 3.0, 2.54, 2.51, 2.5, 2.4], True, True, make_model())
    assert found.reach == 4
    assert found.step_factor == pytest.approx(0.5)
    assert figures([4.0, 3.0, 2.54, 2.4, 2.5, 2.6], True, True, make_model()).reach == 8
    text = "\n".join(reach_lines([found], "a text", None))
    assert "contexts longer than 4 gain the net less than 0.05 bits" in text
    assert "a step multiplies the gradient by 0.500 on average" in text
    assert "distance    bits  its net                    change   state  gradient" in text
    assert "       2  2.7500   3.0000  ████████████      2.5000   50.0%    0.5000\n" in text


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("number", [1, 3])
def test_no_line_is_wider_than_the_terminal(make_model: Make, width: int, number: int) -> None:
    """Columns are dropped and sentences wrapped, and the bits stay."""
    cells = ("lstm", "gru-reset-before", "lstm-peephole")[:number]
    models: list[Any] = [figures([4.0, 3.0, 2.5], True, True, make_model(cell), f"runs/{cell}-1") for cell in cells]
    lines = reach_lines(models, "validation part of a text with a long name", width)
    assert max(map(cell_len, lines)) <= width
    assert names_of(models, width) == (list(cells) if width > 40 or number == 1 else ["1", "2", "3"])
    assert any("2.5000" in line for line in lines)


def test_a_terminal_without_block_characters_has_plain_bars() -> None:
    """In an ASCII locale the bars are number signs."""
    shown = on_a_terminal(
        "reach", "lstm", "-c", "text.txt", "--targets", "4", env={"PYTHONIOENCODING": "ascii", "TERM": "dumb"}
    )
    assert b"####" in shown
    assert b"\x1b" not in shown
