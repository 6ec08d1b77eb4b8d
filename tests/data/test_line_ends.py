"""Line ends are counted when a text is read, and said when they are not LF alone."""

from __future__ import annotations

import gzip
import shutil
import subprocess

import pytest

from charlm.data.corpus import load_corpus
from charlm.errors import UnknownCharacterError
from charlm.vocab import Vocabulary
from tests.helpers.texts import CHUNK, text_of, write


def note_on(data: bytes | str, **options: object) -> str:
    """Return the note on the line ends of a text, which is the same when the text comes from the cache."""
    name = write("a.txt", data)
    first, again = (load_corpus([name], **options).notes for _ in range(2))  # type: ignore[arg-type]
    assert first == again
    assert len(first) <= 1
    return "".join(first)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo\n", ""),
        ("no line end", ""),
        ("one\r\ntwo\r\n", "2 lines end with CR LF: "),
        ("one\r\ntwo\r\nthree\n", "2 lines end with CR LF, 1 with LF alone: "),
        ("one\r", "1 line ends with CR alone: "),
        ("one\rtwo\rthree\r", "3 lines end with CR alone: "),
        ("a\r\nb\rc\nd\n\r\r\n", "2 lines end with CR LF, 2 with CR alone, 2 with LF alone: "),
        ("a\r\n" * 1203, "1,203 lines end with CR LF: "),
    ],
)
def test_line_ends_other_than_lf_are_said(text: str, expected: str) -> None:
    """The note has the number of each kind, and the text stays as it is."""
    note = note_on(text)
    assert (note != "") == (expected != "")
    assert note.startswith(expected)
    assert text_of(load_corpus(["a.txt"])) == text


@pytest.mark.parametrize(
    ("text", "command"),
    [("a\r\nb\n", r"tr -d '\r'"), ("a\rb\r", r"tr '\r' '\n'"), ("a\r\nb\rc\n", r"perl -pe 's/\r\n?/\n/g'")],
)
def test_the_note_names_the_command_that_converts(text: str, command: str) -> None:
    """Each mixture has its own; a text in two bytes a character becomes UTF-8 first."""
    assert f"`cat a.txt | {command}`" in note_on(text)
    assert f"`cat a.txt | iconv -f utf-16 -t utf-8 | {command}`" in note_on(text.encode("utf-16"), encoding="utf-16")
    assert f"`gzip -dc a.txt | {command}`" in note_on(gzip.compress(text.encode()))
    assert f"`{command}`" in load_corpus(["a.txt", write("b.txt", text)]).notes[0]


@pytest.mark.skipif(not all(map(shutil.which, ("cat", "iconv", "tr", "perl", "gzip"))), reason="programs are missing")
@pytest.mark.parametrize("text", ["a\r\nb\r\n", "a\rb\r", "a\r\nb\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_command_in_the_note_can_be_typed(text: str, encoding: str) -> None:
    """What it prints is the text with LF."""
    for data in (text.encode(encoding), gzip.compress(text.encode(encoding))):
        command = note_on(data, encoding=encoding).split("`")[1]
        done = subprocess.run(command, shell=True, capture_output=True, check=True)
        assert done.stdout == b"a\nb\n"


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("wide", ["", "\u72d0"])
def test_line_ends_at_the_border_of_a_chunk_are_counted_once(kind: str, wide: str) -> None:
    """A CR LF is one line end if a chunk ends between the two, and a CR at the end of a chunk is one alone."""
    start = wide.encode()
    filler = b"a" * (CHUNK - 1 - len(start))
    assert note_on(start + filler + b"\r\nb\n", kind=kind).startswith("1 line ends with CR LF, 1 with LF alone:")
    assert note_on(start + filler + b"\rb\n", kind=kind).startswith("1 line ends with CR alone, 1 with LF alone:")
    assert note_on(start + filler + b"\r", kind=kind).startswith("1 line ends with CR alone:")


def test_a_cr_and_the_lf_of_the_next_file_are_two_line_ends() -> None:
    """Lines do not go on from file to file; the note names the files with CR."""
    names = [write("a.txt", "a\r"), write("b.txt", "\nb\n"), write("c.txt", "c\r\n")]
    (note,) = load_corpus(names).notes
    assert note.startswith(
        "1 line ends with CR LF, 1 with CR alone, 2 with LF alone, in 2 of 3 files (`a.txt`, `c.txt`):"
    )


def test_line_ends_that_the_model_does_not_see_are_not_said() -> None:
    """Neither a filter that removes them, nor a policy that skips them, nor bytes that are no text get a note."""
    name = write("a.txt", "a\r\nb")
    assert "CR" not in "".join(load_corpus([name], filter="letters").notes)
    skipped = load_corpus([name], vocabulary=Vocabulary.of_characters("ab\n"), unknown="skip").notes
    assert "CR" not in "".join(skipped)
    assert note_on("a\r\nb".encode("utf-16"), kind="bytes") == ""


def test_a_model_without_cr_names_what_makes_lf_of_it() -> None:
    """A text with CR LF, which a vocabulary of LF lacks, gets the hint to convert it."""
    for text, command in (("a\r\nb\r\n", r"tr -d '\r'"), ("a\rb\r", r"tr '\r' '\n'")):
        with pytest.raises(UnknownCharacterError, match="carriage return") as caught:
            load_corpus([write("a.txt", text)], vocabulary=Vocabulary.of_characters("ab\n"))
        assert caught.value.hint.startswith(f"`cat a.txt | {command}` makes LF of its line ends")
