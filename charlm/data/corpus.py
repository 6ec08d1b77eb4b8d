"""A text becomes memory-mapped ids: find its bytes, decode them, count the symbols, encode. Knows nothing of models."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from charlm.data.cache import Description, encode_cached
from charlm.data.catalog import Source
from charlm.data.decoding import DecodedSource, named, note_on_nul, place, read_chunks, refuse
from charlm.data.downloads import DownloadProgress
from charlm.data.formats import STANDARD_INPUT
from charlm.data.line_ends import LineEnds, conversion, describe_line_ends
from charlm.data.sources import find_sources
from charlm.errors import (
    CorpusError,
    TooLargeError,
    UndecodableError,
    UnknownCharacterError,
    UsageError,
    counted,
)
from charlm.vocab import NUM_CODE_POINTS, Filter, Ids, Kind, TextFilter, Vocabulary, code_points_of

CACHE_VERSION = 6
# If more than one character in so many is NUL, a text may be in another encoding than the one that was given.
NUL_SHARE = 50
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
        sources: the name of each source.
    """

    name: str
    ids: Ids
    vocabulary: Vocabulary
    sha256: str
    num_bytes: int
    notes: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()

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
        grows: whether they are added to it instead.
    """

    sources: Sequence[Source]
    encoding: str
    kind: Kind
    filter: Filter
    given: Vocabulary | None
    unknown: str
    grows: bool


def load_corpus(
    names: Sequence[str],
    *,
    encoding: str = "utf-8",
    kind: Kind = "characters",
    filter: Filter = "none",
    vocabulary: Vocabulary | None = None,
    unknown: str = "error",
    grows: bool = False,
    progress: DownloadProgress | None = None,
    max_bytes: int | None = None,
    skip_undecodable: bool = False,
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
        grows: add these characters to the given vocabulary instead, after its own symbols.
        progress: called during a download.
        max_bytes: how many bytes the text may have, in files, not pipes; for names that come from an untrusted file.
        skip_undecodable: leave out files that are no text in this encoding.

    Raises:
        CorpusError: a text is missing, empty, undecodable, or changes while it is read.
        UnknownCharacterError: under `unknown="error"`.
    """
    _check_encoding(encoding)
    if vocabulary:
        vocabulary.encode("", unknown)  # refuses an invalid policy, even if no character is unknown
        kind, filter = vocabulary.kind, vocabulary.filter
    notes: list[str] = []
    skips = skip_undecodable and kind == "characters"
    sources = _find(names, encoding, notes, progress, max_bytes, skips)
    title = _title(names)
    reading = _Reading(sources, encoding, kind, filter, vocabulary, unknown, grows)
    try:
        if kind == "characters" and any(source.is_document for source in sources):
            raise UndecodableError(f"{title} is not text")
        sha256, lengths = _fingerprint(sources, max_bytes)
        if not sum(lengths):
            raise CorpusError(f"{title} is empty", "a corpus needs at least one character")
        path, description = encode_cached(_key(reading, sha256, lengths), partial(_encode, reading, sha256))
    except UndecodableError:
        if kind == "characters":
            refuse(sources, encoding, may_be_bytes=vocabulary is None)
        raise
    if not description.characters:
        raise CorpusError(f"{title} holds no character that could be used")
    symbols = Vocabulary(kind, "".join(map(chr, description.symbols)), filter)
    ids = np.memmap(path, dtype=symbols.dtype, mode="r")
    notes += _notes(reading, description, ids, symbols)
    return Corpus(title, ids, symbols, sha256, sum(lengths), (*notes,), (*description.ends,), _names_of(sources))


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


def _find(
    names: Sequence[str],
    encoding: str,
    notes: list[str],
    progress: DownloadProgress | None,
    max_bytes: int | None,
    skips_undecodable: bool,
) -> list[Source]:
    left_out: list[Source] | None = [] if skips_undecodable else None
    options = (encoding, notes, progress, max_bytes, left_out)
    sources = [source for name in names for source in find_sources(name, *options)]
    if left_out:
        if not sources:
            refuse(left_out, encoding, may_be_bytes=False)
        files = counted(len(left_out), "file")
        notes.append(f"{files} left out, no text in {encoding}: {named(sorted(left_out, key=place))}")
    return sources


def _title(names: Sequence[str]) -> str:
    return " + ".join(STANDARD_INPUT if name == "-" else name for name in names)


def _names_of(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(source.name for source in sources)


def _fingerprint(sources: Sequence[Source], max_bytes: int | None = None) -> tuple[str, list[int]]:
    """Return the hash of all bytes, and how many each source has.

    Raises:
        TooLargeError: there are more bytes than there may be.
    """
    sha256, num_bytes = hashlib.sha256(), 0
    lengths: list[int] = []
    for source in sources:
        before = num_bytes
        for chunk in read_chunks(source):
            sha256.update(chunk)
            num_bytes += len(chunk)
            if max_bytes is not None and num_bytes > max_bytes:
                raise TooLargeError(max_bytes)
        lengths.append(num_bytes - before)
    return sha256.hexdigest(), lengths


def _key(reading: _Reading, sha256: str, lengths: list[int]) -> str:
    """Return what the ids are kept under: a hash of everything they depend on."""
    given = reading.given.symbols if reading.given else ""
    parts: list[Any] = [CACHE_VERSION, sha256, lengths, reading.encoding, reading.kind, reading.filter]
    parts += [list(map(ord, given)), reading.unknown if reading.given else ""]
    parts += ["grows"] if reading.given and reading.grows else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _notes(reading: _Reading, description: Description, ids: Ids, vocabulary: Vocabulary) -> list[str]:
    """Say what was done to the text. Sources are named here, because the same text may come under other names."""
    notes, sources = [], reading.sources
    if description.skipped:
        notes.append(f"{counted(description.skipped, 'character')} that the model does not know left out")
    if reading.filter != "none":
        notes.append(
            f"vocab.filter {reading.filter}: of {description.unfiltered:,} characters {description.characters:,} are "
            "left, lower-cased, with one space for all that stands between letters"
        )
    notes += [f"`{source.name}` is {source.format}: {source.advice}" for source in sources if source.format]
    if note := describe_line_ends(description.line_ends, ids, vocabulary, sources, reading.encoding):
        notes.append(note)
    if vocabulary.kind == "characters" and "\0" in vocabulary:
        is_nul = ids == vocabulary.symbols.index("\0")
        notes += note_on_nul(sources, reading.encoding) if NUL_SHARE * np.count_nonzero(is_nul) > len(ids) else []
    return notes + [f"byte order mark of `{sources[index].name}` dropped" for index in description.marked]


def _encode(reading: _Reading, sha256: str, write: Callable[[Ids], None]) -> Description:
    """Decode, filter and encode a text piece by piece.

    Args:
        reading: how.
        sha256: the hash of the bytes when they were first read.
        write: takes the ids of each piece.

    Raises:
        CorpusError: the bytes are not those that were first read.
    """
    vocabulary = reading.given
    if vocabulary is None or reading.grows:
        own = _own_vocabulary(reading)
        vocabulary = own if vocabulary is None else vocabulary.grown_by(own)
    read_sha256, text_filter = hashlib.sha256(), TextFilter(reading.filter)
    characters = skipped = unfiltered = 0
    marked, line_ends, ends = [], [], []
    for index, source in enumerate(reading.sources):
        chunks = _hashing(read_chunks(source), read_sha256)
        decoded = DecodedSource(source.name, chunks, reading.encoding)
        counter, position = LineEnds(vocabulary), 0
        for piece in chunks if vocabulary.kind == "bytes" else decoded:
            if isinstance(piece, bytes):
                length, ids = len(piece), np.frombuffer(piece, dtype=np.uint8)
            else:
                text = text_filter(piece)
                length, ids = len(text), _encode_piece(reading, vocabulary, source, text, position)
            write(ids)
            counter.add(ids)
            position += length
            characters, skipped = characters + len(ids), skipped + length - len(ids)
            unfiltered += len(piece)
        line_ends.append(counter.counts)
        ends.append(characters)
        if decoded.has_mark:
            marked.append(index)
    if read_sha256.hexdigest() != sha256:
        raise CorpusError(*CHANGED)
    return Description([*map(ord, vocabulary.symbols)], characters, skipped, unfiltered, marked, line_ends, ends)


def _encode_piece(reading: _Reading, vocabulary: Vocabulary, source: Source, text: str, position: int) -> Ids:
    try:
        return vocabulary.encode(text, reading.unknown, position, is_filtered=True)
    except UnknownCharacterError as error:
        if reading.given is None or reading.grows:
            raise CorpusError(*CHANGED) from error
        hint = error.hint
        if "\r" in text and "\r" not in vocabulary:
            crlf, cr, lf = (text.count(end) for end in ("\r\n", "\r", "\n"))
            convert = f"{conversion(crlf, cr - crlf, lf - crlf, reading.encoding, [source])} its line ends"
            hint = "; ".join(filter(None, [convert, hint]))
        raise UnknownCharacterError(f"`{source.name}`: {error}", hint) from None


def _own_vocabulary(reading: _Reading) -> Vocabulary:
    """Return a vocabulary of the characters that a text has, or of all bytes."""
    if reading.kind == "bytes":
        return Vocabulary.of_bytes()
    seen = np.zeros(NUM_CODE_POINTS, dtype=bool)
    seen_ascii = b""
    text_filter = TextFilter(reading.filter)
    for source in reading.sources:
        for text in map(text_filter, DecodedSource(source.name, read_chunks(source), reading.encoding)):
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
