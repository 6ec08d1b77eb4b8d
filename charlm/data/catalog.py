"""The corpora known by name: bundled, part of the running interpreter, or to be downloaded. Knows no characters."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import sysconfig
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import yaml

from charlm.data.downloads import MAX_BYTES, DownloadProgress, download_file
from charlm.data.formats import Format
from charlm.errors import CorpusError, DownloadError, counted
from charlm.files import CHUNK_BYTES, bundled_folder, cache_folder, replacing

# Excluded from `python-stdlib`: installed packages, and tests, whose sources are odd on purpose.
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


@dataclass(frozen=True)
class Source:
    """Bytes that a corpus is read from; they can be opened again and again.

    Attributes:
        name: its name in messages.
        open: opens it for reading from the start.
        compression: how its bytes are compressed, see `formats`; empty if they are not.
        format: what it is, if it is not plain text.
        path: the file of its bytes, if there is one.
        is_kept: whether that file stays when charlm ends.
    """

    name: str
    open: Callable[[], BinaryIO]
    compression: str = ""
    format: Format | None = None
    path: Path | None = None
    is_kept: bool = True

    @property
    def is_document(self) -> bool:
        """Whether it is something else than text."""
        return self.format is not None and not self.format.is_text

    @property
    def advice(self) -> str:
        """How to get the text out of a document; empty if it is none."""
        return self.format.advice(self.name, self.compression) if self.format else ""


@dataclass(frozen=True)
class Entry:
    """A corpus of the catalogue; exactly one of `file`, `interpreter` and `address` says where it comes from."""

    name: str
    about: str
    language: str
    licence: str
    file: str = ""
    interpreter: str = ""
    address: str = ""
    algorithm: str = ""
    digest: str = ""
    bytes: int | None = None
    member: str = ""
    member_bytes: int | None = None
    characters: int | None = None
    vocabulary: int | None = None

    @property
    def path(self) -> Path:
        """Where its text is, or will be once it is downloaded."""
        if self.file:
            return bundled_folder("corpora") / self.file
        return cache_folder() / "downloads" / self.name / (self.member or self._file_name)

    @property
    def is_here(self) -> bool:
        """Whether it can be read without a network."""
        return bool(self.interpreter) or self.path.is_file()

    @property
    def _file_name(self) -> str:
        return self.address.rpartition("/")[2]

    def sources(self, progress: DownloadProgress | None = None) -> list[Source]:
        """Return what to read; download it first if it is not here yet.

        Raises:
            DownloadError: it could not be fetched.
            CorpusError: this interpreter came without it.
        """
        if self.interpreter == "topics":
            return [_topics()]
        if self.interpreter == "sources":
            return [source_of(path) for path in _library_files()]
        if not self.is_here:
            self._fetch(progress)
        return [source_of(self.path)]

    def _fetch(self, progress: DownloadProgress | None) -> None:
        file = self.path.with_name(self._file_name)
        # The archive may have been put here by hand, or a process was killed before it unpacked it.
        if not _has_digest(file, self.algorithm, self.digest):
            limit = self.bytes or MAX_BYTES
            download_file(self.address, file, self.algorithm, self.digest, progress, max_bytes=limit)
        if self.member:
            unpack_member(file, self.member, self.member_bytes or 0, self.path)
            file.unlink()


def _has_digest(path: Path, algorithm: str, digest: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == digest


def source_of(path: Path) -> Source:
    """Make a source of a regular file."""
    return Source(str(path), lambda: path.open("rb"), path=path)


@functools.cache
def catalog_entries() -> dict[str, Entry]:
    """Read the catalogue: name to entry, in the order of the file."""
    table = yaml.safe_load((bundled_folder("corpora") / "catalog.yaml").read_text(encoding="utf-8"))
    return {name: _entry(name, fields) for name, fields in table.items()}


def unpack_member(archive: Path, member: str, expected_bytes: int, target: Path) -> None:
    """Extract one member of a zip file, and never write more bytes than were announced.

    Raises:
        DownloadError: the archive is damaged, lacks the member, or unpacks to another size.
    """
    try:
        with zipfile.ZipFile(archive) as bundle, bundle.open(member) as packed, replacing(target) as file:
            left = expected_bytes
            while chunk := packed.read(CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise DownloadError(
                        f"`{member}` in `{archive}` is larger than the {counted(expected_bytes, 'byte')} announced"
                    )
                file.write(chunk)
            if left:
                raise DownloadError(f"`{member}` in `{archive}` is {counted(left, 'byte')} shorter than announced")
    except (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError, OSError) as error:
        raise DownloadError(f"`{archive}` could not be unpacked: {error}", "remove it and try again") from error


def _entry(name: str, fields: dict[str, str | int]) -> Entry:
    algorithm = next((key for key in ("sha256", "sha1") if key in fields), "")
    digest = fields.pop(algorithm, "")
    return Entry(name=name, algorithm=algorithm, digest=digest, **fields)  # type: ignore[arg-type]


def _topics() -> Source:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise CorpusError("this Python came without `pydoc_data`, the text of `python-docs`") from error
    text = "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"
    return Source("python-docs", lambda: io.BytesIO(text.encode("utf-8")))


def _library_files() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return [path for path in sorted(root.rglob("*.py")) if not NOT_LIBRARY.intersection(path.relative_to(root).parts)]
