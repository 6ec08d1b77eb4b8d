"""What the prompt knows of a line: at once, and after some idle time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.checkpoint import ModelFile
from charlm.cli import instrument as module
from charlm.cli.instrument import GHOST_LENGTH, NUM_WORDS, Instrument
from charlm.cli.repl_commands import Conversation
from charlm.inference.generate import read_prompt
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.stepper import Stepper
from charlm.inference.surprisal import measure_surprisal
from charlm.inference.words import most_probable_words

Make = Callable[..., ModelFile]


def following(model: ModelFile, line: str = "", cursor: int | None = None) -> Instrument:
    """Return an instrument that has seen a line, and done nothing when idle."""
    instrument = Instrument(Conversation(IncrementalReader(Stepper(model)), 4))
    instrument.look(line, len(line) if cursor is None else cursor)
    return instrument


def finish(instrument: Instrument) -> int:
    """Do all that is left, and return in how many parts."""
    number = 0
    while instrument.work() is not None:
        number += 1
    return number


def test_a_key_computes_the_figures_and_leaves_the_rest(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidates and the bits are there at once; the continuation and the words come when idle."""
    monkeypatch.setattr(module, "READING_TIME", math.inf)
    model = make_model()
    instrument = following(model, "a bad")
    (figures,) = instrument.figures
    scored = measure_surprisal(Stepper(model), "a bad")
    assert figures.prediction == predict(Stepper(model), "a bad", 4)
    assert np.isclose(figures.last_bits, scored.bits_C[-1])
    assert np.isclose(figures.mean_bits, scored.bits_per_unit())
    assert np.allclose(instrument.bits(0, 5), scored.bits_C)
    assert (instrument.last, instrument.ghost, instrument.are_words_old) == ("'d'", "", True)
    assert finish(instrument) > 5
    reader = IncrementalReader(Stepper(model))
    reader.read("a bad")
    logits_BV, state = read_prompt(Stepper(model), "a bad")
    words = most_probable_words(Stepper(model), logits_BV[0], state, "a bad", NUM_WORDS, only_additions=True)
    assert instrument.ghost == reader.continuation(GHOST_LENGTH)
    assert (instrument.words, instrument.are_words_old) == ([words], False)
    assert finish(instrument) == 0


def test_a_paste_is_read_while_keys_are_answered(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key waits for no more than its share of time; the next key ends what is left of the last one."""
    monkeypatch.setattr(module, "READING_TIME", 0.0)
    model, line = make_model(), "a bad cab " * 100
    instrument = following(model, line)
    assert (instrument.num_missing, instrument.figures) == (1000, [])
    for _ in range(10):
        instrument.work()
    assert instrument.num_missing == 990
    instrument.look(f"{line}b", len(line) + 1)
    assert instrument.num_missing == 991
    finish(instrument)
    assert instrument.figures[0].prediction == predict(Stepper(model), f"{line}b", 4)


def test_what_the_ghost_says_is_typed_and_the_rest_stays(make_model: Make) -> None:
    """Until the continuation is computed again, what is left of it is shown; another key removes it."""
    instrument = following(make_model(), "a bad")
    finish(instrument)
    whole = instrument.ghost
    instrument.look(f"a bad{whole[0]}", 6)
    assert instrument.ghost == whole[1:]
    instrument.look("a bad", 5)
    assert instrument.ghost == ""
    finish(instrument)
    other = next(c for c in "abcd" if c != whole[0])
    instrument.look(f"a bad{other}", 6)
    assert instrument.ghost == ""


def test_the_figures_are_those_at_the_cursor(make_model: Make) -> None:
    """In the middle of the line there is no continuation, but words; everything behind the cursor is coloured too."""
    model = make_model()
    instrument = following(model, "a bad cab", 4)
    finish(instrument)
    assert instrument.figures[0].prediction == predict(Stepper(model), "a ba", 4)
    assert (instrument.ghost, instrument.last) == ("", "'a'")
    assert np.allclose(instrument.bits(0, 9), measure_surprisal(Stepper(model), "a bad cab").bits_C)
    logits_BV, state = read_prompt(Stepper(model), "a ba")
    (word,) = most_probable_words(Stepper(model), logits_BV[0], state, "a ba", 1, only_additions=True).words
    assert instrument.word() == word.text


@pytest.mark.parametrize("symbols", ["\nab", "\n\rab"])
@pytest.mark.parametrize("line", ["a\nb", "\\/help", "\n\na"])
def test_the_bits_belong_to_the_characters_that_are_typed(make_model: Make, symbols: str, line: str) -> None:
    """A line end may be two symbols of the model, and the backslash in front of a command is none."""
    model = make_model(symbols=symbols)
    instrument = following(model, line)
    conversation = instrument.conversation
    conversation.keeps, conversation._last = True, "ab\n"
    instrument.restart()
    instrument.look(line, len(line))
    finish(instrument)
    text = conversation.text(line)
    expected = measure_surprisal(Stepper(model), text, "skip").bits_C
    bits = instrument.bits(0, len(line))
    assert np.isclose(np.nansum(bits), np.nansum(expected[len(conversation.text("")) :]))
    assert [math.isnan(cost) for cost in bits] == [c not in symbols for c in line]
    assert bits[1:] == pytest.approx(instrument.bits(1, len(line)), nan_ok=True)


def test_two_models_are_followed_side_by_side(make_model: Make) -> None:
    """Each has its figures and its words; the text may have other line ends for the other one."""
    model, other = make_model(symbols="\n\rab"), make_model(symbols="\nabc", seed=3)
    instrument = following(model)
    instrument.conversation.other = IncrementalReader(Stepper(other))
    instrument.restart()
    instrument.look("ab\na", 4)
    finish(instrument)
    first, second = instrument.figures
    assert first.prediction == predict(Stepper(model), "ab\r\na", 4)
    assert second.prediction == predict(Stepper(other), "ab\na", 4)
    assert len(instrument.words) == 2


@pytest.mark.parametrize("line", ["ab", "a"])
def test_a_model_without_words_has_none(make_model: Make, line: str) -> None:
    """Nothing in its vocabulary ends a word."""
    instrument = following(make_model(symbols="abc"), line)
    finish(instrument)
    assert (instrument.words, instrument.word(), instrument.error) == ([None], "", "")


def test_weights_that_overflow_are_an_error_and_no_figures(make_model: Make) -> None:
    """The error is shown, nothing is left to do, and the gates stay closed."""
    model = make_model("rnn-relu")
    wild = replace(model, arrays={name: np.full_like(array, 9e8) for name, array in model.arrays.items()})
    instrument = following(wild, "bad")
    instrument.shows_gates = True
    instrument.look("bad ", 4)
    finish(instrument)
    assert "weights of this model" in instrument.error
    assert (instrument.figures, instrument.changes, instrument.word(), instrument.whole_ghost()) == ([], [], "", "")


@pytest.mark.parametrize(
    ("line", "rest"),
    [("/te", "mperature"), ("/t", "emperature"), ("/", ""), ("/top 3", ""), ("/zz", ""), ("/top ", "")],
)
def test_a_command_is_suggested_by_its_start(make_model: Make, line: str, rest: str) -> None:
    """While a command is typed, the rest of its name is suggested and not a text."""
    assert following(make_model(), line).whole_ghost() == rest
