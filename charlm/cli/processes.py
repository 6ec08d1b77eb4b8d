"""What a command does that torchrun has started in several processes: the first one prints, one reports an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from charlm.machine import process_place


@contextmanager
def printed_once() -> Iterator[None]:
    """Let only the first process print; errors are reported outside of this context."""
    if process_place().rank == 0:
        yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def may_report() -> bool:
    """Return whether this process reports its error: if there are several, the first to fail does."""
    if process_place().size == 1:
        return True
    from charlm.training.distributed import is_first_to_report

    return is_first_to_report()
