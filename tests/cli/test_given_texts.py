"""Texts on the command line and on standard input are read as they were meant, by one rule for every command."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import ModelFile
from charlm.vocab import Vocabulary
from tests.helpers.commands import answer, answers, assert_refused, call

LETTERS = " -_abcdefgh"


@pytest.fixture(autouse=True)
def models(make_model: Callable[..., ModelFile]) -> None:
    """Models of each kind of line end that read from one side, and from both."""
    for name, ends in (("lf", "\n"), ("cr", "\r"), ("crlf", "\r\n"), ("none", "")):
        symbols = "".join(sorted(ends + LETTERS))
        make_model(symbols=symbols).save(Path(f"{name}.safetensors"))
        make_model(symbols=symbols, direction="both").save(Path(f"both-{name}.safetensors"))


def sampled(text: str, ends: str, stdin: bytes | None = None) -> Any:
    """Return what `sample` makes of a text without adding to it: the prompt as it was read."""
    options = ["-m", f"{ends}.safetensors", "--length", "0", "--seed", "1", "--json"]
    return answers("sample", text, *options, stdin=stdin)[0]["text"]


def predicted(text: str, ends: str, stdin: bytes | None = None) -> Any:
    """Return what `predict-next` makes of a text."""
    return answer("predict-next", text, "-m", f"{ends}.safetensors", "--json", stdin=stdin)["text"]


def filled(text: str, ends: str, stdin: bytes | None = None) -> Any:
    """Return what `fill` makes of a text with a blank that no text has."""
    options = ["-m", f"both-{ends}.safetensors", "--json", "--blank", "?"]
    filling = answer("fill", text if stdin is None else "-", *options, stdin=stdin)
    place = filling["blanks"][0]["place"]
    return filling["text"][:place] + "?" + filling["text"][place + 1 :]


def scored(text: str, ends: str, stdin: bytes | None = None) -> Any:
    """Return what `score` makes of a text."""
    return answer("score", text, "-m", f"{ends}.safetensors", "--json", stdin=stdin)["text"]


def inspected(text: str, ends: str, stdin: bytes | None = None) -> Any:
    """Return what `inspect` makes of a text."""
    return answer("inspect", text, "-m", f"{ends}.safetensors", "--unit", "1.0", "--json", stdin=stdin)["text"]


READERS = [sampled, predicted, filled, scored, inspected]
# What is given, the line ends of the vocabulary, and what is read; ? is a blank, which only `fill` gets.
CASES = [
    ("\ufeffa?b", "lf", "a?b"),
    ("a\r\nb?", "lf", "a\nb?"),
    ("a\rb?", "lf", "a\nb?"),
    ("a\r\nb?", "cr", "a\rb?"),
    ("a\nb?", "cr", "a\rb?"),
    ("a\r\nb\nc\rd?", "crlf", "a\r\nb\nc\rd?"),
    ("\ufeff\r\na\r\n\r\nb?", "lf", "\na\n\nb?"),
]


@pytest.mark.parametrize("read", READERS, ids=lambda read: str(read.__name__))
@pytest.mark.parametrize(("given", "ends", "text"), CASES)
def test_line_ends_and_marks_are_read_as_the_model_knows_them(
    read: Callable[..., Any], given: str, ends: str, text: str
) -> None:
    """The same text is read from an argument, and from standard input with any line end after it."""
    if read is not filled:
        given, text = given.replace("?", ""), text.replace("?", "")
    assert read(given, ends) == text
    # All commands read standard input by the same function.
    for end in ("", "\n", "\r\n", "\r") if read is predicted else ("\r\n",):
        assert read("-", ends, f"{given}{end}".encode()) == text


@pytest.mark.parametrize("read", READERS, ids=lambda read: str(read.__name__))
def test_exactly_one_line_end_is_taken_off(read: Callable[..., Any]) -> None:
    """Standard input loses its last line end and no more; an argument loses none."""
    blank = "?" if read is filled else ""
    assert read("-", "lf", f"a{blank}b\n\n\n".encode()) == f"a{blank}b\n\n"
    assert read("-", "lf", f"a{blank}b\r\n\r\n".encode()) == f"a{blank}b\n"
    assert read(f"a{blank}b\n", "lf") == f"a{blank}b\n"


def test_a_mark_and_line_ends_are_read_by_bytes_and_filters(make_model: Callable[..., ModelFile]) -> None:
    """A model of bytes keeps CR LF and drops the mark; a model of letters reads either as one space."""
    make_model(symbols=Vocabulary.of_bytes()).save(Path("bytes.safetensors"))
    make_model(symbols=Vocabulary("characters", " abc", "letters")).save(Path("letters.safetensors"))
    assert sampled("-", "bytes", "\ufeffa\r\nb\r\n".encode()) == "a\r\nb"
    assert sampled("-", "letters", "\ufeffA\r\nb\r\n".encode()) == "a b"


def test_predictions_do_not_depend_on_the_way_a_text_comes() -> None:
    """As an argument, through -, and as a line of standard input, a text has the same candidates."""
    options = ["-m", "lf.safetensors", "--json"]
    expected = answer("predict-next", "bad ca", *options)
    assert answer("predict-next", "-", *options, stdin="\ufeffbad ca\n".encode()) == expected
    assert answer("predict-next", *options, stdin="\ufeffbad ca\r\n".encode()) == expected


def test_an_unknown_line_end_is_named() -> None:
    """A vocabulary without line ends refuses one that is not the last."""
    assert "U+000D" in assert_refused(call("sample", "-", "-m", "none.safetensors", stdin=b"a\r\nb\r\n"))


# Texts that begin with a dash


@pytest.mark.parametrize(
    "text", ["- a bad head", "-bad head", "-c", "--", "--- a", "---", "-- cab", "-_-", "-", "--bad head"]
)
def test_a_text_that_begins_with_a_dash_is_read(text: str) -> None:
    """It works as it is if no option looks like that, and always after `--`."""
    fill_text = f"{text} ?"
    is_plain = " " in text or text in ("---", "-_-")
    for read in (sampled, predicted):
        if is_plain:
            assert read(text, "lf") == text
    assert filled(fill_text, "lf") == fill_text
    options = ["-m", "lf.safetensors", "--length", "0", "--json"]
    assert answers("sample", *options, "--", text, stdin=b"")[0]["text"] == ("" if text == "-" else text)


@pytest.mark.parametrize("command", ["sample", "predict-next", "fill"])
@pytest.mark.parametrize("text", ["-x", "-1", "-bad", "--bad", "-my dear"])
def test_the_error_shows_the_command_line_that_works(command: str, text: str) -> None:
    """What may be a mistyped option is refused; the line in the hint reads it as a text."""
    model = "both-lf.safetensors" if command == "fill" else "lf.safetensors"
    result = call(command, "-m", model, text, "--unknown", "skip", *(["--blank", text[1]] if command == "fill" else []))
    assert text in assert_refused(result)
    line = result.stderr.partition("after `--`: ")[2]
    arguments = shlex.split(line)
    assert arguments[:2] == ["charlm", command]
    again = call(*arguments[1:])
    assert again.exit_code == 0, again.stderr


@pytest.mark.parametrize(("given", "option"), [("--lenght", "--length"), ("--temperature 0.5", "--temperature")])
def test_a_mistyped_option_is_not_a_text(given: str, option: str) -> None:
    """An unknown option gets the nearest one as a hint, also if it was quoted together with its value."""
    result = call("sample", "-m", "lf.safetensors", given)
    assert "no option" in assert_refused(result)
    assert f"did you mean `{option}`?" in result.stderr


def test_short_options_may_have_their_value_attached(make_model: Callable[..., ModelFile]) -> None:
    """`-n5`, and a value with a space in it, are options."""
    make_model(symbols="\n" + LETTERS).save(Path("my model.safetensors"))
    result = call("sample", "a", "-mmy model.safetensors", "-n 5", "-t0", "--seed=1", "--separator=")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout) == 6


@pytest.mark.parametrize("text", ["- b", "-b", "--json"])
def test_the_value_of_an_option_may_begin_with_a_dash(text: str) -> None:
    """`--stop` and `--separator` take the next argument, whatever it looks like."""
    options = ["-m", "lf.safetensors", "--seed", "1", "--num", "2", "--length", "30"]
    plain = [row["text"] for row in answers("sample", "ab", *options, "--json")]
    assert call("sample", "ab", *options, "--separator", text).stdout == text.join(plain)
    assert call("sample", "ab", *options, "--stop", text).exit_code == 0
    hint = call("sample", "ab", "-m", "lf.safetensors", "--unknown", "- b")
    assert "`- b` is not a policy" in hint.stderr


def test_a_text_in_another_encoding_gets_it_as_a_hint(make_model: Callable[..., ModelFile]) -> None:
    """Through a pipe and from a file of prompts."""
    make_model().save(Path("model"))
    Path("prompts.txt").write_bytes("狐狸和葡萄的故事\n".encode("gbk"))
    expected = 'hint: in gb18030 it is "狐狸和葡萄的故事"; `iconv -f gb18030 -t utf-8` converts it'
    piped = call("sample", "-", "-m", "model", stdin=Path("prompts.txt").read_bytes())
    assert (piped.exit_code, piped.stderr.splitlines()[1:]) == (1, [expected])
    from_file = call("sample", "--prompts", "prompts.txt", "-m", "model")
    assert from_file.stderr.splitlines()[1:] == [expected]
    assert call("sample", "-", "-m", "model", stdin=b"\xff").stderr.count("\n") <= 2
