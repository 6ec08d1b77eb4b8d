"""Large texts: read once, found again by their files, and equal to small ones in everything else."""

from __future__ import annotations

import bz2
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data import corpus as module
from charlm.data import decoding, encoder
from charlm.data.batches import Batches
from charlm.data.cache import Cache, Description, IdsFile, cached
from charlm.data.catalog import Source
from charlm.data.corpus import Corpus, load_corpus
from charlm.data.holdout import hold_out
from charlm.data.mapped import gather, map_ids, map_places, pieces, read, search
from charlm.data.sources import find_sources
from charlm.errors import CorpusError, TooLargeError, UnknownCharacterError, UsageError
from charlm.settings.config import DataConfig
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary
from tests.helpers.memory import resident_growth
from tests.helpers.texts import CHUNK, cached_ids, text_of, write

LARGE = {"large_bytes": 1}


def load_large(*names: str, **options: object) -> Corpus:
    """Load a short text as a large one is loaded."""
    return load_corpus(names, **LARGE, **options)  # type: ignore[arg-type]


def batches_of(corpus: Corpus) -> list[list[int]]:
    """Return the first batches of the training part."""
    part = hold_out(corpus, DataConfig()).train
    streams = Batches(part, ModelSpec("lstm", len(corpus.vocabulary), 0, 1, 1), 2, 3, 0, 0.1)
    return [streams.batch(step).tokens_TB.ravel().tolist() for step in range(5)]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3).filter(lambda texts: len("".join(texts)) > 20))
def test_a_large_text_has_the_ids_of_a_small_one(texts: list[str]) -> None:
    """Ids, vocabulary, fingerprint, splits, batches and notes do not depend on how a text was read."""
    names = [write(f"{index}.txt", text.encode("utf-8", "replace")) for index, text in enumerate(texts)]
    for name in names:
        Path(name).write_bytes(Path(name).read_bytes().replace(b"\r", b"\r\n"))
    large = load_large(*names)
    for path in cached_ids(Path(os.environ["CHARLM_CACHE"]).parent):
        path.unlink()
    small = load_corpus(names)
    whole = "".join(Path(name).read_bytes().decode().removeprefix("\ufeff") for name in names)
    assert text_of(large) == text_of(small) == whole
    assert large.vocabulary == small.vocabulary == Vocabulary.of_characters(whole)
    assert (large.ids.dtype, large.sha256, large.ends, large.notes) == (
        small.ids.dtype, small.sha256, small.ends, small.notes,
    )  # fmt: skip
    assert batches_of(large) == batches_of(small)


@pytest.mark.parametrize("late", ["\u00e9", "".join(map(chr, range(0x4E00, 0x4E00 + 300))), "\U0001f600" * 3])
def test_new_characters_may_come_late(late: str) -> None:
    """Characters after the first piece, also so many that ids become wider, give the ids of the sorted vocabulary."""
    text = "zyx" * (CHUNK // 2) + late + "abc"
    loaded = load_large(write("a.txt", text))
    assert loaded.vocabulary == Vocabulary.of_characters(text)
    assert np.array_equal(loaded.ids, Vocabulary.of_characters(text).encode(text))


def test_symbols_that_a_given_vocabulary_lacks_come_last() -> None:
    """A vocabulary that grows keeps its ids; the new ones are sorted, wherever they stand in the text."""
    loaded = load_large(write("a.txt", "zaby"), vocabulary=Vocabulary.of_characters("ab"), grows=True)
    assert (loaded.vocabulary.symbols, loaded.ids.tolist()) == ("abyz", [3, 0, 1, 2])


def test_a_large_text_is_read_once_and_then_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start reads each file once; a second one reads nothing but the first bytes, which show what it is."""
    names = [write("a.txt", "text"), write("b.txt", "more")]
    opened: list[str] = []

    def find(*arguments: object) -> list[Source]:
        return [
            Source(source.name, lambda source=source: (opened.append(source.name), source.open())[1], path=source.path)  # type: ignore[misc, func-returns-value]
            for source in find_sources(*arguments)  # type: ignore[arg-type]
        ]

    monkeypatch.setattr(module, "find_sources", find)
    first = load_large(*names)
    assert opened == names
    second = load_large(*names)
    assert opened == names
    assert (second.sha256, second.num_bytes, text_of(second)) == (first.sha256, 8, "textmore")


@pytest.mark.parametrize("compress", [None, bz2.compress])
def test_a_changed_large_text_is_read_again(compress: object) -> None:
    """Another content is noticed even if the size and the time of the file are those of the old one."""
    pack = compress if callable(compress) else bytes
    name = write("a.txt", pack(b"first"))
    times = Path(name).stat()
    assert text_of(load_large(name)) == "first"
    Path(name).write_bytes(pack(b"other"))
    os.utime(name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert text_of(load_large(name)) == "other"
    Path(name).write_bytes(pack(b"longer text"))
    assert text_of(load_large(name)) == "longer text"


def test_a_large_text_that_changes_while_it_is_read_is_refused() -> None:
    """A file that grows during the reading is reported, and is read anew at the next start."""
    name = write("a.txt", "text")
    original = encoder.Fingerprint.passed

    def passed(self: encoder.Fingerprint, chunks: object) -> object:
        yield from original(self, chunks)  # type: ignore[arg-type]
        Path(name).write_text("text and more", encoding="utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder.Fingerprint, "passed", passed)
        with pytest.raises(CorpusError, match="changed while it was read"):
            load_large(name)
    assert text_of(load_large(name)) == "text and more"


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the names of files are added whenever all of them is read to see whether they are text."""
    looked_at: list[str] = []
    original = decoding.refusal_of

    def refusal_of(source: Source, *arguments: object) -> object:
        looked_at.append(source.name)
        return original(source, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "refusal_of", refusal_of)
    return looked_at


def test_left_out_files_are_known_at_the_second_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file that has not changed is decoded again, whatever reads the text; what is left out stays named."""
    for name, content in (("a", b"text"), ("b", b"\xff\xfe\xfd"), ("c", b"more")):
        write(f"folder/{name}.txt", content)
    looked_at = count_decoded(monkeypatch)
    first = load_large("folder", skip_undecodable=True)
    assert sorted(looked_at) == [f"folder/{name}.txt" for name in "abc"]
    looked_at.clear()
    for options in ({}, {"max_bytes": 8}, {"vocabulary": first.vocabulary}):
        again = load_large("folder", skip_undecodable=True, **options)
        assert (text_of(again), again.notes, again.sha256) == (text_of(first), first.notes, first.sha256)
    assert looked_at == []
    write("folder/b.txt", "good")
    write("folder/d.txt", b"\xff\xfe\xfd")
    changed = load_large("folder", skip_undecodable=True)
    assert text_of(changed) == "textgoodmore"
    assert sorted(looked_at) == ["folder/b.txt", "folder/d.txt"]
    assert "`folder/d.txt`" in changed.notes[0]


def test_what_is_left_out_of_a_short_text_is_always_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no change of it can be missed."""
    names = [write("a.txt", "text"), write("b.txt", b"\xff\xfe\xfd")]
    looked_at = count_decoded(monkeypatch)
    for _ in range(2):
        load_corpus(names, skip_undecodable=True)
    assert looked_at == 2 * names


def test_a_file_that_is_read_in_part_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the bytes of an untrusted name ends the reading, so that the rest of the file may be no text."""
    name = write("a.txt", b"a" * CHUNK + b"\xff")
    looked_at = count_decoded(monkeypatch)
    with pytest.raises(TooLargeError):
        load_large(name, skip_undecodable=True, max_bytes=2)
    with pytest.raises(CorpusError, match="not utf-8"):
        load_large(name, skip_undecodable=True)
    assert looked_at[:2] == [name, name]


def test_a_large_pipe_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input has no lasting file, so nothing is noted about it."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"pipe"), encoding="ascii"))
    assert text_of(load_large("-")) == "pipe"
    assert [path.suffix for path in Cache().folder.iterdir() if path.suffix == ".place"] == []


def test_the_errors_of_a_large_text_are_those_of_a_small_one() -> None:
    """A text that is empty, undecodable, unknown or too large is refused in the same words, and leaves nothing."""
    cases: list[tuple[bytes, dict[str, object], type[Exception], str]] = [
        (b"", {}, CorpusError, "is empty"),
        (b"a\xff", {}, CorpusError, "byte 0xff at offset 1"),
        (b"abc", {"vocabulary": Vocabulary.of_characters("ab")}, UnknownCharacterError, "position 2"),
        (b"abc", {"max_bytes": 2}, TooLargeError, "2 bytes"),
    ]
    for index, (content, options, error, words) in enumerate(cases):
        with pytest.raises(error, match=words):
            load_large(write(f"{index}.txt", content), **options)
    assert cached() == []
    load_large("2.txt")
    with pytest.raises(TooLargeError):
        load_large("2.txt", max_bytes=2)


def test_damaged_ids_of_a_large_text_are_encoded_again(tmp_path: Path) -> None:
    """Ids that were written to after the encoding, and a damaged note on the files, are not used."""
    name = write("a.txt", "text")
    load_large(name)
    (ids,) = cached_ids(tmp_path)
    ids.write_bytes(b"\0\0\0\0")
    assert text_of(load_large(name)) == "text"
    (place,) = ids.parent.glob("*.place")
    place.write_bytes(place.read_bytes()[:-9])
    assert text_of(load_large(name)) == "text"


def test_free_memory_is_given_back_while_a_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each so many bytes, so that the memory does not grow with the text."""
    given_back: list[None] = []
    monkeypatch.setattr(encoder, "GIVE_BACK_BYTES", 2 * CHUNK)
    monkeypatch.setattr(encoder, "give_back_freed_memory", lambda: given_back.append(None))
    load_large(write("a.txt", "a" * (5 * CHUNK)), write("b.txt", "b" * CHUNK))
    assert len(given_back) == 3


def test_the_reading_of_a_large_text_is_reported() -> None:
    """Progress is in bytes of all files together; a second start has none."""
    names = [write("a.txt", "a" * (CHUNK + 10)), write("b.txt", "b" * 10)]
    seen: list[tuple[str, int, int | None]] = []
    load_large(*names, progress=lambda *progress: seen.append(progress))
    assert seen == [("reading", here, CHUNK + 20) for here in (CHUNK, CHUNK + 10, CHUNK + 20)]
    load_large(*names, progress=lambda *progress: seen.append(progress))
    assert len(seen) == 3


PROGRAM = """
import sys
from charlm.data import corpus, encoder
original = corpus.encode
def encode(*arguments):
    print("encoded", flush=True)
    return original(*arguments)
corpus.encode = encode
loaded = corpus.load_corpus(["a.txt"], large_bytes=1)
print(loaded.vocabulary.decode(loaded.ids[:3]), len(loaded.ids))
"""


def test_of_several_processes_one_encodes_a_text() -> None:
    """Processes that start at once share one encoding, and all have the whole text."""
    write("a.txt", "xyz" * 1_000_000)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, encoding="utf-8")
        for _ in range(3)
    ]
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]
    assert sorted(lines) == ["encoded", *["xyz 3000000"] * 3]
    assert not list(Cache().folder.glob(".*.lock"))


KILLED = """
import sys
from charlm.data import corpus
original = corpus.encode
def encode(reading, fingerprint, file):
    result = original(reading, fingerprint, file)
    print("half", flush=True)
    sys.stdin.read()
    return result
corpus.encode = encode
loaded = corpus.load_corpus(["a.txt"], large_bytes=1)
print(loaded.vocabulary.decode(loaded.ids[:3]), len(loaded.ids))
"""


def test_a_killed_encoding_is_done_by_another_process() -> None:
    """What the killed process has left is removed; others never read it, and the last one encodes the text."""
    write("a.txt", "xyz" * 100_000)
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", KILLED], **options)  # type: ignore[call-overload]
    assert first.stdout.readline() == "half\n"
    second = subprocess.Popen([sys.executable, "-c", KILLED], **options)  # type: ignore[call-overload]
    assert list(Cache().folder.glob(".*.tmp"))
    first.kill()
    first.communicate()
    assert second.communicate()[0] == "half\nxyz 300000\n"
    assert sorted(path.suffix for path in Cache().folder.iterdir()) == [".ids", ".json", ".place"]


@pytest.mark.parametrize("limit", ["a lot", "-1", "inf", "nan"])
def test_a_limit_of_the_cache_that_is_no_number_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable."""
    monkeypatch.setenv("CHARLM_CACHE_GB", limit)
    with pytest.raises(UsageError, match=f"`CHARLM_CACHE_GB` is `{limit}`"):
        encode_one("text")


def test_ids_are_gathered_read_and_gone_through_as_they_are(tmp_path: Path) -> None:
    """Places and pieces of mapped ids, also reversed and more columns than are given back at once, are the ids."""
    ids = np.random.default_rng(0).integers(0, 60_000, 5000).astype(np.uint16)
    ids.tofile(tmp_path / "ids")
    mapped = map_ids(tmp_path / "ids", np.dtype(np.uint16))
    places = np.random.default_rng(1).integers(0, 5000, (3, 1200))
    for some, expected in ((mapped, ids), (mapped[::-1], ids[::-1]), (ids, ids)):
        assert np.array_equal(gather(some, places), expected[places])
        assert np.array_equal(np.concatenate(list(pieces(some, 7))), expected)
        assert np.array_equal(read(some, 10, 4000), expected[10:4000])


def test_what_was_read_of_mapped_ids_does_not_stay_in_memory(tmp_path: Path) -> None:
    """Some systems map a megabyte or two around each place that is read, and all of that is given back soon."""
    (tmp_path / "ids").write_bytes(bytes(100 * CHUNK))
    mapped = map_ids(tmp_path / "ids", np.dtype(np.uint8))
    places = np.linspace(0, len(mapped) - 1, 1000).astype(int)[None]
    assert resident_growth(lambda: gather(mapped, places)) < 12 * CHUNK
    assert resident_growth(lambda: [read(mapped, place, place + 9) for place in places[0].tolist()]) < 12 * CHUNK
    np.arange(100 * CHUNK // 8, dtype=np.int64).tofile(tmp_path / "places")
    with (tmp_path / "places").open("rb") as file:
        ascending = map_places(file, 100 * CHUNK // 8)
    wanted = np.linspace(0, len(ascending) - 1, 1000).astype(int)
    assert resident_growth(lambda: search(ascending, wanted, ascending.searchsorted)) < 40 * CHUNK


def encode_one(text: str) -> Corpus:
    """Load a text of its own."""
    return load_corpus([write(f"{text[:5]}.txt", text)])


def test_the_cache_says_what_it_holds_and_can_be_emptied() -> None:
    """Texts are listed with title and size, the last used first, and removing them frees what they take."""
    encode_one("first text")
    encode_one("other text, longer")
    os.utime(cached()[0].files[0].with_suffix(".json"), (1, 1))
    load_large("first.txt")
    texts = cached()
    assert {(text.title, text.characters) for text in texts} == {("first.txt", 10), ("other.txt", 18)}
    assert all(text.num_bytes == sum(file.stat().st_size for file in text.files) for text in texts)
    assert sum(text.num_bytes for text in texts) == sum(text.remove() for text in texts)
    assert cached() == []
    assert list(Cache().folder.iterdir()) == []


def test_texts_that_were_not_used_for_long_make_room() -> None:
    """Over its limit, the cache drops the text that was used longest ago, and never the newest one."""
    for text in ("aaaaa", "bbbbb", "ccccc"):
        encode_one(text)
    for age, known in enumerate(sorted(cached(), key=lambda each: each.title, reverse=True)):
        for file in known.files:
            os.utime(file, (1000 - age, 1000 - age))
    size = max(text.num_bytes for text in cached())

    def encode(file: IdsFile) -> tuple[str, Description]:
        file.write(np.zeros(5, dtype=np.uint8))
        return "d" * 32, Description([97], 5, 0, 5, [], [[0, 0, 0]], [5], 0)

    Cache(max_bytes=3 * size).write("d", encode)
    assert {text.title for text in cached()} == {"bbbbb.txt", "ccccc.txt", "d"}
    Cache(max_bytes=0).write("d", encode)
    assert {text.title for text in cached()} == {"d"}
