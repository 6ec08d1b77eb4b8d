"""Encoded texts on disk, each under a key of everything it depends on. An entry is checked before it is used."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from charlm.errors import CorpusError
from charlm.files import cache_folder, replacing, sweep_temporary, temporary_folder, write_atomic
from charlm.vocab import Ids

DAY_SECONDS = 86400.0


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
        line_ends: for each source, how many lines end with CR LF, and how many with CR alone.
        ends: how many ids there are up to the end of each source.
    """

    symbols: list[int]
    characters: int
    skipped: int
    unfiltered: int
    marked: list[int]
    line_ends: list[list[int]]
    ends: list[int]


# Encodes a text: hands the ids over piece by piece, and returns what they are.
Encode = Callable[[Callable[[Ids], None]], Description]


def encode_cached(key: str, encode: Encode) -> tuple[Path, Description]:
    """Return the file of ids that belongs to a key, and its description; encode the text if it is not there.

    If the user's cache cannot be written, the ids go to a folder that lasts as long as the process.

    Args:
        key: stands for everything that the ids depend on.
        encode: encodes the text. It is called again if the disk of the cache is full.

    Raises:
        CorpusError: the ids cannot be written anywhere.
    """
    folder = _writable_cache()
    description = _read_entry(folder, key)
    if description is None:
        try:
            description = _write_entry(folder, key, encode)
        except OSError:  # the disk of the cache is full
            folder = temporary_folder()
            try:
                description = _write_entry(folder, key, encode)
            except OSError as error:
                raise CorpusError(
                    f"the encoded text cannot be written into `{folder}`: {error.strerror or error}",
                    "`CHARLM_CACHE` and `TMPDIR` may name folders with more room",
                ) from error
    return folder / f"{key}.ids", description


def _writable_cache() -> Path:
    folder = cache_folder() / "encoded"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(folder, DAY_SECONDS)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    # A read-only home folder must not be an error.
    return temporary_folder()


def _read_entry(folder: Path, key: str) -> Description | None:
    """Return the description of an entry; None if there is none or it is damaged, so that it is written again."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        path = folder / f"{key}.json"
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
        if fields.pop("sha256") != _hash_of(fields):
            return None
        ids_sha256 = fields.pop("ids_sha256")
        with (folder / f"{key}.ids").open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == ids_sha256:
                return Description(**fields)
    return None


def _write_entry(folder: Path, key: str, encode: Encode) -> Description:
    sha256 = hashlib.sha256()
    with replacing(folder / f"{key}.ids") as file:

        def write(ids: Ids) -> None:
            sha256.update(ids.data)
            file.write(ids.data)

        description = encode(write)
    fields = asdict(description) | {"ids_sha256": sha256.hexdigest()}
    # The description is written last: without it the ids do not count.
    write_atomic(folder / f"{key}.json", json.dumps(fields | {"sha256": _hash_of(fields)}).encode())
    return description


def _hash_of(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
