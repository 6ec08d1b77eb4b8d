"""Where commands write pages and exports: to a new file, or in place of one that charlm wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from charlm.cli.render import say
from charlm.errors import UsageError
from charlm.files import expanded, may_write_to, write_atomic


def page_path(given: Path) -> Path:
    """Return where a page is to be written, after checking that it can be, before any work is done.

    Raises:
        UsageError: the folder is missing or cannot be written to, or what is there is no page that charlm wrote.
    """
    from charlm.web.page import FIRST_LINE

    return free_path(given, "page", "page.html", lambda path: begins_with(path, FIRST_LINE))


def free_path(given: Path, what: str, example: str, is_ours: Callable[[Path], bool]) -> Path:
    """Return where a file is to be written, after checking that it can be, before any work is done.

    Args:
        given: where.
        what: what it is, for messages.
        example: a name for it.
        is_ours: whether an existing file is one that charlm wrote, which may be replaced.

    Raises:
        UsageError: the folder is missing or cannot be written to, or what is there is not charlm's.
    """
    path = expanded(given)
    if path.is_dir():
        raise UsageError(f"`{given}` is a directory", f"give a file in it, such as `{given / example}`")
    if str(given) == "-" or not may_write_to(path):
        raise UsageError(f"a {what} cannot be written to `{given}`", f"give the name of a file, such as `{example}`")
    check_folder(given)
    if path.exists() and path.stat().st_size and not is_ours(path):
        raise UsageError(f"`{given}` is there already, and is no {what} by charlm", "give another file")
    return path


def check_folder(given: Path) -> None:
    """Check that a file can be made in its folder, before any work is done.

    Raises:
        UsageError: the folder is missing or cannot be written to.
    """
    folder = expanded(given).parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder `{given.parent}`", "make it first, or give another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"`{given}` cannot be made: its folder cannot be written to", "give a file in another folder")


def begins_with(path: Path, text: str) -> bool:
    """Return whether a file begins with a text."""
    with path.open("rb") as file:
        return file.read(len(text.encode())) == text.encode()


def write_page(path: Path, page: str) -> None:
    """Write a page, and say where and how large it is."""
    data = page.encode()
    write_atomic(path, data)
    say(f"page {path} ({len(data) / 1e6:,.2f} MB)")
