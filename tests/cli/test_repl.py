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
from rich.cells import cell_len

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.prediction_table import prediction_table
from charlm.cli.repl import GHOST_LENGTH, command_toolbar, converse, ghost, toolbar_text
from charlm.cli.repl_commands import COMMANDS, Conversation
from charlm.errors import ModelFileError
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary


def test_the_toolbar_shows_candidates_and_unknown_characters(make_model: Callable[..., ModelFile]) -> None:
    """The toolbar names the characters of the line that the model does not know."""
    stepper = Stepper(make_model())
    reader = IncrementalReader(stepper)
    reader.read("ba\U0001f600d")
    best = predict(stepper, "bad", 1).candidates[0]
    assert toolbar_text(reader).startswith("unknown, left out: '\U0001f600'")
    assert f"{best.name} {best.probability:.0%}" in toolbar_text(reader)


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
        (CODE, "a\tb\r", "a\tb"),
        (CODE, "\tb\r", "\tb"),
        (CODE, "a\x1b\rb\r", "a\nb"),
        (f"{CODE}\r", "a\x1b\rb\r", "a\r\nb"),
        (CODE, "\x1b[200~a\r\n\tb\rc\nd\x1b[201~\r", "a\n\tb\nc\nd"),
        (Vocabulary.of_bytes(), "a\t\x1b\rb\r", "a\t\nb"),
        ("abc", "a\x1b\r", "a"),
    ],
)
def test_tab_and_line_ends_are_typed_where_the_model_knows_them(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str], symbols: str, keys: str, text: str
) -> None:
    """Tab types a tab, Alt-Enter a line end (in a model without lines it is Enter), and pasted lines stay lines."""
    model = make_model(symbols=symbols)
    typed(model, f"{keys}exit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(model, text)


def test_tab_takes_the_suggestion_of_a_model_without_tabs(
    make_model: Callable[..., ModelFile], capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is that of the line and its continuation; in the middle of the line Tab does nothing."""
    model = make_model()
    reader = IncrementalReader(Stepper(model))
    reader.read("ba")
    typed(model, "ba\t\rba\x1b[D\t\rexit\r")
    assert capsys.readouterr().out.splitlines()[1:] == tables(model, "ba" + reader.continuation(GHOST_LENGTH), "ba")


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


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_toolbar_is_cut_between_its_parts(make_model: Callable[..., ModelFile], width: int) -> None:
    """Every part that is shown is whole, also beside wide characters, unknown ones and a temperature."""
    reader = IncrementalReader(Stepper(make_model(symbols="\n \u56fd\u738b\u8bf4abc")))
    reader.temperature = 0.5
    for text in ("", "a\u56fd", "\u56fd\u738bxyz\u200b\u202e\U0001f600"):
        reader.read(text)
        shown = toolbar_text(reader, width)
        assert cell_len(shown) <= width
        parts = shown.split("   ")
        whole = r".+ \d+%|temperature 0\.5:|\d unknown|unknown, left out: '.*'(\.\.\.)?"
        assert all(re.fullmatch(whole, part) for part in parts)
        shares = [part for part in parts if part.endswith("%")]
        assert shares == [f"{c.name} {c.probability:.0%}" for c in reader.predict(9).candidates[: len(shares)]]
        assert ("unknown" in shown) == ("x" in text)
        assert width < 40 or "temperature 0.5:" in parts


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", ["", "t", "zzz", *COMMANDS])
def test_the_toolbar_explains_the_command_that_is_typed(width: int, name: str) -> None:
    """It names the commands that start so, or one command and what it does, and breaks no word."""
    shown = command_toolbar(name, width)
    assert len(shown) <= width
    assert set(shown.split()) <= set(command_toolbar(name, 1000).split())
    assert name in shown


@pytest.mark.parametrize("width", [20, 21, 30, 33, 40, 80])
@pytest.mark.parametrize("line", ["ba", "ba" * 15, "bad\nba", "\u56fd\u738b" * 5, "a\tb"])
def test_the_suggestion_ends_with_the_row(make_model: Callable[..., ModelFile], width: int, line: str) -> None:
    """Suggestions are not wrapped: they end with a whole word or beside a wide character."""
    for symbols in ("\t abcdefgh", "\u56fd\u738b\u8bf4ab"):
        conversation = Conversation(IncrementalReader(Stepper(make_model(symbols=symbols, seed=3))), 3)
        shown = ghost(conversation, line, width)
        conversation.reader.read(line)
        whole = conversation.reader.continuation(GHOST_LENGTH)
        row = line.split("\n")[-1].expandtabs(4)
        start = cell_len(row) + (0 if "\n" in line else 2)
        assert whole.startswith(shown)
        assert not shown or start % width + cell_len(shown) + 3 <= width
        if shown and shown != whole:
            assert any(character.isspace() or cell_len(character) == 2 for character in whole[len(shown) - 1 :][:2])


@pytest.mark.parametrize(
    ("line", "rest"),
    [("/te", "mperature"), ("/t", "emperature"), ("/", ""), ("/top 3", ""), ("/zz", ""), ("/top ", "")],
)
def test_a_command_is_suggested_by_its_start(make_model: Callable[..., ModelFile], line: str, rest: str) -> None:
    """While a command is typed, the rest of its name is suggested and not a text."""
    assert ghost(Conversation(IncrementalReader(Stepper(make_model())), 3), line, 80) == rest


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
    """What is typed and what is suggested can be told apart by the characters alone."""
    terminal = Terminal("-m", model, both_ends=True, NO_COLOR="1")
    terminal.read_until(">")
    terminal.type("ba")
    shown = ghost(Conversation(IncrementalReader(Stepper(load_checkpoint(Path(model)))), 3), "ba", 80)
    terminal.read_until(f"[{shown}]")
    terminal.type("\rexit\r")
    terminal.read_until("entropy")
    terminal.end()
