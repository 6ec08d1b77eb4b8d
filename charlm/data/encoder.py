"""A text becomes ids in one pass: its bytes are hashed, decoded, filtered and encoded. Knows no folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.data.cache import Description, IdsFile
from charlm.data.catalog import Source
from charlm.data.decoding import DecodedSource, read_chunks
from charlm.data.line_ends import LineEnds, conversion
from charlm.errors import TooLargeError, UnknownCharacterError
from charlm.machine import give_back_freed_memory
from charlm.vocab import Filter, Ids, Kind, TextFilter, Vocabulary

CACHE_VERSION = 7
# A few characters that are not ASCII make the encoding of all that is with them slower, so it is done in short pieces.
PIECE_CHARACTERS = 1 << 14
# After so many bytes, memory that is free goes back to the system.
GIVE_BACK_BYTES = 1 << 26


@dataclass(frozen=True)
class Reading:
    """How the bytes of a text become ids.

    Attributes:
        sources: where the bytes come from, in order.
        encoding: how they spell characters.
        kind: of the vocabulary.
        filter: of the vocabulary.
        given: the vocabulary to encode with; None for the text's own.
        unknown: what to do about characters that a given vocabulary lacks.
        grows: whether they are added to it instead.
        max_bytes: how many bytes there may be; None for any number.
    """

    sources: Sequence[Source]
    encoding: str
    kind: Kind
    filter: Filter
    given: Vocabulary | None
    unknown: str
    grows: bool
    max_bytes: int | None = None

    def key(self, *content: Any) -> str:
        """Return a hash of the content and of everything else that the ids depend on."""
        given = self.given.symbols if self.given else ""
        parts: list[Any] = [CACHE_VERSION, *content, self.encoding, self.kind, self.filter]
        parts += [list(map(ord, given)), self.unknown if self.given else ""]
        parts += ["grows"] if self.given and self.grows else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Fingerprint:
    """What is read of the bytes of a text.

    Attributes:
        lengths: how many bytes each source has.
        num_bytes: how many bytes there are in all.
    """

    def __init__(self, max_bytes: int | None = None, tick: Callable[[int], None] | None = None) -> None:
        """Start with no source.

        Args:
            max_bytes: how many bytes there may be; None for any number.
            tick: called with the number of bytes so far.
        """
        self._max_bytes, self._tick, self._digest = max_bytes, tick, hashlib.sha256()
        self.lengths: list[int] = []
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """The hash of all bytes that were read."""
        return self._digest.hexdigest()

    def passed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks of the next source on, hashed and counted.

        Raises:
            TooLargeError: there are more bytes than there may be.
        """
        self.lengths.append(0)
        for chunk in chunks:
            self._digest.update(chunk)
            self.lengths[-1] += len(chunk)
            self.num_bytes += len(chunk)
            if self._max_bytes is not None and self.num_bytes > self._max_bytes:
                raise TooLargeError(self._max_bytes)
            if self._tick:
                self._tick(self.num_bytes)
            yield chunk


def encode(reading: Reading, fingerprint: Fingerprint, file: IdsFile) -> tuple[str, Description]:
    """Encode a text piece by piece.

    Args:
        reading: how.
        fingerprint: sees all bytes.
        file: takes the ids.

    Returns:
        The key of what was read, and its description.

    Raises:
        UndecodableError: a source is no text in this encoding.
        UnknownCharacterError: the given vocabulary lacks a character, under `unknown="error"`.
        TooLargeError: there are more bytes than there may be.
    """
    encoder = _Encoder(reading)
    characters = skipped = unfiltered = nuls = given_back = 0
    marked, line_ends, ends = [], [], []
    for index, source in enumerate(reading.sources):
        chunks = fingerprint.passed(read_chunks(source))
        decoded = DecodedSource(source.name, chunks, reading.encoding)
        counter, position = LineEnds(), 0
        for piece in chunks if reading.kind == "bytes" else decoded:
            for length, ids in encoder.encode(piece, source, position):
                file.write(ids)
                counter.add(ids, encoder.vocabulary)
                nuls += encoder.count_nuls(ids)
                position += length
                characters, skipped = characters + len(ids), skipped + length - len(ids)
            unfiltered += len(piece)
            if fingerprint.num_bytes - given_back >= GIVE_BACK_BYTES:
                # The pieces differ in size, and the room that is left between them would grow with the text.
                given_back = fingerprint.num_bytes
                give_back_freed_memory()
        line_ends.append(counter.counts)
        ends.append(characters)
        if decoded.has_mark:
            marked.append(index)
    vocabulary, numbers = encoder.sorted()
    if numbers is not None:
        file.renumber(numbers)
    symbols = [*map(ord, vocabulary.symbols)]
    key = reading.key(fingerprint.sha256, fingerprint.lengths)
    return key, Description(symbols, characters, skipped, unfiltered, marked, line_ends, ends, nuls)


class _Encoder:
    """Encodes pieces of a text, with a vocabulary that grows by the characters it meets unless it is given.

    Attributes:
        vocabulary: the symbols so far.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading, self._filter = reading, TextFilter(reading.filter)
        self._grows = reading.kind == "characters" and (reading.given is None or reading.grows)
        own = Vocabulary.of_bytes() if reading.kind == "bytes" else Vocabulary("characters", "", reading.filter)
        self.vocabulary = reading.given or own

    def encode(self, piece: str | bytes, source: Source, position: int) -> Iterator[tuple[int, Ids]]:
        """Yield the ids of parts of a piece, each with the length of the part.

        Args:
            piece: the next piece of the text.
            source: where it comes from.
            position: where it starts in its source.
        """
        if isinstance(piece, bytes):
            yield len(piece), np.frombuffer(piece, dtype=np.uint8)
            return
        text = self._filter(piece)
        size = max(1, len(text)) if text.isascii() else PIECE_CHARACTERS
        for start in range(0, len(text), size):
            part = text[start : start + size]
            ids = self._encode_growing(part) if self._grows else self._encode_given(part, source, position + start)
            yield len(part), ids

    def sorted(self) -> tuple[Vocabulary, Ids | None]:
        """Return the vocabulary with new symbols sorted by code point, and the new number of each id if any differs."""
        if not self._grows:
            return self.vocabulary, None
        first = self._reading.given.symbols if self._reading.given else ""
        symbols = first + "".join(sorted(self.vocabulary.symbols[len(first) :]))
        vocabulary = Vocabulary("characters", symbols, self._reading.filter)
        numbers = vocabulary.encode(self.vocabulary.symbols, is_filtered=True)
        return vocabulary, None if symbols == self.vocabulary.symbols else numbers

    def count_nuls(self, ids: Ids) -> int:
        """Return how many characters are NUL."""
        is_text = self.vocabulary.kind == "characters" and "\0" in self.vocabulary
        return int(np.count_nonzero(ids == self.vocabulary.symbols.index("\0"))) if is_text else 0

    def _encode_growing(self, text: str) -> Ids:
        ids = self.vocabulary.encode(text, "skip", is_filtered=True)
        if len(ids) < len(text):
            new = Vocabulary("characters", self.vocabulary.unknown_in(text), self._reading.filter)
            self.vocabulary = self.vocabulary.grown_by(new)
            ids = self.vocabulary.encode(text, is_filtered=True)
        return ids

    def _encode_given(self, text: str, source: Source, position: int) -> Ids:
        try:
            return self.vocabulary.encode(text, self._reading.unknown, position, is_filtered=True)
        except UnknownCharacterError as error:
            hint = error.hint
            if "\r" in text and "\r" not in self.vocabulary:
                crlf, cr, lf = (text.count(end) for end in ("\r\n", "\r", "\n"))
                convert = f"{conversion(crlf, cr - crlf, lf - crlf, self._reading.encoding, [source])} its line ends"
                hint = "; ".join(filter(None, [convert, hint]))
            raise UnknownCharacterError(f"`{source.name}`: {error}", hint) from None
