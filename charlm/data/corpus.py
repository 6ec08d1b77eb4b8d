"""Text to memory-mapped ids: decode it once, encode it into the cache, split it. Knows nothing of models."""

from __future__ import annotations

import atexit
import codecs
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.data.catalog import Source
from charlm.data.downloads import Progress
from charlm.data.sources import chunks, find
from charlm.errors import CorpusError, UnknownCharacterError, UsageError
from charlm.files import cache_folder, replacing, sweep_temporary, write_atomic
from charlm.vocab import NUM_CODE_POINTS, Filter, Ids, Kind, Vocabulary, code_points_of, filtered

CACHE_VERSION = 4
DAY_SECONDS = 86400.0
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
        num_bytes: how many they were.
        notes: what was done to the text that a person should know of.
    """

    name: str
    ids: Ids
    vocabulary: Vocabulary
    sha256: str
    num_bytes: int
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, str | int]:
        """Return what a model file says of it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "characters": len(self.ids),
            "bytes": self.num_bytes,
        }


class Split(NamedTuple):
    """Three contiguous parts of a corpus, in the order they stand in it."""

    train: Ids
    validation: Ids
    test: Ids


def load_corpus(
    names: Sequence[str],
    *,
    encoding: str = "utf-8",
    kind: Kind = "characters",
    filter: Filter = "none",
    vocabulary: Vocabulary | None = None,
    unknown: str = "error",
    progress: Progress | None = None,
    max_bytes: int | None = None,
) -> Corpus:
    """Read texts, one after another, into one corpus.

    The ids are kept in the user's cache under a key made of the content, the encoding and the vocabulary,
    so the same text is encoded once and another text never takes its place.

    Args:
        names: corpora of the catalogue, files, folders, globs, or `-` for standard input.
        encoding: how the bytes spell characters; decoding is strict.
        kind: which vocabulary to build, where none is given.
        filter: what is done to the text before, see `vocab.filtered`.
        vocabulary: encode with this one, and its filter, instead of the text's own.
        unknown: what to do about characters that a given vocabulary lacks.
        progress: told how a download goes.
        max_bytes: where the names come from a stranger's file: how many bytes each may have, in files, not pipes.

    Raises:
        CorpusError: a text is missing, empty, undecodable, or changes while it is read.
        UnknownCharacterError: under `unknown="error"`.
    """
    _check_encoding(encoding)
    if vocabulary:
        vocabulary.encode("", unknown)  # refuses a policy that is none, whether or not it will be needed
    notes: list[str] = []
    sources = [source for name in names for source in find(name, encoding, notes, progress, max_bytes)]
    if vocabulary:
        kind, filter = vocabulary.kind, vocabulary.filter
    digest, lengths = _fingerprint(sources)
    if not sum(lengths):
        raise CorpusError(f"{_title(names)} is empty", "a corpus needs at least one character")
    wanted = vocabulary.symbols if vocabulary else ""
    key_parts = [CACHE_VERSION, digest, lengths, encoding, kind, filter, list(map(ord, wanted))]
    key_parts.append(unknown if vocabulary else "")
    key = hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()[:32]
    folder = _writable_cache()
    description = _cached(folder, key)
    if description is None:
        options = (key, sources, encoding, kind, filter, vocabulary, unknown, digest)
        try:
            description = _encode_into(folder, *options)
        except OSError:  # the disk of the cache is full
            folder = _temporary_cache()
            try:
                description = _encode_into(folder, *options)
            except OSError as error:
                raise CorpusError(
                    f"the encoded text cannot be written into `{folder}`: {error.strerror or error}",
                    "`CHARLM_CACHE` and `TMPDIR` may name folders with more room",
                ) from error
    symbols = Vocabulary(kind, "".join(map(chr, description["symbols"])), filter)
    if not description["characters"]:
        raise CorpusError(f"{_title(names)} holds no character that could be used")
    if description["skipped"]:
        notes.append(f"{description['skipped']:,} characters that the model does not know are left out")
    if filter != "none":
        notes.append(
            f"vocab.filter {filter}: of {description['unfiltered']:,} characters {description['characters']:,} are "
            "left, lower-cased, with one space for all that stands between letters"
        )
    # Kept by number, for the same texts may come under other names.
    notes += [f"byte order mark of `{sources[index].name}` dropped" for index in description["marked"]]
    ids = np.memmap(folder / f"{key}.ids", dtype=symbols.dtype, mode="r")
    return Corpus(_title(names), ids, symbols, digest, sum(lengths), tuple(notes))


def split(ids: Ids, validation_fraction: float, test_fraction: float) -> Split:
    """Cut ids into train, validation and test, contiguous and in this order; train keeps at least one character."""
    # In decimals as written: in binary 1 - 0.05 - 0.05 is less than 0.9, and a character would change sides.
    validation, test = Fraction(str(validation_fraction)), Fraction(str(test_fraction))
    train_end = max(1, int(len(ids) * (1 - validation - test)))
    validation_end = max(train_end, int(len(ids) * (1 - test)))
    return Split(ids[:train_end], ids[train_end:validation_end], ids[validation_end:])


def _title(names: Sequence[str]) -> str:
    return " + ".join("standard input" if name == "-" else name for name in names)


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
    digest, lengths = hashlib.sha256(), []
    for source in sources:
        length = 0
        for chunk in chunks(source):
            digest.update(chunk)
            length += len(chunk)
        lengths.append(length)
    return digest.hexdigest(), lengths


def _texts(source: Source, encoding: str, notes: list[str]) -> Iterator[str]:
    """Decode a source chunk by chunk, without its byte order mark."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, is_first = 0, True
    try:
        for chunk in _with_end(chunks(source)):
            waiting = decoder.getstate()[0]
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The codec may have cut something from the front, such as the mark of `utf-8-sig`.
                start = len(waiting) + len(chunk) - len(error.object) + error.start
                _refuse_bytes(source, encoding, offset - len(waiting) + start, error)
            offset += len(chunk)
            if is_first and text:
                is_first = False
                if text.startswith(BYTE_ORDER_MARK):
                    text = text[1:]
                    notes.append(f"byte order mark of `{source.name}` dropped")
            if text:
                yield text
    except UnicodeError as error:
        raise CorpusError(f"`{source.name}` is not {encoding}: {error}", "`--encoding NAME` reads another") from error


def _with_end(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield from chunks
    yield b""


def _refuse_bytes(source: Source, encoding: str, offset: int, error: UnicodeDecodeError) -> None:
    byte = error.object[error.start]
    starts_with_utf16_mark = offset == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    tried = codecs.lookup(encoding).name
    other = "utf-16" if starts_with_utf16_mark else "cp1252" if tried != "cp1252" else "latin-1"
    raise CorpusError(
        f"`{source.name}` is not {encoding}: byte 0x{byte:02x} at offset {offset:,} ({error.reason})",
        f"`--encoding {other}` may be what it is written in; `--set vocab=bytes` takes any bytes as they are",
    ) from error


def _writable_cache() -> Path:
    folder = cache_folder() / "encoded"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(folder, DAY_SECONDS)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    return _temporary_cache()


def _temporary_cache() -> Path:
    """Make a cache that lasts as long as the process: a read-only home or a full disk must not stop anyone."""
    folder = Path(tempfile.mkdtemp(prefix="charlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _cached(folder: Path, key: str) -> dict[str, Any] | None:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        path = folder / f"{key}.json"
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
        # A disk that forgets must not become a text that nobody wrote.
        if description.pop("sha256") != _hash_of(description):
            return None
        with (folder / f"{key}.ids").open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == description["ids_sha256"]:
                return description
    return None


def _encode_into(
    folder: Path,
    key: str,
    sources: Sequence[Source],
    encoding: str,
    kind: Kind,
    filter: Filter,
    vocabulary: Vocabulary | None,
    unknown: str,
    digest: str,
) -> dict[str, Any]:
    marked: list[int] = []
    is_own = vocabulary is None
    if vocabulary is None:
        vocabulary = Vocabulary.of_bytes() if kind == "bytes" else _collect(sources, encoding, filter)
    num_characters, num_skipped, num_unfiltered, ids_digest = 0, 0, 0, hashlib.sha256()
    filtering = _Filtering(filter)
    with replacing(folder / f"{key}.ids") as file:
        for index, source in enumerate(sources):
            found: list[str] = []
            for ids, length, unfiltered in _encoded(source, encoding, vocabulary, unknown, found, is_own, filtering):
                num_characters += len(ids)
                num_skipped += length - len(ids)
                num_unfiltered += unfiltered
                ids_digest.update(ids.data)
                file.write(ids.data)
            if found:
                marked.append(index)
        if _fingerprint(sources)[0] != digest:
            raise CorpusError(*CHANGED)
    description = {
        # As numbers: JSON would join two lone surrogates that stand side by side to one character.
        "symbols": [ord(symbol) for symbol in vocabulary.symbols],
        "characters": num_characters,
        "skipped": num_skipped,
        "unfiltered": num_unfiltered,
        "ids_sha256": ids_digest.hexdigest(),
        "marked": marked,
    }
    # The description comes last: without it the ids do not count.
    checked = description | {"sha256": _hash_of(description)}
    write_atomic(folder / f"{key}.json", json.dumps(checked).encode())
    return description


def _hash_of(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()


def _encoded(
    source: Source,
    encoding: str,
    vocabulary: Vocabulary,
    unknown: str,
    notes: list[str],
    is_own: bool,
    filtering: _Filtering,
) -> Iterator[tuple[Ids, int, int]]:
    """Go through a source chunk by chunk: its ids, and of how many symbols they were made, filtered and before."""
    if vocabulary.kind == "bytes":
        yield from ((np.frombuffer(chunk, dtype=np.uint8), len(chunk), len(chunk)) for chunk in chunks(source))
        return
    position = 0
    for unfiltered in _texts(source, encoding, notes):
        text = filtering(unfiltered)
        try:
            yield vocabulary.encode_filtered(text, unknown, position), len(text), len(unfiltered)
        except UnknownCharacterError as error:
            if is_own:
                raise CorpusError(*CHANGED) from error
            raise UnknownCharacterError(f"`{source.name}`: {error}", error.hint) from None
        position += len(text)


class _Filtering:
    """Does to a text piece by piece what `filtered` does to it as a whole."""

    def __init__(self, filter: Filter) -> None:
        self._filter: Filter = filter
        self._last = ""

    def __call__(self, text: str) -> str:
        text = filtered(text, self._filter, self._last)
        self._last = text[-1:] or self._last
        return text


def _collect(sources: Sequence[Source], encoding: str, filter: Filter) -> Vocabulary:
    seen = np.zeros(NUM_CODE_POINTS, dtype=bool)
    filtering = _Filtering(filter)
    for source in sources:
        for text in map(filtering, _texts(source, encoding, [])):
            if text.isascii():
                seen[:256] |= np.bincount(np.frombuffer(text.encode("ascii"), dtype=np.uint8), minlength=256) > 0
            else:
                seen[code_points_of(text)] = True
    return Vocabulary("characters", "".join(map(chr, np.flatnonzero(seen))), filter)
