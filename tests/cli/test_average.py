"""`charlm average`: the table, the file, what is said about it, and what is refused before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.average import verdict
from charlm.evaluation.average import Measured, Measurement
from tests.helpers.commands import SMALL, answer, assert_refused, call

Make = Callable[..., ModelFile]


@pytest.fixture
def run(text: str) -> Path:
    """A short run that kept three models."""
    steps = ["--set", "train.steps=6", "--set", "train.keep_every=2", "--set", "train.evaluations=1"]
    done = call("train", "-c", text, *SMALL, *steps, "--out", "run", "--sample-length", "0")
    assert done.exit_code == 0, done.stderr
    return Path("run")


def test_the_models_of_a_run_are_averaged_and_measured(run: Path) -> None:
    """The folder of kept models stands for all of them; the new run folder is a model like any other."""
    result = call("average", "run/kept")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[2:]]
    assert {row[-1] for row in rows} == {"average", *(f"run/kept/step-0000000{step}.safetensors" for step in (2, 4, 6))}
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)
    *_, last, following = result.stderr.splitlines()
    assert last == "model runs/average-1/best.safetensors, the average of 3 models"
    assert following == "more of it: charlm sample --model runs/average-1"
    (own,) = (float(row[0]) for row in rows if row[-1] == "average")
    assert answer("eval", "-m", "runs/average-1", "--json")["bits_per_character"] == pytest.approx(own, abs=1e-4)
    assert call("sample", "-n", "5", "--seed", "1").exit_code == 0
    (row,) = answer("compare", "runs/average-1", "--json")["rows"]
    assert row["best"] == pytest.approx(own, abs=1e-4)


def test_a_run_that_kept_too_few_models_is_named(run: Path) -> None:
    """Whether the run or its folder of kept models is given, the hint says how a run keeps some, or where they are."""
    assert "hint: `charlm average run/kept` averages" in call("average", "run").stderr
    for number, file in enumerate(sorted(Path("run/kept").iterdir())):
        file.unlink()
        if number == 1:
            assert "run `run` kept only one" in assert_refused(call("average", "run/kept"))
    before = [(path, "kept no") for path in ("run/kept", "run/kept/")]
    for path, said in [*before, ("run", "kept none"), ("run/last.safetensors", "kept none")]:
        result = call("average", path)
        assert f"the run `run` {said}" in assert_refused(result)
        assert "hint: `charlm train --set train.keep_every=" in result.stderr
    Path("run/kept").rmdir()
    assert assert_refused(call("average", "run/kept")) == "error: the run `run` kept no models"


def test_globs_weights_and_a_file_as_json(run: Path) -> None:
    """The file is written where it is asked for, and JSON names the models with their shares."""
    found = answer("average", "run/kept/step-*[24].safetensors", "--weights", "1,3", "-o", "mean.safetensors", "--json")
    file = load_checkpoint(Path("mean.safetensors"))
    assert found["averaged"] == file.metrics["averaged"]
    assert [member["weight"] for member in found["averaged"]] == [0.25, 0.75]
    assert found["measured"]["average"]["bits_per_character"] == file.metrics["validation_bits_per_character"]
    assert [model["model"] for model in found["measured"]["models"]] == [row["model"] for row in found["averaged"]]


def test_without_its_text_an_average_is_made_unmeasured(make_model: Make) -> None:
    """A note gives the reason; models of both sides are averaged, too."""
    for number in (1, 2):
        make_model(seed=number, direction="both").save(Path(f"m{number}.safetensors"))
    result = call("average", "m1.safetensors", "m2.safetensors", "--out", "mean")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "note: nothing is measured: " in result.stderr
    assert "charlm sample" not in result.stderr
    assert load_checkpoint(Path("mean/best.safetensors")).spec.sees_both_sides
    compared = call("compare", "mean").stderr
    assert "did not finish" not in compared
    assert "kept on the way" not in compared
    assert answer("average", "m1.safetensors", "m2.safetensors", "--json")["measured"] is None


@pytest.mark.parametrize(
    ("average", "said"),
    [
        (1.75, "the average needs 0.2500 bits per character fewer than the best, `b`"),
        (2.0, "the average is as good as the best, `b`"),
        (2.25, "warning: the average needs 0.2500 bits per character more than `b`"),
        (4.5, "models that were trained apart have no useful average"),
    ],
)
def test_a_worse_average_is_warned_of(average: float, said: str) -> None:
    """It is compared with the best of its models."""
    members = [Measured("a", 2.1, 2.1), Measured("b", 2.0, 2.0)]
    text = verdict(Measurement("text", 9, 9, Measured("average", average, average), members), "character")
    assert said in text
    assert text.startswith("warning: ") == (average > 2)


def test_beside_n_grams_the_nets_are_compared() -> None:
    """The n-grams are not averaged, and the sentence says whose figures it has."""
    members = [Measured("a", 1.5, 2.1), Measured("b", 1.6, 2.0)]
    text = verdict(Measurement("text", 9, 9, Measured("average", 1.5, 1.75), members), "character")
    assert text == "the net of the average needs 0.2500 bits per character fewer than the net of the best, `b`"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.safetensors"], "at least two models"),
        (["a.safetensors", "a.safetensors"], "given twice"),
        (["a.safetensors", "c.safetensors"], "model.hidden_size 12, and `c.safetensors` has 9"),
        (["a.safetensors", "nowhere"], "`nowhere`"),
        (["a.safetensors", "no*where"], "no model matches `no*where`"),
        (["a.safetensors", "b.safetensors", "--weights", "1;2"], "not a list of numbers"),
        (["a.safetensors", "b.safetensors", "--weights", "1"], "1 weight for 2 models"),
        (["a.safetensors", "b.safetensors", "-o", "c.safetensors"], "`c.safetensors` is there already"),
        (["a.safetensors", "b.safetensors", "-o", "folder"], "`folder` is there already"),
        (["a.safetensors", "b.safetensors", "-o", "link.safetensors"], "`link.safetensors` is there already"),
        (["a.safetensors", "b.safetensors", "-o", "none/x.safetensors"], "no folder `none`"),
        ([], "needs MODELS"),
    ],
)
def test_what_cannot_be_averaged_is_refused(make_model: Make, arguments: list[str], message: str) -> None:
    """In one line, and nothing is written."""
    make_model().save(Path("a.safetensors"))
    make_model(seed=1).save(Path("b.safetensors"))
    make_model(hidden_size=9).save(Path("c.safetensors"))
    Path("folder").mkdir()
    Path("link.safetensors").symlink_to("nowhere")
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    assert message in assert_refused(call("average", *arguments))
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before


def test_names_obey_no_terminal(make_model: Make) -> None:
    """A name with an escape sequence is shown in one line."""
    Path("x\x1b[2J").mkdir()
    make_model().save(Path("x\x1b[2J/best.safetensors"))
    make_model("gru").save(Path("y.safetensors"))
    result = call("average", "x\x1b[2J", "y.safetensors")
    assert "\x1b" not in assert_refused(result)
    assert result.stdout == ""
