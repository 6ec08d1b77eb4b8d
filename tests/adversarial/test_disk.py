"""A full or missing disk ends no run, and what was saved before stays intact."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from charlm import run_folder
from charlm.checkpoint import ModelFile, load_checkpoint
from charlm.cli.train_session import report_outcome, verdict
from charlm.data import cache
from charlm.data.corpus import load_corpus
from charlm.errors import CorpusError, RunError
from charlm.files import append_whole
from charlm.training.events import Event, Note, Record
from charlm.training.final_evaluation import measure_best
from tests.helpers.commands import SHORT, call, spawn
from tests.helpers.training import assert_same_run, at_records, begin, interrupt, metrics, resume

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")


class Disk:
    """Raises the error of a full disk for the files whose names are in `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: set[str] = set()
        save, append = ModelFile.save, append_whole

        def saved(model: ModelFile, path: Path) -> None:
            self._check(path)
            save(model, path)

        def appended(path: Path, data: bytes) -> None:
            self._check(path)
            append(path, data)

        monkeypatch.setattr(ModelFile, "save", saved)
        monkeypatch.setattr(run_folder, "append_whole", appended)

    def _check(self, path: Path) -> None:
        if path.name in self.full or f"{path.parent.name}/{path.name}" in self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that raises the error of a full disk for chosen files."""
    return Disk(monkeypatch)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that this test uses as the system's temporary folder."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return path


EVERY_FILE = ["best.safetensors", "last.safetensors", "metrics.jsonl"]


@pytest.mark.parametrize("names", [EVERY_FILE, *([name] for name in EVERY_FILE)], ids=lambda names: "+".join(names))
def test_a_disk_full_for_a_while_costs_a_run_nothing(disk: Disk, names: list[str]) -> None:
    """A run reports a full disk once, tries again, and ends as a run whose disk always had room."""
    straight = begin("straight")
    interrupt(straight, 100)
    training = begin()
    notes: list[str] = []

    def fill(record: Record) -> None:
        disk.full = set(names) if 5 <= record.step < 12 else set()

    fill_at_records = at_records(fill)

    def listen(event: Event) -> None:
        fill_at_records(event)
        if isinstance(event, Note):
            notes.append(event.message)

    training.learn(listen)
    assert_same_run(straight, training)
    assert not training.logbook.trouble
    assert len(notes) == 2
    assert "No space left" in notes[0]
    assert any(name in notes[0] for name in names)
    assert "again" in notes[1]


def test_a_full_disk_leaves_the_last_save_intact(disk: Disk) -> None:
    """A run that is killed while the disk is full resumes from its last save."""
    training = begin(train__evaluations=10)
    saved = b""

    def fill(record: Record) -> None:
        nonlocal saved
        if record.step == 10:
            saved, disk.full = training.run.last.read_bytes(), {"last.safetensors"}

    training.learn(at_records(fill))
    assert load_checkpoint(training.run.last).metrics["step"] == 10
    assert training.run.last.read_bytes() == saved
    assert "last.safetensors" in training.logbook.trouble
    disk.full.clear()
    again = resume(training.run)
    interrupt(again, 100)
    straight = begin("straight", train__evaluations=10)
    interrupt(straight, 100)
    assert_same_run(straight, again)


def test_a_run_that_cannot_be_saved_ends_with_an_error(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    """The error comes after the verdict and the sample, and its hint names what was saved before."""
    training = begin()
    disk.full = set(EVERY_FILE)
    interrupt(training, 100)
    assert "more time may" in verdict(training)
    with pytest.raises(RunError, match="No space left") as raised:
        report_outcome(training, 30, 0.7, as_json=False)
    assert "saved before" in raised.value.hint
    assert len(capsys.readouterr().out) >= 30


def test_an_unwritable_run_folder_is_replaced_by_another(disk: Disk, elsewhere: Path) -> None:
    """The whole run is saved in the temporary folder, can be resumed from there, and the error names the folder."""
    straight = begin("straight")
    interrupt(straight, 100)
    training = begin()

    def fill(record: Record) -> None:
        disk.full = {f"run/{name}" for name in EVERY_FILE} if record.step >= 7 else set()

    training.learn(at_records(fill))
    measure_best(training)
    measure_best(straight)
    with pytest.raises(RunError, match="instead") as raised:
        report_outcome(training, 0, 0.7, as_json=False)
    assert training.run.path.parent == elsewhere
    assert str(training.run.path) in str(raised.value)
    assert f"--resume {training.run.path}" in raised.value.hint
    assert_same_run(straight, training)
    assert load_checkpoint(Path("run/last.safetensors")).metrics["step"] < 20


def test_records_wait_for_the_disk_in_order(disk: Disk) -> None:
    """No record is lost or written twice, whenever the disk has room."""
    training = begin(train__steps=60, train__evaluations=6)

    def fill(record: Record) -> None:
        disk.full = {"metrics.jsonl"} if record.step % 3 else set()

    training.learn(at_records(fill))
    disk.full.clear()
    training.logbook.write()
    straight = begin("straight", train__steps=60, train__evaluations=6)
    interrupt(straight, 100)
    assert metrics(straight) == metrics(training)


def test_a_roll_back_drops_waiting_records(disk: Disk) -> None:
    """Records after the step of a roll-back are dropped, on disk or not, because they will come again."""
    training = begin(train__evaluations=5)
    disk.full = {"metrics.jsonl"}
    interrupt(training, 7)
    training.logbook.rewind(4)
    disk.full.clear()
    training.logbook.write()
    assert [record["step"] for record in metrics(training)] == [1, 2, 3, 4]


def test_appending_to_a_file_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of which only a part found room is removed again."""
    path = tmp_path / "lines"
    append_whole(path, b"one\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            append_whole(path, b"two\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"one\n"
    append_whole(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"


@linux
def test_train_on_a_full_disk_runs_to_its_end(text: str, elsewhere: Path) -> None:
    """The command reports the full disk, prints its sample, exits with 1, and leaves no half-written file."""
    assert call("train", "-c", text, *SHORT, "--out", "once").exit_code == 0  # the text is in the cache then
    room = 2000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = spawn("train", "-c", text, *SHORT, "--out", "full", "--sample-length", "40", preexec_fn=limit)
    errors = done.stderr.decode().splitlines()
    assert done.returncode == 1, errors
    assert len(done.stdout.decode()) >= 40
    assert any("the run continues and tries again" in line for line in errors)
    assert errors[-2].startswith("error: ")
    assert "last.safetensors" in errors[-2]
    assert not any("Traceback" in line for line in errors)
    assert {path.name for path in Path("full").iterdir()} <= {"config.yaml", "metrics.jsonl"}
    assert not any(elsewhere.iterdir())


@linux
def test_a_run_whose_folder_is_deleted_runs_to_its_end(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run prints its sample, and the lost folder is an error of one line."""

    def vanish(path: Path, data: bytes) -> None:
        if path.parent.exists():
            shutil.rmtree(path.parent)
        append_whole(path, data)

    monkeypatch.setattr(run_folder, "append_whole", vanish)
    result = call("train", "-c", text, *SHORT, "--out", "gone", "--sample-length", "40")
    assert result.exit_code == 1
    assert "No such file" in result.stderr
    assert len(result.stdout) >= 40


@linux
def test_a_run_with_a_broken_stderr_runs_to_its_end(text: str) -> None:
    """A closed pipe or a full device as standard error does not end a run."""
    command = [sys.executable, "-m", "charlm", "train", "-c", text, *SHORT, "--sample-length", "0", "--out"]
    with subprocess.Popen([*command, "gone"], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    with Path("/dev/full").open("w") as full:
        logged = subprocess.run([*command, "logged"], stderr=full, check=False)
    assert (process.returncode, logged.returncode) == (0, 0)
    for name in ("gone", "logged"):
        assert load_checkpoint(Path(name, "last.safetensors")).metrics["finished"] == "done"


@linux
def test_help_into_a_full_device_is_an_error_of_one_line() -> None:
    """Help that cannot be written gives one line, and a wrong option exits with 2 without standard error."""
    command = [sys.executable, "-m", "charlm"]
    with Path("/dev/full").open("w") as full:
        helped = subprocess.run([*command, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
        wrong = subprocess.run([*command, "sample", "--no-such"], stderr=full, check=False)
    assert (helped.returncode, helped.stderr.count(b"\n"), wrong.returncode) == (1, 1, 2)


@linux
def test_a_deleted_working_folder_is_reported() -> None:
    """A command in a folder that no longer exists gives one error and one hint."""
    Path("gone").mkdir()
    code = "import os, sys; os.chdir('gone'); os.rmdir('../gone'); from charlm.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "corpora"], capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 2)
    assert b"no longer exists" in done.stderr


def test_a_pipe_as_metrics_does_not_block_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe in place of `metrics.jsonl` is reported, and the model is still saved."""
    training = begin()

    def replace(record: Record) -> None:
        if record.step == 1:
            training.run.metrics.unlink()
            os.mkfifo(training.run.metrics)

    training.learn(at_records(replace))
    assert "metrics.jsonl" in training.logbook.trouble
    assert load_checkpoint(training.run.last).metrics["step"] == 20


def test_a_full_cache_is_replaced_by_a_temporary_folder(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without room in the cache is encoded elsewhere; without room there either, the error has a hint."""
    write_entry, folders = cache._write_entry, []

    def write_entry_or_fail(folder: Path, *arguments: Any) -> Any:
        folders.append(folder)
        if len(folders) in fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_entry(folder, *arguments)

    monkeypatch.setattr(cache, "_write_entry", write_entry_or_fail)
    fails = {1}
    assert len(load_corpus([text]).ids) > 0
    assert folders[0] != folders[1]
    fails = {3, 4}
    Path(text).write_text("another", encoding="utf-8")
    with pytest.raises(CorpusError, match="No space left") as raised:
        load_corpus([text])
    assert "CHARLM_CACHE" in raised.value.hint
