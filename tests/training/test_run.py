"""`charlm.train`: training from a program or a notebook."""

from __future__ import annotations

import doctest
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import charlm
import charlm.training.run as module
from charlm.checkpoint import load_checkpoint
from charlm.errors import ConfigError, CorpusError, RunError
from charlm.settings.config import GROUPS
from charlm.training.events import BlockLearned, Event, Finished, Note, Preparing, Record, Scoring
from tests.helpers.commands import HARE_AND_FOX, SHORT, call

SMALL: dict[str, Any] = {"hidden_size": 24, "embedding_size": 8, "batch_size": 4, "block_size": 16}
SMALL |= {"threads": 1, "precision": "fp32"}
BRIEF: dict[str, Any] = SMALL | {"steps": 6, "evaluations": 2}


def test_the_example_in_the_documentation_runs() -> None:
    """The docstring's example runs unchanged."""
    (example,) = doctest.DocTestFinder().find(charlm.train, "train", module=module, globs={"charlm": charlm})
    results = doctest.DocTestRunner().run(example)
    assert (results.failed, results.attempted) == (0, 4)


def test_a_program_trains_the_same_model_as_the_command(text: str) -> None:
    """The bits are the same with the same settings and seed, and the run is in the folder that it reports."""
    call("train", "-c", text, *SHORT, "--seed", "3", "--out", "by-command", "--sample-length", "0")
    run = charlm.train(text, out="by-program", seed=3, **BRIEF)
    assert run.path == Path("by-program")
    one, other = load_checkpoint(Path("by-command/best.safetensors")), load_checkpoint(run.best)
    assert one.config == other.config
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
    assert one.metrics.keys() == run.metrics.keys() >= {"validation_bits_per_character", "step"}


def test_events_report_the_progress_of_a_run(text: str) -> None:
    """The events suffice for a progress bar, and the records are the lines of `metrics.jsonl`."""
    events: list[Event] = []
    run = charlm.train(text, seed=3, on_event=events.append, **BRIEF)
    blocks = [event for event in events if isinstance(event, BlockLearned)]
    assert [block.step for block in blocks] == [1, 2, 3, 4, 5, 6]
    assert [round(block.share * 6) for block in blocks] == [1, 2, 3, 4, 5, 6]
    assert Finished(step=6, reason="done") in events
    assert [event.to_json() for event in events if isinstance(event, Record)] == run.records
    assert [event.share for event in events if isinstance(event, Scoring)][-1] == 1


def test_a_text_is_a_name_a_path_or_a_list(text: str) -> None:
    """A text may be a string or a path, or a list of them."""
    corpora: list[Any] = [text, Path(text), [text], [Path(text)]]
    for index, corpus in enumerate(corpora):
        assert charlm.train(corpus, out=f"run-{index}", **BRIEF).records[-1]["step"] == 6
    with pytest.raises(CorpusError):
        charlm.train("no-such-text", **BRIEF)


def test_a_given_duration_replaces_the_default(text: str) -> None:
    """The duration also replaces that of the settings file, and may be given in the forms of the command line."""
    run = charlm.train(text, config="gru", time="0.2s", **SMALL)
    config = load_checkpoint(run.best).config
    assert (config["model"]["cell"], config["train"]["time"], config["train"]["steps"]) == ("gru", 0.2, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hiden_size": 8}, "`hiden_size` is not a setting, did you mean `hidden_size`?"),
        ({"qqq": 8}, "`qqq` is not a setting"),
        ({"hidden_size": "large"}, "`model.hidden_size`"),
        ({"steps": 5, "epochs": 2.0}, "exclude each other"),
        ({"seed": -1}, "`seed`"),
        ({"config": "lstn"}, "did you mean `lstm`"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(text: str, settings: dict[str, Any], said: str) -> None:
    """The refusal comes before a folder is made, and reports all mistakes at once."""
    with pytest.raises(ConfigError) as raised:
        charlm.train(text, **settings)
    assert said in f"{raised.value} {raised.value.hint}"
    assert not Path("runs").exists()


def test_every_setting_has_a_name_of_its_own() -> None:
    """A unique name lets a setting be given without its group."""
    names = Counter(name for group in GROUPS.values() for name in group.model_fields)
    assert set(names.values()) == {1}


def test_an_error_in_a_listener_leaves_a_run_to_resume(text: str) -> None:
    """The error reaches the program, the folder is released, and the run resumes from its last save."""

    def fail(event: Event) -> None:
        if isinstance(event, BlockLearned) and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        charlm.train(text, out="run", on_event=fail, **BRIEF)
    assert load_checkpoint(Path("run/last.safetensors")).step == 3
    assert call("train", "--resume", "run", "--sample-length", "0").exit_code == 0


def test_a_run_in_a_used_folder_is_refused(text: str) -> None:
    """No run is overwritten."""
    Path("run").mkdir()
    Path("run/mine").write_text(HARE_AND_FOX, encoding="utf-8")
    with pytest.raises(RunError, match="not empty"):
        charlm.train(text, out="run", **BRIEF)


def test_a_run_shows_its_path_in_a_notebook(text: str) -> None:
    """A notebook shows the path of the run."""
    run = charlm.train(text, out="run", **BRIEF)
    assert repr(run) == "Run('run')"
    assert json.dumps(run.metrics)


def test_a_program_is_sent_the_notes_of_a_run() -> None:
    """What the command prints as notes comes after what is prepared, and before anything else."""
    Path("short.txt").write_text("to be or not to be, that is it", encoding="utf-8")
    events: list[Event] = []
    charlm.train("short.txt", steps=1, hidden_size=4, threads=1, on_event=events.append)
    first = next(event for event in events if not isinstance(event, Preparing))
    assert isinstance(first, Note)
    assert "characters to train on" in first.message


def test_training_leaves_the_random_numbers_of_torch_alone(text: str) -> None:
    """A program draws the same numbers whether it has trained or not."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    charlm.train(text, **BRIEF)
    assert torch.equal(torch.rand(3), expected)
