"""A text becomes memory-mapped ids: find its bytes, decode them, count the symbols, encode. Knows nothing of models."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from charlm.data.cache import Cache, Description, Encoded, IdsFile, identity_of
from charlm.data.catalog import Source
from charlm.data.decoding import Undecodable, named, note_on_nul, read_chunks, refuse
from charlm.data.decoding import place as by_path
from charlm.data.downloads import DownloadProgress
from charlm.data.encoder import CACHE_VERSION, Fingerprint, Reading, encode
from charlm.data.formats import STANDARD_INPUT
from charlm.data.line_ends import describe_line_ends
from charlm.data.mapped import map_ids
from charlm.data.sources import find_sources
from charlm.errors import CorpusError, TooLargeError, UndecodableError, UsageError, counted
from charlm.vocab import Filter, Ids, Kind, Vocabulary

# A smaller text is hashed whenever it is used, so that no change of it can be missed.
LARGE_BYTES = 64 << 20
# How many times its size a compressed text has about.
USUAL_COMPRESSION = 4
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
        path: the file of the ids.
    """

    name: str
    ids: Ids
    vocabulary: Vocabulary
    sha256: str
    num_bytes: int
    notes: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    path: Path = Path()

    def facts(self) -> dict[str, str | int]:
        """Return what a model file says of it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "characters": len(self.ids),
            "bytes": self.num_bytes,
        }


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
    large_bytes: int = LARGE_BYTES,
) -> Corpus:
    """Read texts, one after another, into one corpus.

    The ids are kept in the user's cache under a key made of the content, the encoding and the vocabulary,
    so the same text is encoded once and another text never takes its place. The ids of a text stay on disk.

    Args:
        names: corpora of the catalogue, files, folders, globs, or `-` for standard input.
        encoding: how the bytes spell characters; decoding is strict.
        kind: which vocabulary to build, if none is given.
        filter: a change to the text before it is encoded, see `vocab.TextFilter`.
        vocabulary: encode with this one, and its filter, instead of the text's own.
        unknown: what to do about characters that a given vocabulary lacks.
        grows: add these characters to the given vocabulary instead, after its own symbols.
        progress: called during a download, and while a large text is read for the first time.
        max_bytes: how many bytes the text may have, in files, not pipes; for names that come from an untrusted file.
        skip_undecodable: leave out files that are no text in this encoding.
        large_bytes: from this size on, a text is not read again as long as its files have the same names, sizes and
            times.

    Raises:
        CorpusError: a text is missing, empty, undecodable, or changes while it is read.
        UnknownCharacterError: under `unknown="error"`.
    """
    _check_encoding(encoding)
    if vocabulary:
        vocabulary.encode("", unknown)  # refuses an invalid policy, even if no character is unknown
        kind, filter = vocabulary.kind, vocabulary.filter
    notes: list[str] = []
    cache = Cache()
    left_out = _known_left_out(cache, names, encoding) if skip_undecodable and kind == "characters" else None
    sources = _find(names, encoding, notes, progress, max_bytes, left_out)
    title = _title(names)
    reading = Reading(sources, encoding, kind, filter, vocabulary, unknown, grows, max_bytes)
    try:
        if kind == "characters" and any(source.is_document for source in sources):
            raise UndecodableError(f"{title} is not text")
        found = _find_encoded(cache, reading, title, progress, large_bytes)
    except UndecodableError:
        if kind == "characters":
            refuse(sources, encoding, may_be_bytes=vocabulary is None)
        raise
    if left_out and left_out.has_learned and _size([*sources, *left_out.sources]) >= large_bytes:
        _note_left_out(cache, names, encoding, found, left_out)
    if not found.entry.description.characters:
        raise CorpusError(f"{title} holds no character that could be used")
    return _as_corpus(title, reading, found, notes)


def _as_corpus(title: str, reading: Reading, found: _Found, notes: Sequence[str]) -> Corpus:
    path, description = found.entry
    symbols = Vocabulary(reading.kind, "".join(map(chr, description.symbols)), reading.filter)
    notes = (*notes, *_notes(reading, description, symbols))
    names = tuple(source.name for source in reading.sources)
    ids = map_ids(path, symbols.dtype)
    return Corpus(title, ids, symbols, found.sha256, sum(found.lengths), notes, (*description.ends,), names, path)


class _Found(NamedTuple):
    """An encoded text, with the hash of its bytes and how many each source has."""

    entry: Encoded
    sha256: str
    lengths: list[int]


def _find_encoded(
    cache: Cache, reading: Reading, title: str, progress: DownloadProgress | None, large_bytes: int
) -> _Found:
    """Return the ids of a text: from the cache, or encoded now.

    The content of a text decides which ids belong to it. A large text is read once: after that, the names, sizes and
    times of its files show what its content is.
    """
    place = _place(reading)
    if found := _at_place(cache, place, reading):
        return found
    size = _size(reading.sources)
    if size >= large_bytes:
        has_total = progress and not any(source.compression for source in reading.sources)
        with cache.locked(place) if place else nullcontext():
            # Another process may have encoded it meanwhile.
            if found := _at_place(cache, place, reading):
                return found
            tick = partial(_report, progress, size if has_total else None) if progress else None
            found = _encode(cache, reading, title, tick)
            if progress and not has_total:
                progress(sum(found.lengths), sum(found.lengths))
            return _note_place(cache, place, reading, found)
    fingerprint = Fingerprint(reading.max_bytes)
    for source in reading.sources:
        deque(fingerprint.passed(read_chunks(source)), maxlen=0)
    _check_length(fingerprint, title)
    if entry := cache.read(reading.key(fingerprint.sha256, fingerprint.lengths)):
        return _Found(entry, fingerprint.sha256, fingerprint.lengths)
    return _encode(cache, reading, title, sha256=fingerprint.sha256)


def _report(progress: DownloadProgress, total: int | None, num_bytes: int) -> None:
    progress(num_bytes, total)


def _place(reading: Reading) -> str:
    """Return what stands for the files of a text as they are now; empty if some of it comes from no lasting file."""
    paths = [source.path for source in reading.sources if source.path and source.is_kept]
    if len(paths) < len(reading.sources):
        return ""
    try:
        return reading.key([[str(path.resolve()), *identity_of(path)] for path in paths])
    except OSError:
        return ""


def _at_place(cache: Cache, place: str, reading: Reading) -> _Found | None:
    noted = cache.at_place(place) if place else None
    if noted is None:
        return None
    found = _Found(noted[1], **noted[0])
    if reading.max_bytes is not None and sum(found.lengths) > reading.max_bytes:
        raise TooLargeError(reading.max_bytes)
    return found


def _note_place(cache: Cache, place: str, reading: Reading, found: _Found) -> _Found:
    if place != _place(reading):
        raise CorpusError(*CHANGED)
    if place:
        facts = {"sha256": found.sha256, "lengths": found.lengths}
        cache.note_place(place, found.entry.path.stem, facts)
    return found


def _encode(
    cache: Cache, reading: Reading, title: str, tick: Callable[[int], None] | None = None, sha256: str = ""
) -> _Found:
    """Encode a text.

    Args:
        cache: where the ids go.
        reading: how.
        title: of the text.
        tick: called with the number of bytes so far.
        sha256: the hash of the bytes when they were first read; empty if they were not.

    Raises:
        CorpusError: the text is empty, or its bytes are not those that were first read.
    """
    fingerprints: list[Fingerprint] = []

    def encode_checked(file: IdsFile) -> tuple[str, Description]:
        fingerprint = Fingerprint(reading.max_bytes, tick)
        fingerprints.append(fingerprint)
        result = encode(reading, fingerprint, file)
        if sha256 and fingerprint.sha256 != sha256:
            raise CorpusError(*CHANGED)
        _check_length(fingerprint, title)
        return result

    entry = cache.write(title, encode_checked)
    return _Found(entry, fingerprints[-1].sha256, fingerprints[-1].lengths)


def _check_length(fingerprint: Fingerprint, title: str) -> None:
    if not fingerprint.num_bytes:
        raise CorpusError(f"{title} is empty", "a corpus needs at least one character")


def _size(sources: Sequence[Source]) -> int:
    """Return about how many bytes a text has when it is decompressed, as far as its files tell."""
    size = 0
    for source in sources:
        with suppress(OSError):
            size += source.path.stat().st_size * (USUAL_COMPRESSION if source.compression else 1) if source.path else 0
    return size


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
    left_out: Undecodable | None,
) -> list[Source]:
    options = (encoding, notes, progress, max_bytes, left_out)
    sources = [source for name in names for source in find_sources(name, *options)]
    if left_out and left_out.sources:
        if not sources:
            refuse(left_out.sources, encoding, may_be_bytes=False)
        files = counted(len(left_out.sources), "file")
        notes.append(f"{files} left out, no text in {encoding}: {named(sorted(left_out.sources, key=by_path))}")
    return sources


def _known_left_out(cache: Cache, names: Sequence[str], encoding: str) -> Undecodable:
    """Return what leaves files out; it knows the files of a large text that an earlier start has looked at."""
    noted = cache.at_place(_place_of_left_out(names, encoding))
    return Undecodable(encoding, noted[0]["verdicts"] if noted else {})


def _note_left_out(cache: Cache, names: Sequence[str], encoding: str, found: _Found, left_out: Undecodable) -> None:
    facts = {"verdicts": left_out.verdicts}
    cache.note_place(_place_of_left_out(names, encoding), found.entry.path.stem, facts)


def _place_of_left_out(names: Sequence[str], encoding: str) -> str:
    folder = ""
    with suppress(OSError):
        folder = str(Path.cwd())
    key = json.dumps([CACHE_VERSION, "left out", folder, *names, encoding])
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _title(names: Sequence[str]) -> str:
    return " + ".join(STANDARD_INPUT if name == "-" else name for name in names)


def _notes(reading: Reading, description: Description, vocabulary: Vocabulary) -> list[str]:
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
    if note := describe_line_ends(description.line_ends, sources, reading.encoding):
        notes.append(note)
    if NUL_SHARE * description.nuls > description.characters:
        notes += note_on_nul(sources, reading.encoding)
    return notes + [f"byte order mark of `{sources[index].name}` dropped" for index in description.marked]
