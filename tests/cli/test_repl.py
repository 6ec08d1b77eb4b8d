"""The prompt of `charlm predict-next`, with and without a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.instrument import GHOST_LENGTH
from charlm.cli.prediction_table import comparison_table, prediction_table
from charlm.cli.repl import converse
from charlm.cli.repl_text import whole_words
from charlm.errors import ModelFileError
from charlm.inference.generate import read_prompt
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.prediction_comparison import ComparedCharacters
from charlm.inference.stepper import Stepper
from charlm.inference.words import most_probable_words
from charlm.vocab import Vocabulary


@pytest.mark.parametrize("typed", ["bad\rexit\r", "bad\r\x04", "\x03bad\rquit\r"])
def test_the_prompt_answers_enter_and_ends_by_word_or_key(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    """Enter prints the table of what comes after the line; `exit`, `quit` and Ctrl-D leave; Ctrl-C clears the line."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed)
        converse(IncrementalReader(Stepper(make_model())), 3)
    table = prediction_table(predict(Stepper(make_model()), "bad", 3))
    assert capsys.readouterr().out.splitlines()[1:] == table.splitlines()


def test_the_grey_text_returns_after_a_backspace(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Backspace, right arrow and Enter give the table of the shortened line plus its continuation."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    reader.read("ba")
    continuation = reader.continuation(GHOST_LENGTH)
    assert continuation
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("bad\x7f\x1b[C\rexit\r")
        converse(IncrementalReader(stepper), 3)
    table = prediction_table(predict(stepper, "ba" + continuation, 3))
    assert capsys.readouterr().out.splitlines()[1:] == table.splitlines()


def typed(model: ModelFile, keys: str, top: int = 3) -> None:
    """Type keys into the prompt; they end with leaving it."""
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        terminal.send_text(keys)
        converse(IncrementalReader(Stepper(model)), top)


def tables(model: ModelFile, *texts: str, top: int = 3) -> list[str]:
    """Return the lines of the tables after some texts."""
    return [line for text in texts for line in prediction_table(predict(Stepper(model), text, top)).splitlines()]


CODE = "\t\n abcdefgh"


@pytest.mark.parametrize(
    ("symbols", "keys", "text"),
    [
        (CODE, "a\x11\tb\r", "a\tb"),
        (CODE, "\tb\r", "\tb"),
        (CODE, "a\x1b\rb\r", "a\nb"),
        (f"{CODE}\r", "a\x1b\rb\r", "a\r\nb"),
        (CODE, "\x1b[200~a\r\n\tb\rc\nd\x1b[201~\r", "a\n\tb\nc\nd"),
        (Vocabulary.of_bytes(), "a\x11\t\x1b\rb\r", "a\t\nb"),
        ("abc", "a\x1b\r", "a"),
    ],
)
def test_tab_and_line_ends_are_typed_where_the_model_knows_them(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], symbols: str, keys: str, text: str
) -> None:
    """Ctrl-Q Tab, or Tab at the start of a line, types a tab, Alt-Enter a line end; pasted lines stay lines."""
    model = make_model(symbols=symbols)
    typed(model, f"{keys}exit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(model, text)


def test_tab_inserts_the_most_probable_word(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in the middle of the line; Alt-2 inserts the second one."""
    model = make_model()
    stepper = Stepper(model)
    (best, second), (there, *_) = words_after(stepper, "ba", 2), words_after(stepper, "b", 1)
    typed(model, "ba\t\rba\x1b2\rba\x1b[D\t\rexit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(model, "ba" + best, "ba" + second, f"b{there}a")


def words_after(stepper: Stepper, text: str, top: int) -> list[str]:
    """Return what the most probable words add to a text."""
    logits_BV, state = read_prompt(stepper, text)
    return [
        word.text for word in most_probable_words(stepper, logits_BV[0], state, text, top, only_additions=True).words
    ]


def test_tab_inserts_a_word_before_the_text_of_a_backward_model(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """The cursor then stands before the text, for the next word."""
    model = make_model(direction="backward")
    stepper, text = Stepper(model), "bad"
    for _ in range(2):
        text = words_after(stepper, text, 1)[0] + text
    typed(model, "bad\t\t\rexit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(model, text)


def test_tab_takes_the_grey_text_of_a_model_without_words(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing ends a word of this model; Tab also completes a command."""
    model = make_model(symbols="abc")
    reader = IncrementalReader(Stepper(model))
    reader.read("ba")
    typed(model, "/to\t 2\rba\t\rexit\r")
    lines = capsys.readouterr().out.splitlines()[1:]
    whole = "ba" + reader.continuation(GHOST_LENGTH)
    assert lines == ["a table lists 2 characters", *tables(model, whole, top=2)]


def test_gates_open_and_close_without_a_change_of_the_text(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-G is no character, and the text is entered as it was typed."""
    typed(make_model("gru", 2), "ba\x07d\x07\rexit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(make_model("gru", 2), "bad")


def test_enter_shows_both_models_side_by_side(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is that of the command with a text; `/compare off` ends it."""
    model, other = make_model(), make_model(seed=4, symbols="\n abcdefx")
    other.save(Path("other.safetensors"))
    typed(model, "/compare other.safetensors\rbad\r/compare off\rbad\rexit\r")
    lines = capsys.readouterr().out.splitlines()[1:]
    predictions = [predict(Stepper(each), "bad", len(each.vocabulary)) for each in (model, other)]
    table = comparison_table(ComparedCharacters.of(predictions, 3), ["this model", "other.safetensors"]).splitlines()
    started = "compared with other.safetensors: it knows 9 characters"
    assert lines == [started, *table, "off: one model", *tables(model, "bad")]


@pytest.mark.parametrize(
    "keys", ["\x03", "\x1b[200~\x01\x1b[31m\x00\x7f\x1b[201~", "a" * 3000 + "\x01b\x05\x15", "\x12a\r\x15"]
)
def test_odd_keys_leave_the_prompt_as_it_was(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], keys: str
) -> None:
    """Pasted control characters, a long line, a search and Ctrl-C: afterwards a text is read as ever."""
    typed(make_model(), f"{keys}\x15bad\rexit\r")
    assert capsys.readouterr().out.splitlines()[-5:] == tables(make_model(), "bad")


def test_commands_are_obeyed_between_texts(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands print what they did; a kept text is continued; Tab completes the name of a command."""
    model = make_model(symbols=CODE)
    typed(model, "bad\r/ke\t\rcab\r/to\t 2\r\r\\/keep\r// a\r/frob\r/quit\r")
    lines = capsys.readouterr().out.splitlines()[1:]
    unknown = "bad" + "cab" + "eea a"
    assert lines[:4] == tables(model, "bad")[:4]
    lines = [line for line in lines if not re.match("on: |a table lists|error: |hint: ", line)]
    expected = tables(model, "bad", "badcab") + tables(model, "badcab", "badcabee", f"{unknown[:6]}ee a", top=2)
    assert lines == expected


@pytest.mark.parametrize("key", ["\x1b[A", "\x10"])
def test_earlier_lines_are_there_at_the_next_start(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """The arrow up brings back what was entered at the last start: first `exit`, then the text."""
    model = make_model()
    typed(model, "bad cab\rexit\r")
    capsys.readouterr()
    typed(model, f"{key}{key}\rexit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(model, "bad cab")
    assert Path(os.environ["CHARLM_CACHE"], "predict-next-history").is_file()


def test_weights_that_overflow_end_the_prompt_with_an_error(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """While typing the toolbar says so, and Enter reports it; `/model` refuses such a model."""
    model = make_model("rnn-relu")
    wild = replace(model, arrays={name: np.full_like(array, 9e8) for name, array in model.arrays.items()})
    wild.save(Path("wild.safetensors"))
    typed(model, "/model wild.safetensors\rbad\rexit\r")
    assert capsys.readouterr().out.splitlines()[1].startswith("error: the weights of this model")
    with pytest.raises(ModelFileError):
        typed(wild, "bad\r")


class Terminal:
    """A prompt whose standard input is a terminal, and perhaps its standard output."""

    def __init__(self, *arguments: str, both_ends: bool, **environment: str) -> None:
        self.keyboard, screen = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "charlm", "predict-next", *arguments],
            stdin=screen,
            stdout=screen if both_ends else subprocess.PIPE,
            stderr=screen if both_ends else subprocess.PIPE,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"} | environment,
        )
        os.close(screen)

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self.keyboard, keys.encode())

    def read_until(self, wanted: str) -> str:
        """Return what the screen shows up to some text; answer its question where the cursor is."""
        seen = b""
        while wanted.encode() not in seen:
            assert select.select([self.keyboard], [], [], 30)[0], seen
            chunk = os.read(self.keyboard, 65536)
            if b"\x1b[6n" in chunk:
                os.write(self.keyboard, b"\x1b[1;1R")
            seen += chunk
        return seen.decode()

    def end(self) -> tuple[str, str]:
        """Wait for the end, and return what went into the pipes."""
        out, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        os.close(self.keyboard)
        return (out or b"").decode(), (errors or b"").decode()


def test_the_prompt_into_a_pipe_answers_each_line(model: str) -> None:
    """Standard output has the tables and nothing else; what helps the person who types goes to standard error."""
    terminal = Terminal("-m", model, "--top", "3", both_ends=False)
    terminal.type("bad\n/keep\n\u56fdc\n/top 1\n/help\n/frob\n\nexit\n")
    out, errors = terminal.end()
    file = load_checkpoint(Path(model))
    assert out.splitlines() == tables(file, "bad", "badc") + tables(file, "badc", top=1)
    assert "\x1b" not in out + errors
    for word in ("/help lists commands", "unknown, left out: '\u56fd'", "/temperature T", "no command `/frob`"):
        assert word in errors
    assert "arrow" not in errors


def test_json_is_typed_line_by_line(model: str) -> None:
    """With --json each line of a person gives one line of JSON, and Ctrl-D ends it."""
    terminal = Terminal("-m", model, "--json", both_ends=False)
    terminal.type("bad\n/temperature 0\ncab\n\x04")
    first, second = map(json.loads, terminal.end()[0].splitlines())
    assert (first["text"], second["text"], second["candidates"][0]["probability"]) == ("bad", "cab", 1)


def test_a_dumb_terminal_gets_plain_lines(model: str) -> None:
    """There are no escape sequences and no keys in the help; `/keep` and a table work."""
    terminal = Terminal("-m", model, both_ends=True, TERM="dumb")
    terminal.read_until("> ")
    terminal.type("/keep\nbad\n/help\n")
    seen = terminal.read_until("\\/help ")
    terminal.type("exit\n")
    terminal.end()
    assert "entropy" in seen
    assert not re.search("\x1b|arrow|Tab|Alt", seen)


def test_without_colours_the_suggestion_is_in_brackets(model: str) -> None:
    """What is typed and what is suggested can be told apart by the characters alone, and nothing has a colour."""
    terminal = Terminal("-m", model, both_ends=True, NO_COLOR="1")
    terminal.read_until(">")
    terminal.type("ba")
    reader = IncrementalReader(Stepper(load_checkpoint(Path(model))))
    reader.read("ba")
    seen = terminal.read_until(f"[{whole_words(reader.continuation(GHOST_LENGTH), 73)}]")
    assert not re.search(r"\x1b\[[0-9;]*[34]8[;m]", seen)
    terminal.type("\rexit\r")
    terminal.read_until("entropy")
    terminal.end()
