"""The next-character instrument, without a terminal and in one."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from charlm.checkpoint import ModelFile
from charlm.cli import repl
from charlm.cli.repl import Reader
from charlm.errors import UnknownCharacterError
from charlm.inference.generate import softmax, start
from charlm.inference.predict import BAR_WIDTH
from charlm.inference.stepper import Stepper


class CountingStepper(Stepper):
    """Counts its steps."""

    steps = 0

    def step(self, ids_B, state):
        """Step and count."""
        self.steps += 1
        return super().step(ids_B, state)


def test_a_prediction_is_the_softmax_after_the_text(make_model: Callable[..., ModelFile]) -> None:
    """Candidates, what remains and the entropy, against the distribution written out."""
    stepper = Stepper(make_model("lstm", 2))
    reader = Reader(stepper)
    reader.read("bad")
    prediction = reader.predict(4)
    p_V = softmax(start(stepper, "bad")[0][0])
    assert [c.probability for c in prediction.candidates] == sorted(p_V, reverse=True)[:4]
    assert prediction.remaining_probability == pytest.approx(1 - sum(sorted(p_V)[-4:]))
    assert prediction.num_others == 6
    assert prediction.entropy_bits == pytest.approx(-sum(p * math.log2(p) for p in p_V))


def test_the_likeliest_candidates_come_first_and_all_of_them_sum_to_one(make_model: Callable[..., ModelFile]) -> None:
    """Asked for more characters than there are, it lists each once."""
    prediction = Reader(Stepper(make_model())).predict(99)
    assert sum(c.probability for c in prediction.candidates) == pytest.approx(1)
    assert len(prediction.candidates) == 10
    assert (prediction.num_others, prediction.remaining_probability) == (0, 0)


def test_a_keystroke_is_one_step_and_a_backspace_none(make_model: Callable[..., ModelFile]) -> None:
    """Only what differs from the text before is read."""
    stepper = CountingStepper(make_model())
    reader = Reader(stepper)
    counts = []
    for text in ("bad", "bad ", "bad c", "bad ", "bad", "had", "had"):
        before = stepper.steps
        reader.read(text)
        counts.append(stepper.steps - before)
    assert counts == [3, 1, 1, 0, 0, 3, 0]


@pytest.mark.parametrize("states_kept", [1, 2, 3, 7, repl.STATES_KEPT])
def test_after_any_editing_the_prediction_is_that_of_the_text(
    make_model: Callable[..., ModelFile], states_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Insertions, deletions and replacements anywhere lead to the same numbers, however few states are kept."""
    monkeypatch.setattr(repl, "STATES_KEPT", states_kept)
    stepper = Stepper(make_model("gru"))
    edited = Reader(stepper)
    random = np.random.default_rng(7)
    text = ""
    for _ in range(60):
        begin, end = sorted(random.integers(0, len(text) + 1, size=2))
        text = text[:begin] + "".join(random.choice(list("abc dX"), size=random.integers(0, 4))) + text[end:]
        edited.read(text)
        afresh = Reader(stepper)
        afresh.read(text)
        assert edited.predict(10) == afresh.predict(10)


def test_a_long_line_keeps_few_states(make_model: Callable[..., ModelFile]) -> None:
    """Going back by some costs nothing, going back by many a few steps."""
    stepper = CountingStepper(make_model())
    reader = Reader(stepper)
    stepper.steps = 0
    line = "abcdefgh" * 1250
    for length in range(1, len(line) + 1):
        reader.read(line[:length])
    assert stepper.steps == len(line)
    assert len(reader._states) <= repl.STATES_KEPT + len(line) // repl.STATES_KEPT + 1
    reader.read(line[: -repl.STATES_KEPT + 1])
    assert stepper.steps == len(line)
    reader.read(line[:5000])
    assert stepper.steps - len(line) < repl.STATES_KEPT


def test_a_character_the_model_does_not_know_is_marked_not_fatal(make_model: Callable[..., ModelFile]) -> None:
    """While typing it is left out and shown; elsewhere it is an error that names it."""
    stepper = Stepper(make_model())
    reader = Reader(stepper)
    reader.read("ba\U0001f600d")
    assert reader.unknown_characters == "\U0001f600"
    assert "\U0001f600" in repl.toolbar_text(reader)
    assert reader.predict(3).candidates == repl.predict(stepper, "bad", 3).ranking.candidates
    with pytest.raises(UnknownCharacterError, match="position 3"):
        repl.predict(stepper, "bad\U0001f600", 3)


def test_before_the_first_character_the_prompt_expects_what_a_sample_begins_with(
    make_model: Callable[..., ModelFile],
) -> None:
    """Typed and deleted, or never typed: the empty line is the same, and so is the empty prompt of `sample`."""
    stepper = Stepper(make_model())
    reader = Reader(stepper)
    p_V = softmax(start(stepper, "")[0][0])
    assert [c.probability for c in reader.predict(10).candidates] == sorted(p_V, reverse=True)
    reader.read("a")
    reader.read("")
    assert reader.predict(10) == repl.predict(stepper, "", 10).ranking


def test_the_grey_text_is_what_greedy_sampling_would_write(make_model: Callable[..., ModelFile]) -> None:
    """It stops before the end of the line."""
    from charlm.inference import generate as sample

    stepper = Stepper(make_model())
    reader = Reader(stepper)
    reader.read("a cab")
    pieces = sample.stream(stepper, *start(stepper, "a cab"), length=30, choice=sample.Choice(temperature=0), seeds=[0])
    assert reader.continuation(30) == "".join(grown for _, grown in pieces).partition("\n")[0]


def test_white_space_is_shown_by_name(make_model: Callable[..., ModelFile]) -> None:
    """A blank and a newline can be told apart in the table, whose bars are as long as the probabilities."""
    lines = list(Reader(Stepper(make_model())).predict(10).lines("#"))
    assert any(line.startswith("space") for line in lines)
    assert any(line.startswith("newline") for line in lines)
    lengths = [line.count("#") for line in lines[:10]]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == BAR_WIDTH
    assert lines[-1].startswith("entropy")


def test_without_a_terminal_each_line_is_answered(
    make_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line ends are not part of the text, whatever system wrote them."""
    monkeypatch.setattr("sys.stdin", io.StringIO("ab\r\n\nba\n"))
    predictions = list(repl.answer_lines(Stepper(make_model()), 3, "error"))
    assert [prediction.text for prediction in predictions] == ["ab", "", "ba"]


@pytest.mark.parametrize("typed", ["bad\rexit\r", "bad\r\x04", "\x03bad\rquit\r"])
def test_the_prompt_answers_enter_and_leaves_by_word_or_key(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    """Enter prints the table of what comes after the line; `exit`, `quit` and Ctrl-D leave; Ctrl-C clears the line."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed)
        repl.converse(Reader(Stepper(make_model())), 3)
    reader = Reader(Stepper(make_model()))
    reader.read("bad")
    assert list(reader.predict(3).lines(repl.bar_character())) == capsys.readouterr().out.splitlines()[1:]


def test_the_grey_text_comes_back_after_a_backspace_and_can_be_taken(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Backspace, right arrow, Enter: the table is that of what is left plus the continuation."""
    stepper = Stepper(make_model())
    reader = Reader(stepper)
    reader.read("ba")
    continuation = reader.continuation(repl.GHOST_LENGTH)
    assert continuation
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("bad\x7f\x1b[C\rexit\r")
        repl.converse(Reader(stepper), 3)
    expected = repl.predict(stepper, "ba" + continuation, 3).lines(repl.bar_character())
    assert capsys.readouterr().out.splitlines()[1:] == list(expected)
