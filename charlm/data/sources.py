"""Which bytes a corpus is read from: files, folders, patterns, pipes, the catalogue. Knows no characters."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from charlm.data.catalog import Source, catalog_entries, source_of
from charlm.data.decoding import MAX_NAMES, Undecodable, first_bytes, named, place, recognised, refuse, with_encoding
from charlm.data.downloads import DownloadProgress
from charlm.data.formats import STANDARD_INPUT
from charlm.errors import CorpusError, TooLargeError, UndecodableError, counted, did_you_mean, nearest_name
from charlm.files import CHUNK_BYTES, expanded
from charlm.run_folder import resume_command

# A NUL among the first so many bytes shows that a file is not text.
NUL_BYTES = 8192
# How many files of a folder are looked at for a name that is close to a misspelt one.
MAX_NEIGHBOURS = 10_000
# A folder with this file is a run, and holds no text.
LAST_MODEL = "last.safetensors"


def find_sources(
    name: str,
    encoding: str,
    notes: list[str],
    progress: DownloadProgress | None = None,
    max_bytes: int | None = None,
    left_out: Undecodable | None = None,
) -> list[Source]:
    """Return what a name stands for, in order.

    Args:
        name: a corpus of the catalogue, a file, a folder, a pattern, or `-` for standard input.
        encoding: of the text. In a folder, files that are binary in this encoding are dropped.
        notes: a list to which this adds what a person should know.
        progress: called during a download.
        max_bytes: refuse more bytes than this, and everything that is not a file, without reading it. Of compressed
            files it does not know how many they have.
        left_out: takes the sources that are no text in this encoding, which are not returned then.

    Raises:
        CorpusError: there is no such text, or it cannot be read.
        TooLargeError: it has more bytes than it may.
        DownloadError: it could not be fetched.
    """
    if name == "-":
        return list(_decodable([recognised(_spool(STANDARD_INPUT, sys.stdin.buffer))], left_out))
    if not name:
        raise CorpusError("the name of a corpus is empty", "`.` is the current folder")
    if entry := catalog_entries().get(catalog_name(name)):
        if os.path.lexists(name):
            notes.append(f"`{name}` is a text that charlm knows by name; what is here is `--corpus .{os.sep}{name}`")
        return entry.sources(progress)
    num_left_out = _num_left_out(left_out)
    try:
        path = expanded(name)
        if path.is_dir():
            return _in_folder(path, encoding, notes, max_bytes, left_out)
        if path.exists():
            if max_bytes is not None and not path.is_file():
                raise CorpusError(f"`{name}` is not a file")
            return list(_within(_decodable([_checked(path)], left_out, max_bytes), max_bytes))
        files = (_checked(file) for file in _once(_matches(path)))
        sources = sorted(_within(_decodable(files, left_out, max_bytes), max_bytes), key=place)
    except (OSError, ValueError, RuntimeError) as error:
        raise CorpusError(f"`{name}` cannot be read: {error}") from error
    if sources or _num_left_out(left_out) > num_left_out:
        return sources
    if path.is_symlink():
        raise CorpusError(f"`{name}` is a link, and there is nothing where it leads")
    hint = f"{_near(name, path)} `charlm corpora` lists the corpora by name"
    raise CorpusError(f"there is no corpus, file or folder `{name}`", hint.lstrip())


def catalog_name(name: str) -> str:
    """Return the name of a corpus as the catalogue writes it; a name in another case may also be a file's."""
    try:
        is_other = name.lower() in catalog_entries() and not expanded(name).exists()
    except (OSError, ValueError, RuntimeError):
        is_other = False
    return name.lower() if is_other else name


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


def _in_folder(
    folder: Path, encoding: str, notes: list[str], max_bytes: int | None, left_out: Undecodable | None
) -> list[Source]:
    binary: list[Source] = []
    num_left_out = _num_left_out(left_out)

    def texts() -> Iterator[Source]:
        for source in map(_checked, _below(folder)):
            if _is_binary(source, encoding):
                binary.append(source)
            else:
                yield source

    sources = sorted(_within(_decodable(texts(), left_out, max_bytes), max_bytes), key=place)
    if binary:
        binary = sorted(binary, key=place)
        known = [with_encoding(source, encoding) for source in binary[:MAX_NAMES]] + binary[MAX_NAMES:]
        notes.append(f"{counted(len(binary), 'binary file')} in `{folder}` left out: {named(known)}")
    if not sources and _num_left_out(left_out) == num_left_out:
        refuse(binary, encoding, may_be_bytes=False)
        is_run = (folder / LAST_MODEL).is_file()
        hint = f"{resume_command(folder)} continues the run in it" if is_run else ""
        raise CorpusError(f"there is no text file in `{folder}`", hint)
    return sources


def _is_binary(source: Source, encoding: str) -> bool:
    if source.is_document:
        return True
    try:
        return "\0" in first_bytes(source)[:NUL_BYTES].decode(encoding, "replace")
    except UndecodableError:
        # Damaged: it is reported by name.
        return False


def _decodable(
    sources: Iterable[Source], left_out: Undecodable | None, max_bytes: int | None = None
) -> Iterator[Source]:
    """Yield the sources that are text in this encoding; all of them if none may be dropped."""
    for source in sources:
        if left_out is None or not left_out.leaves_out(source, max_bytes):
            yield source


def _num_left_out(left_out: Undecodable | None) -> int:
    return len(left_out.sources) if left_out else 0


def _once(paths: Iterable[Path]) -> Iterator[Path]:
    seen = set()
    for path in paths:
        if path not in seen:
            seen.add(path)
            yield path


def _below(folder: Path) -> Iterator[Path]:
    """Go through the files of a folder and its subfolders, except hidden ones and run folders."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if LAST_MODEL in files:
            folders.clear()
        else:
            for path in (Path(parent, name) for name in files if not name.startswith(".")):
                if path.is_file():
                    yield path


def _within(sources: Iterable[Source], max_bytes: int | None) -> Iterator[Source]:
    num_bytes = 0
    for source in sources:
        if max_bytes is not None and not source.compression:
            num_bytes += Path(source.name).stat().st_size
            if num_bytes > max_bytes:
                raise TooLargeError(max_bytes)
        yield source


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _checked(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            return recognised(source_of(path) if path.is_file() else _spool(str(path), file))
    except OSError as error:
        raise CorpusError(f"`{path}` cannot be read: {error.strerror or error}") from error


def _near(name: str, path: Path) -> str:
    """Ask whether the nearest name was meant: of the catalogue, or of the files in the same folder."""
    try:
        with os.scandir(path.parent) as entries:
            here = [entry.name for entry in islice(entries, MAX_NEIGHBOURS)]
    except (OSError, ValueError):
        here = []
    near = nearest_name(path.name, [*here, *(catalog_entries() if path.name == name else [])])
    if near is None:
        return did_you_mean(name, catalog_entries())
    return f"did you mean `{path.with_name(near) if near in here else near}`?"


def _spool(name: str, stream: BinaryIO) -> Source:
    """Copy what comes through a pipe to a temporary file, so that it can be read more than once."""
    path = None
    try:
        with tempfile.NamedTemporaryFile(prefix="charlm-", delete=False) as spool:
            path = Path(spool.name)
            while chunk := stream.read(CHUNK_BYTES):
                spool.write(chunk)
    except BaseException as error:
        if path:
            path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise CorpusError(
            f"what comes through {name} cannot be kept: {error.strerror or error}",
            "`TMPDIR` may name a folder with more room",
        ) from error

    def reopen() -> BinaryIO:
        return path.open("rb")

    # It lives as long as the source.
    weakref.finalize(reopen, path.unlink, missing_ok=True)
    return Source(name, reopen, path=path, is_kept=False)
