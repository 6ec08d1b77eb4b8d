"""`charlm sample --check-copies` reports what was copied, on stderr or in JSON, and underlines it on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile
from charlm.data.corpus import load_corpus
from charlm.evaluation.copies import find_copies
from tests.helpers.commands import answers, assert_refused, call
from tests.helpers.terminal import on_a_terminal

SYMBOLS = "\n abcdefgh"
SAMPLE = ["sample", "head", "-m", "m.safetensors", "--seed", "3", "--length", "60"]
CHECK = [*SAMPLE, "--check-copies"]


@pytest.fixture(autouse=True)
def learned(make_model: Callable[..., ModelFile]) -> str:
    """A model whose text holds what it writes, but for the first and last characters; and one that reads backward."""
    file = make_model(symbols=SYMBOLS)
    file.save(Path("m.safetensors"))
    (row,) = answers(*SAMPLE, "--json", "--hide-prompt")
    copied = str(row["text"][5:50])
    text = f"{SYMBOLS}\ncab {copied} face\n" + "abcdefgh " * 30
    Path("own.txt").write_text(text, encoding="utf-8")
    data = {"corpus": ["own.txt"], "validation_fraction": 0.1, "test_fraction": 0.0}
    for name, direction in [("m", "forward"), ("backward", "backward")]:
        file = make_model(symbols=SYMBOLS, direction=direction)
        config = file.config | {"data": data}
        replace(file, config=config, corpus=load_corpus(["own.txt"]).facts()).save(Path(f"{name}.safetensors"))
    return copied


def test_stdout_is_the_text_alone(learned: str) -> None:
    """A pipe gets the same text with the check and without; what is found is printed on stderr."""
    result = call(*CHECK)
    assert result.stdout == call(*SAMPLE).stdout
    shown = learned.replace("\n", r"\n")
    assert f"[{shown}]" in result.stderr.replace("[ ", "[").replace(" ]", "]")
    assert "of own.txt" in result.stderr
    assert re.search(r"20 characters +7\d\.\d% +100\.0%", result.stderr)


def test_a_terminal_underlines_what_is_copied(learned: str) -> None:
    """The underlined text, line by line, is what was copied; the rest is as without the check. 40 columns do."""
    screen = on_a_terminal(*CHECK, env={"COLUMNS": "40"}).decode().replace("\r\n", "\n")
    (row,) = answers(*CHECK, "--json")
    ((start, end),) = row["copies"]["spans"]
    written = row["text"].removeprefix("head")
    assert learned in written[start:end]
    assert re.findall(r"\x1b\[4m(.*?)\x1b\[24m", screen) == re.findall("[^\n]+", written[start:end])
    assert re.sub(r"\x1b\[2?4m", "", screen).startswith(row["text"])
    assert "underlined: copies of at least 50" not in screen
    assert "underlined: copies of at least" in screen
    assert re.search(r"^at least +this text +held-out\n(\d+ characters( +\d+\.\d%){2}\n){6}", screen, re.MULTILINE)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_plain_terminal_lists_what_is_copied(environment: dict[str, str]) -> None:
    """No escape sequence is written; the copies stand in a list."""
    screen = on_a_terminal(*CHECK, env=environment)
    assert b"\x1b" not in screen
    assert b"copied: characters " in screen


def test_json_has_what_the_library_finds() -> None:
    """Each line has the copies of its own text; the prompt is no part of it, and stderr stays empty."""
    result = call(*CHECK, "--num", "3", "--json")
    rows = answers(*CHECK, "--num", "3", "--json")
    assert (len(rows), result.stderr) == (3, "")
    for row in rows:
        written = row["text"].removeprefix("head")
        assert row["copies"]["length"] == len(written) == 60
        assert row["copies"] == find_copies("m.safetensors", written).to_json()


def test_prompts_of_a_file_are_checked() -> None:
    """Many prompts give JSON lines with their copies."""
    rows = answers("sample", "-m", "m.safetensors", "--prompts", "-", "--check-copies", stdin="head\nbad\n")
    assert [(row["prompt"], row["copies"]["length"]) for row in rows] == [("head", 500), ("bad", 500)]


def test_a_backward_model_wrote_what_precedes_the_prompt() -> None:
    """What was checked is the text without its end."""
    arguments = ["sample", "head", "-m", "backward.safetensors", "--seed", "1", "--length", "40", "--check-copies"]
    (row,) = answers(*arguments, "--json")
    assert row["text"].endswith("head")
    found = find_copies("backward.safetensors", row["text"].removesuffix("head"))
    assert row["copies"] == found.to_json()
    assert call(*arguments).stdout.startswith(row["text"])


def test_several_texts_are_reported_by_their_seeds() -> None:
    """The longest copy comes first; beyond ten texts the others are counted."""
    result = call(*CHECK, "--num", "12")
    lengths = [int(length) for length in re.findall(r"^seed \d+: longest copy: (\d+) ch", result.stderr, re.MULTILINE)]
    assert (len(lengths), lengths) == (10, sorted(lengths, reverse=True))
    assert "seed 3: longest copy" in result.stderr
    assert "and 2 texts without a longer copy" in result.stderr
    assert "these texts" in result.stderr


def test_files_have_the_texts_alone() -> None:
    """What was copied is printed, not written into the files."""
    (row,) = answers(*SAMPLE, "--json")
    result = call(*CHECK, "--out", "texts")
    assert [path.read_text() for path in Path("texts").iterdir()] == [row["text"].removesuffix("\n") + "\n"]
    assert "longest copy: " in result.stderr


@pytest.mark.parametrize("more", [["--length", "0"], ["--length", "1", "--num", "2"]])
def test_a_short_text_is_checked(more: list[str]) -> None:
    """A text of no or one character has a result too."""
    result = call(*CHECK, *more)
    assert result.exit_code == 0
    assert "longest copy: " in result.stderr


def test_a_text_that_is_elsewhere_is_named() -> None:
    """The error comes before anything is written; its hint works."""
    Path("own.txt").rename("moved.txt")
    result = call(*CHECK)
    assert "own.txt" in assert_refused(result)
    assert result.stdout == ""
    assert "`charlm sample --check-copies --model m.safetensors --corpus FILE`" in result.stderr
    assert call(*CHECK, "--corpus", "moved.txt").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--corpus", "own.txt"], "`--corpus` is for `--check-copies`"),
        (["-", "--check-copies", "--corpus", "-"], "standard input"),
        (["--prompts", "-", "--check-copies", "--corpus", "-"], "standard input"),
        (["--check-copies", "--corpus", "m.safetensors"], "m.safetensors"),
    ],
)
def test_options_that_contradict_are_refused(arguments: list[str], error: str) -> None:
    """Each is one line, before a text is written."""
    result = call("sample", "-m", "m.safetensors", *arguments, stdin="head")
    assert error in assert_refused(result)
    assert result.stdout == ""
