"""Run folders: created once, locked by one process at a time, with the best and the last model and the records."""

from __future__ import annotations

import errno
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from charlm.errors import ModelFileError, RunError, nearest_name, one_line
from charlm.files import append_whole, expanded, holding, may_write_to, sweep_temporary, write_atomic
from charlm.machine import process_place

RUNS_FOLDER = "runs"
LOCK_FILE = ".lock"
KEPT_FOLDER = "kept"
KEPT_NAME = re.compile(r"step-([0-9]{8,12})\.safetensors")


class RunFolder:
    """One run on disk: `config.yaml`, `metrics.jsonl`, `best.safetensors`, `last.safetensors`, perhaps `kept/`.

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
        """The records of the run, one line of JSON each."""
        return self.path / "metrics.jsonl"

    @property
    def best(self) -> Path:
        """The model file to share."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The model file that training resumes from."""
        return self.path / "last.safetensors"

    @property
    def kept(self) -> Path:
        """The folder of the models that are kept along the way."""
        return self.path / KEPT_FOLDER

    def kept_model(self, step: int) -> Path:
        """Return the file of the model that is kept after so many steps."""
        return self.kept / f"step-{step:08}.safetensors"

    def kept_models(self) -> dict[int, Path]:
        """Return the kept models on disk by their step, in order."""
        # A link could lead to files of someone else.
        files = () if self.kept.is_symlink() else self.kept.glob("step-*.safetensors")
        return {int(name[1]): file for file in sorted(files) if (name := KEPT_NAME.fullmatch(file.name))}

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
            cls.check_free(path)
            return cls(path)
        except OSError as error:
            raise RunError(f"`{path or RUNS_FOLDER}` cannot be made: {error.strerror or error}") from error

    @staticmethod
    def check_free(path: Path, *, trains: bool = True) -> None:
        """Check that nothing is in a folder, or that there is no such folder yet.

        Args:
            path: the folder.
            trains: whether a training asks, which may want to resume the run that is there.

        Raises:
            RunError: something is in it, or it cannot be a folder.
        """
        try:
            with suppress(FileNotFoundError):
                if any(expanded(path).iterdir()):
                    # Only a run that was trained can be resumed: neither an imported model nor an average.
                    can_resume = trains and RunFolder(expanded(path)).last.is_file()
                    resume = f"resume it with {resume_command(path)}, " if can_resume else ""
                    raise RunError(
                        f"`{path}` is not empty, and no run is overwritten",
                        f"choose another `--out`, {resume}or remove it",
                    )
        except OSError as error:
            raise RunError(f"`{path}` cannot be made: {error.strerror or error}") from error

    def forget_start(self) -> None:
        """Remove what a run that was killed before its first save has left, so that it can start again here."""
        for path in (self.config, self.path / LOCK_FILE):
            path.unlink(missing_ok=True)
        sweep_temporary(self.path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run to resume it.

        Raises:
            RunError: there is no run that can be resumed.
        """
        run = cls(expanded(path))
        if run.path.suffix == run.last.suffix and run.path.is_file():
            raise _no_run_folder(run.path)
        if not run.last.is_file():
            hint = did_you_mean_run(path) or "a run folder holds `last.safetensors`"
            if run.best.is_file():
                hint = _from_model(path)
            raise RunError(f"there is no run to resume in `{path}`", hint)
        return run

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Lock the folder, so that two trainings never write to the same run, and remove leftover temporary files.

        Yields:
            Whether it is locked. It is not if the file system has no locks or no space for the lock file.

        Raises:
            RunError: another process has locked it.
        """
        path = self.path / LOCK_FILE
        if not may_write_to(path):
            raise RunError(f"`{path}` is not a regular file", "remove it")
        with ExitStack() as held:
            try:
                is_held = held.enter_context(holding(path, timeout=0))
            except TimeoutError as error:
                raise RunError(f"another process is training in `{self.path}`", "wait for it, or stop it") from error
            if is_held:
                sweep_temporary(self.path)
                if not self.kept.is_symlink():
                    sweep_temporary(self.kept)
            yield is_held

    def append_metrics(self, *records: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl` for each record, or none if that fails."""
        self._check_metrics()
        append_whole(self.metrics, "".join(json.dumps(record) + "\n" for record in records).encode())

    def truncate_metrics(self, last_step: int) -> None:
        """Drop the records after `last_step`, because training resumes there and writes them again."""
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

    def drop_kept(self, last_step: int) -> None:
        """Remove the kept models after `last_step`, because training resumes there and keeps them again."""
        for step, file in self.kept_models().items():
            if step > last_step:
                file.unlink()

    def _check_metrics(self) -> None:
        if not may_write_to(self.metrics):
            raise OSError(errno.EINVAL, "it is not a regular file")


def find_model(path: Path | None) -> Path:
    """Find the model file for a path.

    Args:
        path: a model file, or a run folder for its best model, or None for the best model of the newest run.

    Raises:
        ModelFileError: there is none.
    """
    if path is None:
        found = _runs_in(Path(RUNS_FOLDER))
        if not found:
            raise ModelFileError(
                f"there is no model here: `{RUNS_FOLDER}/` holds no run",
                "`charlm train` makes one; a model that is elsewhere is given by its path",
            )
        return found[0]
    path = expanded(path)
    try:
        if not path.is_dir():
            if not path.exists() and (hint := did_you_mean_run(path)):
                raise ModelFileError(f"there is no model `{path}`", hint)
            return path
    except OSError as error:
        raise ModelFileError(f"`{path}` cannot be read: {error.strerror or error}") from error
    if best := best_in(path):
        return best
    kept = next(iter(RunFolder(path.parent).kept_models().values()), None) if path.name == KEPT_FOLDER else None
    hint = (
        f"name one of the models in it, such as `{kept}`"
        if kept
        else did_you_mean_run(path)
        or (
            "a run folder holds `best.safetensors`; "
            f"`charlm train --corpus {shlex.quote(str(path))}` trains on the texts in a folder"
        )
    )
    raise ModelFileError(f"there is no model file in `{path}`", hint)


def best_in(folder: Path) -> Path | None:
    """Return the best model of a run, or the last one before the first validation, or None if there is no run."""
    run = RunFolder(folder)
    return next((file for file in (run.best, run.last) if file.is_file()), None)


def is_model(name: str) -> bool:
    """Say whether a name is that of a run folder, or has the ending of a model file."""
    try:
        return Path(name).suffix == ".safetensors" or best_in(expanded(name)) is not None
    except (OSError, ValueError):
        return False


def model_name(path: Path) -> str:
    """Return what people call a model, in one line: its run if it is the best or last one, or the name of its file."""
    path = path.resolve()
    # The folder of a run has the name that people gave it; what is above it is nobody's business.
    return one_line(path.parent.name if path.stem in ("best", "last") and path.parent.name else path.stem)


def train_command(*arguments: str) -> str:
    """Return the command that trains with as many processes as there are now, in backquotes for a message."""
    place, command = process_place(), shlex.join(["train", *arguments])
    if place.size > place.local_size:
        # Only the user knows how the machines find one another.
        return f"the same torchrun command with `{command}`"
    launcher = f"torchrun --nproc-per-node {place.size} -m " if place.size > 1 else ""
    return f"`{launcher}charlm {command}`"


def resume_command(run: Path, *options: str) -> str:
    """Return the command that resumes a run, as `train_command` does."""
    return train_command("--resume", str(run), *options)


def did_you_mean_run(path: Path) -> str:
    """Return "did you mean ...?" with a run around or in a folder or with a name like it, or an empty string."""
    with suppress(OSError):
        if path.name == KEPT_FOLDER and best_in(path.parent):
            return f"did you mean its run, `{path.parent}`?"
        if inside := _runs_in(path):
            return f"did you mean its newest run, `{inside[0].parent}`?"
        name = path.parent.name if path.suffix == ".safetensors" else path.name
        runs = {file.parent.name: file.parent for file in _runs_in(Path(RUNS_FOLDER))}
        alike = [run for run in runs if name and name.lower() in run.lower()]
        if near := min(alike, key=len, default=nearest_name(name, runs)):
            return f"did you mean `{runs[near]}`?"
    return ""


def _runs_in(folder: Path) -> list[Path]:
    """Return the best model of each run in a folder, the newest first."""
    found = [file for run in folder.glob("*") if (file := best_in(run))]
    return sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)


def _no_run_folder(file: Path) -> RunError:
    """Return the error about a model file in place of a run folder."""
    folder = next((folder for folder in file.parents[:2] if RunFolder(folder).last.is_file()), None)
    resume = f"{resume_command(folder)} resumes the run; " if folder else ""
    return RunError(f"`{file}` is a model file, and a run is resumed by its folder", resume + _from_model(file))


def _from_model(path: Path) -> str:
    return f"{train_command('--from', str(path), '--corpus', 'TEXT')} starts a new run from this model"


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
