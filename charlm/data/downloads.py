"""Download a file, resume after a broken connection, and use it only if its hash is right. Knows no corpora."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from charlm import __version__
from charlm.errors import DownloadError
from charlm.files import CHUNK_BYTES, sync

# For a file of unknown size.
MAX_BYTES = 1 << 27

DownloadProgress = Callable[[int, int | None], None]


def download_file(
    address: str,
    target: Path,
    algorithm: str,
    digest: str,
    progress: DownloadProgress | None = None,
    timeout: float = 30,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Download `address` to `target`, which appears only when it is complete and its hash is right.

    What has arrived is kept beside it as `.part`. A later call asks the server for the rest, and starts again
    if the server does not send parts.

    Args:
        address: http or https.
        target: the file to make, and its folder.
        algorithm: a name that hashlib knows, such as `sha256`.
        digest: the expected hash in hexadecimal.
        progress: called with the number of bytes that have arrived and that there will be (None if unknown).
        timeout: seconds without any answer after which it gives up.
        max_bytes: how many bytes are accepted at most.

    Raises:
        DownloadError: no connection, a cut transfer, a full disk, a redirect to another scheme, another file, or one
            that does not end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(address, part, progress, timeout, max_bytes)
    except _TooLargeError as error:
        part.unlink(missing_ok=True)
        raise DownloadError(
            f"`{address}` sends more than the {max_bytes:,} bytes expected",
            "what came was removed; the file behind the address may have changed",
        ) from error
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(
            f"the server of `{address}` answered {error.code} {error.reason}", _by_hand(target)
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"`{address}` could not be downloaded: {reason}",
            f"try again, what has arrived is kept; {_by_hand(target)}",
        ) from error
    with part.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        part.unlink()
        raise DownloadError(
            f"what `{address}` sent is not the expected file: its {algorithm} is {found}, not {digest}",
            "it was removed; the file behind the address may have changed",
        )
    sync(part)
    part.replace(target)


class _TooLargeError(Exception):
    pass


def _fetch(address: str, part: Path, progress: DownloadProgress | None, timeout: float, max_bytes: int) -> None:
    here = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"charlm/{__version__}"} | ({"Range": f"bytes={here}-"} if here else {})
    opener = urllib.request.build_opener(_SameScheme())
    try:
        response = opener.open(urllib.request.Request(address, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not here:
            raise
        error.close()
        # Either the part is complete already (the hash will show it) or the file behind the address shrank.
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(here):
            return
        part.unlink()
        _fetch(address, part, progress, timeout, max_bytes)
        return
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            here = 0
        length = response.headers.get("Content-Length")
        total_bytes = here + int(length) if length and length.isdigit() else None
        with part.open("ab" if here else "wb") as file:
            here = _copy(response, file, here, total_bytes, progress, max_bytes)
    if total_bytes is not None and here < total_bytes:
        raise ConnectionError(f"the connection broke after {here:,} of {total_bytes:,} bytes")


def _copy(
    response: Any, file: BinaryIO, here: int, total: int | None, progress: DownloadProgress | None, max_bytes: int
) -> int:
    if (total or here) > max_bytes:
        raise _TooLargeError
    while chunk := response.read(CHUNK_BYTES):
        here += len(chunk)
        if here > max_bytes:
            raise _TooLargeError
        file.write(chunk)
        if progress is not None:
            progress(here, total)
    return here


def _by_hand(target: Path) -> str:
    return f"without a network, put a copy of the file at `{target}`, or `charlm train --corpus PATH`"


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never to another kind of address: `https` must not end in `http` or `file`."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != before and (before, after) != ("http", "https"):
            with suppress(OSError):
                fp.close()
            raise DownloadError(f"`{req.full_url}` redirects from {before} to {after}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
