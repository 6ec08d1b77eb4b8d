"""Recognises compressed files and documents by their first bytes, and decompresses. Knows no characters."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO, NamedTuple, cast

from charlm.errors import UndecodableError
from charlm.files import CHUNK_BYTES

STANDARD_INPUT = "standard input"
# So many bytes show what a file is. The names of the first files in an archive are among them.
SNIFFED_BYTES = 1 << 16
COMPRESSIONS = {
    "gzip": rb"\x1f\x8b\x08",
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\0",
    "lzma": rb"\x5d.{4}\xff{8}",
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
}
# The programs that decompress them, if they have other names. zstd refuses large windows unless it is told to.
TOOLS = {"lzma": "xz", "zstd": "zstd --long=31"}
# The modules that read them, the first that this Python has.
MODULES = {
    "bzip2": ("bz2",),
    "xz": ("lzma",),
    "lzma": ("lzma",),
    "zstd": ("compression.zstd", "backports.zstd"),
}
# No text of this size shrinks to a smaller part. Even logs, and wikis with all old versions, shrink to a 200th at most.
BOMB_BYTES = 1 << 28
BOMB_RATIO = 500
DAMAGED = "copy or download it again"


class Format(NamedTuple):
    """A kind of file that holds no plain text.

    Attributes:
        name: what people call it.
        command: gets the text out of `{file}` into `{text}`; empty if there is none in it.
        is_text: whether its bytes are text all the same: markup.
    """

    name: str
    command: str = ""
    is_text: bool = False

    def __str__(self) -> str:
        return self.name

    def advice(self, name: str, compression: str = "") -> str:
        """Return how to get the text out of a file of this name, which may be compressed."""
        if self == TWICE:
            return _decompress(name, compression)
        if not self.command:
            return "there is no text in it"
        path = Path("FILE" if name == STANDARD_INPUT else name)
        # tar decompresses by itself.
        if compression and not self.command.startswith("tar "):
            return f"{_decompress(name, compression)}, and {self.advice(str(_plain(path)))}"
        stem = path.with_suffix("")
        text = stem if stem.suffix == ".txt" else stem.with_name(f"{stem.name}.txt")
        text = text.with_name(f"{path.name}.txt") if text == path else text
        return f"`{self.command.format(file=quote(str(path)), text=quote(str(text)))}` gets its text out"


TWICE = Format("compressed twice")


def _pandoc(name: str, kind: str, is_text: bool = False) -> Format:
    return Format(name, f"pandoc -f {kind} -t plain {{file}} -o {{text}}", is_text)


TO_TXT = "soffice --headless --convert-to txt {file}"
# Patterns of the first bytes. Plain text begins with none of them; the first two are text that nobody writes.
FORMATS = {
    rb"%PDF-": Format("a PDF document", "pdftotext {file} {text}"),
    rb"\{\\rtf": _pandoc("a document in Rich Text Format", "rtf", is_text=True),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Format("an old Office document", TO_TXT),
    rb".{60}BOOKMOBI": Format("an e-book (Mobipocket)", "ebook-convert {file} {text}"),
    rb"AT&TFORM.{2}": Format("a DjVu document", "djvutxt {file} {text}"),
    rb"PK\x03\x04(.{26}mimetypeapplication/epub\+zip|.*META-INF/container\.xml)": _pandoc("an e-book (EPUB)", "epub"),
    rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis\.opendocument\.text": _pandoc("an OpenDocument file", "odt"),
    rb"PK\x03\x04.*word/document\.xml": _pandoc("a Word document", "docx"),
    rb"PK\x03\x04.{26}\[Content_Types\]\.xml": Format("an Office document", TO_TXT),
    rb"PK\x03\x04|PK\x05\x06": Format("a zip archive", "unzip -p {file} > {text}"),
    rb".{257}ustar": Format("a tar archive", "tar -xOf {file} > {text}"),
    rb"7z\xbc\xaf\x27\x1c": Format("a 7z archive", "7z x -so {file} > {text}"),
    rb"Rar!\x1a\x07": Format("a rar archive", "unrar p -inul {file} > {text}"),
    rb"\x04\x22\x4d\x18": Format("compressed with lz4", "lz4 -dc {file} > {text}"),
    rb"LZIP\x01": Format("compressed with lzip", "lzip -dc {file} > {text}"),
    rb"\x1f\x9d": Format("compressed with compress", "uncompress -c {file} > {text}"),
    rb"SQLite format 3\0": Format("an SQLite database", "sqlite3 {file} .dump > {text}"),
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a(?=.*\0)|II\*\0|MM\0\*|RIFF.{4}WEBP": Format("an image"),
    rb"ID3[\x02-\x04]|OggS\0|fLaC\0|RIFF.{4}WAVE": Format("a sound file"),
    rb"\x1aE\xdf\xa3|\0\0.{2}ftyp|RIFF.{4}AVI ": Format("a video"),
    rb'.{5}\0{3}\{"|GGUF.\0': Format("a file of a model's weights"),
    rb"\x7fELF|\xcf\xfa\xed\xfe": Format("a program"),
    rb"\x80[\x02-\x05]|\x93NUMPY|\x89HDF|PAR1\x15|ARROW1\0": Format("a file of binary data"),
}


def compression_of(head: bytes) -> str:
    """Return how a file is compressed, by its first bytes, or an empty string if it is not."""
    return next((name for name, pattern in COMPRESSIONS.items() if re.match(pattern, head, re.DOTALL)), "")


def format_of(head: bytes) -> Format | None:
    """Return the kind of a file by its first bytes; None if it may be text. Compressed files are decompressed first."""
    if compression_of(head):
        return TWICE
    return next((format for pattern, format in FORMATS.items() if re.match(pattern, head, re.DOTALL)), None)


def decompressed(file: BinaryIO, name: str, compression: str) -> Iterator[bytes]:
    """Read a compressed file piece by piece.

    Args:
        file: the compressed bytes, at their start.
        name: of the file, for messages.
        compression: `gzip`, `bzip2`, `xz`, `lzma` or `zstd`.

    Raises:
        UndecodableError: it is damaged, or expands to more than any text does, or Python lacks what reads it.
    """
    num_bytes, is_compressed = 0, _is_compressed(name, compression)
    stream, errors = _opened(file, name, compression)
    with stream:
        while True:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except EOFError as error:
                raise UndecodableError(f"{is_compressed}, and its end is missing", DAMAGED) from error
            except errors as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise _unreadable(error, name, compression) from error
            if not chunk:
                return
            num_bytes += len(chunk)
            if num_bytes > BOMB_BYTES and num_bytes > BOMB_RATIO * file.tell():
                raise UndecodableError(
                    f"{is_compressed} and expands to more than {BOMB_RATIO} times its size",
                    f"no text of more than {BOMB_BYTES >> 20} MB does; if it is meant to, "
                    f"{_decompress(name, compression)} first",
                )
            yield chunk


def filtered(name: str, compression: str, command: str) -> str:
    """Return the command line that sends the text of a file through a command, in backquotes."""
    if name == STANDARD_INPUT:
        return f"`{command}`"
    tool = f"{TOOLS.get(compression, compression)} -dc" if compression else "cat"
    return f"`{tool} {quote(name)} | {command}`"


def _is_compressed(name: str, compression: str) -> str:
    return f"`{name}` is compressed ({compression})"


def _plain(path: Path) -> Path:
    """Return the name of a compressed file when it is decompressed."""
    return path.with_suffix("") if path.suffix else path.with_name(f"{path.name}.txt")


def _decompress(name: str, compression: str) -> str:
    """Say which command decompresses a file."""
    path, tool = Path("FILE" if name == STANDARD_INPUT else name), TOOLS.get(compression, compression)
    return f"`{tool} -dc {quote(str(path))} > {quote(str(_plain(path)))}` decompresses it"


def _unreadable(error: Exception, name: str, compression: str) -> UndecodableError:
    """Return the error that a compressed file is damaged, or needs more memory than it may."""
    reason = str(error) or "it needs too much memory"
    if "memory" in reason:
        return UndecodableError(
            f"{_is_compressed(name, compression)} and takes too much memory to read", _decompress(name, compression)
        )
    return UndecodableError(f"{_is_compressed(name, compression)} and damaged: {reason}", DAMAGED)


def _opened(file: BinaryIO, name: str, compression: str) -> tuple[BinaryIO, tuple[type[Exception], ...]]:
    """Return a stream that decompresses, and the errors that it raises."""
    if compression == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file)), (OSError, MemoryError, zlib.error)
    try:
        module = module_for(compression)
    except ImportError:
        extra = "`pip install 'charlm[zst]'` adds it, and " if compression == "zstd" else ""
        raise UndecodableError(
            f"{_is_compressed(name, compression)}, which this Python cannot read",
            f"{extra}{_decompress(name, compression)}",
        ) from None
    if compression == "bzip2":
        return module.BZ2File(file), (OSError, MemoryError, ValueError)
    if compression == "zstd":
        return module.ZstdFile(file), (OSError, MemoryError, module.ZstdError)
    return module.LZMAFile(file), (OSError, MemoryError, module.LZMAError)


def module_for(compression: str) -> Any:
    """Return the module that reads and writes a compression other than gzip.

    Raises:
        ImportError: this Python was built without its library.
    """
    for name in MODULES[compression]:
        with suppress(ImportError):
            return import_module(name)
    raise ImportError(compression)
