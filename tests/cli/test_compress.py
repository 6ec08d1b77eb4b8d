"""`charlm compress` and `decompress`: files and pipes, and nothing is lost."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.checkpoint import ModelFile
from charlm.inference.compress import Compressor
from tests.helpers.commands import answer, assert_refused, call, spawn
from tests.helpers.machines import OLDEST_CPU

HOSTILE = b"\xef\xbb\xbfabc abc\r\nhead \xff\xfe\0\x1b[31m" * 9


def test_a_file_comes_back(model: str) -> None:
    """The names follow from one another, and the table has the model and the other compressors."""
    Path("a.txt").write_bytes(HOSTILE)
    printed = call("compress", "a.txt", "-m", model)
    assert printed.exit_code == 0, printed.stderr
    size = Path("a.txt.charlm").stat().st_size
    assert printed.stdout.startswith(f"a.txt.charlm: {size:,} bytes of {len(HOSTILE)}")
    assert "decompressed again" in printed.stdout
    assert "decompressed again" not in call("compress", "a.txt", "-m", model, "--no-verify", "-o", "b").stdout
    assert Path("b").read_bytes() == Path("a.txt.charlm").read_bytes()
    rows = printed.stdout.splitlines()[2:-1]
    assert {row.split("  ")[-1] for row in rows[1:]} >= {"this model", "gzip -9", "xz -9e"}
    sizes = [int(row.split()[0]) for row in rows[1:]]
    assert sizes == sorted(sizes)
    assert size in sizes
    Path("a.txt").rename("before")
    printed = call("decompress", "a.txt.charlm", "-m", model)
    assert printed.stdout.startswith(f"a.txt: {len(HOSTILE)} bytes, the same")
    assert Path("a.txt").read_bytes() == HOSTILE


def test_unknown_characters_are_counted(model: str) -> None:
    """A note says how many there are, and JSON too; a text without any has no note."""
    Path("zh.txt").write_text("\u5bbd\u5ea6 abc\n" * 40, encoding="utf-8")
    result = call("compress", "zh.txt", "-m", model)
    note = "note: the model does not know 80 of 280 characters; such characters are spelled out in bytes\n"
    assert result.stderr == note
    assert call("compress", "-", "-m", model, stdin=Path("zh.txt").read_bytes()).stderr.startswith(note)
    found = answer("compress", "zh.txt", "-m", model, "-o", "b", "--json")
    assert (found["characters"], found["unknown_characters"]) == (280, 80)
    Path("a.txt").write_text("abc\n", encoding="utf-8")
    assert call("compress", "a.txt", "-m", model).stderr == ""
    assert answer("compress", "a.txt", "-m", model, "-o", "c", "--json")["unknown_characters"] == 0


def test_figures_for_programs(model: str) -> None:
    """They are those of the file."""
    Path("a.txt").write_text("abc abc\n" * 40, encoding="utf-8")
    found = answer("compress", "a.txt", "-m", model, "-o", "b", "--json", "--no-verify")
    assert (found["file"], found["bytes"], found["characters"]) == ("b", 320, 320)
    assert found["compressed_bytes"] == Path("b").stat().st_size
    assert found["bits_per_character"] == 8 * found["compressed_bytes"] / 320
    assert found["others"]["gzip"] < 60
    Path("empty").touch()
    assert answer("compress", "empty", "-m", model, "--json")["bits_per_character"] is None
    assert call("compress", "empty", "-m", model, "-o", "e").exit_code == 0


def test_pipes(model: str) -> None:
    """Bytes go through standard input and output, unchanged; what is damaged gives no byte."""
    compressed = call("compress", "-", "-m", model, stdin=HOSTILE)
    assert compressed.exit_code == 0
    note, figures = compressed.stderr.splitlines()
    assert note.startswith("note: the model does not know 81 of 207 characters")
    assert " bytes of 225 " in figures
    again = call("decompress", "-", "-m", model, stdin=compressed.stdout_bytes)
    assert (again.exit_code, again.stdout_bytes, again.stderr) == (0, HOSTILE, "")
    damaged = call("decompress", "-", "-m", model, stdin=compressed.stdout_bytes[:-1])
    assert (damaged.exit_code, damaged.stdout_bytes) == (1, b"")
    assert list(Path().iterdir()) == [Path(model)]


def test_nothing_is_overwritten(model: str) -> None:
    """A file that is there, a folder and a link stay as they are, and no work is done."""
    Path("a.txt").write_bytes(b"abc")
    Path("a.txt.charlm").write_bytes(b"mine")
    Path("link").symlink_to("nowhere")
    assert "is there already" in assert_refused(call("compress", "a.txt", "-m", "missing"))
    for name in ("a.txt", ".", "link", "/dev/null"):
        assert "is there already" in assert_refused(call("compress", "a.txt", "-m", model, "--out", name))
    assert "no folder" in assert_refused(call("compress", "a.txt", "-m", model, "--out", "missing/a"))
    assert "is there already" in assert_refused(call("decompress", "a.txt.charlm", "-m", model))
    assert Path("a.txt.charlm").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compress", "missing"], "No such file"),
        (["compress", "."], "is not a file"),
        (["compress", "/dev/zero", "-o", "x"], "is not a file"),
        (["compress", "a.txt", "--out", "-", "--json"], "cannot both be"),
        (["decompress", "a.txt"], "does not end with .charlm"),
        (["decompress", "a.txt", "-o", "b"], "not a file that `charlm compress` wrote"),
        (["compress", "a.txt", "-m", "both"], "reads from both sides"),
    ],
)
def test_wrong_arguments(make_model: Callable[..., ModelFile], model: str, arguments: list[str], said: str) -> None:
    """Each is refused in one line, and nothing is written."""
    make_model(direction="both").save(Path("both"))
    Path("a.txt").write_bytes(b"abc")
    before = sorted(Path().iterdir())
    assert said in assert_refused(call(*arguments, *([] if "-m" in arguments else ["-m", model])))
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_no_file_is_left(model: str, command: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, and a disk that is full, leave neither a half file nor a temporary one."""

    def fail(_: Compressor, source: io.BytesIO, target: io.BytesIO, *arguments: object) -> None:
        target.write(b"half of it")
        raise error

    Path("a.charlm").write_bytes(b"abc")
    before = sorted(Path().iterdir())
    monkeypatch.setattr(Compressor, command, fail)
    arguments = [command, "a.charlm", "-m", model, "-o", "out"]
    result = call(*arguments)
    assert result.exit_code == (1 if isinstance(error, OSError) else 130)
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_process_leaves_no_file(
    model: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exit code is that of the signal, and what the signal did before is as it was."""

    def fail(received: int, frame: object) -> None:
        pytest.fail("the command does not handle the signal")

    def end(_: Compressor, source: io.BytesIO, target: io.BytesIO, *arguments: object) -> None:
        target.write(b"half of it")
        signal.raise_signal(number)

    Path("a").write_bytes(b"abc")
    before = sorted(Path().iterdir())
    monkeypatch.setattr(Compressor, "compress", end)
    handler = signal.signal(number, fail)
    try:
        assert call("compress", "a", "-m", model).exit_code == 128 + number
        assert signal.getsignal(number) is fail
    finally:
        signal.signal(number, handler)
    assert sorted(Path().iterdir()) == before


def test_a_file_of_another_cpu_comes_back(make_model: Callable[..., ModelFile]) -> None:
    """A process with the oldest instructions compresses; this one decompresses, and compresses the same."""
    make_model(hidden_size=96).save(Path("model"))
    Path("a.txt").write_bytes(b"abc abc head\n" * 380)
    done = spawn("compress", "a.txt", "-m", "model", "--no-verify", "-o", "there", env=OLDEST_CPU)
    assert done.returncode == 0, done.stderr
    assert call("decompress", "there", "-m", "model", "-o", "b.txt").exit_code == 0
    assert Path("a.txt").read_bytes() == Path("b.txt").read_bytes()
    call("compress", "a.txt", "-m", "model", "--no-verify", "-o", "here")
    assert Path("here").read_bytes() == Path("there").read_bytes()


def test_terminals_get_no_compressed_bytes(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed file is refused there, and a terminal does not obey what was compressed."""
    Path("a").write_bytes(HOSTILE)
    call("compress", "a", "-m", model)
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: self.name == "<stdout>")
    assert "not for a terminal" in assert_refused(call("compress", "a", "-m", model, "-o", "-"))
    printed = call("decompress", "a.charlm", "-m", model, "-o", "-").stdout
    assert "head" in printed
    assert "\x1b" not in printed


def test_the_figures_of_a_model_of_bytes_are_per_byte(make_model: Callable[..., ModelFile]) -> None:
    """The names say so."""
    from charlm.vocab import Vocabulary

    make_model(symbols=Vocabulary.of_bytes()).save(Path("model"))
    Path("a").write_text("\u00e9\u00e9", encoding="utf-8")
    found = json.loads(call("compress", "a", "-m", "model", "--json").stdout)
    assert found["bytes"] == 4
    assert "bits_per_byte" in found
    assert Path("a.charlm").stat().st_size == found["compressed_bytes"]
