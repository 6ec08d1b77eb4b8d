"""Which bytes a corpus is read from: files, folders, patterns, pipes, the catalogue. Knows no characters."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from charlm.data.catalog import Source, catalog_entries, source_of
from charlm.data.downloads import DownloadProgress
from charlm.errors import CorpusError, TooLargeError, counted, did_you_mean
from charlm.files import CHUNK_BYTES, expanded

# A NUL among the first so many bytes shows that a file is not text.
SNIFFED_BYTES = 8192


def find_sources(
    name: str, encoding: str, notes: list[str], progress: DownloadProgress | None = None, max_bytes: int | None = None
) -> list[Source]:
    """Return what a name stands for, in order.

    Args:
        name: a corpus of the catalogue, a file, a folder, a pattern, or `-` for standard input.
        encoding: of the text. In a folder, files that are binary in this encoding are left out.
        notes: a list to which this adds what a person should know.
        progress: called during a download.
        max_bytes: refuse more bytes than this, and everything that is not a file, without reading it.

    Raises:
        CorpusError: there is no such text, or it cannot be read.
        TooLargeError: it has more bytes than it may.
        DownloadError: it could not be fetched.
    """
    if name == "-":
        return [_spool("standard input", sys.stdin.buffer)]
    if not name:
        raise CorpusError("the name of a corpus is empty", "`.` is the current folder")
    if entry := catalog_entries().get(catalog_name(name)):
        return entry.sources(progress)
    try:
        path = expanded(name)
        if path.is_dir():
            return _in_folder(path, encoding, notes, max_bytes)
        if path.exists():
            if max_bytes is not None and not path.is_file():
                raise CorpusError(f"`{name}` is not a file")
            return [_checked(file) for file in _within([path], max_bytes)]
        files = sorted(set(_within(_matches(path), max_bytes)))
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"`{name}` cannot be read: {error}") from error
    if files:
        return [_checked(file) for file in files]
    hint = f"{did_you_mean(name, catalog_entries())} `charlm corpora` lists the corpora by name"
    raise CorpusError(f"there is no corpus, file or folder `{name}`", hint.lstrip())


def catalog_name(name: str) -> str:
    """Return the name of a corpus as the catalogue writes it; a name in another case may also be a file's."""
    try:
        is_other = name.lower() in catalog_entries() and not expanded(name).exists()
    except (OSError, ValueError, RuntimeError):
        is_other = False
    return name.lower() if is_other else name


def read_chunks(source: Source) -> Iterator[bytes]:
    """Read a source from its start.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        with source.open() as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise CorpusError(f"`{source.name}` cannot be read: {error.strerror or error}") from error


def _matches(pattern: Path) -> Iterator[Path]:
    """Go through the files that a pattern matches. `**` does not follow links, because they may lead in circles."""
    if "**" not in pattern.parts:
        yield from (Path(match) for match in glob.iglob(str(pattern)) if Path(match).is_file())
        return
    place = pattern.parts.index("**")
    below = Path(*pattern.parts[place:], *(["*"] if pattern.name == "**" else []))
    for folder in glob.glob(str(Path(*pattern.parts[:place]))) if place else ["."]:
        for match in Path(folder).glob(str(below)):
            if match.is_file() and not _is_hidden(match.relative_to(folder)):
                yield match


def _in_folder(folder: Path, encoding: str, notes: list[str], max_bytes: int | None) -> list[Source]:
    sources, num_binary = [], 0
    for path in sorted(_within(_below(folder), max_bytes)):
        source = _checked(path)
        is_binary = "\0" in next(read_chunks(source), b"")[:SNIFFED_BYTES].decode(encoding, "replace")
        num_binary += is_binary
        if not is_binary:
            sources.append(source)
    if num_binary:
        notes.append(f"{counted(num_binary, 'binary file')} in `{folder}` left out")
    if not sources:
        raise CorpusError(f"there is no text file in `{folder}`")
    return sources


def _below(folder: Path) -> Iterator[Path]:
    """Go through the files of a folder and its subfolders, except hidden ones and run folders."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if "last.safetensors" in files:
            folders.clear()
        else:
            for path in (Path(parent, name) for name in files if not name.startswith(".")):
                if path.is_file():
                    yield path


def _within(paths: Iterable[Path], max_bytes: int | None) -> Iterator[Path]:
    num_bytes = 0
    for path in paths:
        num_bytes += path.stat().st_size
        if max_bytes is not None and num_bytes > max_bytes:
            raise TooLargeError(f"there are more than the {counted(max_bytes, 'byte')} learned")
        yield path


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _checked(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            return source_of(path) if path.is_file() else _spool(str(path), file)
    except OSError as error:
        raise CorpusError(f"`{path}` cannot be read: {error.strerror or error}") from error


def _spool(name: str, stream: BinaryIO) -> Source:
    """Copy what comes through a pipe to a temporary file, so that it can be read more than once."""
    try:
        spool = tempfile.NamedTemporaryFile(prefix="charlm-")  # noqa: SIM115 -- lives as long as the source
        while chunk := stream.read(CHUNK_BYTES):
            spool.write(chunk)
        spool.flush()
    except OSError as error:
        raise CorpusError(
            f"what comes through {name} cannot be kept: {error.strerror or error}",
            "`TMPDIR` may name a folder with more room",
        ) from error

    def reopen() -> BinaryIO:
        return Path(spool.name).open("rb")

    return Source(name, reopen)
