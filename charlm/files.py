"""Files: atomic writes, and the folders of bundled and cached files. Knows no models or texts."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors about the temporary file beside a path name the path itself."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) and Path(error.filename).name.startswith(f".{path.name}."):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    The old file stays whole until the new one is on disk: write, flush, fsync, rename, and fsync of the
    folder. If anything fails the temporary file is removed and `path` is untouched. The new file
    has the permissions of any newly created file (`0o666` less the umask), not those of a temporary file.
    """
    with _naming(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    _sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path` as a whole: a reader sees the old bytes or the new, never a mixture."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def creating(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes the new file `path` when the block ends without an error.

    Raises:
        FileExistsError: there is such a file, which stays as it is.
    """
    with _naming(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield file
            Path(name).chmod(0o666 & ~_umask())
            try:
                # Unlike a rename, a link never replaces a file.
                path.hardlink_to(name)
            except FileExistsError:
                raise
            except OSError:
                # This file system has no links.
                with path.open("xb") as copy, Path(name).open("rb") as file:
                    shutil.copyfileobj(file, copy)
        finally:
            with suppress(OSError):
                Path(name).unlink()


def write_new(path: Path, data: bytes) -> None:
    """Make a file that does not exist yet, as a whole.

    Raises:
        FileExistsError: there is one, which stays as it is.
    """
    with creating(path) as file:
        file.write(data)


def append_whole(path: Path, data: bytes) -> None:
    """Add bytes to the end of a file: all of them, or none if that fails."""
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        left = memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            raise


def may_write_to(path: Path) -> bool:
    """Return whether a path is a regular file, or free.

    A link may lead to a file of someone else, and opening a pipe would block.
    """
    return not path.is_symlink() and (path.is_file() or not path.exists())


@contextmanager
def holding(path: Path, timeout: float = -1) -> Iterator[bool]:
    """Hold a lock file, which is removed at the end.

    Args:
        path: the lock file.
        timeout: how many seconds to wait for another process that holds it; by default as long as it takes.

    Yields:
        Whether it is held. It is not if the file cannot be made, or the file system has no locks.

    Raises:
        TimeoutError: another process still holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=timeout)
    try:
        # `filelock` may warn that it uses a weaker kind of lock, because the system has none.
        with warnings.catch_warnings(action="ignore"):
            lock.acquire()
    except Timeout:
        # It is an `OSError` too, but the file can be locked, and another process has done so.
        raise
    except (OSError, NotImplementedError):
        # The file cannot be made or locked. `filelock` raises the second on a system without locks.
        yield False
        return
    try:
        yield True
    finally:
        # Removed before the release, while no other process can have locked it.
        with suppress(OSError):
            path.unlink()
        lock.release()


def sync(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sweep_temporary(folder: Path, older_than_seconds: float = 0.0) -> None:
    """Remove temporary files that a killed process left in `folder`. A failure is not an error.

    Args:
        folder: where to look.
        older_than_seconds: keep newer files, which another process may still be writing.
    """
    for leftover in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= older_than_seconds:
                leftover.unlink()


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the home folder; `~name` of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 -- Path.expanduser raises


def bundled_folder(name: str) -> Path:
    """Find `configs` or `corpora`: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def bundled_configs() -> list[str]:
    """Return the names of the settings files that charlm ships."""
    return sorted(path.stem for path in bundled_folder("configs").glob("*.yaml"))


def cache_folder() -> Path:
    """Return charlm's folder in the platform's cache folder of the user; `CHARLM_CACHE` overrides it.

    If the user has no home folder, it is a temporary folder, the same one until the process ends.
    """
    if chosen := os.environ.get("CHARLM_CACHE"):
        return expanded(chosen)
    from platformdirs import user_cache_path

    with suppress(RuntimeError):
        path = user_cache_path("charlm", appauthor=False, opinion=False)
        if path.is_absolute():
            return path
    # The user has no home folder.
    return _homeless_cache()


@functools.cache
def _homeless_cache() -> Path:
    return temporary_folder()


def temporary_folder() -> Path:
    """Make a folder that only this user can read and that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="charlm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # A folder cannot be opened for this on every platform; the rename itself has already happened.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
