"""The corpora known by name, and unpacking one file of an archive."""

from __future__ import annotations

import hashlib
import importlib
import re
import zipfile
from pathlib import Path

import pytest

from charlm.data.catalog import Entry, catalog_entries, unpack_member
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, DownloadError

MEMBER = b"It was the best of times, " * 4000


@pytest.mark.parametrize("name", catalog_entries())
def test_each_entry_of_the_catalogue_is_complete(name: str) -> None:
    """An entry has a description, a licence, one origin, and a hash of the right length if it is downloaded."""
    entry = catalog_entries()[name]
    assert name == entry.name
    assert sum(bool(origin) for origin in (entry.file, entry.interpreter, entry.address)) == 1
    assert all((entry.licence, entry.language, entry.about))
    if entry.address:
        assert re.match("https?://", entry.address)
        assert re.fullmatch("[0-9a-f]+", entry.digest)
        assert 2 * hashlib.new(entry.algorithm).digest_size == len(entry.digest)
    else:
        assert entry.digest == ""
    assert bool(entry.member) == (entry.member_bytes is not None)
    assert entry.interpreter in ("", "topics", "sources")


@pytest.mark.parametrize("name", catalog_entries())
def test_only_downloads_are_missing_from_an_empty_cache(name: str) -> None:
    """With an empty cache exactly the downloadable corpora are missing."""
    assert (not catalog_entries()[name].address) == catalog_entries()[name].is_here


def test_no_name_in_the_catalogue_is_a_path() -> None:
    """The name of a corpus has no separator, dot or wildcard, so that it is a safe name of a folder."""
    assert all(re.fullmatch("[a-z0-9-]+", name) for name in catalog_entries())


@pytest.mark.parametrize(("name", "least"), [("fables", 150_000), ("fables-zh", 40_000)])
def test_the_bundled_corpora_are_long_and_do_not_repeat(name: str, least: int) -> None:
    """Each bundled corpus is long enough to learn from, and no paragraph of more than ten characters occurs twice."""
    text = catalog_entries()[name].path.read_bytes().decode("utf-8")
    assert len(text) >= least
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n") if len(paragraph.strip()) > 10]
    repeated = {paragraph[:60] for paragraph in paragraphs if paragraphs.count(paragraph) > 1}
    assert set() == repeated
    assert "\r" not in text
    assert not text.startswith("\ufeff")


def test_fables_are_plain_ascii() -> None:
    """The English fables use only printable ASCII and newlines, so that the vocabulary stays small."""
    characters = set(catalog_entries()["fables"].path.read_bytes())
    assert characters <= {0x0A, *range(0x20, 0x7F)}


@pytest.mark.parametrize(
    ("name", "least", "excerpt"), [("python-docs", 100_000, "lambda"), ("python-stdlib", 2_000_000, "def rglob(")]
)
def test_the_corpora_of_the_interpreter_load(name: str, least: int, excerpt: str) -> None:
    """Both texts that come with Python are long enough and contain a known excerpt."""
    corpus = load_corpus([name])
    assert len(corpus.ids) >= least
    ids = corpus.vocabulary.encode(excerpt).tobytes()
    assert ids in corpus.ids.tobytes()


def test_python_stdlib_leaves_out_tests_and_installed_packages() -> None:
    """`python-stdlib` is the same text whatever is installed beside it."""
    names = [Path(source.name) for source in catalog_entries()["python-stdlib"].sources()]
    assert any(name.name == "argparse.py" for name in names)
    assert not [name for name in names if {"site-packages", "dist-packages", "test"} & set(name.parts)]
    assert sorted(names) == names


def test_a_python_without_its_docs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without `pydoc_data` gives an error that names it."""

    def import_module(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(CorpusError, match="pydoc_data"):
        load_corpus(["python-docs"])


def test_a_downloadable_corpus_is_stored_in_the_cache(tmp_path: Path) -> None:
    """An entry has a folder of its own, and its file the name of the member or the last part of the address."""
    plain = Entry("plain", "", "", "", address="https://example.org/a/b.txt")
    packed = Entry("packed", "", "", "", address="https://example.org/a/b.zip", member="b")
    assert tmp_path / "cache" / "downloads" / "plain" / "b.txt" == plain.path
    assert tmp_path / "cache" / "downloads" / "packed" / "b" == packed.path
    assert not plain.is_here


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip file with the member `text`."""
    path = tmp_path / "text.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("text", MEMBER)
        bundle.writestr("other", b"not this one")
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The path to unpack to, in an empty folder."""
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder / "text"


def test_a_member_of_an_archive_is_unpacked_whole(archive: Path, target: Path) -> None:
    """The named member is unpacked byte for byte, and no other file appears."""
    unpack_member(archive, "text", len(MEMBER), target)
    assert target.read_bytes() == MEMBER
    assert [target] == list(target.parent.iterdir())


def test_a_member_larger_than_announced_is_refused(archive: Path, target: Path) -> None:
    """A member that is larger than announced is refused and leaves nothing behind."""
    with pytest.raises(DownloadError, match=f"larger than the {len(MEMBER) - 1:,} bytes"):
        unpack_member(archive, "text", len(MEMBER) - 1, target)
    assert list(target.parent.iterdir()) == []


def test_a_zip_bomb_is_not_read_beyond_its_announced_size(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 2 MiB are read of 64 MiB of zeros in an archive of 64 KiB."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("text", bytes(64 << 20))
    read = zipfile.ZipExtFile.read
    sizes = []

    def counted(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        chunk = read(self, n)
        sizes.append(len(chunk))
        return chunk

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    with pytest.raises(DownloadError, match="larger than the 1,000 bytes"):
        unpack_member(path, "text", 1000, target)
    assert sum(sizes) <= 2 << 20
    assert list(target.parent.iterdir()) == []


def test_a_member_shorter_than_announced_is_refused(archive: Path, target: Path) -> None:
    """A member that ends early is refused and leaves nothing behind."""
    with pytest.raises(DownloadError, match="7 bytes shorter"):
        unpack_member(archive, "text", len(MEMBER) + 7, target)
    assert list(target.parent.iterdir()) == []


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _scribbled_over(data: bytes) -> bytes:
    return data[:40] + b"\xff" * 40 + data[80:]


def _with_a_wrong_checksum(data: bytes) -> bytes:
    place = data.index(b"PK\x01\x02") + 16
    return data[:place] + bytes(byte ^ 0xFF for byte in data[place : place + 4]) + data[place + 4 :]


def _of_an_unknown_method(data: bytes) -> bytes:
    place = data.index(b"PK\x01\x02") + 10
    return data[:place] + b"\x63\x00" + data[place + 2 :]


def _encrypted(data: bytes) -> bytes:
    place = data.index(b"PK\x01\x02") + 8
    return data[:6] + b"\x01" + data[7:place] + b"\x01" + data[place + 1 :]


@pytest.mark.parametrize(
    "damage", [_cut, _scribbled_over, _with_a_wrong_checksum, _of_an_unknown_method, _encrypted, lambda data: b""]
)
def test_a_damaged_archive_is_refused(archive: Path, target: Path, damage: object) -> None:
    """An archive with any kind of damage is named in the error, and nothing is left behind."""
    assert callable(damage)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DownloadError, match=r"text\.zip"):
        unpack_member(archive, "text", len(MEMBER), target)
    assert list(target.parent.iterdir()) == []


def test_an_archive_without_the_member_is_refused(archive: Path, target: Path) -> None:
    """The error names the missing member."""
    with pytest.raises(DownloadError, match="missing"):
        unpack_member(archive, "missing", 5, target)
    assert list(target.parent.iterdir()) == []


def test_a_refused_archive_leaves_an_earlier_file_alone(archive: Path, target: Path) -> None:
    """A file that was unpacked earlier stays whole when a second unpacking fails."""
    target.write_bytes(b"before")
    with pytest.raises(DownloadError):
        unpack_member(archive, "text", 10, target)
    assert target.read_bytes() == b"before"
