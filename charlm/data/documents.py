"""Where the documents of a text begin: at files, after blank lines, or at lines that match. Knows no splits."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from charlm.data.cache import DAMAGE, DOCUMENTS
from charlm.data.corpus import Corpus
from charlm.data.mapped import PIECE, map_places, read
from charlm.errors import ConfigError, CorpusError
from charlm.files import replacing
from charlm.settings.expressions import MAX_CHARACTERS, compile_line_start
from charlm.vocab import Ids, Vocabulary

Places = NDArray[np.int64]
# The lines of a million characters are matched in a tenth of a second.
MAX_SECONDS_OF_PIECE = 10.0
DIGEST_BYTES = 32


def document_starts(corpus: Corpus, documents: str, piece: int = PIECE) -> Places:
    """Return where documents begin, ascending, shape (D,), without the first one, which begins with the text.

    They are found once and kept beside the ids.

    Args:
        corpus: the text.
        documents: `files`, `blank-line`, or a regular expression that the first line of a document begins with.
        piece: how many characters are looked at together.

    Raises:
        ConfigError: the regular expression takes too long.
        CorpusError: the places cannot be written.
    """
    if documents == "files":
        return np.array(sorted({end for end in corpus.ends if 0 < end < len(corpus.ids)}), dtype=np.int64)
    name = hashlib.sha256(documents.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    path = corpus.path.with_name(f"{corpus.path.stem}-{name}{DOCUMENTS}")
    if (known := _read(path)) is None:
        try:
            with replacing(path) as file:
                _write(file, _find(corpus, documents, piece))
        except OSError as error:
            raise CorpusError(f"`{path}` cannot be written: {error.strerror or error}") from error
        known = _read(path)
        assert known is not None
    return known


def line_starts(ids: Ids, vocabulary: Vocabulary) -> tuple[Places, Places]:
    """Return the places after the ends of lines, and those of them that end a blank line."""
    line_feeds, returns = (vocabulary.encode(end, "skip", is_filtered=True) for end in "\n\r")
    is_end = np.isin(ids, line_feeds if len(line_feeds) else returns)
    places_L = np.flatnonzero(is_end) + 1
    # Between the ends of two lines there is nothing, or the first half of CRLF.
    is_blank = np.diff(places_L, prepend=-1) == 1
    if len(line_feeds) and len(returns):
        is_blank |= (np.diff(places_L, prepend=-2) == 2) & (ids[places_L - 2] == returns[0])
    return places_L, places_L[is_blank]


def _find(corpus: Corpus, documents: str, piece: int) -> Iterator[Places]:
    """Yield the starts of documents piece by piece."""
    expression = None if documents == "blank-line" else compile_line_start(documents)
    total = len(corpus.ids)
    for start in range(0, total, piece):
        # A few characters before the piece show whether a line begins with it, and whether the one before is blank.
        first = max(0, start - 4)
        ids = read(corpus.ids, first, min(start + piece + MAX_CHARACTERS, total))
        lines_L, blank_L = line_starts(ids, corpus.vocabulary)
        found_D = lines_L
        if expression is None:
            # Several blank lines are one boundary, at the last of them.
            found_D = blank_L[~np.isin(blank_L + 1, blank_L) & ~np.isin(blank_L + 2, blank_L)]
        places_D = found_D + first
        is_here_D = (places_D > start) & (places_D <= start + piece) & (places_D < total)
        if expression is not None:
            is_here_D[is_here_D] = list(_matches(expression, ids, found_D[is_here_D].tolist(), corpus.vocabulary))
        yield places_D[is_here_D]


def _matches(expression: re.Pattern[str], ids: Ids, places: Sequence[int], vocabulary: Vocabulary) -> Iterator[bool]:
    """Yield whether the line that starts at each place begins with a match.

    Raises:
        ConfigError: that takes too long.
    """
    began, is_bytes = time.monotonic(), vocabulary.kind == "bytes"
    code_points = np.array([*map(ord, vocabulary.symbols)], dtype="<u4")
    text = "" if is_bytes else code_points[ids].tobytes().decode("utf-32-le", "surrogatepass")
    for place in places:
        end = place + MAX_CHARACTERS
        line = ids[place:end].tobytes().decode("utf-8", "replace") if is_bytes else text[place:end]
        yield expression.match(line.partition("\n")[0].partition("\r")[0]) is not None
        if time.monotonic() - began > MAX_SECONDS_OF_PIECE:
            raise ConfigError(f"data.documents: it takes too long to match `{expression.pattern}` with the lines")


def _write(file: BinaryIO, found: Iterator[Places]) -> None:
    digest = hashlib.sha256()
    for places_D in found:
        digest.update(places_D.tobytes())
        file.write(places_D.tobytes())
    file.write(digest.digest())


def _read(path: Path) -> Places | None:
    """Return the places that a file holds; None if there is none or it is damaged."""
    with suppress(*DAMAGE), path.open("rb") as file:
        digest, size = hashlib.sha256(), path.stat().st_size - DIGEST_BYTES
        for start in range(0, size, PIECE):
            digest.update(file.read(min(PIECE, size - start)))
        if digest.digest() == file.read():
            return map_places(file, size // 8)
    return None
