"""The commands that compress a file with a model, and decompress it."""

from __future__ import annotations

import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from charlm.cli.layout import Column, clock_text, screen_width, table_lines, wrapped
from charlm.cli.options import Json, Model, model_file
from charlm.cli.pages import check_folder
from charlm.cli.progress import ProgressLine
from charlm.cli.render import escaped, print_json, print_lines, say
from charlm.errors import UsageError, counted, one_line
from charlm.files import CHUNK_BYTES, creating, expanded

if TYPE_CHECKING:
    from charlm.inference.compress import Sizes
    from charlm.vocab import Vocabulary

SUFFIX = ".charlm"
# The compressors beside the model, and how they are called at their best.
OTHERS = {"gzip": "gzip -9", "bzip2": "bzip2 -9", "xz": "xz -9e", "zstd": "zstd -19"}


def compress(
    file: Annotated[Path, typer.Argument(help="The file, of any kind; - is standard input.")],
    model: Model = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write, or - for standard output; by default the name with .charlm."
        ),
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not decompress and compare, which takes half of the time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compress a file with the probabilities of a model.

    The same model decompresses it exactly, on any CPU. The model itself is not in the file. Other compressors are
    measured beside it.

    charlm compress another.txt

    charlm compress another.txt -m runs/first --out small.charlm
    """
    _check(file)
    target = _new_file(_suggested(file, file.name + SUFFIX) if out is None else out)
    if target is None and as_json:
        raise UsageError("`--json` and the compressed file cannot both be on standard output", "`--out` names a file")
    if target is None and sys.stdout.isatty():
        raise UsageError("a compressed file is not for a terminal", "`--out` names a file")
    with _opened(file) as source:
        opened = model_file(model)
        from charlm.inference.compress import Compressor

        compressor, started = Compressor(opened), time.monotonic()
        with ProgressLine() as line, _writing(target) as written:
            sizes = compressor.compress(source, written, line.about("of the file compressed"), not no_verify)
        seconds = time.monotonic() - started
        verified = "" if no_verify else ", decompressed again and compared"
        done = f"{counted(sizes.compressed_bytes, 'byte')}{_share(sizes)}{verified}, in {clock_text(seconds)}"
        if sizes.num_unknown:
            unknown = f"{sizes.num_unknown:,} of {counted(sizes.num_characters, 'character')}"
            say(f"note: the model does not know {unknown}; such characters are spelled out in bytes")
        if target is None:
            say(done)
            return
        others = _other_sizes(source, sizes.num_bytes)
    if as_json:
        print_json(_as_json(sizes, others, str(target), opened.vocabulary))
    else:
        width = screen_width(sys.stdout)
        print_lines([*wrapped(f"{one_line(str(target))}: {done}", width), *_table(sizes, others, opened.vocabulary)])


def decompress(
    file: Annotated[Path, typer.Argument(help="A file that charlm compress wrote; - is standard input.")],
    model: Model = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file to write, or - for standard output; by default the name without .charlm."
        ),
    ] = None,
) -> None:
    """Decompress what charlm compress wrote, with the same model.

    The result is written only if it is the original to the byte.

    charlm decompress another.txt.charlm

    charlm decompress small.charlm -m runs/first --out again.txt
    """
    if out is None and str(file) != "-" and file.suffix != SUFFIX:
        raise UsageError(f"the name of `{file}` does not end with {SUFFIX}", "`--out` names the file to write")
    _check(file)
    target = _new_file(_suggested(file, file.stem) if out is None else out)
    with _opened(file) as source:
        opened = model_file(model)
        from charlm.inference.compress import Compressor

        compressor, started = Compressor(opened), time.monotonic()
        with ProgressLine() as line, _writing(target) as written:
            sizes = compressor.decompress(source, written, line.about("of the file decompressed"))
    if target is not None:
        done = f"{one_line(str(target))}: {counted(sizes.num_bytes, 'byte')}, the same as before compression"
        print_lines(wrapped(f"{done}, in {clock_text(time.monotonic() - started)}", screen_width(sys.stdout)))


def _check(file: Path) -> None:
    """Refuse a folder, and a device, which has no end.

    Raises:
        UsageError: it is no file, no pipe and not standard input.
    """
    if str(file) != "-":
        mode = expanded(file).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise UsageError(f"`{file}` is not a file", "give a file, or - for standard input")


def _suggested(file: Path, name: str) -> Path:
    return file if str(file) == "-" else file.with_name(name)


def _new_file(given: Path) -> Path | None:
    """Return the file to make, after checking that it can be made, before any work is done; None for standard output.

    Raises:
        UsageError: the folder is missing or cannot be written to, or there is such a file.
    """
    if str(given) == "-":
        return None
    path = expanded(given)
    if path.exists() or path.is_symlink():
        raise UsageError(f"`{given}` is there already", "`--out` names another file")
    check_folder(given)
    return path


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Open a file that can be read twice: what comes through a pipe is kept in a temporary file."""
    with nullcontext(sys.stdin.buffer) if str(file) == "-" else expanded(file).open("rb") as given:
        if given.seekable() and str(file) != "-":
            yield given
            return
        with tempfile.TemporaryFile() as source:
            shutil.copyfileobj(given, source)
            source.seek(0)
            yield source


@contextmanager
def _writing(target: Path | None) -> Iterator[BinaryIO]:
    """Open what becomes the file, or is copied to standard output, when the block ends without an error."""
    if target is not None:
        with _ended_by_signals(), creating(target) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        if sys.stdout.isatty():
            # A terminal must not obey what is in a file.
            for data in iter(partial(file.read, CHUNK_BYTES), b""):
                sys.stdout.write(escaped(data.decode("utf-8", "replace")))
        else:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let the signals that end a process raise SystemExit, so that no half-written file is left."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # An ignored signal (`nohup`) stays so; None is a handler that Python did not set.
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, leave)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _other_sizes(source: BinaryIO, num_bytes: int) -> dict[str, int]:
    """Return how many bytes other compressors need, without those that this Python lacks or that run out of memory."""
    from charlm.evaluation.baselines import compressed_size

    def read(line: ProgressLine, name: str) -> Iterator[bytes]:
        source.seek(0)
        for data in iter(partial(source.read, CHUNK_BYTES), b""):
            yield data
            line.show(f"of the file compressed by {name}", source.tell(), num_bytes)

    sizes: dict[str, int] = {}
    with ProgressLine() as line:
        for name in OTHERS:
            with suppress(ImportError, MemoryError):
                sizes[name] = compressed_size(name, read(line, name), num_bytes)
    return sizes


def _table(sizes: Sizes, others: dict[str, int], vocabulary: Vocabulary) -> list[str]:
    """Lay out how large the file is by the model and by other compressors, the smallest first."""
    width = screen_width(sys.stdout)
    rows = [("this model", sizes.compressed_bytes), *((OTHERS[name], size) for name, size in others.items())]
    columns = [
        Column("bytes", True),
        Column(f"bits per {vocabulary.unit}", True),
        Column("share", True, 1),
        Column("by"),
    ]
    shown = [
        (
            f"{size:,}",
            f"{8 * size / sizes.num_characters:.4f}" if sizes.num_characters else "",
            f"{size / sizes.num_bytes:.2%}" if sizes.num_bytes else "",
            name,
        )
        for name, size in sorted(rows, key=lambda row: row[1])
    ]
    return [
        "",
        *table_lines(columns, shown, width),
        *wrapped("decompressing needs the same model, which is not counted", width),
    ]


def _share(sizes: Sizes) -> str:
    return f" of {sizes.num_bytes:,} ({sizes.compressed_bytes / sizes.num_bytes:.1%})" if sizes.num_bytes else ""


def _as_json(sizes: Sizes, others: dict[str, int], path: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the figures by name."""
    figures = {
        "file": path,
        "bytes": sizes.num_bytes,
        "compressed_bytes": sizes.compressed_bytes,
        "characters": sizes.num_characters,
        "unknown_characters": sizes.num_unknown,
        "bits_per_character": 8 * sizes.compressed_bytes / sizes.num_characters if sizes.num_characters else None,
        "others": others,
    }
    return vocabulary.in_units(figures)
