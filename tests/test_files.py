"""Atomic writes leave the old file or the new one, and folders are in the platform's places."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from charlm import files
from charlm.files import bundled_folder, cache_folder, replacing, sweep_temporary, write_atomic, write_new


@pytest.fixture
def restored_umask() -> Iterator[None]:
    """Restore the umask of the test process after the test."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def refuse(*arguments: Any, **options: Any) -> NoReturn:
    """Stand in for a system call that fails."""
    raise OSError(28, "No space left on device")


def names_in(folder: Path) -> list[str]:
    """List a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", [b"", b"\x00\xff\r\n", bytes(range(256)) * 5000], ids=["empty", "binary", "large"])
def test_bytes_are_written_as_they_are(own_folders: Path, data: bytes) -> None:
    """A written file holds exactly the given bytes, whether or not it existed before."""
    path = own_folders / "model"
    for _ in range(2):
        write_atomic(path, data)
        assert data == path.read_bytes()
    assert names_in(own_folders) == ["model"]


def test_a_relative_path_in_the_working_folder_can_be_written(own_folders: Path) -> None:
    """A bare file name is written into the working folder."""
    write_atomic(Path("model"), b"new")
    assert (own_folders / "model").read_bytes() == b"new"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_file_never_replaces_another(
    own_folders: Path, has_links: bool, restored_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file is whole and readable as any other; an existing one stays, also where there are no hard links."""
    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = own_folders / "text"
    write_new(path, b"one\r\n")
    with pytest.raises(FileExistsError):
        write_new(path, b"two")
    assert path.read_bytes() == b"one\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names_in(own_folders) == ["text"]


def test_the_old_file_is_whole_until_the_block_ends(own_folders: Path) -> None:
    """A reader sees the old bytes while the new ones are being written."""
    path = own_folders / "model"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_the_temporary_file_is_a_sibling(own_folders: Path) -> None:
    """The temporary file lies in the same folder, hence on the same file system, and is hidden."""
    path = own_folders / "model"
    with replacing(path):
        (name,) = names_in(own_folders)
        assert name.startswith(".model.")
        assert name.endswith(".tmp")
    assert names_in(own_folders) == ["model"]


@pytest.mark.parametrize("error", [ValueError("no"), OSError(5, "I/O"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failing_writer_changes_nothing(own_folders: Path, error: BaseException) -> None:
    """If the writer raises anything, the old content stays and no temporary file is left."""
    path = own_folders / "model"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with replacing(path) as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(type(error)) as raised:
        write_and_fail()
    assert error is raised.value
    assert path.read_bytes() == b"old"
    assert names_in(own_folders) == ["model"]


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace"), (Path, "chmod")])
def test_a_failing_system_call_changes_nothing(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str
) -> None:
    """If the disk is full or the rename fails, the old content stays and no temporary file is left."""
    path = own_folders / "model"
    path.write_bytes(b"old")
    monkeypatch.setattr(owner, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names_in(own_folders) == ["model"]


def test_no_file_appears_when_the_first_write_fails(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file that could not be written does not exist."""
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(own_folders / "model", b"new")
    assert names_in(own_folders) == []


def test_a_missing_folder_is_an_os_error(own_folders: Path) -> None:
    """Writing into a missing folder raises an error and creates nothing."""
    with pytest.raises(FileNotFoundError):
        write_atomic(own_folders / "absent" / "model", b"new")
    assert names_in(own_folders) == []


def no_permission(name: str) -> NoReturn:
    """Fail as a system call does that may not touch a file."""
    raise PermissionError(13, "Permission denied", name)


@pytest.mark.parametrize(
    ("write", "owner", "call"),
    [
        (write_atomic, tempfile, "mkstemp"),
        (write_atomic, Path, "replace"),
        (write_new, tempfile, "mkstemp"),
        (write_new, Path, "chmod"),
    ],
)
def test_errors_name_the_file_that_was_asked_for(
    own_folders: Path, write: Callable[[Path, bytes], None], owner: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not name the temporary file beside it."""
    path = own_folders / "a page.html"

    def refuse_temporary(
        given: Path | None = None, *arguments: Any, prefix: str = "", dir: Any = None, **_: Any
    ) -> None:
        no_permission(str(given or Path(dir) / f"{prefix}v4hvxl3u.tmp"))

    monkeypatch.setattr(owner, call, refuse_temporary)
    with pytest.raises(PermissionError, match="Permission denied") as raised:
        write(path, b"new")
    assert raised.value.filename == str(path)
    assert ".tmp" not in str(raised.value)
    assert names_in(own_folders) == []


def test_errors_about_other_files_stay(own_folders: Path) -> None:
    """A writer may fail because of a file that it reads."""
    with pytest.raises(PermissionError) as raised, replacing(own_folders / "model"):
        no_permission("other")
    assert raised.value.filename == "other"


def test_the_bytes_are_on_disk_before_the_rename(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is: fsync of the whole file, rename, fsync of the folder."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else f"file of {found.st_size} bytes")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_atomic(own_folders / "model", b"12345")
    assert calls == ["file of 5 bytes", "rename", "folder"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.usefixtures("restored_umask")
def test_permissions_follow_the_umask(own_folders: Path, mask: int, mode: int) -> None:
    """A written file has the permissions of any new file, and the umask does not change."""
    os.umask(mask)
    write_atomic(own_folders / "ours", b"")
    (own_folders / "plain").open("w").close()
    assert mask == os.umask(mask)
    assert mode == stat.S_IMODE((own_folders / "ours").stat().st_mode)
    assert mode == stat.S_IMODE((own_folders / "plain").stat().st_mode)


@pytest.mark.usefixtures("restored_umask")
def test_an_unfinished_file_is_private(own_folders: Path) -> None:
    """No other user can read the temporary file, whatever the umask is."""
    os.umask(0)
    with replacing(own_folders / "model"):
        (temporary,) = own_folders.iterdir()
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600


def test_sweeping_removes_leftovers_only(own_folders: Path) -> None:
    """Temporary files of a killed writer are removed; all other files and folders stay."""
    kept = [".hidden", "a.tmp", "best.safetensors", "sub"]
    for name in kept[:3]:
        (own_folders / name).write_bytes(b"kept")
    (own_folders / "sub").mkdir()
    (own_folders / "sub" / ".x.1.tmp").write_bytes(b"kept")
    (own_folders / ".folder.tmp").mkdir()
    writer = replacing(own_folders / "best.safetensors")
    writer.__enter__().write(b"half")  # a writer that is killed does not come to its end; nor does this one yet
    assert len(names_in(own_folders)) == 6
    sweep_temporary(own_folders)
    assert sorted([*kept, ".folder.tmp"]) == names_in(own_folders)
    assert names_in(own_folders / "sub") == [".x.1.tmp"]
    assert (own_folders / "best.safetensors").read_bytes() == b"kept"
    with pytest.raises(FileNotFoundError):
        writer.__exit__(None, None, None)


def test_sweeping_spares_recent_temporary_files(own_folders: Path) -> None:
    """If several processes write, only old temporary files are leftovers."""
    for name, age in ((".a.tmp", 90000.0), (".b.tmp", 10.0)):
        (own_folders / name).touch()
        then = time.time() - age
        os.utime(own_folders / name, (then, then))
    sweep_temporary(own_folders, 86400.0)
    assert [path.name for path in own_folders.iterdir()] == [".b.tmp"]


def test_sweeping_a_missing_folder_does_nothing(own_folders: Path) -> None:
    """Sweeping a folder that does not exist raises no error."""
    sweep_temporary(own_folders / "absent")
    assert names_in(own_folders) == []


def test_bundled_folders_are_beside_the_package_in_a_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a source tree `configs` and `charlm` are siblings."""
    (tmp_path / "charlm").mkdir()
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(files, "__file__", str(tmp_path / "charlm" / "files.py"))
    assert tmp_path / "configs" == bundled_folder("configs")


def test_bundled_folders_are_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an installed package `configs` is inside it, even if another one is beside it."""
    (tmp_path / "charlm" / "configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(files, "__file__", str(tmp_path / "charlm" / "files.py"))
    assert tmp_path / "charlm" / "configs" == bundled_folder("configs")


@pytest.mark.parametrize(("name", "pattern"), [("configs", "*.yaml"), ("corpora", "*")])
def test_the_bundled_folders_have_files(name: str, pattern: str) -> None:
    """The bundled folders are found and are not empty."""
    assert list(bundled_folder(name).glob(pattern))


def test_charlm_cache_wins_over_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CHARLM_CACHE` names the cache folder itself, and wins over the platform's rules."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "mine" == cache_folder()


def test_charlm_cache_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder, as in a shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHARLM_CACHE", "~/mine")
    assert tmp_path / "mine" == cache_folder()


@pytest.mark.skipif(sys.platform != "linux", reason="the custom of Linux")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/charlm"),
        ({}, "/home/ada/.cache/charlm"),
        ({"XDG_CACHE_HOME": ""}, "/home/ada/.cache/charlm"),
        ({"CHARLM_CACHE": ""}, "/home/ada/.cache/charlm"),
    ],
)
def test_the_cache_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    """Without `CHARLM_CACHE`, or if it is empty, the cache is in the platform's cache folder."""
    for name in ("CHARLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", "/home/ada")
    assert expected == cache_folder().as_posix()


def test_a_user_without_a_home_has_a_temporary_cache(tmp_path: Path) -> None:
    """It is one private folder for the whole process, removed when the process ends."""
    code = (
        "import os, stat, sys; sys.platform == 'win32' or setattr(os, 'getuid', lambda: 4_000_000_000)\n"
        "from charlm.files import cache_folder\n"
        "assert cache_folder() == cache_folder()\n"
        "assert sys.platform == 'win32' or stat.S_IMODE(cache_folder().stat().st_mode) == 0o700\n"
        "print(cache_folder())"
    )
    homeless = {key: value for key, value in os.environ.items() if not key.startswith(("HOME", "XDG_", "CHARLM_"))}
    process = subprocess.run(
        [sys.executable, "-c", code], env=homeless | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert Path(process.stdout.strip()).parent == tmp_path
    assert not Path(process.stdout.strip()).exists()
