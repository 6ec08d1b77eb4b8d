"""A run in a terminal says what its figures are about."""

from __future__ import annotations

import math
import shlex

import pytest

from charlm.cli.live import TrainingDisplay
from charlm.cli.train_session import announce, report_outcome
from charlm.training.trainer import Trainer
from tests.helpers.commands import HARE_AND_FOX, SHORT, call
from tests.helpers.training import begin, records


def best_validation(training: Trainer) -> float:
    """Return the best validation in `metrics.jsonl`."""
    found = [record.get("validation_bits_per_character", math.inf) for record in records(training)]
    return float(min(found))


def test_a_text_that_is_memorised_says_how_low_its_loss_gets() -> None:
    """`hello` has 91 different blocks of 10 characters, all equally probable: log2(91) / 10 bits per character."""
    result = call("train", "hello", "--set", "train.epochs=1", "--set", "model.hidden_size=8", "--sample-length", "5")
    assert f"near {math.log2(91) / 10:.2f} bits per character when the text is memorised" in result.stderr
    assert "memorised" not in call("train", *SHORT, "--sample-length", "5").stderr


def test_the_figure_at_the_end_explains_those_before(capsys: pytest.CaptureFixture[str]) -> None:
    """If the lines are about a part of what is held out, one line says so before them, and the last one gives both."""
    training = begin(train__evaluation_characters=100)
    with TrainingDisplay(training) as display:
        training.learn(display.show)
    report_outcome(training, 5, 0.7, as_json=False)
    shown = capsys.readouterr().err
    num_held_out = len(training.learner.parts.validation)
    assert shown.count("lower is better") == 1
    assert f"valid on 100 of the {num_held_out:,} characters held out\n" in shown
    best = min(
        record["validation_bits_per_character"]
        for record in records(training)
        if "validation_bits_per_character" in record
    )
    assert f"valid {best:.3f}" in shown
    assert f"on all {num_held_out:,} held out; while training {best:.3f} on 100 of them\n" in shown


def test_one_figure_is_enough_if_all_is_validated(capsys: pytest.CaptureFixture[str]) -> None:
    """If the lines are about all that is held out, the end repeats the best of them and explains nothing."""
    training = begin()
    with TrainingDisplay(training) as display:
        training.learn(display.show)
    report_outcome(training, 5, 0.7, as_json=False)
    shown = capsys.readouterr().err
    assert "while training" not in shown
    best = min(
        record["validation_bits_per_character"]
        for record in records(training)
        if "validation_bits_per_character" in record
    )
    assert f": {best:.3f} bits per character on all" in shown


@pytest.mark.parametrize("text", ["狐狸说今天天气很好。\n" * 20, HARE_AND_FOX, "aa"])
def test_the_command_at_the_end_can_be_typed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that fills blanks is shown a text whose characters it knows."""
    training = begin(text=text, model__direction="both", train__steps=1)
    training.learn()
    report_outcome(training, 5, 0.7, as_json=False)
    line = capsys.readouterr().err.splitlines()[-1].removeprefix("more of it: charlm ")
    assert call(*shlex.split(line)).exit_code == 0


def test_one_character_is_in_the_singular(capsys: pytest.CaptureFixture[str]) -> None:
    """The shortest text of all is announced in words that fit."""
    announce(begin(text="a"))
    assert "text text.txt: 1 character, 1 different\n" in capsys.readouterr().err
