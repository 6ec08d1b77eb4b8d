"""Run folders are created once, locked by one process, and found by path or as the newest."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import load_checkpoint
from charlm.errors import ModelFileError, RunError
from charlm.run_folder import RunFolder, find_model, model_name

# Run folders


def test_a_new_run_takes_the_first_free_number(own_folders: Path) -> None:
    """Without `--out` runs are numbered from one, and no number is used twice."""
    made = [RunFolder.create(None, "fables-lstm").path for _ in range(3)]
    other = RunFolder.create(None, "fables-gru").path
    assert [Path(f"runs/fables-lstm-{number}") for number in (1, 2, 3)] == made
    assert Path("runs/fables-gru-1") == other
    assert all((own_folders / path).is_dir() for path in [*made, other])


def test_a_run_number_taken_by_a_file_is_skipped(own_folders: Path) -> None:
    """If a file has the name of a run, the run gets another number."""
    (own_folders / "runs").mkdir()
    (own_folders / "runs" / "x-1").touch()
    assert Path("runs/x-2") == RunFolder.create(None, "x").path


def test_a_chosen_folder_is_made_with_its_parents(own_folders: Path) -> None:
    """`--out` names the folder itself; it may exist if it is empty."""
    path = own_folders / "deep" / "er"
    for _ in range(2):
        assert path == RunFolder.create(path, "ignored").path
        assert list(path.iterdir()) == []


def test_a_chosen_folder_may_begin_with_a_tilde(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, as in a shell."""
    monkeypatch.setenv("HOME", str(own_folders))
    assert own_folders / "run" == RunFolder.create(Path("~/run"), "ignored").path


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", ".hidden"])
def test_a_folder_that_is_not_empty_is_refused(own_folders: Path, name: str) -> None:
    """No run is overwritten, and the hint says how to resume it, if that is possible."""
    (own_folders / name).write_bytes(b"kept")
    with pytest.raises(RunError) as raised:
        RunFolder.create(own_folders, "x")
    assert "not empty" in str(raised.value)
    assert (f"--resume {own_folders}" in raised.value.hint) == (name == "last.safetensors")
    assert (own_folders / name).read_bytes() == b"kept"


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_file_in_place_of_a_folder_is_refused(own_folders: Path, path: str) -> None:
    """A file in place of the folder, or of one above it, is reported and not changed."""
    (own_folders / "file").write_bytes(b"kept")
    with pytest.raises(RunError, match=path):
        RunFolder.create(own_folders / path, "x")
    assert (own_folders / "file").read_bytes() == b"kept"


def test_a_file_in_place_of_the_folder_of_runs_is_refused(own_folders: Path) -> None:
    """A file called `runs` is reported."""
    (own_folders / "runs").touch()
    with pytest.raises(RunError, match="runs"):
        RunFolder.create(None, "x")


def test_a_broken_link_in_place_of_the_folder_of_runs_is_refused(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link called `runs` that leads nowhere is reported, and there is no endless retry."""
    (own_folders / "runs").symlink_to(own_folders / "absent" / "disk")
    mkdir, calls = Path.mkdir, []

    def counted(self: Path, *arguments: Any, **options: Any) -> None:
        calls.append(self)
        if len(calls) > 50:
            raise AssertionError("tried again and again")
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", counted)
    with pytest.raises(RunError, match="runs"):
        RunFolder.create(None, "x")


def test_the_files_of_a_run_have_their_names(own_folders: Path) -> None:
    """The four files of a run have the documented names."""
    run = RunFolder(own_folders)
    names = ["config.yaml", "metrics.jsonl", "best.safetensors", "last.safetensors"]
    assert [own_folders / name for name in names] == [run.config, run.metrics, run.best, run.last]


def test_a_folder_without_a_run_cannot_be_opened(own_folders: Path) -> None:
    """A missing folder, an empty one, a file and a run that has saved nothing cannot be resumed."""
    (own_folders / "file").touch()
    (own_folders / "unsaved").mkdir()
    (own_folders / "unsaved" / "config.yaml").touch()
    (own_folders / "unsaved" / "last.safetensors").mkdir()
    for name in ("absent", "file", "unsaved", "."):
        with pytest.raises(RunError, match="no run to resume") as raised:
            RunFolder.open(own_folders / name)
        assert "last.safetensors" in raised.value.hint


def test_a_run_with_its_best_model_alone_can_be_started_from(own_folders: Path) -> None:
    """An average has no state to resume from: the hint says what can be done with it."""
    (own_folders / "mean").mkdir()
    (own_folders / "mean" / "best.safetensors").touch()
    with pytest.raises(RunError, match="no run to resume") as raised:
        RunFolder.open(Path("mean"))
    assert raised.value.hint == "`charlm train --from mean --corpus TEXT` starts a new run from this model"


def test_locking_a_run_removes_leftover_files(own_folders: Path) -> None:
    """Temporary files of a killed writer are removed, and the files of the run stay."""
    for name in ("config.yaml", "metrics.jsonl", "best.safetensors", "last.safetensors", ".last.safetensors.x1.tmp"):
        (own_folders / name).write_bytes(b"kept")
    assert own_folders == RunFolder.open(own_folders).path
    assert (own_folders / ".last.safetensors.x1.tmp").exists()
    with RunFolder.open(own_folders).locked():
        pass
    names = ["best.safetensors", "config.yaml", "last.safetensors", "metrics.jsonl"]
    assert names == sorted(path.name for path in own_folders.iterdir())


def test_a_run_is_locked_once(own_folders: Path) -> None:
    """A locked folder cannot be locked again; after the release it is free, without a lock file."""
    with (
        RunFolder(own_folders).locked(),
        pytest.raises(RunError, match="another process"),
        RunFolder(own_folders).locked(),
    ):
        pytest.fail("locked twice")
    with RunFolder(own_folders).locked():
        pass
    assert list(own_folders.iterdir()) == []


def test_an_error_releases_the_lock(own_folders: Path) -> None:
    """A training that fails leaves the folder unlocked."""
    with pytest.raises(ValueError, match="in training"), RunFolder(own_folders).locked():
        raise ValueError("in training")
    with RunFolder(own_folders).locked():
        pass


def test_another_process_holds_the_lock_until_it_dies(own_folders: Path) -> None:
    """A second process is refused; a killed process holds no lock, and its lock file is removed."""
    script = (
        "import signal, sys; from pathlib import Path; from charlm.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True); signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(own_folders)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"locked\n"
            with pytest.raises(RunError, match="another process"), RunFolder(own_folders).locked():
                pytest.fail("locked twice")
        finally:
            process.kill()
    with RunFolder(own_folders).locked() as is_held:
        assert is_held
    assert list(own_folders.iterdir()) == []


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_file_system_without_locks_ends_no_run(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The run continues without a lock and reports that, and leftover files stay."""
    (own_folders / ".last.safetensors.x1.tmp").touch()

    def refuse(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with RunFolder(own_folders).locked() as is_held:
        assert not is_held
    assert [path.name for path in own_folders.iterdir()] == [".last.safetensors.x1.tmp"]


def test_a_leftover_lock_file_does_not_lock(own_folders: Path) -> None:
    """The lock file of a killed run locks nothing, whatever it contains."""
    (own_folders / ".lock").write_bytes(b"12345\nhost\n")
    with RunFolder(own_folders).locked() as is_held:
        assert is_held
    assert list(own_folders.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_that_is_no_regular_file_is_refused(own_folders: Path, kind: str) -> None:
    """A link must not make a run empty another file."""
    victim = own_folders / "victim"
    victim.write_text("precious", encoding="utf-8")
    if kind == "link":
        (own_folders / ".lock").symlink_to(victim)
    else:
        (own_folders / ".lock").mkdir()
    with pytest.raises(RunError, match="not a regular file"), RunFolder(own_folders).locked():
        pass
    assert victim.read_text(encoding="utf-8") == "precious"


# Metrics


def steps(run: RunFolder) -> list[int]:
    """Read the steps of all records, one in each line."""
    return [json.loads(line)["step"] for line in run.metrics.read_bytes().decode("ascii").split("\n")[:-1]]


def test_metrics_are_lines_of_json(own_folders: Path) -> None:
    """Each record is one line, whatever it contains."""
    run = RunFolder(own_folders)
    records: list[dict[str, Any]] = [{"step": 1, "text": "a\nb\u2028c😀\x85"}, {"step": 2, "loss": 1.5, "best": None}]
    for record in records:
        run.append_metrics(record)
    lines = run.metrics.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert records == [json.loads(line) for line in lines]


@pytest.mark.parametrize(("last", "kept"), [(0, []), (1, [1]), (5, [1, 2, 3]), (2, [1, 2]), (-1, [])])
def test_truncating_drops_the_records_after_a_step(own_folders: Path, last: int, kept: list[int]) -> None:
    """Records up to the step stay, in order and byte for byte."""
    run = RunFolder(own_folders)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": 0.1 * step})
    before = run.metrics.read_bytes().splitlines(keepends=True)
    run.truncate_metrics(last)
    assert kept == steps(run)
    assert b"".join(before[: len(kept)]) == run.metrics.read_bytes()


def test_half_a_line_is_dropped_wherever_it_ends(own_folders: Path) -> None:
    """A line cut short by a crash is dropped; the lines before it and after it are complete."""
    run = RunFolder(own_folders)
    for step in (1, 2):
        run.append_metrics({"step": step})
    whole = run.metrics.read_bytes()
    line = json.dumps({"step": 3, "loss": 1.25, "text": "é"}).encode()
    for length in range(len(line)):
        run.metrics.write_bytes(whole + line[:length])
        run.truncate_metrics(3)
        assert whole == run.metrics.read_bytes()
    run.metrics.write_bytes(whole + line)  # only the end of the line is missing
    run.truncate_metrics(3)
    run.append_metrics({"step": 4})
    assert steps(run) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "rubbish", [b"\0" * 50, b"\xff\xfe\x80", b"[1]", b"5", b'{"step": null}', b"{}", b'{"step": "x"}']
)
def test_a_damaged_record_is_dropped(own_folders: Path, rubbish: bytes) -> None:
    """A line damaged by a crash is dropped, and no other one."""
    run = RunFolder(own_folders)
    run.metrics.write_bytes(b'{"step": 1}\n' + rubbish + b'\n{"step": 2}\n')
    run.truncate_metrics(9)
    assert steps(run) == [1, 2]


def test_a_run_without_metrics_can_be_truncated(own_folders: Path) -> None:
    """A run without records has none afterwards."""
    run = RunFolder(own_folders)
    run.truncate_metrics(5)
    run.append_metrics({"step": 6})
    assert steps(run) == [6]


# Finding


def make_run(name: str, age: int, *files: str) -> Path:
    """Make a run folder whose files were modified `age` seconds after a fixed time."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
        os.utime(folder / file, (1_000_000 + age, 1_000_000 + age))
    return folder


def test_a_path_to_a_file_means_that_model_file(own_folders: Path) -> None:
    """A path that is not a folder is the model file, even if it does not exist: loading it says so."""
    assert own_folders / "m.safetensors" == find_model(own_folders / "m.safetensors")


def test_a_run_folder_means_its_best_model() -> None:
    """A run folder means its best model, or its last one if there is no best."""
    both = make_run("a", 0, "best.safetensors", "last.safetensors")
    last = make_run("b", 0, "last.safetensors", "config.yaml")
    assert both / "best.safetensors" == find_model(both)
    assert last / "last.safetensors" == find_model(last)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("runs/a", "a"),
        ("runs/a/last.safetensors", "a"),
        ("runs/a/kept/step-00000001.safetensors", "step-00000001"),
        ("mine.safetensors", "mine"),
        ("link.safetensors", "a"),
        ("two\nlines.safetensors", "two\\nlines"),
    ],
)
def test_a_model_is_named_after_its_run_or_its_file(given: str, name: str) -> None:
    """The best and the last model of a run have its name, also through a link; any other has that of its file."""
    folder = make_run("a", 0, "best.safetensors", "last.safetensors")
    Path("link.safetensors").symlink_to(folder / "best.safetensors")
    assert model_name(find_model(Path(given))) == name


def test_a_folder_without_a_model_is_refused(own_folders: Path) -> None:
    """The error names a folder that is not a run."""
    with pytest.raises(ModelFileError, match=str(own_folders)) as raised:
        find_model(own_folders)
    assert "best.safetensors" in raised.value.hint


def test_without_a_path_the_newest_run_is_meant() -> None:
    """The run that saved last counts, not the last one by name; other folders are ignored."""
    make_run("a-1", 10, "best.safetensors")
    newest = make_run("a-10", 30, "best.safetensors", "last.safetensors")
    make_run("a-9", 20, "best.safetensors")
    make_run("z", 99, "config.yaml")
    (Path("runs") / "notes.txt").touch()
    assert newest / "best.safetensors" == find_model(None)


@pytest.mark.parametrize("there", [False, True])
def test_without_any_run_no_model_is_found(own_folders: Path, there: bool) -> None:
    """If `runs` is missing or empty, the error says how to make a run."""
    if there:
        (own_folders / "runs").mkdir()
    with pytest.raises(ModelFileError, match="runs") as raised:
        find_model(None)
    assert "charlm train" in raised.value.hint


def test_a_path_may_begin_with_a_tilde(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, as in a shell."""
    monkeypatch.setenv("HOME", str(own_folders))
    assert own_folders / "m" == find_model(Path("~/m"))


# Killed processes

# Saves models again and again, each filled with its number. Reports each save, and at the wanted stage waits to be
# killed.
SAVES = """
import os, sys
from pathlib import Path
import numpy as np
from charlm.checkpoint import ModelFile
from charlm.spec import ModelSpec
from charlm.vocab import Vocabulary

path, wanted, patience = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = {"model": {"cell": "rnn", "embedding_size": 64, "hidden_size": 256, "num_layers": 1}}

def stage(name):
    if number >= patience and name == wanted:
        print(name, flush=True)
        sys.stdin.read()

def staged(owner, name):
    function = getattr(owner, name)
    def wrapper(*arguments):
        stage("before " + name)
        result = function(*arguments)
        stage("after " + name)
        return result
    setattr(owner, name, wrapper)

staged(os, "fsync")
staged(Path, "replace")
for number in range(10**9):
    shapes = ModelSpec.of_settings(config["model"], 2).shapes
    arrays = {name: np.full(shape, number, dtype=np.float32) for name, shape in shapes.items()}
    ModelFile(arrays, Vocabulary("characters", "ab"), config, {"step": number}, {}).save(path)
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_process_killed_while_saving_leaves_a_complete_model(own_folders: Path) -> None:
    """The file is the last model that the process reported, or the next one, and always complete."""
    stages = [f"{when} {call}" for call in ("fsync", "replace") for when in ("before", "after")]
    moments = [(stage, patience) for stage in stages for patience in (1, 3)] + [("never", count) for count in range(4)]
    processes = []
    for index, (stage, patience) in enumerate(moments):
        folder = own_folders / str(index)
        folder.mkdir()
        command = [sys.executable, "-c", SAVES, str(folder / "last.safetensors"), stage, str(patience)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for index, ((stage, patience), process) in enumerate(zip(moments, processes, strict=True)):
        with process:
            try:
                reported = -1
                assert process.stdout is not None
                for line in process.stdout:
                    if line.strip() == stage:
                        break
                    reported = int(line)
                    if reported >= 10 or (stage == "never" and reported == patience):
                        break
                assert reported < 10, f"never came to {stage}"
            finally:
                for other in [process] if reported < 10 else processes:
                    other.kill()
            rest = [int(line) for line in process.stdout]
        assert process.returncode == -signal.SIGKILL
        reported = max([reported, *rest])
        model = load_checkpoint(own_folders / str(index) / "last.safetensors")
        step = model.metrics["step"]
        assert step in (reported, reported + 1)
        assert all((array == step).all() for array in model.arrays.values())
        if stage != "never":
            assert reported + (stage == "after replace") == step
        run = RunFolder.open(own_folders / str(index))
        with run.locked():
            pass
        assert [path.name for path in run.path.iterdir()] == ["last.safetensors"]


def test_a_path_that_is_too_long_names_no_model() -> None:
    """The error is one of charlm's instead of one of the system's."""
    with pytest.raises(ModelFileError, match=r"^`x+"):
        find_model(Path("x" * 5000))
