"""Encoded texts: the cache, and a given vocabulary."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.data import corpus, encoder
from charlm.data.cache import Cache, Encoded
from charlm.data.catalog import Source
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, UnknownCharacterError, UsageError
from charlm.vocab import Vocabulary
from tests.helpers.texts import CHUNK, cached_ids, text_of, write

# The cache


def test_new_content_at_an_old_path_is_read_again() -> None:
    """An edited file is another corpus, even with the size and time of the old one."""
    name = write("a.txt", "first")
    times = Path(name).stat()
    before = load_corpus([name])
    write(name, "other")
    os.utime(name, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert text_of(load_corpus([name])) == "other"
    assert before.sha256 != load_corpus([name]).sha256


def test_the_same_content_at_another_path_is_encoded_once(tmp_path: Path) -> None:
    """Two paths to the same bytes share one encoded text."""
    first = load_corpus([write("a.txt", "same")])
    second = load_corpus([write("folder/b.txt", "same")])
    assert len(cached_ids(tmp_path)) == 1
    assert text_of(second) == "same"
    assert first.sha256 == second.sha256
    assert second.name == "folder/b.txt"


def test_a_cached_text_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached text is hashed, and not decoded."""
    name = write("a.txt", "text")
    load_corpus([name])

    def decode(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(encoder, "DecodedSource", decode)
    assert text_of(load_corpus([name])) == "text"


def test_a_small_text_is_read_twice_and_then_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is read to hash it, and to encode it; from the cache only to hash it."""
    opened: list[str] = []

    def open_text() -> io.BytesIO:
        opened.append("text")
        return io.BytesIO(b"text")

    monkeypatch.setattr(corpus, "find_sources", lambda *arguments: [Source("a.txt", open_text)])
    for expected in (2, 3):
        assert text_of(load_corpus(["a.txt"])) == "text"
        assert len(opened) == expected


def test_the_same_bytes_in_other_files_are_another_text() -> None:
    """A byte order mark is dropped at the start of a file and kept in the middle, though the bytes are the same."""
    assert text_of(load_corpus([write("whole", "a\ufeffb")])) == "a\ufeffb"
    assert text_of(load_corpus([write("1", "a"), write("2", "\ufeffb")])) == "ab"


def test_each_vocabulary_and_policy_has_a_cache_entry(tmp_path: Path) -> None:
    """A text has an entry for each vocabulary and for each policy of unknown characters."""
    name = write("a.txt", "abcx")
    assert load_corpus([name]).ids.tolist() == [0, 1, 2, 3]
    wide, narrow = Vocabulary.of_characters("_abcx"), Vocabulary.of_characters("abc_")
    for _ in range(2):
        assert load_corpus([name], vocabulary=wide).ids.tolist() == [1, 2, 3, 4]
        assert load_corpus([name], vocabulary=narrow, unknown="skip").ids.tolist() == [1, 2, 3]
        assert load_corpus([name], vocabulary=narrow, unknown="replace=_").ids.tolist() == [1, 2, 3, 0]
        assert load_corpus([name], vocabulary=narrow, unknown="replace=a").ids.tolist() == [1, 2, 3, 1]
        with pytest.raises(UnknownCharacterError):
            load_corpus([name], vocabulary=narrow)
    assert len(cached_ids(tmp_path)) == 5


def test_nothing_is_written_beside_the_source(tmp_path: Path) -> None:
    """The folder of the source does not change, and the encoded text is in the cache."""
    write("folder/a.txt", "text")
    load_corpus(["folder"])
    load_corpus(["folder/a.txt"])
    assert [path.name for path in Path("folder").iterdir()] == ["a.txt"]
    assert [path.name for path in Path().iterdir()] == ["folder"]
    assert len(cached_ids(tmp_path)) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"\xff", None])
def test_a_damaged_cache_description_is_replaced(tmp_path: Path, damage: bytes | None) -> None:
    """A text is encoded again if its description is damaged or missing (None)."""
    name = write("a.txt", "text")
    load_corpus([name])
    (description,) = (tmp_path / "cache" / "encoded").glob("*.json")
    if damage is None:
        description.unlink()
    else:
        description.write_bytes(damage)
    assert text_of(load_corpus([name])) == "text"


def test_a_wrong_bit_anywhere_in_the_cache_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is encoded again if any byte of its ids or of their description has a wrong bit."""
    # Hundreds of files need not outlive a power cut.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    Path("a.txt").write_text("hello, world", encoding="utf-8")
    expected = load_corpus(["a.txt"])
    for pattern in ("*.ids", "*.json"):
        (file,) = (tmp_path / "cache" / "encoded").glob(pattern)
        whole = file.read_bytes()
        for index in range(len(whole)):
            file.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
            again = load_corpus(["a.txt"])
            assert again.vocabulary == expected.vocabulary
            assert again.vocabulary.decode(again.ids) == "hello, world"


def test_lone_surrogates_survive_the_cache() -> None:
    """Two surrogates side by side in the vocabulary are not joined to one character by the cache."""
    name = write("a.txt", rb"\udbff \udc00")
    for _ in range(2):
        loaded = load_corpus([name], encoding="unicode_escape")
        assert list(loaded.vocabulary.symbols) == [" ", "\udbff", "\udc00"]
        assert text_of(loaded) == "\udbff \udc00"


def test_truncated_ids_are_encoded_again(tmp_path: Path) -> None:
    """Cached ids of the wrong length are not used."""
    name = write("a.txt", "text")
    load_corpus([name])
    (ids,) = cached_ids(tmp_path)
    ids.write_bytes(b"\0")
    assert text_of(load_corpus([name])) == "text"


def test_a_refused_text_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    """A text that is refused leaves neither ids nor temporary files."""
    with pytest.raises(CorpusError):
        load_corpus([write("bad.txt", b"good\xff")])
    with pytest.raises(UnknownCharacterError):
        load_corpus([write("a.txt", "abc")], vocabulary=Vocabulary.of_characters("ab"))
    assert list((tmp_path / "cache" / "encoded").iterdir()) == []


def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the cache folder impossible, and return the folder that stands for the system's temporary one."""
    # A file in place of the folder stops even the superuser.
    (tmp_path / "occupied").write_bytes(b"")
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "occupied" / "cache"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


def test_an_unwritable_cache_is_replaced_by_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the cache folder cannot be made, the ids go to the system's temporary folder."""
    temporary = without_cache(tmp_path, monkeypatch)
    name = write("a.txt", "text")
    for _ in range(2):
        assert text_of(load_corpus([name])) == "text"
    assert list(temporary.rglob("*.ids")) != []


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes here")
def test_only_its_user_may_write_the_temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary cache has the mode 700, so that no other user can put ids there."""
    temporary = without_cache(tmp_path, monkeypatch)
    load_corpus([write("a.txt", "text")])
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_an_occupied_temporary_cache_is_replaced_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file has the name of the temporary cache, another name is used."""
    temporary = without_cache(tmp_path, monkeypatch)
    name = write("a.txt", "text")
    load_corpus([name])
    (folder,) = temporary.iterdir()
    folder.rename(tmp_path / "away")
    folder.write_bytes(b"")
    assert text_of(load_corpus([name])) == "text"


def change_after(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Call `change` right after a text was hashed and not found in the cache."""
    original = Cache.read

    def read(self: Cache, key: str) -> Encoded | None:
        result = original(self, key)
        change()
        return result

    monkeypatch.setattr(Cache, "read", read)


@pytest.mark.parametrize("content", ["texts", "tex", "TEXT", ""])
def test_a_corpus_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """A file that grows, shrinks or is edited between two passes is reported as changed, and not cached."""
    name = write("a.txt", "text")
    change_after(monkeypatch, lambda: write(name, content))
    with pytest.raises(CorpusError, match="changed while it was read"):
        load_corpus([name])
    assert cached_ids(tmp_path) == []


def test_a_corpus_that_disappears_while_it_is_read_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed between two passes is named in the error."""
    name = write("a.txt", "text")
    change_after(monkeypatch, lambda: Path(name).unlink())
    with pytest.raises(CorpusError, match=r"`a\.txt`"):
        load_corpus([name])


def test_a_read_error_is_reported_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that fails gives an error with the name and the reason."""

    class Failing(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    source = Source("disk.txt", lambda: io.BufferedReader(Failing()))
    monkeypatch.setattr(corpus, "find_sources", lambda *arguments: [source])
    with pytest.raises(CorpusError, match=r"`disk\.txt` cannot be read: Input/output error"):
        load_corpus(["disk.txt"])


# A given vocabulary


def test_a_given_vocabulary_is_used_unchanged() -> None:
    """Ids come from the given vocabulary, including symbols that the text lacks."""
    given_one = Vocabulary.of_characters("abcdef")
    loaded = load_corpus([write("a.txt", "fade")], vocabulary=given_one)
    assert loaded.ids.tolist() == [5, 0, 3, 4]
    assert given_one == loaded.vocabulary


@pytest.mark.parametrize(
    ("prefix", "position"),
    [("", 0), ("ab", 2), ("a" * CHUNK, CHUNK), ("\u00e9" * CHUNK, CHUNK), ("a" + "\u00e9" * CHUNK + "a", CHUNK + 2)],
)
def test_an_unknown_character_is_reported_with_file_and_position(prefix: str, position: int) -> None:
    """The position counts characters from the start of the file, across chunks and wide characters."""
    names = [write("before.txt", "aaa"), write("a.txt", prefix + "\u4e2dab")]
    with pytest.raises(UnknownCharacterError) as caught:
        load_corpus(names, vocabulary=Vocabulary.of_characters("ab\u00e9"))
    assert str(caught.value).startswith("`a.txt`: ")
    assert f"'\u4e2d' (U+4E2D) at position {position}" in str(caught.value)


def test_a_text_of_unknown_characters_is_reported() -> None:
    """A text of which every character is skipped is an error, read for the first time or again."""
    name = write("a.txt", "xyz")
    for _ in range(2):
        with pytest.raises(CorpusError, match=r"a\.txt holds no character"):
            load_corpus([name], vocabulary=Vocabulary.of_characters("abc"), unknown="skip")


def test_an_invalid_policy_is_a_usage_error() -> None:
    """An invalid policy is refused even if no character is unknown."""
    with pytest.raises(UsageError, match="ignore"):
        load_corpus([write("a.txt", "abc")], vocabulary=Vocabulary.of_characters("abc"), unknown="ignore")
