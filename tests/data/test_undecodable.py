"""Files that are no text in the encoding are all named, and left out if asked."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, TooLargeError
from tests.helpers.texts import text_of, write

LATIN = "caf\u00e9 na\u00efve".encode("latin-1")
PDF = b"%PDF-1.7\n\xe2\xe3"


def folder_of(num_texts: int, num_latin: int) -> list[str]:
    """Write a folder of texts in UTF-8 and of others in Latin-1; return the names of the others."""
    for number in range(num_texts):
        write(f"folder/a{number:04}.txt", "t")
    return [write(f"folder/b{number:04}.txt", LATIN) for number in range(num_latin)]


@pytest.mark.parametrize("name", ["folder", "folder/*.txt"])
def test_all_undecodable_files_are_named(name: str) -> None:
    """Ten of them, and how many there are besides, in one line, with the option that leaves them out."""
    bad = folder_of(30, 14)
    with pytest.raises(CorpusError) as caught:
        load_corpus([name])
    message = str(caught.value)
    assert message.startswith("14 of 44 files are no text in utf-8: ")
    assert [file for file in bad if f"`{file}`" in message] == bad[:10]
    assert "and 4 more" in message
    assert "byte 0xe9 at offset 3" in message
    assert "`--skip-undecodable` leaves them out" in caught.value.hint


def test_one_undecodable_file_of_many_keeps_its_own_message() -> None:
    """The hint converts this file: another encoding for all would spoil the others."""
    folder_of(3, 1)
    with pytest.raises(CorpusError, match=r"^`folder/b0000\.txt` is not utf-8: byte 0xe9 at offset 3 ") as caught:
        load_corpus(["folder"])
    assert "`--skip-undecodable` leaves it out" in caught.value.hint
    assert "`cat folder/b0000.txt | iconv -f cp1252 -t utf-8` converts it" in caught.value.hint
    assert "--encoding" not in caught.value.hint


def test_files_that_are_all_in_another_encoding_get_its_name() -> None:
    """There is nothing to leave out then."""
    folder_of(0, 3)
    with pytest.raises(CorpusError, match="3 of 3 files") as caught:
        load_corpus(["folder"])
    assert '`--encoding cp1252` reads it as "caf\u00e9 na\u00efve"' in caught.value.hint
    assert "skip" not in caught.value.hint


def test_a_folder_without_text_says_what_is_in_it() -> None:
    """Texts in two bytes a character get their encoding as a hint, documents the command that reads them."""
    wide = "a f\u00fcchslein\n".encode("utf-16")
    write("folder/a.txt", wide)
    with pytest.raises(CorpusError, match=r"`folder/a\.txt` is not utf-8") as caught:
        load_corpus(["folder"])
    assert caught.value.hint == '`--encoding utf-16` reads it as "a f\u00fcchslein"'
    write("other/b.pdf", PDF)
    for skips in (False, True):
        with pytest.raises(CorpusError, match=r"`other/b\.pdf` is a PDF document") as caught:
            load_corpus(["other"], skip_undecodable=skips)
        assert caught.value.hint == "`pdftotext other/b.pdf other/b.txt` gets its text out"
    write("folder/c.txt", "text")
    loaded = load_corpus(["folder"])
    assert text_of(loaded) == "text"
    assert loaded.notes == ("1 binary file in `folder` left out: `folder/a.txt` (a text in utf-16)",)


@pytest.mark.parametrize("name", ["folder", "folder/*"])
def test_undecodable_files_are_left_out_with_a_note(name: str) -> None:
    """The text and its hash are those of the rest, and the note names what is missing, in order."""
    bad = folder_of(3, 12)
    without = load_corpus([name], skip_undecodable=True)
    (note,) = without.notes
    assert note.startswith(
        f"12 files left out, no text in utf-8: {', '.join(f'`{file}`' for file in bad[:10])} and 2 m"
    )
    for file in bad:
        Path(file).unlink()
    assert load_corpus([name]).sha256 == without.sha256
    assert text_of(without) == "ttt"


def test_every_kind_of_unreadable_file_is_left_out() -> None:
    """Documents and damaged files among several names are refused together, and left out together."""
    names = [write("a.txt", "text"), write("b.pdf", PDF), write("c.gz", gzip.compress(b"text")[:-9]), write("d", LATIN)]
    with pytest.raises(CorpusError, match=r"3 of 4 files .*`b\.pdf` \(a PDF document\), `c\.gz`, `d`"):
        load_corpus(names)
    loaded = load_corpus(names, skip_undecodable=True)
    assert text_of(loaded) == "text"
    assert loaded.notes == ("3 files left out, no text in utf-8: `b.pdf` (a PDF document), `c.gz`, `d`",)


def test_a_corpus_of_which_nothing_is_left_is_refused() -> None:
    """The error is the one without the option, and does not offer it again."""
    name = write("a.txt", LATIN)
    with pytest.raises(CorpusError, match=r"`a\.txt` is not utf-8") as caught:
        load_corpus([name], skip_undecodable=True)
    assert "skip" not in caught.value.hint
    assert "--encoding cp1252" in caught.value.hint


@pytest.mark.parametrize("missing", ["missing.txt", "*.none", "empty"])
def test_a_missing_text_is_reported_beside_one_left_out(missing: str) -> None:
    """What is left out of one name does not excuse that another one leads nowhere."""
    Path("empty").mkdir()
    with pytest.raises(CorpusError, match=r"there is no"):
        load_corpus([write("a.txt", LATIN), write("b.txt", "text"), missing], skip_undecodable=True)


def test_nothing_is_left_out_of_bytes() -> None:
    """Any bytes are bytes."""
    folder_of(1, 1)
    assert load_corpus(["folder"], kind="bytes", skip_undecodable=True).ids.tobytes() == b"t" + LATIN


def test_what_is_left_out_does_not_count_for_an_untrusted_name() -> None:
    """The limit is one for the text that is read; a large binary or undecodable file beside it does not matter."""
    write("folder/a.txt", "text")
    write("folder/b.bin", bytes(1000))
    assert text_of(load_corpus(["folder"], max_bytes=4)) == "text"
    write("folder/c.txt", LATIN * 1000)
    assert text_of(load_corpus(["folder"], max_bytes=4, skip_undecodable=True)) == "text"
    write("folder/d.txt", "x" * 1000)
    with pytest.raises(TooLargeError):
        load_corpus(["folder"], max_bytes=4, skip_undecodable=True)


# Names


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_known_name_wins_over_a_file_and_says_so(is_folder: bool) -> None:
    """The note says how to name what is in the folder."""
    write("hello/a.txt" if is_folder else "hello", "mine")
    loaded = load_corpus(["hello"])
    assert text_of(loaded) != "mine"
    (note,) = loaded.notes
    assert "`--corpus ./hello`" in note
    assert text_of(load_corpus(["./hello"])) == "mine"
    assert load_corpus(["fables"]).notes == ()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("novle.txt", "novel.txt"), ("novel", "novel.txt"), ("books/novle.txt", "books/novel.txt"), ("boks", "books")],
)
def test_a_misspelt_file_gets_the_nearest_one_as_a_hint(wrong: str, right: str) -> None:
    """Of the folder that was named, or of the working folder; `fables.txt` is near the known `fables`."""
    write("novel.txt", "a")
    write("books/novel.txt", "a")
    with pytest.raises(CorpusError) as caught:
        load_corpus([wrong])
    assert f"did you mean `{right}`?" in caught.value.hint
    with pytest.raises(CorpusError) as caught:
        load_corpus(["fables.txt"])
    assert "did you mean `fables`?" in caught.value.hint
