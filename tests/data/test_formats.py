"""Compressed files are read as they stand; documents and other files that hold no text are named."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from charlm.data import formats
from charlm.data.corpus import load_corpus
from charlm.data.formats import format_of
from charlm.errors import CorpusError, TooLargeError
from tests.helpers.texts import CHUNK, text_of, write

TEXT = "The fox and the h\u00e9risson \u72d0\u72f8.\n" * 50


def zstd_compress(data: bytes) -> bytes:
    """Compress with the standard library, or with the package that stands for it in older Pythons."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    module: Any = importlib.import_module(name)
    compressed: bytes = module.compress(data)
    return compressed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstd_compress,
}


def archive(*members: tuple[str, str]) -> bytes:
    """Make a zip archive of files with these names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members:
            bundle.writestr(name, content)
    return buffer.getvalue()


def tar_of(data: bytes, mode: Any = "w") -> bytes:
    """Make a tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as bundle:
        member = tarfile.TarInfo("a.txt")
        member.size = len(data)
        bundle.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("name", COMPRESS)
def test_a_compressed_text_is_the_same_text(name: str) -> None:
    """It has the characters, the size and the fingerprint of the plain file, whatever its name ends in."""
    plain = load_corpus([write("plain.txt", TEXT)])
    packed = load_corpus([write("packed.txt", COMPRESS[name](TEXT.encode()))])
    assert text_of(packed) == TEXT
    assert (packed.sha256, packed.num_bytes) == (plain.sha256, len(TEXT.encode()))
    assert packed.notes == ()


@pytest.mark.parametrize("name", sorted(COMPRESS.keys() - {"lzma"}))
def test_a_text_compressed_in_pieces_is_read_to_its_end(name: str) -> None:
    """Compressed files that were joined are one text, also where a chunk ends."""
    data = b"a" * CHUNK + b"b" * 10
    compress = COMPRESS[name]
    loaded = load_corpus([write("a", compress(data[:5]) + compress(data[5:]))])
    assert loaded.ids.tobytes() == bytes(CHUNK) + b"\1" * 10


def test_compressed_texts_are_read_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder, by a pattern, through a pipe, and as bytes."""
    data = gzip.compress(TEXT.encode())
    write("folder/a.txt.gz", data)
    write("folder/b.txt", "plain")
    assert text_of(load_corpus(["folder"])) == TEXT + "plain"
    assert text_of(load_corpus(["folder/*.gz"])) == TEXT
    assert load_corpus(["folder/a.txt.gz"], kind="bytes").ids.tobytes() == TEXT.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert text_of(load_corpus(["-"])) == TEXT


@pytest.mark.parametrize("name", COMPRESS)
def test_a_compressed_file_that_is_cut_off_is_reported(name: str) -> None:
    """The error has the name of the file and one line, for characters and for bytes."""
    data = COMPRESS[name](bytes(range(256)) * 20)
    file = write("cut", data[: len(data) - 9])
    for kind in ("characters", "bytes"):
        with pytest.raises(CorpusError, match=rf"`cut` is compressed \({name}\), and its end is missing") as caught:
            load_corpus([file], kind=kind)
        assert "again" in caught.value.hint
        assert "--encoding" not in caught.value.hint
        assert "vocab=bytes" not in caught.value.hint


@pytest.mark.parametrize("name", COMPRESS)
def test_a_damaged_compressed_file_is_reported(name: str) -> None:
    """Wrong bytes in the middle are an error with the name of the file, or do not matter."""
    data = COMPRESS[name](bytes(range(256)) * 20)
    place = len(data) // 2
    damaged = data[:place] + bytes(byte ^ 0xFF for byte in data[place : place + 8]) + data[place + 8 :]
    with pytest.raises(CorpusError, match=r"`bad`"):
        load_corpus([write("bad", damaged)])


@pytest.mark.parametrize("name", COMPRESS)
def test_a_bomb_is_refused_before_it_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that expands to more than 500 times its size is refused once that has a certain size."""
    monkeypatch.setattr(formats, "BOMB_BYTES", 1 << 19)
    bomb = write("bomb", COMPRESS[name](bytes(4 << 20)))
    with pytest.raises(CorpusError, match=r"`bomb` is compressed .* expands to more than 500 times") as caught:
        load_corpus([bomb], kind="bytes")
    assert "decompresses it first" in caught.value.hint
    # A text of this size does not shrink so much, and a small one may.
    assert len(load_corpus([write("small", COMPRESS[name](b"a" * (1 << 19)))]).ids) == 1 << 19


def test_decompressed_bytes_count_for_an_untrusted_name() -> None:
    """The limit of what may be read is one for the text, not for its file, which may be larger or smaller."""
    short, long = write("short.gz", gzip.compress(b"abcde")), write("long.gz", gzip.compress(b"ab" * 5000))
    assert text_of(load_corpus([short], max_bytes=5)) == "abcde"
    with pytest.raises(TooLargeError, match="9,999 bytes"):
        load_corpus([long], max_bytes=9999)
    assert len(load_corpus([long], max_bytes=10_000).ids) == 10_000


@pytest.mark.parametrize("name", sorted(COMPRESS.keys() - {"gzip"}))
def test_a_python_without_a_decompressor_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python may have been built without their libraries: the hint names the program, and for zstd the extra."""
    file, text = write("a.txt.packed", COMPRESS[name](TEXT.encode())), write("plain.txt", TEXT)
    real = importlib.import_module

    def import_module(module: str) -> ModuleType:
        if module.rpartition(".")[2] in ("bz2", "lzma", "zstd"):
            raise ImportError(module)
        return real(module)

    monkeypatch.setattr(formats, "import_module", import_module)
    with pytest.raises(CorpusError, match=rf"`a\.txt\.packed` is compressed \({name}\), which") as caught:
        load_corpus([file])
    assert "-dc a.txt.packed > a.txt` decompresses it" in caught.value.hint
    assert ("pip install 'charlm[zst]'" in caught.value.hint) == (name == "zstd")
    assert text_of(load_corpus([text])) == TEXT


def test_everything_imports_without_decompressors() -> None:
    """Texts are read and scored by a Python that was built without bzip2 and xz."""
    program = "import sys; sys.modules.update(_bz2=None, bz2=None, _lzma=None, lzma=None)"
    program += "; import charlm.data.corpus, charlm.evaluation.baselines"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_window_that_takes_too_much_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that decompresses such a file is told to allow it."""
    file = write("long.txt.zst", zstd_compress(TEXT.encode()))

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise MemoryError("Frame requires too much memory for decoding")

    monkeypatch.setattr(formats, "_opened", lambda *_: (Stream(), (MemoryError,)))
    with pytest.raises(
        CorpusError, match=r"`long\.txt\.zst` is compressed \(zstd\) and takes too much memory"
    ) as caught:
        load_corpus([file])
    assert caught.value.hint == "`zstd --long=31 -dc long.txt.zst > long.txt` decompresses it"


WORD = archive(("[Content_Types].xml", "<Types/>"), ("word/document.xml", "<w:t>text</w:t>"))
DOCUMENTS = {
    "novel.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document", "pdftotext novel.pdf novel.txt"),
    "plain.pdf": (b"%PDF-1.4\nobj\n", "a PDF document", "pdftotext plain.pdf plain.txt"),
    "novel.docx": (WORD, "a Word document", "pandoc -f docx -t plain novel.docx -o novel.txt"),
    "novel.epub": (
        archive(("mimetype", "application/epub+zip"), ("a.xhtml", "text")),
        "an e-book (EPUB)",
        "pandoc -f epub -t plain novel.epub -o novel.txt",
    ),
    "novel.odt": (
        archive(("mimetype", "application/vnd.oasis.opendocument.text"), ("content.xml", "text")),
        "an OpenDocument file",
        "pandoc -f odt -t plain novel.odt -o novel.txt",
    ),
    "novel.zip": (archive(("novel.txt", "text")), "a zip archive", "unzip -p novel.zip > novel.txt"),
    "novel.txt": (archive(("a", "text")), "a zip archive", "unzip -p novel.txt > novel.txt.txt"),
    "my novel.doc": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
        "an old Office document",
        "soffice --headless --convert-to txt 'my novel.doc'",
    ),
    "novel.tar": (tar_of(b"text"), "a tar archive", "tar -xOf novel.tar > novel.txt"),
    "novel.tar.gz": (tar_of(b"text", "w:gz"), "a tar archive", "tar -xOf novel.tar.gz > novel.tar.txt"),
    "novel.txt.gz": (gzip.compress(bz2.compress(b"text")), "compressed twice", "gzip -dc novel.txt.gz > novel.txt"),
    "novel.db": (b"SQLite format 3\0" + bytes(84), "an SQLite database", "sqlite3 novel.db .dump > novel.txt"),
    "image.png": (b"\x89PNG\r\n\x1a\n" + bytes(30), "an image", ""),
    "image.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "an image", ""),
    "song.mp3": (b"ID3\x03\0\0\0", "a sound file", ""),
    "best.safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"a":{}}' + bytes(9), "a file of a model's weights", ""),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_named_with_a_way_to_its_text(name: str) -> None:
    """By its first bytes, in any encoding; the hint has a command that can be copied, and no encoding."""
    data, kind, command = DOCUMENTS[name]
    write(name, data)
    for encoding in ("utf-8", "latin-1"):
        with pytest.raises(CorpusError) as caught:
            load_corpus([name], encoding=encoding)
        assert str(caught.value) == f"`{name}` is {kind}, not text"
        assert (f"`{command}`" if command else "no text in it") in caught.value.hint
        assert "--encoding" not in caught.value.hint
        assert "vocab=bytes" in caught.value.hint


def test_a_compressed_document_is_decompressed_first() -> None:
    """The hint has both commands, for what is compressed twice the one that undoes the outer compression."""

    def hint(name: str, data: bytes) -> str:
        with pytest.raises(CorpusError) as caught:
            load_corpus([write(name, data)])
        return caught.value.hint.removesuffix("; `--set vocab=bytes` takes any bytes as they are")

    first = "`gzip -dc novel.pdf.gz > novel.pdf` decompresses it"
    assert hint("novel.pdf.gz", gzip.compress(b"%PDF-1.7\n")) == (
        f"{first}, and `pdftotext novel.pdf novel.txt` gets its text out"
    )
    twice = COMPRESS["bzip2"](COMPRESS["xz"](TEXT.encode()))
    assert hint("a.txt.xz.bz2", twice) == "`bzip2 -dc a.txt.xz.bz2 > a.txt.xz` decompresses it"


def test_a_document_through_a_pipe_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in the hint has a word in the place of the file that is not there."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"%PDF-1.7\n\xff")))
    with pytest.raises(CorpusError, match="`standard input` is a PDF document") as caught:
        load_corpus(["-"])
    assert "`pdftotext FILE FILE.txt`" in caught.value.hint


def test_documents_in_a_folder_are_left_out() -> None:
    """Like other binary files, with a note that says what they are."""
    for name, (data, *_) in DOCUMENTS.items():
        write(f"folder/{name}", data)
    write("folder/a.txt", "text")
    loaded = load_corpus(["folder"])
    assert text_of(loaded) == "text"
    (note,) = loaded.notes
    assert note.startswith(f"{len(DOCUMENTS)} binary files in `folder` left out: `folder/best.safetensors` (a file of")
    assert note.endswith(f" and {len(DOCUMENTS) - 10} more")


def test_a_single_binary_file_is_one_file() -> None:
    """The note is in the singular."""
    write("folder/a.txt", "text")
    write("folder/b.bin", b"\0")
    assert load_corpus(["folder"]).notes == ("1 binary file in `folder` left out: `folder/b.bin`",)


def test_a_document_can_be_learned_as_bytes() -> None:
    """A vocabulary of bytes takes a document that is named, with a note that says what it is."""
    loaded = load_corpus([write("a.docx", WORD)], kind="bytes")
    assert loaded.ids.tobytes() == WORD
    (note,) = loaded.notes
    assert "`a.docx` is a Word document" in note


def test_rich_text_is_read_with_a_note() -> None:
    """Its markup is text, so that it is not refused."""
    loaded = load_corpus([write("a.rtf", r"{\rtf1\ansi text}")])
    assert text_of(loaded) == r"{\rtf1\ansi text}"
    (note,) = loaded.notes
    assert "`pandoc -f rtf -t plain a.rtf -o a.txt`" in note


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030"])
@pytest.mark.parametrize(
    "text",
    [
        "\u4e00\u72d0\u72f8",
        "BZh9 is how bzip2 begins",
        "PK and GIF89a and Rar! and ID3",
        "MZ",
        ']\u4e00{"',
        "%PDF",
        "{}",
    ],
)
def test_a_text_is_not_taken_for_a_document(text: str, encoding: str) -> None:
    """Words that formats begin with are text, in any encoding."""
    assert format_of(text.encode(encoding)) is None
    assert text_of(load_corpus([write("a.txt", text.encode(encoding))], encoding=encoding)) == text
