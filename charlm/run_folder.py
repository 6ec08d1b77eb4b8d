"""Run folders: made once, held by one process, the best and the last model in them, records added."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from charlm.errors import ModelFileError, RunError
from charlm.files import append_whole, expanded, sweep_temporary, write_atomic

RUNS_FOLDER = "runs"
LOCK_FILE = ".lock"


class RunFolder:
    """One run on disk: `config.yaml`, `metrics.jsonl`, `best.safetensors`, `last.safetensors`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """The effective settings."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON record per report."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The model file to share."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model file that a run resumes from."""
        return self.path / "last.safetensors"

    @classmethod
    def create(cls, path: Path | None, name: str) -> RunFolder:
        """Make a new run folder: `path`, or the first free `runs/<name>-<number>`.

        Raises:
            RunError: `path` holds a run already, is a file, or cannot be written.
        """
        try:
            if path is None:
                return cls(_first_free(Path(RUNS_FOLDER), name))
            path = expanded(path)
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunError(
                    f"`{path}` is not empty, and no run is overwritten",
                    f"choose another `--out`, continue it with `--resume {path}`, or remove it",
                )
            return cls(path)
        except OSError as error:
            raise RunError(f"`{path or RUNS_FOLDER}` cannot be made: {error.strerror or error}") from error

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run to resume it.

        Raises:
            RunError: there is no run that can resume.
        """
        run = cls(expanded(path))
        if not run.last.is_file():
            raise RunError(f"there is no run to resume in `{path}`", "a run folder holds `last.safetensors`")
        return run

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the folder for this process, so that two trainings never write to one run, and remove leftovers.

        Yields:
            Whether it is held. It is not where the file system has no locks or no room for the lock's file.

        Raises:
            RunError: another process holds it.
        """
        from filelock import FileLock, Timeout

        path = self.path / LOCK_FILE
        lock = FileLock(path, timeout=0)
        try:
            # Without the system's locks it may warn that it uses a weaker kind.
            with warnings.catch_warnings(action="ignore"):
                lock.acquire()
        except Timeout as error:
            raise RunError(f"another process is training in `{self.path}`", "wait for it, or stop it") from error
        except (OSError, NotImplementedError):
            yield False
            return
        try:
            sweep_temporary(self.path)
            yield True
        finally:
            # Removed while it is still held: nobody else can have locked it, and the folder holds nothing but the run.
            with suppress(OSError):
                path.unlink()
            lock.release()

    def append_metrics(self, *records: Mapping[str, Any]) -> None:
        """Add lines to `metrics.jsonl`: one for each record, or where that fails none."""
        self._check_metrics()
        append_whole(self.metrics, "".join(json.dumps(record) + "\n" for record in records).encode())

    def truncate_metrics(self, last_step: int) -> None:
        """Drop the records after `last_step`: training resumes there and will write them again."""
        self._check_metrics()
        before = self.metrics.read_bytes() if self.metrics.exists() else b""
        kept = []
        for line in before.split(b"\n"):
            with suppress(ValueError, KeyError, TypeError, RecursionError):  # a line cut short by a crash
                step = json.loads(line)["step"]
                if type(step) is int and step <= last_step:
                    kept.append(line + b"\n")
        if b"".join(kept) != before:
            write_atomic(self.metrics, b"".join(kept))

    def _check_metrics(self) -> None:
        # A pipe in its place would be waited for, and a link may lead to a file that is not the run's.
        if self.metrics.is_symlink() or (self.metrics.exists() and not self.metrics.is_file()):
            raise OSError(errno.EINVAL, "there is something else in its place")


def find_model(path: Path | None) -> Path:
    """Return the model file that is meant: a model file, a run folder, or where None the newest run's best.

    Raises:
        ModelFileError: there is none.
    """
    if path is None:
        found = [file for run in Path(RUNS_FOLDER).glob("*") if (file := best_in(run))]
        if not found:
            raise ModelFileError(
                f"there is no model here: `{RUNS_FOLDER}/` holds no run", "`charlm train` makes one, or pass `--model`"
            )
        return max(found, key=lambda file: file.stat().st_mtime_ns)
    path = expanded(path)
    if not path.is_dir():
        return path
    if best := best_in(path):
        return best
    raise ModelFileError(f"there is no model file in `{path}`", "a run folder holds `best.safetensors`")


def best_in(folder: Path) -> Path | None:
    """Return the best model of a run, of one that has validated nothing yet the last; None where there is no run."""
    run = RunFolder(folder)
    return next((file for file in (run.best, run.last) if file.is_file()), None)


def _first_free(parent: Path, name: str) -> Path:
    number = 1
    while True:
        path = parent / f"{name}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise
            number += 1
        else:
            return path
