"""`charlm train --family` trains cells at equal size, compares them, and loses no run to another one or to Ctrl-C."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from charlm.errors import TrainingError
from charlm.training.learner import Learner
from tests.helpers.commands import HARE_AND_FOX, SHORT, answer, answers, assert_refused, call


@pytest.fixture(autouse=True)
def text() -> None:
    """Write a text to train on."""
    Path("text.txt").write_text(HARE_AND_FOX)


GIVEN = ["--corpus", "text.txt", *SHORT, "--seed", "5"]


def test_a_family_ends_with_a_table_and_a_picture() -> None:
    """Each cell has a run of its own, a row, and a letter; the sizes are stated first."""
    result = call("train", "--family", "lstm, GRU,rnn", *GIVEN)
    assert result.exit_code == 0, result.stderr
    table, picture = result.stdout.split("```text\n")
    rows = [row for row in table.splitlines() if "text-" in row]
    assert sorted(row.split()[1] for row in rows) == [f"runs/text-{cell}-1" for cell in ("gru", "lstm", "rnn")]
    assert [line.split()[0] for line in picture.splitlines() if "text-" in line] == ["a", "b", "c"]
    first = result.stderr.splitlines()[0]
    assert first.startswith("cells at equal size, seed 5, parameters: lstm 1x24 with ")
    assert [part in result.stderr for part in ("1 of 3: lstm", "2 of 3: gru", "3 of 3: rnn")] == [True] * 3
    for cell in ("lstm", "gru", "rnn"):
        (row,) = (row for row in rows if f"| {cell} " in row)
        assert row.split("|")[3].strip() in first


def test_out_is_the_folder_of_the_runs() -> None:
    """`--out` names a folder in which each cell has a run folder; `--sample-length` shows a sample of each."""
    result = call("train", "--family", "rnn,mingru", *GIVEN, "--out", "both", "--sample-length", "7")
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in Path("both").iterdir()) == ["mingru", "rnn"]
    assert result.stderr.count("it writes, at temperature") == 2


def test_a_family_prints_the_comparison_as_json() -> None:
    """Standard output is that of `charlm compare --json`, in one line."""
    found = answer("train", "--family", "lstm,gru", *GIVEN, "--json", "--sample-length", "5")
    assert found == answer("compare", *(row["run"] for row in found["rows"]), "--json")
    assert {row["cell"] for row in found["rows"]} == {"lstm 1x24", "gru 1x28"}


def test_a_dry_run_of_a_family_describes_each_run() -> None:
    """It prints the settings of each as a YAML document, or a line of JSON, and writes nothing."""
    lines = answers("train", "--family", "lstm,rnn", *GIVEN, "--dry-run", "--json")
    assert [line["settings"]["model"]["cell"] for line in lines] == ["lstm", "rnn"]
    first, second = (line["parameters"] for line in lines)
    assert second == pytest.approx(first, rel=0.02)
    documents = call("train", "--family", "lstm,rnn", *GIVEN, "--dry-run").stdout.split("---\n")
    assert ["cell: lstm" in documents[0], "cell: rnn" in documents[1], len(documents)] == [True, True, 2]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "part", "hint"),
    [
        (["--family", "lstn,gru"], "`lstn`", "did you mean `lstm`?"),
        (["--family", "lstm,xyz"], "`xyz`", "minlstm"),
        (["--family", "lstm,\x1b[31m"], r"\x1b", ""),
        (["--family", "lstm"], "two cells", "lstm,gru,rnn"),
        (["--family", ""], "two cells", "lstm,gru,rnn"),
        (["--family", "lstm", "gru"], "two cells", "lstm,gru,rnn"),
        (["--family", "gru,lstm,gru"], "`gru` twice", ""),
        (["--family", "lstm", "gru", "rnn"], "`rnn`", "`charlm train --family lstm,gru,rnn`"),
        (["--family", "lstm,", "gru,", "rnn", "-c", "text.txt"], "`rnn`", "--family lstm,gru,rnn -c text.txt`"),
        (["--families", "lstm,gru"], "no option", "`charlm train --family lstm,gru`"),
        (["--family", "lstm,gru", "--resume", "run"], "new runs", "no --resume"),
        (["--family", "lstm,gru", "--from", "run", "-c", "text.txt"], "new runs", "no --from"),
        (["--family", "lstm,gru", "--set", "model.cell=rnn"], "names the cells", ""),
        (["--family", "lstm,gru", "--corpus", "-"], "standard input", "--corpus FILE"),
        (["--family", "lstm,mingru", "--set", "model.weight_dropout=0.1"], "mingru has none", ""),
        (["--family", "lstm,gru", "--set", "model.hidden_size=0"], "hidden_size", ""),
        (["--family", "lstm,gru", "--corpus", "missing.txt"], "missing.txt", ""),
    ],
)
def test_a_wrong_family_is_refused_before_it_trains(arguments: list[str], part: str, hint: str) -> None:
    """The error names the mistake, the hint what was meant, and there is no run."""
    result = call("train", *arguments)
    assert part in assert_refused(result)
    assert hint in result.stderr.splitlines()[-1]
    assert not Path("runs").exists()


def test_a_run_that_fails_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported by its cell, the others are trained and compared, and the exit code is that of the failure."""
    learn = Learner.learn_block

    def fail(self: Learner, *arguments: Any, **options: Any) -> Any:
        if self.model.spec.cell == "gru":
            raise TrainingError("the numbers are not finite", "a smaller rate may help")
        if self.model.spec.cell == "rnn":
            raise MemoryError
        return learn(self, *arguments, **options)

    monkeypatch.setattr(Learner, "learn_block", fail)
    result = call("train", "--family", "gru,lstm,rnn,minlstm", *GIVEN)
    assert result.exit_code == 1
    assert "error: gru: the numbers are not finite\nhint: a smaller rate may help\n" in result.stderr
    assert "error: rnn: there is not enough memory\nhint: smaller sizes or" in result.stderr
    rows = [row for row in result.stdout.splitlines() if row.startswith("| runs/")]
    assert sorted(row.split()[1] for row in rows) == ["runs/text-lstm-1", "runs/text-minlstm-1"]


def test_if_all_runs_fail_there_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is reported, and nothing is printed on standard output."""

    def fail(self: Learner, *arguments: Any, **options: Any) -> Any:
        raise TrainingError("the numbers are not finite", "a smaller rate may help")

    monkeypatch.setattr(Learner, "learn_block", fail)
    result = call("train", "--family", "lstm,gru", *GIVEN, "--out", "both")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("error: ") == 2


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ("both/gru/file", "`both/gru` is not empty, and no run is overwritten"),
        ("both/best.safetensors", "`both` is a run, and `--out` is for the folder of several"),
        ("both", "`both/lstm` cannot be made"),
    ],
)
def test_a_folder_that_is_not_free_is_refused_at_once(taken: str, said: str) -> None:
    """Nobody waits for the first run to learn that the second one has no folder; what is there stays."""
    Path(taken).parent.mkdir(parents=True, exist_ok=True)
    Path(taken).write_text("mine")
    result = call("train", "--family", "lstm,gru", *GIVEN, "--out", "both")
    assert said in assert_refused(result)
    assert "1 of 2" not in result.stderr
    assert Path(taken).read_text() == "mine"
    assert not Path("both/lstm").exists()


def test_what_else_is_in_the_folder_does_not_matter() -> None:
    """A note beside the runs is no obstacle, and an empty folder of a cell is none."""
    Path("both/lstm").mkdir(parents=True)
    Path("both/note.txt").write_text("mine")
    assert call("train", "--family", "lstm,gru", *GIVEN, "--out", "both").exit_code == 0


def test_ctrl_c_saves_the_run_and_trains_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run can be resumed, the finished ones can be compared, and the exit code is 130."""
    learn = Learner.learn_block

    def interrupted(self: Learner, *arguments: Any, **options: Any) -> Any:
        if self.model.spec.cell == "rnn":
            signal.raise_signal(signal.SIGINT)
        return learn(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "learn_block", interrupted)
        result = call("train", "--family", "lstm,gru,rnn,mingru", *GIVEN)
    assert (result.exit_code, result.stdout) == (130, "")
    assert "`charlm train --resume runs/text-rnn-1` continues it" in result.stderr
    assert "not trained: mingru" in result.stderr
    assert "`charlm compare runs/text-lstm-1 runs/text-gru-1 --curves`" in result.stderr
    assert call("train", "--resume", "runs/text-rnn-1", "--sample-length", "0").exit_code == 0
    assert len(answer("compare", "--json")["rows"]) == 3


def test_ctrl_c_between_two_runs_keeps_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished stays finished, and what is left is reported."""
    import charlm.training.lifecycle as lifecycle

    begin = lifecycle.begin

    def interrupted(config: Any, *arguments: Any) -> Any:
        if config.model.cell == "gru":
            raise KeyboardInterrupt
        return begin(config, *arguments)

    monkeypatch.setattr(lifecycle, "begin", interrupted)
    result = call("train", "--family", "lstm,gru,rnn", *GIVEN)
    assert result.exit_code == 130
    assert "not trained: gru, rnn" in result.stderr
    records = Path("runs/text-lstm-1/metrics.jsonl").read_text().splitlines()
    assert json.loads(records[-1])["step"] == 6


def test_a_family_of_both_directions_is_compared() -> None:
    """Models that see both sides are compared per masked character."""
    result = call("train", "--family", "lstm,gru", *GIVEN, "--set", "model.direction=both")
    assert result.exit_code == 0, result.stderr
    assert "validation in bits per masked character, over time:" in result.stdout
