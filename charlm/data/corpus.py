"""A text becomes memory-mapped ids: find its bytes, decode them, count the symbols, encode. Knows nothing of models."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np

from charlm.data.cache import Description, encode_cached
from charlm.data.catalog import Source
from charlm.data.downloads import DownloadProgress
from charlm.data.sources import find_sources, read_chunks
from charlm.errors import CorpusError, UnknownCharacterError, UsageError
from charlm.vocab import NUM_CODE_POINTS, Filter, Ids, Kind, TextFilter, Vocabulary, code_points_of

CACHE_VERSION = 5
BYTE_ORDER_MARK = "\ufeff"
CHANGED = ("the corpus changed while it was read", "try again when nothing writes to it")


@dataclass(frozen=True)
class Corpus:
    """A text as ids.

    Attributes:
        name: what was asked for, for people.
        ids: every character in order, shape `(N,)`, memory-mapped, in the vocabulary's smallest dtype.
        vocabulary: the symbols behind the ids.
        sha256: the fingerprint of the bytes that were read.
        num_bytes: how many bytes were read.
        notes: what was done to the text that a person should know of.
        ends: how many characters there are up to the end of each source.
    """

    name: str
    ids: Ids
    vocabulary: Vocabulary
    sha256: str
    num_bytes: int
    notes: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()

    def facts(self) -> dict[str, str | int]:
        """Return what a model file says of it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "characters": len(self.ids),
            "bytes": self.num_bytes,
        }


@dataclass(frozen=True)
class _Reading:
    """How the bytes of a text become ids.

    Attributes:
        sources: where the bytes come from, in order.
        encoding: how they spell characters.
        kind: of the vocabulary.
        filter: of the vocabulary.
        given: the vocabulary to encode with; None for the text's own.
        unknown: what to do about characters that a given vocabulary lacks.
    """

    sources: Sequence[Source]
    encoding: str
    kind: Kind
    filter: Filter
    given: Vocabulary | None
    unknown: str


def load_corpus(
    names: Sequence[str],
    *,
    encoding: str = "utf-8",
    kind: Kind = "characters",
    filter: Filter = "none",
    vocabulary: Vocabulary | None = None,
    unknown: str = "error",
    progress: DownloadProgress | None = None,
    max_bytes: int | None = None,
) -> Corpus:
    """Read texts, one after another, into one corpus.

    The ids are kept in the user's cache under a key made of the content, the encoding and the vocabulary,
    so the same text is encoded once and another text never takes its place.

    Args:
        names: corpora of the catalogue, files, folders, globs, or `-` for standard input.
        encoding: how the bytes spell characters; decoding is strict.
        kind: which vocabulary to build, if none is given.
        filter: a change to the text before it is encoded, see `vocab.TextFilter`.
        vocabulary: encode with this one, and its filter, instead of the text's own.
        unknown: what to do about characters that a given vocabulary lacks.
        progress: called during a download.
        max_bytes: how many bytes each name may have, in files, not pipes; for names that come from an untrusted file.

    Raises:
        CorpusError: a text is missing, empty, undecodable, or changes while it is read.
        UnknownCharacterError: under `unknown="error"`.
    """
    _check_encoding(encoding)
    if vocabulary:
        vocabulary.encode("", unknown)  # refuses an invalid policy, even if no character is unknown
        kind, filter = vocabulary.kind, vocabulary.filter
    notes: list[str] = []
    sources = [source for name in names for source in find_sources(name, encoding, notes, progress, max_bytes)]
    reading = _Reading(sources, encoding, kind, filter, vocabulary, unknown)
    sha256, lengths = _fingerprint(sources)
    title = " + ".join("standard input" if name == "-" else name for name in names)
    if not sum(lengths):
        raise CorpusError(f"{title} is empty", "a corpus needs at least one character")
    path, description = encode_cached(_key(reading, sha256, lengths), partial(_encode, reading, sha256))
    if not description.characters:
        raise CorpusError(f"{title} holds no character that could be used")
    symbols = Vocabulary(kind, "".join(map(chr, description.symbols)), filter)
    ids = np.memmap(path, dtype=symbols.dtype, mode="r")
    notes += _notes(reading, description)
    return Corpus(title, ids, symbols, sha256, sum(lengths), tuple(notes), tuple(description.ends))


def _check_encoding(encoding: str) -> None:
    try:
        info = codecs.lookup(encoding)
    except (LookupError, ValueError):
        info = None
    # Codecs such as `hex` turn bytes into bytes; only text encodings have this mark.
    if info is None or not getattr(info, "_is_text_encoding", True):
        raise UsageError(
            f"`{encoding}` is not a text encoding", "for instance `utf-8`, `utf-16`, `cp1252` or `gb18030`"
        )


def _fingerprint(sources: Sequence[Source]) -> tuple[str, list[int]]:
    """Return the hash of all bytes, and how many each source has."""
    sha256, lengths = hashlib.sha256(), []
    for source in sources:
        length = 0
        for chunk in read_chunks(source):
            sha256.update(chunk)
            length += len(chunk)
        lengths.append(length)
    return sha256.hexdigest(), lengths


def _key(reading: _Reading, sha256: str, lengths: list[int]) -> str:
    """Return what the ids are kept under: a hash of everything they depend on."""
    given = reading.given.symbols if reading.given else ""
    parts: list[Any] = [CACHE_VERSION, sha256, lengths, reading.encoding, reading.kind, reading.filter]
    parts += [list(map(ord, given)), reading.unknown if reading.given else ""]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _notes(reading: _Reading, description: Description) -> list[str]:
    """Say what was done to the text. Sources are named here, because the same text may come under other names."""
    notes = []
    if description.skipped:
        notes.append(f"{description.skipped:,} characters that the model does not know are left out")
    if reading.filter != "none":
        notes.append(
            f"vocab.filter {reading.filter}: of {description.unfiltered:,} characters {description.characters:,} are "
            "left, lower-cased, with one space for all that stands between letters"
        )
    return notes + [f"byte order mark of `{reading.sources[index].name}` dropped" for index in description.marked]


def _encode(reading: _Reading, sha256: str, write: Callable[[Ids], None]) -> Description:
    """Decode, filter and encode a text piece by piece.

    Args:
        reading: how.
        sha256: the hash of the bytes when they were first read.
        write: takes the ids of each piece.

    Raises:
        CorpusError: the bytes are not those that were first read.
    """
    vocabulary = reading.given or _own_vocabulary(reading)
    read_sha256, text_filter = hashlib.sha256(), TextFilter(reading.filter)
    characters = skipped = unfiltered = 0
    marked, ends = [], []
    for index, source in enumerate(reading.sources):
        chunks = _hashing(read_chunks(source), read_sha256)
        if vocabulary.kind == "bytes":
            for chunk in chunks:
                write(np.frombuffer(chunk, dtype=np.uint8))
                characters, unfiltered = characters + len(chunk), unfiltered + len(chunk)
            ends.append(characters)
            continue
        decoded = _DecodedSource(source.name, chunks, reading.encoding)
        position = 0
        for piece in decoded:
            text = text_filter(piece)
            ids = _encode_piece(reading, vocabulary, source, text, position)
            write(ids)
            position += len(text)
            characters, skipped = characters + len(ids), skipped + len(text) - len(ids)
            unfiltered += len(piece)
        ends.append(characters)
        if decoded.has_mark:
            marked.append(index)
    if read_sha256.hexdigest() != sha256:
        raise CorpusError(*CHANGED)
    return Description([*map(ord, vocabulary.symbols)], characters, skipped, unfiltered, marked, ends)


def _encode_piece(reading: _Reading, vocabulary: Vocabulary, source: Source, text: str, position: int) -> Ids:
    try:
        return vocabulary.encode(text, reading.unknown, position, is_filtered=True)
    except UnknownCharacterError as error:
        if reading.given is None:
            raise CorpusError(*CHANGED) from error
        raise UnknownCharacterError(f"`{source.name}`: {error}", error.hint) from None


def _own_vocabulary(reading: _Reading) -> Vocabulary:
    """Return a vocabulary of the characters that a text has, or of all bytes."""
    if reading.kind == "bytes":
        return Vocabulary.of_bytes()
    seen = np.zeros(NUM_CODE_POINTS, dtype=bool)
    seen_ascii = b""
    text_filter = TextFilter(reading.filter)
    for source in reading.sources:
        for text in map(text_filter, _DecodedSource(source.name, read_chunks(source), reading.encoding)):
            if text.isascii():
                # It is many times faster to remove the known characters first than to mark every character.
                seen_ascii += bytes(set(text.encode("ascii").translate(None, seen_ascii)))
            else:
                seen[code_points_of(text)] = True
    seen[np.frombuffer(seen_ascii, dtype=np.uint8)] = True
    return Vocabulary("characters", "".join(map(chr, np.flatnonzero(seen))), reading.filter)


def _hashing(chunks: Iterable[bytes], digest: Any) -> Iterator[bytes]:
    """Pass chunks on and hash them."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


class _DecodedSource:
    """The characters of a source, chunk by chunk, without its byte order mark.

    Attributes:
        has_mark: whether a byte order mark has been dropped.

    Raises:
        CorpusError: from the iteration, if the bytes do not spell text in this encoding.
    """

    def __init__(self, name: str, chunks: Iterable[bytes], encoding: str) -> None:
        self._name, self._chunks, self._encoding = name, chunks, encoding
        self.has_mark = False

    def __iter__(self) -> Iterator[str]:
        is_first = True
        for text in self._pieces():
            if is_first and text.startswith(BYTE_ORDER_MARK):
                self.has_mark = True
                text = text[1:]
            is_first = False
            if text:
                yield text

    def _pieces(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self._encoding)()
        offset = 0
        for chunk in _with_end(self._chunks):
            waiting = decoder.getstate()[0]
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The codec may have cut something from the front, such as the mark of `utf-8-sig`.
                start = len(waiting) + len(chunk) - len(error.object) + error.start
                self._refuse_bytes(offset - len(waiting) + start, error)
            except UnicodeError as error:
                message = f"`{self._name}` is not {self._encoding}: {error}"
                raise CorpusError(message, "`--encoding NAME` reads another") from error
            offset += len(chunk)
            if text:
                yield text

    def _refuse_bytes(self, offset: int, error: UnicodeDecodeError) -> NoReturn:
        byte = error.object[error.start]
        starts_with_utf16_mark = offset == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        tried = codecs.lookup(self._encoding).name
        other = "utf-16" if starts_with_utf16_mark else "cp1252" if tried != "cp1252" else "latin-1"
        raise CorpusError(
            f"`{self._name}` is not {self._encoding}: byte 0x{byte:02x} at offset {offset:,} ({error.reason})",
            f"`--encoding {other}` may be what it is written in; `--set vocab=bytes` takes any bytes as they are",
        ) from error


def _with_end(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield an empty chunk after the others, for a decoder to see that the text ends."""
    yield from chunks
    yield b""
