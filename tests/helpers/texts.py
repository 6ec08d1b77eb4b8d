"""Texts in files, for the tests."""

from __future__ import annotations

from pathlib import Path

from charlm.data.corpus import Corpus

# Texts are read in chunks of this many bytes; written out, so that the tests know where the borders are.
CHUNK = 1_048_576


def text_of(loaded: Corpus) -> str:
    """Return a corpus as text again."""
    return loaded.vocabulary.decode(loaded.ids)


def write(name: str, data: bytes | str) -> str:
    """Write a file into the working folder and return its name; text is written as UTF-8, line ends as they are."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def cached_ids(tmp_path: Path) -> list[Path]:
    """List the encoded texts in the cache."""
    return sorted((tmp_path / "cache" / "encoded").glob("*.ids"))
