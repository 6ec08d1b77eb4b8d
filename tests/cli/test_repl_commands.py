"""The commands of the prompt, and which text the model reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from charlm.checkpoint import ModelFile
from charlm.cli.repl import keys_of
from charlm.cli.repl_commands import COMMANDS, Conversation, command_in, leaves
from charlm.inference.incremental import IncrementalReader
from charlm.inference.predict import predict
from charlm.inference.stepper import Stepper
from charlm.vocab import Vocabulary

WIDTH = 80
Make = Callable[..., ModelFile]


def begin(model: ModelFile, top: int = 3) -> Conversation:
    """Start a conversation with a model."""
    return Conversation(IncrementalReader(Stepper(model)), top)


def obey(conversation: Conversation, line: str) -> str:
    """Do the command that a line is."""
    command = command_in(line)
    assert command is not None
    return conversation.obey(*command, WIDTH)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/help", ("help", "")),
        ("/HELP  ", ("help", "")),
        ("/model runs/a b", ("model", "runs/a b")),
        ("/temperature  0.5 ", ("temperature", "0.5")),
        ("/", ("", "")),
        ("// a comment", None),
        ("/* a comment */", None),
        ("/usr/bin", None),
        ("/ a", None),
        (" /help", None),
        ("a /help", None),
        ("/help\nmore", None),
        ("/\u56fd", None),
        ("\\/help", None),
        ("", None),
    ],
)
def test_a_slash_and_a_word_are_a_command(line: str, command: tuple[str, str] | None) -> None:
    """Comments and paths of source code are texts; so is a command with a backslash in front."""
    assert command_in(line) == command


@pytest.mark.parametrize(("line", "ends"), [("exit", True), (" quit ", True), ("/exit", True), ("\\exit", False)])
def test_some_words_end_the_prompt(line: str, ends: bool) -> None:
    """`exit`, `quit` and `/exit` leave, and a backslash in front makes them texts."""
    assert leaves(line) == ends


@pytest.mark.parametrize(
    ("line", "read"), [("\\/help", "/help"), ("\\exit", "exit"), ("\\/", "/"), ("\\a", "\\a"), ("// a", "// a")]
)
def test_a_backslash_makes_a_command_a_text(make_model: Make, line: str, read: str) -> None:
    """The backslash is taken off, and only there."""
    assert begin(make_model()).text(line) == read


@pytest.mark.parametrize(
    ("symbols", "read"), [("\nab", "a\nb"), ("\n\rab", "a\r\nb"), ("\rab", "a\rb"), ("ab", "a\nb"), (None, "a\nb")]
)
def test_a_line_end_is_the_one_the_model_knows(make_model: Make, symbols: str | None, read: str) -> None:
    """A model of a text with CRLF or CR reads those; a model of bytes reads LF."""
    conversation = begin(make_model(symbols=symbols or Vocabulary.of_bytes()))
    assert conversation.enter("a\nb") == read
    obey(conversation, "/save text.txt")
    end = read.strip("ab")
    assert Path("text.txt").read_bytes() == f"a{end}b{end}".encode()


def test_keep_continues_the_last_text(make_model: Make) -> None:
    """`/keep` continues what was entered last, `/reset` starts anew, and `/keep` again ends it."""
    model = make_model()
    conversation = begin(model)
    assert conversation.enter("bad") == "bad"
    assert conversation.enter("a") == "a"
    obey(conversation, "/keep")
    assert conversation.enter("bc") == "abc"
    assert conversation.reader.predict(9) == predict(Stepper(model), "abc", 9)
    assert conversation.text("d") == "abcd"
    assert conversation.enter("") == "abc"
    obey(conversation, "/reset")
    assert conversation.enter("de") == "de"
    obey(conversation, "/keep off")
    assert conversation.enter("f") == "f"
    obey(conversation, "/save all.txt")
    assert Path("all.txt").read_text(encoding="utf-8") == "bad\nabc\nde\nf\n"


def test_a_kept_text_stands_after_the_line_of_a_backward_model(make_model: Make) -> None:
    """A backward model reads what is typed next before what was typed."""
    conversation = begin(make_model(direction="backward"))
    obey(conversation, "/keep on")
    conversation.enter("bad")
    assert conversation.prompt == "(before bad) > "
    assert conversation.enter("a ") == "a bad"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("bad", "bad> "),
        ("a bad cab had a cab bad", "...ab had a cab bad> "),
        ("\u56fd\u738b" * 20, "..." + "\u56fd\u738b" * 4 + "> "),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m> "),
    ],
)
def test_the_prompt_shows_the_end_of_the_kept_text(make_model: Make, text: str, prompt: str) -> None:
    """At most some cells of it, without control characters; without a kept text there is only the sign."""
    conversation = begin(make_model())
    assert conversation.prompt == "> "
    obey(conversation, "/keep")
    conversation.enter(text)
    assert cell_len(conversation.prompt) <= 16 + len("...> ")
    assert conversation.prompt == prompt


@pytest.mark.parametrize("temperature", [0.3, 2.0, 1.0])
def test_a_temperature_rescales_the_probabilities(make_model: Make, temperature: float) -> None:
    """At temperature T a probability is proportional to its power of 1/T; other models and tables keep T."""
    model = make_model()
    conversation = begin(model)
    obey(conversation, f"/temperature {temperature}")
    conversation.enter("bad")
    before = np.array([c.probability for c in predict(Stepper(model), "bad", 10).candidates])
    expected = before ** (1 / temperature) / (before ** (1 / temperature)).sum()
    assert np.allclose([c.probability for c in conversation.reader.predict(10).candidates], expected)
    model.save(Path("other.safetensors"))
    obey(conversation, "/model other.safetensors")
    assert conversation.reader.temperature == temperature


def test_temperature_zero_is_certain(make_model: Make) -> None:
    """The most probable character has all the probability, and the entropy is 0."""
    conversation = begin(make_model())
    obey(conversation, "/temperature 0")
    prediction = conversation.reader.predict(2)
    assert [c.probability for c in prediction.candidates] == [1.0, 0.0]
    assert prediction.entropy_bits == 0


def test_another_model_reads_the_kept_text(make_model: Make) -> None:
    """`/model` changes the model, and the line continues the same text."""
    conversation, other = begin(make_model()), make_model(seed=5)
    other.save(Path("an other.safetensors"))
    obey(conversation, "/keep")
    conversation.enter("bad")
    assert "10 characters" in obey(conversation, "/model an other.safetensors")
    conversation.enter("a")
    assert conversation.reader.predict(9) == predict(Stepper(other), "bada", 9)


def test_another_model_is_compared(make_model: Make) -> None:
    """`/compare` reads the kept text too, `/temperature` holds for both, and `/model` must fit to the other one."""
    conversation, other = begin(make_model()), make_model(seed=5, symbols="\n abcx")
    other.save(Path("other.safetensors"))
    make_model(direction="backward").save(Path("backward.safetensors"))
    obey(conversation, "/keep")
    conversation.enter("bad")
    assert "6 characters" in obey(conversation, "/compare other.safetensors")
    conversation.enter("a")
    _, compared = conversation.predictions()
    assert compared == predict(Stepper(other), "bada", len(other.vocabulary), "skip")
    obey(conversation, "/temperature 0")
    assert [prediction.entropy_bits for prediction in conversation.predictions()] == [0, 0]
    assert "the same direction" in obey(conversation, "/model backward.safetensors")
    assert obey(conversation, "/compare OFF") == "off: one model"
    assert len(conversation.predictions()) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/modle x", "did you mean `/model`?"),
        ("/mod", "did you mean `/model`?"),
        ("/temp", "did you mean `/temperature`?"),
        ("/zzz", "`\\/zzz` is the text"),
        ("/", "`/help`"),
        ("/temperature", "/temperature T"),
        ("/temperature -1", "0 or more"),
        ("/temperature nan", "0 or more"),
        ("/temperature inf", "0 or more"),
        ("/temperature warm", "not a number"),
        ("/top 0", "at least 1"),
        ("/top 1.5", "not a whole number"),
        ("/top " + "9" * 5000, "999"),
        ("/keep maybe", "neither on nor off"),
        ("/model", "/model PATH"),
        ("/model nowhere", "nowhere"),
        ("/compare", "/compare PATH"),
        ("/compare nowhere", "nowhere"),
        ("/compare backward.safetensors", "the same direction"),
        ("/compare both.safetensors", "charlm fill"),
        ("/model a\0b", "error"),
        ("/model both.safetensors", "charlm fill"),
        ("/model text.txt", "not a charlm model file"),
        ("/save", "/save FILE"),
        ("/save text.txt", "no file is overwritten"),
        ("/save 'text.txt'", "no file is overwritten"),
        ("/save .", "no file is overwritten"),
        ("/save nowhere/text.txt", "cannot be written"),
        ("/save " + "a" * 300, "cannot be written"),
        ("/save a\0b", "no name of a file"),
    ],
)
def test_a_wrong_command_is_an_error_and_changes_nothing(make_model: Make, line: str, words: str) -> None:
    """The error is printed with a hint, without control characters, and the prompt goes on as before."""
    make_model(direction="both").save(Path("both.safetensors"))
    make_model(direction="backward").save(Path("backward.safetensors"))
    Path("text.txt").write_text("kept", encoding="utf-8")
    conversation = begin(make_model())
    conversation.enter("bad")
    before = conversation.reader.predict(9), conversation.reader, conversation.top, conversation.prompt
    answer = obey(conversation, line)
    assert all(part.isprintable() for part in answer.split("\n"))
    assert answer.replace("\n", " ").startswith("error: ")
    assert words in answer.replace("\n", " ")
    assert before == (conversation.reader.predict(9), conversation.reader, conversation.top, conversation.prompt)
    assert Path("text.txt").read_text(encoding="utf-8") == "kept"


def test_nothing_is_saved_before_a_text(make_model: Make) -> None:
    """`/save` before the first text makes no file."""
    assert "nothing was entered" in obey(begin(make_model()), "/save new.txt")
    assert not Path("new.txt").exists()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("settings", [{}, {"symbols": "\t\nab"}, {"direction": "backward"}])
def test_the_help_fits_the_terminal(make_model: Make, width: int, settings: dict[str, str]) -> None:
    """Every command is listed, no line is longer than the terminal, and no word is broken."""
    reader = IncrementalReader(Stepper(make_model(**settings)))
    lines, wide = (
        Conversation(reader, 3, lambda reader: keys_of(reader, "the grey text")).obey("help", "", at).splitlines()
        for at in (width, 1000)
    )
    assert max(map(len, lines)) <= width
    assert " ".join(lines).split() == " ".join(wide).split()
    assert {line.split()[0] for line in wide} >= {f"/{name}" for name in COMMANDS}
    assert ("type a tab" in " ".join(lines)) == ("symbols" in settings)
    assert ("grey text" in " ".join(lines)) == ("direction" not in settings)
