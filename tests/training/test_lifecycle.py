"""A run as a command: who holds it, what may change, what it is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from charlm.checkpoint import load_checkpoint
from charlm.errors import RunError
from charlm.run_folder import RunFolder
from tests.helpers.commands import SHORT, TEXT, call


def test_a_live_run_is_not_touched_by_another_process(text: str) -> None:
    """A resume that comes too early is refused before it changes a byte."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    with RunFolder(Path("run")).locked():
        result = call("train", "--resume", "run", "--set", "train.steps=3")
        assert result.exit_code == 1
        assert "another process" in result.stderr
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_run_holds_its_folder_from_beginning_to_end(text: str) -> None:
    """While it is set up, learns and concludes, nobody else can hold it."""
    from charlm.config_file import load_config
    from charlm.training import lifecycle as runs

    effective = load_config("lstm", [setting for setting in SHORT if setting != "--set"], {"data.corpus": text})
    with runs.begin(effective, Path("run")), pytest.raises(RunError), RunFolder(Path("run")).locked():
        pytest.fail("held twice")


@pytest.mark.parametrize("change", ["train.batch_size=2", "train.block_size=8", "train.optimizer=adamw"])
def test_what_the_state_of_a_run_depends_on_cannot_be_changed(text: str, change: str) -> None:
    """Streams and moments would mean something else."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    result = call("train", "--resume", "run", "--set", change)
    assert result.exit_code == 2
    assert "optimizer" in result.stderr


def test_a_resume_to_before_where_the_run_is_is_refused(text: str) -> None:
    """With where it is, and what a duration means; a run that patience ended stays ended."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    last = load_checkpoint(Path("run/last.safetensors"))
    unfinished = replace(last, metrics=last.metrics | {"finished": ""})
    unfinished.save(Path("run/last.safetensors"))
    result = call("train", "--resume", "run", "--set", "train.steps=3")
    assert result.exit_code == 2
    assert "step 6" in result.stderr
    early = replace(last, metrics=last.metrics | {"finished": "no better validation in 1 evaluations", "step": 5})
    early.save(Path("run/last.safetensors"))
    result = call("train", "--resume", "run", "--sample-length", "0")
    assert "ended early" in result.stderr
    assert load_checkpoint(Path("run/last.safetensors")).metrics["step"] == 5


def test_a_text_that_came_through_a_pipe_is_not_waited_for(text: str) -> None:
    """`eval` says to give it again instead of reading a terminal."""
    call("train", "-c", "-", *SHORT, "--out", "run", "--sample-length", "0", stdin=TEXT)
    result = call("eval", "-m", "run")
    assert result.exit_code == 2
    assert "--corpus" in result.stderr


def test_a_run_in_a_folder_of_texts_is_not_part_of_the_text(text: str) -> None:
    """`-c .` means the same before and after a run was written below it."""
    assert call("train", "-c", ".", *SHORT, "--sample-length", "0").exit_code == 0
    assert call("eval").exit_code == 0
    assert [path.name for path in Path("runs").iterdir()] == ["work-lstm-1"]


@pytest.mark.parametrize(
    ("corpus", "name"),
    [("-", "stdin"), ("fables", "fables"), ("a/b.c.txt", "b.c.txt"), ("src/*.py", "py"), ("**", "text"), ("/", "text")],
)
def test_a_run_is_named_as_a_folder_can_be(corpus: str, name: str) -> None:
    """After its text, without what a shell would take for something else."""
    from charlm.training.lifecycle import _name_of

    assert _name_of(corpus) == name


def test_a_part_that_is_empty_says_which_setting_holds_it_out(text: str) -> None:
    """Not just that there is nothing to evaluate."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    result = call("eval", "-m", "run", "--part", "test")
    assert result.exit_code == 1
    assert "data.test_fraction" in result.stderr


@pytest.mark.parametrize("fact", ["device", "precision", "threads", "torch"])
def test_a_run_that_goes_on_elsewhere_warns(text: str, fact: str) -> None:
    """With what was and what is; where nothing has changed there is nothing to say."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    last = load_checkpoint(Path("run/last.safetensors"))
    assert "note: started with" not in call("train", "--resume", "run", "--sample-length", "0").stderr
    replace(last, runtime=last.runtime | {fact: "another"}).save(Path("run/last.safetensors"))
    result = call("train", "--resume", "run", "--sample-length", "0")
    assert result.exit_code == 0
    assert f"note: started with {fact} another, now {last.runtime[fact]}" in result.stderr


def test_a_run_on_a_text_that_has_changed_goes_on_only_when_told(text: str) -> None:
    """What is refused says how, and characters that the model does not know are refused all the same."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    Path(text).write_text(TEXT[::-1], encoding="utf-8")
    longer = ["train", "--resume", "run", "--set", "train.steps=9", "--sample-length", "0"]
    refused = call(*longer)
    assert (refused.exit_code, "--new-text" in refused.stderr) == (1, True)
    assert call(*longer, "--new-text").exit_code == 0
    assert load_checkpoint(Path("run/last.safetensors")).metrics["step"] == 9
    assert call("eval", "-m", "run").exit_code == 0
    Path(text).write_text(TEXT + "\u00e9", encoding="utf-8")
    unknown = call(*longer, "--set", "train.steps=12", "--new-text")
    assert (unknown.exit_code, "\u00e9" in unknown.stderr) == (1, True)
    assert call("train", "-c", text, "--new-text").exit_code == 2


def test_a_best_model_that_is_gone_is_made_again(text: str) -> None:
    """The next validation counts as the best; a finished run says what is missing."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    best = Path("run/best.safetensors")
    best.unlink()
    finished = call("train", "--resume", "run", "--sample-length", "0")
    assert (finished.exit_code, "best.safetensors" in finished.stderr) == (1, True)
    assert call("train", "--resume", "run", "--set", "train.steps=12", "--sample-length", "0").exit_code == 0
    assert load_checkpoint(best).metrics["step"] > 6
