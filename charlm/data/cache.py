"""Encoded texts on disk, each under a key of everything it depends on. An entry is checked before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from charlm.data.mapped import PIECE
from charlm.errors import CorpusError, UsageError
from charlm.files import cache_folder, holding, replacing, sweep_temporary, temporary_folder, write_atomic
from charlm.vocab import Ids

DAY_SECONDS = 86400.0
# What the encoded texts take together at most, in bytes, and the variable with another number of gigabytes. Those that
# were not used for the longest time go first.
MAX_BYTES, LIMIT = 20 * 10**9, "CHARLM_CACHE_GB"
IDS, DESCRIPTION, PLACE, DOCUMENTS = ".ids", ".json", ".place", ".documents"
# Errors of a file that is missing, damaged, or not what it should be.
DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError)


@dataclass(frozen=True)
class Description:
    """What is known of an encoded text besides its ids.

    Attributes:
        symbols: the code points of its vocabulary, by id. As numbers, because JSON would join two lone surrogates
            that stand side by side into one character.
        characters: how many ids there are.
        skipped: how many characters were dropped because the vocabulary lacks them.
        unfiltered: how many characters there were before the filter.
        marked: the numbers of the sources that began with a byte order mark.
        line_ends: for each source, how many lines end with CR LF, with CR alone, and with LF, also after CR.
        ends: how many ids there are up to the end of each source.
        nuls: how many characters are NUL.
    """

    symbols: list[int]
    characters: int
    skipped: int
    unfiltered: int
    marked: list[int]
    line_ends: list[list[int]]
    ends: list[int]
    nuls: int


class Encoded(NamedTuple):
    """An entry of the cache: the file of its ids, and what is known of them."""

    path: Path
    description: Description


class IdsFile:
    """Ids that are written piece by piece. They may become wider, and may get other numbers at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._length = file, 0
        self._dtype: np.dtype[np.unsignedinteger] = np.dtype(np.uint8)
        self._numbers: Ids | None = None

    def write(self, ids: Ids) -> None:
        """Add ids. Those that were written before become as wide as these."""
        if self._dtype != ids.dtype:
            self._widen(ids.dtype)
        self._length += len(ids)
        self._file.write(ids.data)

    def renumber(self, numbers: Ids) -> None:
        """Replace each id by the number that stands at its place, when all ids are written."""
        self._numbers = numbers

    def finish(self) -> str:
        """Give the ids their numbers, and return the hash of them all."""
        digest, numbers, size = hashlib.sha256(), self._numbers, PIECE * self._dtype.itemsize
        for start in range(0, self._length * self._dtype.itemsize, size):
            data = self._read(start, size)
            if numbers is not None:
                data = self._renumbered(data, numbers)
                self._file.seek(start)
                self._file.write(data)
            digest.update(data)
        return digest.hexdigest()

    def _renumbered(self, data: bytes, numbers: Ids) -> bytes:
        if self._dtype.itemsize == 1:
            # This is several times faster than a gather.
            return data.translate(numbers.tobytes().ljust(256, b"\0"))
        return numbers[np.frombuffer(data, self._dtype)].tobytes()

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)

    def _widen(self, dtype: np.dtype[np.unsignedinteger]) -> None:
        old, new = self._dtype.itemsize, dtype.itemsize
        # From the last piece to the first, because each needs more room than it had.
        for start in reversed(range(0, self._length, PIECE)):
            ids = np.frombuffer(self._read(start * old, min(PIECE, self._length - start) * old), self._dtype)
            self._file.seek(start * new)
            self._file.write(ids.astype(dtype).data)
        self._file.seek(0, os.SEEK_END)
        self._dtype = dtype


# Encodes a text into a file, and returns the key and the description of the entry.
Encode = Callable[[IdsFile], tuple[str, Description]]


class Cache:
    """The encoded texts of this user.

    If the user's cache cannot be written, they are in a folder that lasts as long as the process.

    Attributes:
        folder: where they are.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """Find the folder, or make it.

        Args:
            max_bytes: what all texts may take together; None for what the user wants.

        Raises:
            UsageError: what the user wants is no number.
        """
        self.folder, self._max_bytes = cached_texts(), cache_limit() if max_bytes is None else max_bytes
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep_temporary(self.folder, DAY_SECONDS)
            with tempfile.TemporaryFile(dir=self.folder):
                return
        # A read-only home folder must not be an error.
        self.folder = temporary_folder()

    def read(self, key: str) -> Encoded | None:
        """Return the entry of a key; None if there is none or it is damaged, so that it is written again."""
        return self._read(key, lambda path, sha256: _hash_of_file(path) == sha256)

    def write(self, title: str, encode: Encode, place: str = "") -> Encoded:
        """Encode a text, and return its entry. Texts that were not used for long make room for it.

        Args:
            title: of the text, for people.
            encode: encodes the text. It is called again if the disk of the cache is full.
            place: the files of the text, if they are locked.

        Raises:
            CorpusError: the ids cannot be written anywhere.
        """
        try:
            entry = _write_entry(self.folder, title, encode, place)
            prune(self._max_bytes, entry.path.stem)
            return entry
        except OSError:  # the disk of the cache is full
            self.folder = temporary_folder()
        try:
            return _write_entry(self.folder, title, encode)
        except OSError as error:
            raise CorpusError(
                f"the encoded text cannot be written into `{self.folder}`: {error.strerror or error}",
                "`CHARLM_CACHE` and `TMPDIR` may name folders with more room",
            ) from error

    def note_place(self, place: str, key: str, facts: dict[str, Any]) -> None:
        """Note which entry belongs to files as they are now, so that they need not be read to find it.

        Args:
            place: stands for the names, sizes and times of the files, and for how they are read.
            key: of the entry.
            facts: what else is known of the files.
        """
        with suppress(OSError):
            fields = {"key": key, "facts": facts, "ids": identity_of(self.folder / f"{key}{IDS}")}
            write_atomic(self.folder / f"{place}{PLACE}", _sealed(fields))

    def at_place(self, place: str) -> tuple[dict[str, Any], Encoded] | None:
        """Return the facts and the entry that were noted for files; None if there are none or they are damaged.

        The ids are not read if their file has the size and the times that it had when it was written.
        """
        with suppress(*DAMAGE):
            fields = _unsealed(self.folder / f"{place}{PLACE}")
            is_same = identity_of(self.folder / f"{fields['key']}{IDS}") == fields["ids"]
            entry = self._read(fields["key"], lambda *_: True) if is_same else self.read(fields["key"])
            return (fields["facts"], entry) if entry else None
        return None

    @contextmanager
    def locked(self, place: str) -> Iterator[None]:
        """Let one process at a time encode the same files; others wait, and find them encoded then."""
        # Without locks, two processes may encode the same text. Each writes a file of its own.
        with holding(self.folder / f".{place}.lock") as is_held:
            if is_held:
                # What a process that was killed has left.
                for leftover in [*self.folder.glob(f".{place}-*.tmp"), *self.folder.glob(f"{place}-*{IDS}")]:
                    with suppress(OSError):
                        leftover.unlink()
            yield

    def _read(self, key: str, is_whole: Callable[[Path, str], bool]) -> Encoded | None:
        with suppress(*DAMAGE):
            path = self.folder / f"{key}{DESCRIPTION}"
            fields = _unsealed(path)
            ids_sha256, _ = fields.pop("ids_sha256"), fields.pop("title", "")
            if is_whole(self.folder / f"{key}{IDS}", ids_sha256):
                # The time of the last use.
                with suppress(OSError):
                    os.utime(path)
                return Encoded(self.folder / f"{key}{IDS}", Description(**fields))
        return None


def cache_limit() -> int:
    """Return how many bytes the encoded texts may take together: `CHARLM_CACHE_GB`, or 20 GB.

    Raises:
        UsageError: that is no number.
    """
    if not (given := os.environ.get(LIMIT)):
        return MAX_BYTES
    with suppress(ValueError, OverflowError):
        if (limit := int(float(given) * 1e9)) >= 0:
            return limit
    raise UsageError(f"`{LIMIT}` is `{given}`, and not a number of gigabytes", f"as in `{LIMIT}=5`")


def prune(max_bytes: int, key: str = "") -> int:
    """Remove texts until the others take at most so many bytes; those that were not used for the longest time first.

    Args:
        max_bytes: what they may take together.
        key: of a text that stays.

    Returns:
        how many bytes that frees.
    """
    texts, freed = cached(), 0
    left = sum(text.num_bytes for text in texts) - max_bytes
    for text in reversed(texts):
        if left > freed and text.key != key:
            freed += text.remove()
    return freed


def cached_texts() -> Path:
    """Return the folder of encoded texts in the user's cache, which may not exist."""
    return cache_folder() / "encoded"


@dataclass(frozen=True)
class CachedText:
    """An encoded text on disk.

    Attributes:
        key: its name in the cache.
        title: what people call the text; empty if it was encoded by an older version, or is not whole.
        characters: how many it has; 0 if that is unknown.
        num_bytes: what its files take.
        last_used: when it was used, in seconds since 1970.
        files: its files.
    """

    key: str
    title: str
    characters: int
    num_bytes: int
    last_used: float
    files: tuple[Path, ...]

    def remove(self) -> int:
        """Remove its files, and return how many bytes that frees. A process that is using them keeps them."""
        freed = 0
        for file in self.files:
            # On some systems a file that is used cannot be removed.
            with suppress(OSError):
                size = file.stat().st_size
                file.unlink()
                freed += size
        return freed


def cached() -> list[CachedText]:
    """Return the encoded texts in the user's cache, the last used first."""
    files: dict[str, list[Path]] = {}
    for path in cached_texts().glob("[!.]*"):
        if path.suffix in (IDS, DESCRIPTION, PLACE, DOCUMENTS):
            files.setdefault(path.stem.partition("-")[0], []).append(path)
    for key in list(files):
        # A note on where the files of a text are belongs to the text.
        with suppress(*DAMAGE):
            if (owner := _unsealed(cached_texts() / f"{key}{PLACE}")["key"]) in files:
                files[owner] += files.pop(key)
    texts = [text for key, paths in files.items() if (text := _cached_text(key, paths))]
    return sorted(texts, key=lambda text: text.last_used, reverse=True)


def _cached_text(key: str, paths: Sequence[Path]) -> CachedText | None:
    fields: dict[str, Any] = {}
    with suppress(*DAMAGE):
        fields = _unsealed(cached_texts() / f"{key}{DESCRIPTION}")
    title, characters = fields.get("title", ""), fields.get("characters", 0)
    with suppress(OSError):
        stats = [path.stat() for path in paths]
        sizes, times = [stat.st_size for stat in stats], [stat.st_mtime for stat in stats]
        return CachedText(key, str(title), int(characters), sum(sizes), max(times), tuple(paths))
    return None


def identity_of(path: Path) -> list[int]:
    """Return numbers that change whenever the content of a file does. No program can set back the last one.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _write_entry(folder: Path, title: str, encode: Encode, place: str = "") -> Encoded:
    unnamed = folder / f"{place}-{secrets.token_hex(16)}{IDS}"
    try:
        with replacing(unnamed) as file:
            ids = IdsFile(file)
            key, description = encode(ids)
            fields = asdict(description) | {"ids_sha256": ids.finish(), "title": title}
        path = unnamed.replace(folder / f"{key}{IDS}")
    except BaseException:
        with suppress(OSError):
            unnamed.unlink()
        raise
    # The description is written last: without it the ids do not count.
    write_atomic(folder / f"{key}{DESCRIPTION}", _sealed(fields))
    return Encoded(path, description)


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields | {"sha256": _hash_of(fields)}).encode()


def _unsealed(path: Path) -> dict[str, Any]:
    """Read what `_sealed` returned. If it is damaged, this raises one of `DAMAGE`."""
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
    if fields.pop("sha256") != _hash_of(fields):
        raise ValueError("damaged")
    return fields


def _hash_of(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
