"""Decodes the bytes of a source, and explains which files are no text. Knows no vocabularies."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from charlm.data.cache import identity_of
from charlm.data.catalog import Source
from charlm.data.encodings import guess_encoding, is_damaged_utf8, reads
from charlm.data.formats import SNIFFED_BYTES, Format, compression_of, decompressed, filtered, format_of
from charlm.errors import CorpusError, UndecodableError
from charlm.files import CHUNK_BYTES

BYTE_ORDER_MARK = "\ufeff"
# How many files a message names.
MAX_NAMES = 10
ANY_BYTES = "`--set vocab=bytes` takes any bytes as they are"


def read_chunks(source: Source, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Read a source from its start, decompressed; uncompressed bytes in chunks of this size.

    Raises:
        CorpusError: it cannot be read.
        UndecodableError: it is compressed, and damaged or a bomb.
    """
    try:
        with source.open() as file:
            if source.compression:
                yield from decompressed(file, source.name, source.compression)
            while chunk := file.read(size):
                yield chunk
    except OSError as error:
        raise CorpusError(f"`{source.name}` cannot be read: {error.strerror or error}") from error


def recognised(source: Source) -> Source:
    """Return a source with what its first bytes show: how it is compressed, and whether it is a document.

    Raises:
        CorpusError: it cannot be read.
    """
    head = first_bytes(source)
    if compression := compression_of(head):
        source = replace(source, compression=compression)
        try:
            head = first_bytes(source)
        except UndecodableError:
            # It is reported when it is read, unless such files are dropped.
            return source
    return replace(source, format=format_of(head))


def first_bytes(source: Source) -> bytes:
    """Return the first bytes of a source, decompressed."""
    return next(read_chunks(source, SNIFFED_BYTES), b"")[:SNIFFED_BYTES]


class DecodedSource:
    """The characters of a source, chunk by chunk, without its byte order mark.

    Attributes:
        has_mark: whether a byte order mark has been dropped.

    Raises:
        UndecodableError: from the iteration, if the bytes do not spell text in this encoding.
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
                place = f"byte 0x{error.object[error.start]:02x} at offset {offset - len(waiting) + start:,}"
                message = f"`{self._name}` is not {self._encoding}: {place} ({error.reason})"
                raise UndecodableError(message) from error
            except UnicodeError as error:
                raise UndecodableError(f"`{self._name}` is not {self._encoding}: {error}") from error
            offset += len(chunk)
            if text:
                yield text


def refusal_of(source: Source, encoding: str, max_bytes: int | None = None) -> UndecodableError | None:
    """Return the error that a source is no text in this encoding, or None if it is.

    Args:
        source: read to its end, or to its first error.
        encoding: how its bytes should spell characters.
        max_bytes: read no further than this.
    """
    if source.is_document:
        return UndecodableError(f"`{source.name}` is {source.format}, not text", source.advice)
    try:
        for _ in DecodedSource(source.name, _first_of(read_chunks(source), max_bytes), encoding):
            pass
    except UndecodableError as error:
        return error
    return None


class Undecodable:
    """The sources that are left out of a text, because they are no text in its encoding.

    Attributes:
        sources: these sources.
        verdicts: whether a file is one of them, by what stands for the file as it is now. Pipes are not among them.
    """

    def __init__(self, encoding: str, known: Mapping[str, bool]) -> None:
        """Start with none.

        Args:
            encoding: how the bytes should spell characters.
            known: the verdicts of an earlier start. A file that has not changed since then is not read again.
        """
        self._encoding, self._known = encoding, known
        self.sources: list[Source] = []
        self.verdicts: dict[str, bool] = {}

    @property
    def has_learned(self) -> bool:
        """Whether there are other verdicts than those of the earlier start."""
        return self.verdicts != self._known

    def leaves_out(self, source: Source, max_bytes: int | None) -> bool:
        """Return whether a source is left out; if it is not known, read no further than `max_bytes` to find out."""
        mark, size = _mark_of(source)
        is_left_out = self._known.get(mark)
        is_whole = is_left_out is not None or max_bytes is None or (size <= max_bytes and not source.compression)
        if is_left_out is None:
            is_left_out = refusal_of(source, self._encoding, max_bytes) is not None
        if mark and (is_left_out or is_whole):
            self.verdicts[mark] = is_left_out
        if is_left_out:
            self.sources.append(source)
        return is_left_out


def _mark_of(source: Source) -> tuple[str, int]:
    """Return what stands for a file as it is now, and its size; nothing if the source is no lasting file."""
    if source.path and source.is_kept:
        with suppress(OSError):
            identity = identity_of(source.path)
            mark = json.dumps([str(source.path.resolve()), *identity])
            return hashlib.sha256(mark.encode()).hexdigest()[:32], source.path.stat().st_size
    return "", 0


def refuse(sources: Sequence[Source], encoding: str, may_be_bytes: bool) -> None:
    """Raise one error for all sources that are no text in this encoding, if there are any.

    Args:
        sources: all that a corpus is read from.
        encoding: in which some of them are no text.
        may_be_bytes: whether the vocabulary is still free to be bytes.

    Raises:
        UndecodableError: it names them, and its hint says what to do.
    """
    found = [(source, error) for source in sources if (error := refusal_of(source, encoding))]
    if not found:
        return
    (first, error), is_all = found[0], len(found) == len(sources)
    message, hints = str(error), []
    if len(found) > 1:
        names = named([source for source, _ in found])
        reason = message.removeprefix(f"`{first.name}` is not {encoding}: ").removeprefix(f"`{first.name}` is ")
        message = f"{len(found):,} of {len(sources):,} files are no text in {encoding}: {names}; the first: {reason}"
    if not is_all:
        hints.append(f"`--skip-undecodable` leaves {'it' if len(found) == 1 else 'them'} out")
    if isinstance(error.__cause__, UnicodeError):
        hints.append(_hint_at_encoding(first, sources if is_all else [], encoding))
    # A damaged archive cannot be read as bytes either.
    if may_be_bytes and (first.is_document or isinstance(error.__cause__, UnicodeError)):
        hints.append(ANY_BYTES)
    raise UndecodableError(message, "; ".join(filter(None, [error.hint, *hints]))) from error


def named(sources: Sequence[Source]) -> str:
    """Return the names of sources, of ten at most, and how many there are besides."""
    names = [f"`{source.name}`{f' ({source.format})' if source.format else ''}" for source in sources[:MAX_NAMES]]
    return ", ".join(names) + (f" and {len(sources) - MAX_NAMES:,} more" if len(sources) > MAX_NAMES else "")


def note_on_nul(sources: Sequence[Source], encoding: str) -> list[str]:
    """Return a note with the right encoding of a text, if the wrong one has made many of its characters NUL."""
    for source in sources:
        guess = guess_encoding(partial(read_chunks, source), encoding) if b"\0" in first_bytes(source) else None
        if guess and not guess.is_damaged:
            return [f'`{source.name}` is full of NUL; `--encoding {guess.encoding}` reads it as "{guess.excerpt}"']
    return []


def with_encoding(source: Source, tried: str) -> Source:
    """Return a source that is binary in the encoding that was tried, with the encoding that it has if it is text."""
    guess = None if source.format else guess_encoding(partial(read_chunks, source), tried)
    return replace(source, format=Format(f"a text in {guess.encoding}")) if guess else source


def place(source: Source) -> Path:
    """Return the path of a source, by which the files of a folder are sorted."""
    return Path(source.name)


def _hint_at_encoding(source: Source, all_sources: Sequence[Source], tried: str) -> str:
    """Return a hint at the encoding of a source. If it reads all sources, the hint is the option for it."""
    chunks = partial(read_chunks, source)
    if codecs.lookup(tried).name == "utf-8" and is_damaged_utf8(chunks()):
        return _damaged(source, "utf-8")
    if (guess := guess_encoding(chunks, tried)) is None:
        return ""
    if guess.is_damaged:
        return _damaged(source, guess.encoding)
    if all_sources and all(reads(read_chunks(other), guess.encoding) for other in all_sources):
        return f'`--encoding {guess.encoding}` reads it as "{guess.excerpt}"'
    return (
        f'in {guess.encoding} `{source.name}` is "{guess.excerpt}", '
        f"and {_converted(source, f'iconv -f {guess.encoding} -t utf-8')} converts it"
    )


def _damaged(source: Source, encoding: str) -> str:
    command = _converted(source, f"iconv -c -f {encoding} -t utf-8")
    return f"all but a few of its bytes are {encoding}; {command} leaves out those that are not"


def _converted(source: Source, command: str) -> str:
    return filtered(source.name, source.compression, command)


def _first_of(chunks: Iterable[bytes], max_bytes: int | None) -> Iterator[bytes]:
    num_bytes = 0
    for chunk in chunks:
        yield chunk
        num_bytes += len(chunk)
        if max_bytes is not None and num_bytes > max_bytes:
            return


def _with_end(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield an empty chunk after the others, for a decoder to see that the text ends."""
    yield from chunks
    yield b""
