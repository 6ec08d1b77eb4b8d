"""The train command's runs: who holds a folder, what a resume may change, what a run is called."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from charlm.checkpoint import load_checkpoint
from charlm.errors import RunError
from charlm.run_folder import RunFolder
from tests.helpers.commands import HARE_AND_FOX, SHORT, call


def test_a_live_run_is_not_touched_by_another_process(text: str) -> None:
    """A resume that comes too early is refused before it changes a byte."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    with RunFolder(Path("run")).locked():
        result = call("train", "--resume", "run", "--set", "train.steps=3")
        assert result.exit_code == 1
        assert "another process" in result.stderr
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_run_holds_its_folder_from_start_to_end(text: str) -> None:
    """No other process can hold the folder while the run is set up, trains and finishes."""
    from charlm.settings.config_file import load_config
    from charlm.training import lifecycle as runs

    effective = load_config("lstm", [setting for setting in SHORT if setting != "--set"], {"data.corpus": text})
    with runs.begin(effective, Path("run")), pytest.raises(RunError), RunFolder(Path("run")).locked():
        pytest.fail("held twice")


@pytest.mark.parametrize("change", ["train.batch_size=2", "train.block_size=8", "train.optimizer=adamw"])
def test_settings_that_the_saved_state_needs_cannot_be_changed(text: str, change: str) -> None:
    """With other settings, the saved streams and moments would mean something else."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    result = call("train", "--resume", "run", "--set", change)
    assert result.exit_code == 2
    assert "optimizer" in result.stderr


def test_a_resume_to_an_earlier_step_is_refused(text: str) -> None:
    """The error names the current step and explains what a duration means; a run that patience ended stays ended."""
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


@pytest.mark.parametrize(
    ("change", "option"), [("train.steps=3", "--set train.steps=12"), ("train.epochs=0.01", "--set train.epochs=")]
)
def test_the_command_that_makes_a_run_longer_is_named(text: str, change: str, option: str) -> None:
    """A finished run, and one that is to end before it has begun, name a command that continues it."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    finished = call("train", "--resume", "run", "--sample-length", "0").stderr
    assert "this run ended at step 6; `charlm train --resume run --set train.steps=12` continues it" in finished
    refused = call("train", "--resume", "run", "--set", change).stderr
    longer = re.search("`charlm train --resume run (--set train.*?)`", refused)
    assert longer is not None
    assert longer[1].startswith(option)
    assert call("train", "--resume", "run", *longer[1].split(" "), "--sample-length", "0").exit_code == 0
    assert load_checkpoint(Path("run/last.safetensors")).metrics["step"] > 6


def test_a_corpus_in_another_case_is_saved_by_its_name() -> None:
    """`--corpus HELLO` is the bundled text, and the settings of the run name it as the catalogue does."""
    result = call("train", "-c", "HELLO", *SHORT, "--sample-length", "0")
    assert result.exit_code == 0, result.stderr
    assert load_checkpoint(Path("runs/hello-lstm-1/last.safetensors")).config["data"]["corpus"] == ["hello"]


def test_a_text_from_a_pipe_is_not_waited_for(text: str) -> None:
    """`eval` asks for the text again instead of reading from a terminal."""
    call("train", "-c", "-", *SHORT, "--out", "run", "--sample-length", "0", stdin=HARE_AND_FOX)
    result = call("eval", "-m", "run")
    assert result.exit_code == 2
    assert "--corpus" in result.stderr


def test_a_run_in_a_folder_of_texts_is_not_part_of_the_text(text: str) -> None:
    """`-c .` means the same text before and after a run is written below the folder."""
    assert call("train", "-c", ".", *SHORT, "--sample-length", "0").exit_code == 0
    assert call("eval").exit_code == 0
    assert [path.name for path in Path("runs").iterdir()] == ["work-lstm-1"]


@pytest.mark.parametrize(
    ("corpus", "name"),
    [("-", "stdin"), ("fables", "fables"), ("a/b.c.txt", "b.c.txt"), ("src/*.py", "py"), ("**", "text"), ("/", "text")],
)
def test_the_name_of_a_run_is_a_safe_folder_name(corpus: str, name: str) -> None:
    """The name comes from the text, without characters that a shell would interpret."""
    from charlm.training.lifecycle import _name_of

    assert _name_of(corpus) == name


def test_an_empty_part_is_reported_with_its_setting(text: str) -> None:
    """The error is not just that there is nothing to evaluate."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    result = call("eval", "-m", "run", "--part", "test")
    assert result.exit_code == 1
    assert "data.test_fraction" in result.stderr


@pytest.mark.parametrize("fact", ["device", "precision", "threads", "torch"])
def test_a_run_resumed_elsewhere_warns(text: str, fact: str) -> None:
    """The note gives the old and the new value; without a change there is no note."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    last = load_checkpoint(Path("run/last.safetensors"))
    assert "note: started with" not in call("train", "--resume", "run", "--sample-length", "0").stderr
    replace(last, runtime=last.runtime | {fact: "another"}).save(Path("run/last.safetensors"))
    result = call("train", "--resume", "run", "--sample-length", "0")
    assert result.exit_code == 0
    assert f"note: started with {fact} another, now {last.runtime[fact]}" in result.stderr


def test_a_run_resumes_on_a_changed_text_only_on_request(text: str) -> None:
    """The refusal names the option that allows it; unknown characters are refused even with that option."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    Path(text).write_text(HARE_AND_FOX[::-1], encoding="utf-8")
    longer = ["train", "--resume", "run", "--set", "train.steps=9", "--sample-length", "0"]
    refused = call(*longer)
    assert (refused.exit_code, "--new-text" in refused.stderr) == (1, True)
    assert call(*longer, "--new-text").exit_code == 0
    assert load_checkpoint(Path("run/last.safetensors")).metrics["step"] == 9
    assert call("eval", "-m", "run").exit_code == 0
    Path(text).write_text(HARE_AND_FOX + "\u00e9", encoding="utf-8")
    unknown = call(*longer, "--set", "train.steps=12", "--new-text")
    assert (unknown.exit_code, "\u00e9" in unknown.stderr) == (1, True)
    assert call("train", "-c", text, "--new-text").exit_code == 2


def test_a_run_resumes_where_its_text_is_now(text: str) -> None:
    """A text that was moved is asked for with the option that names it; a name that is given is reported as it is."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    Path(text).rename("moved.txt")
    longer = ["train", "--resume", "run", "--set", "train.steps=9", "--sample-length", "0"]
    refused = call(*longer)
    assert refused.exit_code == 1
    assert f"the run's own text: there is no corpus, file or folder `{text}`" in refused.stderr
    assert refused.stderr.endswith("now: `charlm train --resume run --corpus FILE`\n")
    assert "own text" not in call(*longer, "-c", "missing.txt").stderr
    assert call(*longer, "-c", "moved.txt").exit_code == 0


def test_a_missing_best_model_is_made_again(text: str) -> None:
    """The next validation counts as the best; a finished run reports which file is missing."""
    call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    best = Path("run/best.safetensors")
    best.unlink()
    finished = call("train", "--resume", "run", "--sample-length", "0")
    assert (finished.exit_code, "best.safetensors" in finished.stderr) == (1, True)
    assert call("train", "--resume", "run", "--set", "train.steps=12", "--sample-length", "0").exit_code == 0
    assert load_checkpoint(best).metrics["step"] > 6
