"""Texts are found, decoded and encoded."""

from __future__ import annotations

import io
import os
import sys
from mmap import mmap
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, UsageError
from charlm.vocab import Vocabulary
from tests.helpers.texts import CHUNK, text_of, write

# Finding


def test_a_file_becomes_ids() -> None:
    """A corpus has the characters of a file in order, its name, its size and its fingerprint."""
    loaded = load_corpus([write("a.txt", "banana\n")])
    assert text_of(loaded) == "banana\n"
    assert loaded.vocabulary.symbols == "\nabn"
    assert loaded.ids.tolist() == [2, 1, 3, 1, 3, 1, 0]
    assert loaded.name == "a.txt"
    assert loaded.num_bytes == 7
    # As `printf 'banana\n' | sha256sum` prints it.
    assert loaded.sha256 == "5a81483d96b0bc15ad19af7f5a662e14b275729fbc05579b18513e7f550016b1"
    assert loaded.notes == ()


def test_several_files_are_read_one_after_another() -> None:
    """Files follow one another in the given order, with nothing between them."""
    names = [write("b.txt", "second"), write("a.txt", "first")]
    assert text_of(load_corpus(names)) == "secondfirst"
    assert text_of(load_corpus(names[::-1])) == "firstsecond"
    assert load_corpus(names).name == "b.txt + a.txt"


def test_a_character_is_never_joined_across_files() -> None:
    """Half a character at the end of one file is not completed by the next one."""
    names = [write("a", b"ab\xc3"), write("b", b"\xa9cd")]
    with pytest.raises(CorpusError, match=r"`a`.*0xc3 at offset 2"):
        load_corpus(names)


def test_a_folder_is_read_in_sorted_order() -> None:
    """All text files of a folder and of the folders in it are read in the order of their paths."""
    write("folder/b.txt", "2")
    write("folder/a.txt", "1")
    write("folder/c/x.md", "3")
    assert text_of(load_corpus(["folder"])) == "123"
    assert text_of(load_corpus(["folder/"])) == "123"


def test_hidden_and_binary_files_of_a_folder_are_skipped() -> None:
    """Hidden files and folders are skipped, and files with a NUL near their start are skipped with a note."""
    write("folder/a.txt", "text")
    write("folder/.hidden", "no")
    write("folder/.git/config", "no")
    write("folder/image.png", b"\x89PNG\0\0")
    write("folder/c/object.o", b"\x7fELF\0")
    loaded = load_corpus(["folder"])
    assert text_of(loaded) == "text"
    assert len(loaded.notes) == 1
    assert "2 binary files" in loaded.notes[0]
    assert "`folder`" in loaded.notes[0]
    assert loaded.notes == load_corpus(["folder"]).notes
    Path("folder/image.png").unlink()
    (note,) = load_corpus(["folder"]).notes
    assert note.startswith("1 binary file in `folder` left out")


def test_a_hidden_folder_is_read_if_it_is_named() -> None:
    """A folder that is given by name is read, although its own name starts with a dot."""
    write(".notes/a.txt", "text")
    assert text_of(load_corpus([".notes"])) == "text"


def test_a_binary_file_is_read_if_it_is_named() -> None:
    """A NUL leaves a file out of a folder, but not if the file is given by name."""
    assert text_of(load_corpus([write("odd", "a\0b")])) == "a\0b"


def test_a_folder_of_utf16_files_is_text() -> None:
    """A NUL does not make a file binary in an encoding in which every other byte may be NUL."""
    write("folder/a.txt", "text".encode("utf-16"))
    assert text_of(load_corpus(["folder"], encoding="utf-16")) == "text"


def test_a_folder_without_text_is_reported() -> None:
    """A folder with nothing to read is named in the error; of a run, the hint says what it is for."""
    write("folder/.hidden", "no")
    with pytest.raises(CorpusError, match="no text file in `folder`") as caught:
        load_corpus(["folder"])
    assert caught.value.hint == ""
    write("folder/last.safetensors", "a model")
    with pytest.raises(CorpusError, match="no text file in `folder`") as caught:
        load_corpus(["folder"])
    assert caught.value.hint == "`charlm train --resume folder` continues the run in it"


def test_a_glob_takes_the_matching_files_in_sorted_order() -> None:
    """`*` and `**` match files if no shell has expanded them; matching folders are not read."""
    write("b.md", "2")
    write("a.md", "1")
    write("c.txt", "no")
    write("d/e.md", "3")
    assert text_of(load_corpus(["*.md"])) == "12"
    assert text_of(load_corpus(["**/*.md"])) == "123"


def test_a_file_with_brackets_in_its_name_is_no_pattern() -> None:
    """The name of a file that exists is never taken for a pattern."""
    write("a[1].txt", "brackets")
    write("a1.txt", "digit")
    assert text_of(load_corpus(["a[1].txt"])) == "brackets"


def test_standard_input_is_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input as bytes, once, although the text is used several times."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("p\u00efpe\r\n".encode()), encoding="ascii"))
    loaded = load_corpus(["-"])
    assert text_of(loaded) == "p\u00efpe\r\n"
    assert loaded.name == "standard input"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_a_corpus() -> None:
    """A source that can be read only once, such as `<(zcat ...)`, is read once."""
    os.mkfifo("pipe")
    writer = Thread(target=Path("pipe").write_bytes, args=("\u00e9 through a pipe".encode(),), daemon=True)
    writer.start()
    assert text_of(load_corpus(["pipe"])) == "\u00e9 through a pipe"
    writer.join()


def test_the_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, even if no shell has expanded it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"home")
    assert text_of(load_corpus(["~/a.txt"])) == "home"


def test_the_name_of_a_corpus_is_read_in_any_case() -> None:
    """A name in another case is a corpus of the catalogue, unless it is a file."""
    assert load_corpus(["Fables"]).sha256 == load_corpus(["fables"]).sha256
    Path("Fables").write_text("my own", encoding="utf-8")
    assert len(load_corpus(["Fables"]).ids) == 6


@pytest.mark.parametrize(("name", "nearest"), [("fabels", "fables"), ("tinyshakespear", "tinyshakespeare")])
def test_a_misspelt_corpus_gets_the_nearest_name_as_a_hint(name: str, nearest: str) -> None:
    """The error has the given name, and its hint the nearest name that exists."""
    with pytest.raises(CorpusError, match=f"`{name}`") as caught:
        load_corpus([name])
    assert f"`{nearest}`" in caught.value.hint
    assert "charlm corpora" in caught.value.hint


@pytest.mark.parametrize("name", ["no-such-thing.txt", "*.none", "a/b/c", "x" * 5000, "nul\0nul", "~no-such-user/x"])
def test_a_missing_text_is_a_corpus_error(name: str) -> None:
    """A name, pattern or path of any form that leads to no text is a `CorpusError`."""
    with pytest.raises(CorpusError):
        load_corpus([name])


def test_an_empty_name_is_not_the_working_folder() -> None:
    """An empty name, such as that of an unset shell variable, does not read the working folder."""
    write("a.txt", "text")
    with pytest.raises(CorpusError):
        load_corpus([""])


def test_an_empty_text_is_reported() -> None:
    """One empty file, or two, are named in the error."""
    names = [write("empty.txt", ""), write("void.txt", "")]
    with pytest.raises(CorpusError, match=r"`?empty\.txt`? is empty"):
        load_corpus(names[:1])
    with pytest.raises(CorpusError, match=r"empty\.txt \+ void\.txt is empty"):
        load_corpus(names)


def test_an_empty_file_adds_nothing_to_the_others() -> None:
    """The files before and after an empty file follow one another."""
    assert text_of(load_corpus([write("1", "a"), write("2", ""), write("3", "b")])) == "ab"


# Decoding


@pytest.mark.parametrize(
    ("prefix", "bad"),
    [
        (b"", b"\xff"),
        (b"plain text ", b"\xe9t\xe9"),
        ("\u4e2d\u6587".encode(), b"\x80"),
        (b"a" * (CHUNK - 1), b"\xff"),
        (b"a" * CHUNK, b"\xff"),
        (b"a" * (CHUNK + 12345), b"\xff"),
        (b"a" * (CHUNK - 1) + "\u00e9".encode() + b"b" * CHUNK, b"\xfe"),
        # A character that starts before the border and is invalid after it.
        (b"a" * (CHUNK - 1), b"\xe4("),
        (b"a" * (CHUNK - 2), b"\xf0\x9f("),
        # A character that is cut off at the end of the file.
        (b"a" * (CHUNK - 1), b"\xe4"),
        (b"a" * CHUNK, b"\xf0\x9f\x98"),
    ],
)
def test_a_byte_that_is_not_utf8_is_reported_with_its_place(prefix: bytes, bad: bytes) -> None:
    """File, byte and offset are right on both sides of the border of a chunk and across it."""
    ending = b" and more" if bad[-1] in b"(\xff\xfe\x80" or bad == b"\xe9t\xe9" else b""
    name = write("bad.txt", prefix + bad + ending)
    with pytest.raises(CorpusError) as caught:
        load_corpus([name])
    assert "`bad.txt` is not utf-8" in str(caught.value)
    assert f"byte 0x{bad[0]:02x} at offset {len(prefix):,} " in str(caught.value)
    with pytest.raises(UnicodeDecodeError) as independent:
        (prefix + bad + ending).decode("utf-8")
    assert independent.value.start == len(prefix)
    # What is UTF-8 but for one byte is damaged, and not in another encoding.
    assert ("iconv -c" if prefix.endswith("\u6587".encode()) else "--encoding cp1252") in caught.value.hint
    assert "vocab=bytes" in caught.value.hint


def test_an_invalid_byte_is_reported_with_its_own_file() -> None:
    """Offsets count from the start of each file."""
    with pytest.raises(CorpusError, match=r"`b\.txt`.*0xff at offset 2 "):
        load_corpus([write("a.txt", "good"), write("b.txt", b"ab\xff")])


@pytest.mark.parametrize(
    ("encoding", "data", "offset"),
    [
        ("utf-8-sig", b"\xef\xbb\xbfabc\xff", 6),
        ("gb18030", "a\u4e2d".encode("gb18030") + b"\xff", 3),
        ("utf-16", b"\xff\xfea\0\0\xdca\0", 4),
        ("utf-16-le", b"a\0b\0c", 4),
        ("ascii", b"abc\x80", 3),
        ("cp1252", b"ab\x81", 2),
    ],
)
def test_offsets_of_invalid_bytes_are_right_in_any_encoding(encoding: str, data: bytes, offset: int) -> None:
    """The offset is that of the byte in the file, with and without a byte order mark."""
    with pytest.raises(CorpusError, match=f"not {encoding}: byte 0x{data[offset]:02x} at offset {offset} "):
        load_corpus([write("bad.txt", data)], encoding=encoding)


def test_the_hint_does_not_suggest_the_encoding_in_use() -> None:
    """A text that is not cp1252 gets no hint to read it as cp1252."""
    with pytest.raises(CorpusError) as caught:
        load_corpus([write("bad.txt", b"ab\x81")], encoding="cp1252")
    assert "--encoding cp1252" not in caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_utf16_file_gets_a_hint_to_its_encoding(encoding: str) -> None:
    """A file with the mark of UTF-16 gets a hint to `--encoding utf-16`, which then reads it."""
    name = write("windows.txt", "\ufeffcaf\u00e9\r\n".encode(encoding))
    with pytest.raises(CorpusError) as caught:
        load_corpus([name])
    assert "--encoding utf-16" in caught.value.hint
    assert text_of(load_corpus([name], encoding="utf-16")) == "caf\u00e9\r\n"


def test_utf16_without_its_mark_is_reported() -> None:
    """`utf-16` does not guess the byte order, and a file without its mark is named in the error."""
    with pytest.raises(CorpusError, match=r"`a\.txt` is not utf-16.*BOM"):
        load_corpus([write("a.txt", "text".encode("utf-16-le"))], encoding="utf-16")


@pytest.mark.parametrize("encoding", ["no-such-encoding", "hex", "rot13", "", "utf 8\0"])
def test_an_invalid_encoding_is_a_usage_error(encoding: str) -> None:
    """An encoding that Python does not know, or that decodes no text, is refused by name."""
    with pytest.raises(UsageError, match="not a text encoding"):
        load_corpus([write("a.txt", "a")], encoding=encoding)


def test_another_encoding_reads_another_text() -> None:
    """The same bytes are other characters in cp1252 and in latin-1, and each text is cached."""
    name = write("a.txt", b"\xc3\xa9\x93")
    assert text_of(load_corpus([name], encoding="cp1252")) == "\u00c3\u00a9\u201c"
    assert text_of(load_corpus([name], encoding="latin-1")) == "\u00c3\u00a9\x93"
    with pytest.raises(CorpusError):
        load_corpus([name])


def test_a_byte_order_mark_is_dropped_and_reported() -> None:
    """A mark at the start of a file is dropped with a note; the same code point further on is kept."""
    name = write("bom.txt", "\ufeffa\ufeffb")
    loaded = load_corpus([name])
    assert text_of(loaded) == "a\ufeffb"
    assert loaded.notes == ("byte order mark of `bom.txt` dropped",)
    assert loaded.notes == load_corpus([name]).notes
    assert loaded.num_bytes == 8


def test_the_byte_order_mark_of_each_file_is_dropped() -> None:
    """Each of several files loses its mark and gets its note."""
    loaded = load_corpus([write("1", "\ufeffa"), write("2", "b"), write("3", "\ufeffc")])
    assert text_of(loaded) == "abc"
    assert len(loaded.notes) == 2
    assert "`1`" in loaded.notes[0]
    assert "`3`" in loaded.notes[1]


def test_a_note_names_the_file_that_was_asked_for() -> None:
    """A file with the content of an earlier one is noted under its own name."""
    load_corpus([write("one.txt", "\ufeffabc")])
    (note,) = load_corpus([write("two.txt", "\ufeffabc")]).notes
    assert "`two.txt`" in note


def test_a_file_of_only_a_byte_order_mark_is_reported() -> None:
    """A file without a character after its mark is an error, read for the first time or again."""
    name = write("bom.txt", "\ufeff")
    for _ in range(2):
        with pytest.raises(CorpusError, match=r"bom\.txt holds no character"):
            load_corpus([name])


@pytest.mark.parametrize(
    "text",
    [
        "one\r\ntwo\rthree\n\r\n",
        "  both  sides \t\n\n\n ",
        "MiXeD CaSe \u0130\u0131\u00df",
        "e\u0301 \u00e9 \ufb01 \u2126 \u1100\u1161",
        "\0\x1a\x1b[0m\x7f\x85\u2028\u2029",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u00ad\u200b",
    ],
)
def test_a_text_is_never_normalised(text: str) -> None:
    """Line ends, blanks, case, accents and control characters stay as they are in the file."""
    loaded = load_corpus([write("a.txt", text)])
    assert text == text_of(loaded)
    assert len(loaded.notes) == ("\r" in text)  # its line ends are said, and stay as they are


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text[0] != "\ufeff"))
def test_any_text_is_decoded_from_its_ids(text: str) -> None:
    """The ids of any text decode to it, and its symbols are its distinct characters in order."""
    loaded = load_corpus([write("any.txt", text)])
    assert text == text_of(loaded)
    assert sorted(set(text)) == list(loaded.vocabulary.symbols)
    assert np.dtype(np.uint8 if len(set(text)) <= 256 else np.uint16) == loaded.ids.dtype


@pytest.mark.parametrize("shift", range(4))
def test_characters_across_the_border_of_a_chunk_are_whole(shift: int) -> None:
    """An emoji, a line end and an accent across the border of a chunk are decoded unchanged."""
    text = "a" * (CHUNK - shift) + "\U0001f600\r\n" + "b" * (CHUNK - 9) + "e\u0301\u4e2d" * 3
    loaded = load_corpus([write("long.txt", text)])
    # Not by `decode`, which takes a second for two million ids.
    code_points = np.array([ord(symbol) for symbol in loaded.vocabulary.symbols], dtype="<u4")[loaded.ids]
    assert code_points.tobytes().decode("utf-32-le") == text


def test_ids_of_more_than_256_symbols_take_two_bytes_each() -> None:
    """300 distinct characters have ids of 16 bits, which are read back from the disk unchanged."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    loaded = load_corpus([write("a.txt", text)])
    assert np.dtype(np.uint16) == loaded.ids.dtype
    assert list(range(300)) == loaded.ids.tolist()


def test_the_ids_of_a_text_are_memory_mapped_and_read_only() -> None:
    """A corpus may be larger than memory, and nobody can write into the cache by mistake."""
    loaded = load_corpus([write("a.txt", "abc")])
    assert not loaded.ids.flags.owndata
    assert isinstance(loaded.ids.base, memoryview)
    assert isinstance(loaded.ids.base.obj, mmap)
    assert not loaded.ids.flags.writeable


# Bytes


def test_a_vocabulary_of_bytes_reads_any_file() -> None:
    """With a vocabulary of bytes the ids are the bytes of the file, and none is dropped."""
    data = b"\xef\xbb\xbf\xff\0\r\n" + bytes(range(256))
    loaded = load_corpus([write("a.bin", data)], kind="bytes")
    assert data == loaded.ids.tobytes()
    assert Vocabulary.of_bytes() == loaded.vocabulary
    assert loaded.notes == ()
    assert len(data) == loaded.num_bytes == len(loaded.ids)


def test_bytes_and_characters_have_separate_cache_entries() -> None:
    """The kind of the vocabulary is a part of the key of a cached text."""
    name = write("a.txt", "\u00e9")
    assert len(load_corpus([name], kind="bytes").ids) == 2
    assert len(load_corpus([name]).ids) == 1
    assert len(load_corpus([name], kind="bytes").ids) == 2


def test_a_given_vocabulary_wins_over_the_kind() -> None:
    """The kind of a given vocabulary is used instead of the kind that is asked for."""
    name = write("a.txt", "ab")
    assert load_corpus([name], kind="bytes", vocabulary=Vocabulary.of_characters("abc")).vocabulary.kind == "characters"
    assert load_corpus([name], vocabulary=Vocabulary.of_bytes()).vocabulary.kind == "bytes"
