"""What `charlm sample` writes can be used: many prompts, boundaries, files and JSON lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile
from charlm.cli.sample import GROUP_SIZE
from tests.helpers.commands import SHORT, answers, assert_refused, call
from tests.helpers.terminal import on_a_terminal

OPTIONS = ["--length", "20", "--seed", "3"]
PROMPTS = "bad\n\n- cab\r\na\tb\nhead"


@pytest.fixture(autouse=True)
def models(make_model: Callable[..., ModelFile]) -> None:
    """Models that read in each direction."""
    symbols = "\t\n -abcdefgh"
    make_model(symbols=symbols).save(Path("m.safetensors"))
    make_model(symbols=symbols, direction="backward").save(Path("backward.safetensors"))


def texts_of(*arguments: str) -> list[str]:
    """Return the texts that a command line gives as JSON."""
    return [row["text"] for row in answers("sample", "-m", "m.safetensors", *OPTIONS, *arguments, "--json")]


def stdout(*arguments: str) -> str:
    """Return what the same command line writes into a pipe."""
    result = call("sample", "-m", "m.safetensors", *OPTIONS, *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout_bytes.decode()


# Boundaries


def test_a_piped_text_ends_with_a_newline() -> None:
    """The prompt and the characters asked for are followed by one newline, unless they end with one."""
    (text,) = texts_of("abc")
    assert stdout("abc") == f"{text}\n"
    assert stdout("abc", "--hide-prompt") == f"{text.removeprefix('abc')}\n"
    (line,) = texts_of("abc", "--lines", "1", "--length", "900")
    assert line.endswith("\n")
    assert stdout("abc", "--lines", "1", "--length", "900") == line


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (r"\0", "\0"),
        (r"\t", "\t"),
        ("", ""),
        ("|", "|"),
        (r"\\n", r"\n"),
        (r"a\d", r"a\d"),
        ("--", "--"),
        ("- x", "- x"),
    ],
)
def test_a_separator_is_all_that_is_added(given: str, meant: str) -> None:
    """The texts with the separator between them are the whole output; escapes are understood."""
    assert stdout("--num", "3", "--separator", given) == meant.join(texts_of("--num", "3"))


@pytest.mark.parametrize(
    ("given", "meant"), [(r"\n", "\n"), (r"\n***\n", "\n***\n"), ("\n\n", "\n\n"), (r"\r\n", "\r\n")]
)
def test_a_separator_that_ends_lines_leaves_the_last_one_ended(given: str, meant: str) -> None:
    """What is made of lines ends with a newline."""
    assert stdout("--num", "3", "--separator", given) == meant.join(texts_of("--num", "3")) + "\n"


def test_texts_of_one_line_need_no_boundary() -> None:
    """`--num 5 --lines 1` writes five lines; texts of several lines have a line between them."""
    lines = texts_of("--num", "5", "--lines", "1", "--length", "900")
    assert stdout("--num", "5", "--lines", "1", "--length", "900") == "".join(lines)
    texts = texts_of("--num", "3", "--lines", "2", "--length", "900")
    assert stdout("--num", "3", "--lines", "2", "--length", "900") == "---\n".join(texts)


def test_a_terminal_shows_seeds_as_headings() -> None:
    """On a terminal each of several texts has its seed above it, and an explicit separator replaces the headings."""
    command = ["sample", "-m", "m.safetensors", "--length", "5", "--seed", "3", "--num", "2"]
    first, second = texts_of("--num", "2", "--length", "5")
    shown = on_a_terminal(*command).decode().replace("\r\n", "\n")
    assert shown == f"--- seed 3\n{first.removesuffix(chr(10))}\n--- seed 4\n{second.removesuffix(chr(10))}\n"
    shown = on_a_terminal(*command, "--separator", r"\0").decode().replace("\r\n", "\n")
    assert shown == rf"{first}\x00{second}".removesuffix("\n") + "\n"


# JSON and files


def test_json_is_one_line_for_each_text(make_model: Callable[..., ModelFile]) -> None:
    """Each text has a line with its seed; Chinese is readable, and what ends a line elsewhere is escaped."""
    rows = answers("sample", "-m", "m.safetensors", *OPTIONS, "--num", "3", "--json")
    assert [[*row] for row in rows] == [["seed", "text"]] * 3
    assert [row["seed"] for row in rows] == [3, 4, 5]
    odd = '狐\u3000\u2028\x85\x9b\u202e\x7f\U0001f98a\x1b\n"'
    make_model(symbols="".join(sorted({*odd}))).save(Path("odd.safetensors"))
    line = call("sample", odd, "-m", "odd.safetensors", "--length", "0", "--json").stdout
    assert json.loads(line)["text"] == odd
    assert "狐\u3000" in line
    assert "\U0001f98a" in line
    assert not set("\u2028\x85\x9b\u202e\x7f\x1b") & set(line)
    assert len(line.splitlines()) == 1


def test_each_text_can_have_a_file() -> None:
    """Files are named by number and seed and hold the texts, each with its last line ended; nothing is printed."""
    texts = texts_of("--num", "3")
    result = call("sample", "-m", "m.safetensors", *OPTIONS, "--num", "3", "--out", "a/b")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "3 texts in a/b" in result.stderr
    files = sorted(Path("a/b").iterdir())
    assert [file.name for file in files] == ["0001-seed-3.txt", "0002-seed-4.txt", "0003-seed-5.txt"]
    assert [file.read_text("utf-8") for file in files] == [text.removesuffix("\n") + "\n" for text in texts]


def test_files_of_others_are_not_overwritten() -> None:
    """A file of the same name is refused and kept, and nothing is written before it."""
    Path("texts").mkdir()
    Path("texts/0002-seed-4.txt").write_text("mine", encoding="utf-8")
    Path("texts/notes.txt").write_text("mine too", encoding="utf-8")
    error = assert_refused(call("sample", "-m", "m.safetensors", *OPTIONS, "--num", "2", "--out", "texts"))
    assert "0002-seed-4.txt" in error
    assert sorted(file.name for file in Path("texts").iterdir()) == ["0002-seed-4.txt", "notes.txt"]
    assert Path("texts/0002-seed-4.txt").read_text("utf-8") == "mine"
    assert "notes.txt" in assert_refused(call("sample", "-m", "m.safetensors", *OPTIONS, "--out", "texts/notes.txt"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--out", "a"],
        ["--separator", "|", "--json"],
        ["--out", "a", "--separator", "|"],
        ["--prompts", "p", "x"],
        ["--prompts", "-", "-"],
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str]) -> None:
    """One form of output can be chosen, and one source of prompts."""
    assert call("sample", "-m", "m.safetensors", *arguments).exit_code == 2
    assert not Path("a").exists()


# Prompts


def prompts_file() -> str:
    """Write prompts of all kinds into a file, with a byte order mark, CR LF and no last line end."""
    Path("prompts.txt").write_bytes(b"\xef\xbb\xbf" + PROMPTS.encode())
    return "prompts.txt"


@pytest.mark.parametrize("model", ["m.safetensors", "backward.safetensors"])
@pytest.mark.parametrize("more", [[], ["--stop", "ab", "--lines", "2", "-t", "1.5"], ["--hide-prompt", "--top-k", "3"]])
def test_many_prompts_give_the_texts_of_each_alone(model: str, more: list[str]) -> None:
    """Each line has prompt, seed and text, in order, and the command repeats it for this prompt and seed alone."""
    options = ["-m", model, "--length", "30", *more]
    rows = answers("sample", "--prompts", prompts_file(), "--num", "2", "--seed", "3", *options)
    prompts = ["bad", "", "- cab", "a\tb", "head"]
    assert [[*row] for row in rows] == [["prompt", "seed", "text"]] * 10
    assert [(row["prompt"], row["seed"]) for row in rows] == [(prompts[k // 2], 3 + k) for k in range(10)]
    for row in rows:
        (alone,) = answers("sample", row["prompt"], "--seed", str(row["seed"]), "--json", *options)
        assert alone["text"] == row["text"]


def test_prompts_come_through_a_pipe_in_more_than_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a group changes no text, and the drawn seed of the first is printed once."""
    prompts = "".join(f"{'abcdefgh'[k % 8]}{'a' * (k % 11)}\n" for k in range(GROUP_SIZE + 3)).encode()
    command = ["sample", "--prompts", "-", "-m", "m.safetensors", "--length", "5"]
    result = call(*command, stdin=prompts)
    assert result.stderr.count("seed") == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == GROUP_SIZE + 3
    assert result.stderr == f"seed {rows[0]['seed']}\n"
    monkeypatch.setattr("charlm.cli.sample.GROUP_SIZE", 7)
    assert answers(*command, "--seed", str(rows[0]["seed"]), stdin=prompts) == rows


def test_prompts_can_be_written_as_texts_and_files() -> None:
    """`--separator` and `--out` replace the JSON lines."""
    texts = [row["text"] for row in answers("sample", "-m", "m.safetensors", "--prompts", prompts_file(), *OPTIONS)]
    assert stdout("--prompts", "prompts.txt", "--separator", r"\0") == "\0".join(texts)
    assert call("sample", "-m", "m.safetensors", *OPTIONS, "--prompts", "prompts.txt", "--out", "out").exit_code == 0
    assert [file.read_text("utf-8").removesuffix("\n") for file in sorted(Path("out").iterdir())] == [
        text.removesuffix("\n") for text in texts
    ]


def test_a_wrong_line_is_named_after_those_before_it() -> None:
    """The texts of the lines before are printed; the error names the line and the character."""
    result = call("sample", "-m", "m.safetensors", "--prompts", "-", *OPTIONS, stdin="a\nb\nxé\nc\n".encode())
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["a", "b"]
    error = assert_refused(result)
    assert "line 3" in error
    assert "U+00E9" in error
    rows = answers("sample", "-m", "m.safetensors", "--prompts", "-", "--unknown", "skip", stdin="a\nxé\n".encode())
    assert [row["prompt"] for row in rows] == ["a", "xé"]


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), (b"a\nb\xff", "0xff")])
def test_a_file_of_prompts_that_cannot_be_read_is_named(content: bytes | None, words: str) -> None:
    """The error names the file, not standard input."""
    if content is not None:
        Path("lines.txt").write_bytes(content)
    error = assert_refused(call("sample", "-m", "m.safetensors", "--prompts", "lines.txt"))
    assert "lines.txt" in error
    assert words in error


def test_a_file_without_lines_gives_no_text() -> None:
    """An empty file has no prompt, and a file of one empty line has one, which is empty."""
    result = call("sample", "-m", "m.safetensors", "--prompts", "-", stdin=b"")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "note: there are no prompts\n")
    assert [row["prompt"] for row in answers("sample", "-m", "m.safetensors", "--prompts", "-", stdin=b"\n")] == [""]


def test_a_reader_gets_texts_before_all_prompts_are_there() -> None:
    """The first group is printed while standard input is still open."""
    command = [
        sys.executable,
        "-m",
        "charlm",
        "sample",
        "--prompts",
        "-",
        "-m",
        "m.safetensors",
        "-n",
        "2",
        "--seed",
        "1",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"ab\n" * 5000)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["prompt"] == "ab"
        process.stdout.close()
        process.kill()


def test_no_sample_is_shown_after_training_if_it_has_no_length(text: str) -> None:
    """`train --sample-length 0` prints neither a sample nor its heading."""
    result = call("train", "-c", text, *SHORT, "--out", "run", "--sample-length", "0")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "it writes" not in result.stderr


def test_lone_carriage_returns_are_shown_on_a_terminal(make_model: Callable[..., ModelFile]) -> None:
    """A pipe gets them unchanged; on a terminal a CR alone is an escape, and CR LF ends a line."""
    make_model(symbols="\n\rabc").save(Path("cr.safetensors"))
    command = ["sample", "a\rb\r\nc\r", "-m", "cr.safetensors", "--length", "0", "--seed", "1"]
    assert call(*command).stdout_bytes == b"a\rb\r\nc\r"
    # A terminal itself makes CR LF of each LF.
    assert on_a_terminal(*command) == b"a\\rb\r\r\nc\\r\r\n"
