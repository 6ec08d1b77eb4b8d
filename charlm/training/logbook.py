"""The log of a run: writes the run into its folder during training. It knows files, and nothing of training."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.errors import RunError
from charlm.evaluation.compare import read_records
from charlm.files import sync
from charlm.run_folder import RunFolder


class Logbook:
    """Writes the files of a run; files that cannot be written now wait in memory for the next time.

    Of several processes that train together, only one writes.

    Attributes:
        run: the folder.
        trouble: which files could not be written, and why; empty while everything is on disk.
        kept: the newest model to keep along the way, while it could not be written.
    """

    def __init__(self, run: RunFolder, *, writes: bool = True) -> None:
        self.run, self._writes = run, writes
        self.trouble = ""
        self.kept: ModelFile | None = None
        self._best: ModelFile | None = None
        self._last: ModelFile | None = None
        self._records: list[Mapping[str, Any]] = []
        self._truncate_to: int | None = None
        self._drop_kept_after: int | None = None

    @property
    def best(self) -> ModelFile:
        """The best model, whether or not it is on disk yet."""
        return self._best or load_checkpoint(self.run.best)

    @property
    def has_best(self) -> bool:
        """Whether there is a best model yet."""
        return self._best is not None or self.run.best.is_file()

    @property
    def records(self) -> list[Mapping[str, Any]]:
        """All records, whether or not they are on disk yet; without those of a file that cannot be read."""
        written: list[dict[str, Any]] = []
        with suppress(RunError):
            written = read_records(self.run)
        return [*written, *self._records]

    def put(
        self,
        *,
        best: ModelFile | None = None,
        last: ModelFile | None = None,
        kept: ModelFile | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> bool:
        """Add something to write, and write everything that waits; return whether everything is on disk now."""
        if not self._writes:
            return True
        self._best, self._last, self.kept = best or self._best, last or self._last, kept or self.kept
        if record is not None:
            self._records.append(record)
        return self.write()

    def rewind(self, step: int) -> None:
        """Drop the records and the kept models after a step, because training will write them again."""
        if not self._writes:
            return
        if self.kept and (self.kept.step or 0) > step:
            self.kept = None
        self._records = [record for record in self._records if record["step"] <= step]
        self._truncate_to = self._drop_kept_after = step
        self.write()

    def write(self) -> bool:
        """Try to write everything that waits, each part separately; return whether everything is on disk now."""
        parts = ((self._write_records, self.run.metrics), (self._write_best, self.run.best))
        kept = self.run.kept_model(self.kept.step or 0) if self.kept else self.run.kept
        troubles: dict[str, list[str]] = {}
        for write, path in (*parts, (self._write_kept, kept), (self._write_last, self.run.last)):
            try:
                write()
            except OSError as error:
                troubles.setdefault(error.strerror or str(error), []).append(f"`{path}`")
        self.trouble = "; ".join(
            f"{', '.join(paths)} could not be written: {reason}" for reason, paths in troubles.items()
        )
        return not troubles

    def move_to_safety(self) -> Path | None:
        """Write the whole run into a temporary folder instead; return it, or None if that fails too."""
        home = self.run
        with suppress(OSError):
            self.run = RunFolder(Path(tempfile.mkdtemp(prefix="charlm-run-")))
            for file in (home.config, home.metrics, home.best, home.last):
                # Newer parts wait in memory, and replace the copy below.
                with suppress(OSError):
                    shutil.copy(file, self.run.path)
            if self.write():
                return self.run.path
            shutil.rmtree(self.run.path, ignore_errors=True)
        self.run = home
        return None

    def _write_records(self) -> None:
        if self._truncate_to is not None:
            self.run.truncate_metrics(self._truncate_to)
            self._truncate_to = None
        if self._records:
            self.run.append_metrics(*self._records)
            self._records.clear()

    def _write_best(self) -> None:
        if self._best:
            self._best.save(self.run.best)
            self._best = None

    def _write_kept(self) -> None:
        if self._drop_kept_after is not None:
            self.run.drop_kept(self._drop_kept_after)
            self._drop_kept_after = None
        if self.kept:
            folder = self.run.kept
            folder.mkdir(exist_ok=True)
            if folder.is_symlink():
                raise OSError(errno.EINVAL, "its folder is a link")
            self.kept.save(self.run.kept_model(self.kept.step or 0))
            self.kept = None

    def _write_last(self) -> None:
        if self._last:
            # The records before this state are never written again, so they must be on disk first.
            if self.run.metrics.is_file():
                sync(self.run.metrics)
            self._last.save(self.run.last)
            self._last = None
