"""Fetching a file from a server on this machine: whole, cut, resumed, redirected, and not the expected one."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import re
import socket
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from charlm.data import downloads, sources
from charlm.data.catalog import Entry
from charlm.data.corpus import load_corpus
from charlm.data.downloads import download_file
from charlm.errors import DownloadError

# More than two of the pieces in which a download is read.
BODY = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one body, behaves as a test asks, and records the requests."""

    daemon_threads = True
    body = BODY
    ranges = True
    cut_at: int | None = None
    redirect = ""
    status = 0
    tells_length = True
    tells_range = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.agents: list[str] = []

    def address(self, path: str = "/text.txt") -> str:
        """Return an address on this server."""
        return f"http://127.0.0.1:{self.server_port}{path}"

    @property
    def asked_ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [asked for _, asked in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's attributes say."""

    server: Server

    def do_GET(self) -> None:
        """Send the body or the asked part of it, or an error, or half of it."""
        server, asked = self.server, self.headers["Range"]
        server.requests.append((self.path, asked))
        server.agents.append(self.headers["User-Agent"])
        if server.redirect and self.path != "/moved":
            self._head(302, {"Location": server.redirect, "Content-Length": "0"})
        elif server.status:
            self._head(server.status, {"Content-Length": "0"})
        elif asked and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
            if start >= len(server.body):
                extra = {"Content-Range": f"bytes */{len(server.body)}"} if server.tells_range else {}
                self._head(416, {"Content-Length": "0"} | extra)
            else:
                self._body(206, server.body[start:])
        else:
            self._body(200, server.body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, status: int, body: bytes) -> None:
        self._head(status, {"Content-Length": str(len(body))} if self.server.tells_length else {})
        cut_at, self.server.cut_at = self.server.cut_at, None
        self.wfile.write(body if cut_at is None else body[:cut_at])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server in a thread, reached directly even if the environment names a proxy."""
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The path to download to, in a folder that does not exist yet."""
    return tmp_path / "downloads" / "text" / "text.txt"


def part_of(target: Path) -> Path:
    """Return where an unfinished download is kept."""
    return target.with_name(target.name + ".part")


def put_part(target: Path, data: bytes) -> None:
    """Write the part that an earlier call left behind."""
    target.parent.mkdir(parents=True)
    part_of(target).write_bytes(data)


def test_a_file_is_downloaded_whole(server: Server, target: Path) -> None:
    """The file appears under its name with every byte, its folder is made, and no part is left."""
    download_file(server.address(), target, "sha256", DIGEST)
    assert target.read_bytes() == BODY
    assert [target] == list(target.parent.iterdir())
    assert server.requests == [("/text.txt", None)]


def test_a_download_names_charlm_as_its_user_agent(server: Server, target: Path) -> None:
    """A request has charlm's name, because some servers refuse Python's."""
    download_file(server.address(), target, "sha256", DIGEST)
    assert server.agents[0].startswith("charlm/")


def test_download_progress_rises_to_the_total(server: Server, target: Path) -> None:
    """Progress rises to the announced total in at least two calls."""
    calls: list[tuple[int, int | None]] = []
    download_file(server.address(), target, "sha256", DIGEST, lambda here, total: calls.append((here, total)))
    assert (len(BODY), len(BODY)) == calls[-1]
    assert {len(BODY)} == {total for _, total in calls}
    assert sorted(calls) == calls
    assert len(calls) >= 2


def test_download_progress_without_a_length_has_no_total(server: Server, target: Path) -> None:
    """A file is downloaded from a server that does not announce its length."""
    server.tells_length = False
    calls: list[tuple[int, int | None]] = []
    download_file(server.address(), target, "sha256", DIGEST, lambda here, total: calls.append((here, total)))
    assert (len(BODY), None) == calls[-1]
    assert target.read_bytes() == BODY


def test_a_download_with_the_wrong_hash_is_removed(server: Server, target: Path) -> None:
    """The error has both hashes, and neither the file nor its part is left."""
    wrong = "0" * 64
    with pytest.raises(DownloadError) as caught:
        download_file(server.address(), target, "sha256", wrong)
    assert DIGEST in str(caught.value)
    assert wrong in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_a_download_is_checked_with_the_given_algorithm(server: Server, target: Path) -> None:
    """A file with a published SHA-1 is checked by SHA-1."""
    download_file(server.address(), target, "sha1", hashlib.sha1(BODY).hexdigest())
    assert target.read_bytes() == BODY


def test_a_download_appears_only_after_its_hash_is_right(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the part exists while bytes arrive."""
    seen = []
    download_file(server.address(), target, "sha256", DIGEST, lambda here, total: seen.append(target.exists()))
    assert {False} == set(seen)


def test_a_download_resumes_after_a_cut_connection(server: Server, target: Path) -> None:
    """The part that arrived is kept, and the next call asks the server only for the rest."""
    server.cut_at = 1_500_000
    with pytest.raises(DownloadError, match="1,500,000 of 2,304,000") as caught:
        download_file(server.address(), target, "sha256", DIGEST)
    assert "try again" in caught.value.hint
    assert BODY[:1_500_000] == part_of(target).read_bytes()
    assert not target.exists()
    calls: list[tuple[int, int | None]] = []
    download_file(server.address(), target, "sha256", DIGEST, lambda here, total: calls.append((here, total)))
    assert server.asked_ranges == [None, "bytes=1500000-"]
    assert target.read_bytes() == BODY
    assert [target] == list(target.parent.iterdir())
    assert calls[0][0] > 1_500_000
    assert (len(BODY), len(BODY)) == calls[-1]


def test_a_download_cut_twice_still_arrives(server: Server, target: Path) -> None:
    """Each call continues where the one before it stopped."""
    for cut_at in (1000, 500):
        server.cut_at = cut_at
        with pytest.raises(DownloadError):
            download_file(server.address(), target, "sha256", DIGEST)
    download_file(server.address(), target, "sha256", DIGEST)
    assert server.asked_ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert target.read_bytes() == BODY


def test_a_download_without_ranges_starts_again(server: Server, target: Path) -> None:
    """A server that ignores ranges sends the whole file, which replaces the part."""
    server.ranges = False
    put_part(target, BODY[:1000])
    download_file(server.address(), target, "sha256", DIGEST)
    assert server.asked_ranges == ["bytes=1000-"]
    assert target.read_bytes() == BODY


def test_a_complete_part_is_only_checked(server: Server, target: Path) -> None:
    """If the server reports that nothing is missing, only the hash is checked."""
    put_part(target, BODY)
    download_file(server.address(), target, "sha256", DIGEST)
    assert [f"bytes={len(BODY)}-"] == server.asked_ranges
    assert target.read_bytes() == BODY
    assert not part_of(target).exists()


def test_a_416_answer_without_a_size_restarts_a_download(server: Server, target: Path) -> None:
    """A server that refuses a range without naming the size is asked for the whole file."""
    server.tells_range = False
    put_part(target, BODY)
    download_file(server.address(), target, "sha256", DIGEST)
    assert [f"bytes={len(BODY)}-", None] == server.asked_ranges
    assert target.read_bytes() == BODY


def test_a_part_longer_than_the_file_is_discarded(server: Server, target: Path) -> None:
    """A download starts again if the file behind the address is shorter than the part."""
    put_part(target, BODY + b"more")
    download_file(server.address(), target, "sha256", DIGEST)
    assert [f"bytes={len(BODY) + 4}-", None] == server.asked_ranges
    assert target.read_bytes() == BODY


def test_a_part_of_another_file_is_removed(server: Server, target: Path) -> None:
    """A part of another file fails the hash once and is removed, so that the next call succeeds."""
    put_part(target, b"?" * 1000)
    with pytest.raises(DownloadError, match="not the expected file"):
        download_file(server.address(), target, "sha256", DIGEST)
    download_file(server.address(), target, "sha256", DIGEST)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("tells_length", [True, False])
@pytest.mark.parametrize("here", [0, 1000])
def test_a_download_that_is_too_large_is_refused(server: Server, target: Path, tells_length: bool, here: int) -> None:
    """A file over the limit leaves nothing behind, whether the server announces its length or not."""
    server.tells_length = tells_length
    if here:
        put_part(target, BODY[:here])
    with pytest.raises(DownloadError, match="more than"):
        download_file(server.address(), target, "sha256", DIGEST, max_bytes=len(BODY) - 1)
    assert list(target.parent.iterdir()) == []
    download_file(server.address(), target, "sha256", DIGEST, max_bytes=len(BODY))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_failure_of_the_server_is_reported(server: Server, target: Path, status: int) -> None:
    """The error has the status and the address, and its hint the place for a copy of the file."""
    server.status = status
    with pytest.raises(DownloadError) as caught:
        download_file(server.address(), target, "sha256", DIGEST)
    assert f"{status} {http.client.responses[status]}" in str(caught.value)
    assert server.address() in str(caught.value)
    assert str(target) in caught.value.hint
    assert list(target.parent.iterdir()) == []


def test_a_failure_of_the_server_keeps_the_part(server: Server, target: Path) -> None:
    """A server that fails for a while does not cost the part that has arrived."""
    server.status = 503
    put_part(target, BODY[:1000])
    with pytest.raises(DownloadError, match="503"):
        download_file(server.address(), target, "sha256", DIGEST)
    assert BODY[:1000] == part_of(target).read_bytes()


def test_a_redirect_is_followed(server: Server, target: Path) -> None:
    """A redirect within one scheme is followed, and the range is sent along."""
    server.redirect = "/moved"
    put_part(target, BODY[:1000])
    download_file(server.address(), target, "sha256", DIGEST)
    assert server.requests == [("/text.txt", "bytes=1000-"), ("/moved", "bytes=1000-")]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_a_redirect_to_another_scheme_is_refused(server: Server, target: Path, tmp_path: Path, scheme: str) -> None:
    """A server cannot make charlm read a local file, even one with the right hash."""
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    server.redirect = f"{scheme}://127.0.0.1:1{secret}"
    with pytest.raises(DownloadError, match=scheme):
        download_file(server.address(), target, "sha256", DIGEST)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(("before", "after", "is_followed"), [("https", "http", False), ("http", "https", True)])
def test_a_redirect_never_gives_up_encryption(before: str, after: str, is_followed: bool) -> None:
    """A redirect from http to https is followed, and one from https to http is refused."""
    handler = downloads._SameScheme()
    arguments = (io.BytesIO(), 302, "Found", Message(), f"{after}://example.org/b")
    request = urllib.request.Request(f"{before}://example.org/a")
    if is_followed:
        assert handler.redirect_request(request, *arguments).full_url == "https://example.org/b"
    else:
        with pytest.raises(DownloadError, match="from https to http"):
            handler.redirect_request(request, *arguments)


def test_a_refused_connection_gets_a_hint_without_a_network(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the address and the reason, and its hint another way to the file."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        # Bound but not listening: no other process can answer at this port.
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/text.txt"
        with pytest.raises(DownloadError) as caught:
            download_file(address, target, "sha256", DIGEST)
    assert address in str(caught.value)
    assert "refused" in str(caught.value)
    assert "without a network" in caught.value.hint
    assert str(target) in caught.value.hint
    assert "--corpus" in caught.value.hint


def test_a_silent_server_times_out(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers gives an error after the timeout."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/text.txt"
        with pytest.raises(DownloadError, match="timed out"):
            download_file(address, target, "sha256", DIGEST, timeout=0.05)


def test_an_answer_that_is_no_http_is_reported(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not HTTP is a `DownloadError`."""
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/text.txt"

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-nonsense\r\n")

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(DownloadError, match="could not be downloaded"):
            download_file(address, target, "sha256", DIGEST)
        thread.join()


def catalogued(monkeypatch: pytest.MonkeyPatch, address: str, file: bytes, **fields: object) -> Entry:
    """Make the catalogue hold one corpus, which is downloaded from `address`."""
    digest = hashlib.sha256(file).hexdigest()
    entry = Entry("small", "", "English", "CC0-1.0", address=address, algorithm="sha256", digest=digest, **fields)  # type: ignore[arg-type]
    monkeypatch.setattr(sources, "catalog_entries", lambda: {"small": entry})
    return entry


def zipped(text: bytes) -> bytes:
    """Return a zip file with `text` as the member `small`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("small", text)
    return packed.getvalue()


def test_a_corpus_of_the_catalogue_is_downloaded_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus is downloaded when it is first named, and read from the cache the second time."""
    server.body = b"to be or not to be"
    entry = catalogued(monkeypatch, server.address(), server.body)
    calls: list[tuple[str, int, int | None]] = []
    for _ in range(2):
        loaded = load_corpus(["small"], progress=lambda *progress: calls.append(progress))
        assert loaded.vocabulary.decode(loaded.ids) == "to be or not to be"
        assert hashlib.sha256(server.body).hexdigest() == loaded.sha256
    assert server.requests == [("/text.txt", None)]
    assert calls == [("downloading", 18, 18)]
    assert entry.is_here


def test_a_zipped_corpus_is_unpacked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the unpacked text of an archive is kept."""
    server.body = zipped(b"to be")
    entry = catalogued(
        monkeypatch, server.address("/small.zip"), server.body, member="small", member_bytes=len(b"to be")
    )
    loaded = load_corpus(["small"])
    assert loaded.vocabulary.decode(loaded.ids) == "to be"
    assert [entry.path] == list(entry.path.parent.iterdir())
    load_corpus(["small"])
    assert len(server.requests) == 1


def test_a_copy_put_where_the_hint_says_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive at the place that the hint names replaces a download."""
    server.status = 404
    packed = zipped(b"to be")
    catalogued(monkeypatch, server.address("/small.zip"), packed, member="small", member_bytes=len(b"to be"))
    with pytest.raises(DownloadError) as caught:
        load_corpus(["small"])
    place = re.search("copy of the file at `(.*?)`", caught.value.hint)
    assert place is not None
    Path(place[1]).write_bytes(packed)
    loaded = load_corpus(["small"])
    assert loaded.vocabulary.decode(loaded.ids) == "to be"


def test_a_wrong_file_never_becomes_a_corpus(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_corpus` refuses a file that has changed behind its address."""
    server.body = gzip.compress(b"not the expected text", mtime=0)
    entry = catalogued(monkeypatch, server.address(), b"the expected text")
    with pytest.raises(DownloadError, match="not the expected file"):
        load_corpus(["small"])
    assert not entry.is_here
