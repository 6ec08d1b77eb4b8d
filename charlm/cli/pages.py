"""Where commands write pages: to a new file, or in place of a page that charlm wrote."""

from __future__ import annotations

from pathlib import Path

from charlm.cli.render import say
from charlm.errors import UsageError
from charlm.files import expanded, may_write_to, write_atomic


def page_path(given: Path) -> Path:
    """Return where a page is to be written, after checking that it can be, before any work is done.

    Raises:
        UsageError: the folder is missing, or what is there is no page that charlm wrote.
    """
    from charlm.web.page import FIRST_LINE

    path = expanded(given)
    if path.is_dir():
        raise UsageError(f"`{given}` is a directory", f"give a file in it, such as `{given / 'page.html'}`")
    if str(given) == "-" or not may_write_to(path):
        raise UsageError(f"a page cannot be written to `{given}`", "give the name of a file, such as `page.html`")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder `{given.parent}`", "make it first, or give another file")
    if path.exists():
        with path.open("rb") as file:
            is_page = file.read(len(FIRST_LINE.encode())) == FIRST_LINE.encode()
        if not is_page and path.stat().st_size:
            raise UsageError(f"`{given}` is there already, and is no page by charlm", "give another file")
    return path


def write_page(path: Path, page: str) -> None:
    """Write a page, and say where and how large it is."""
    data = page.encode()
    write_atomic(path, data)
    say(f"page {path} ({len(data) / 1e6:,.2f} MB)")
