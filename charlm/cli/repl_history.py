"""The lines that were typed into the prompt of `charlm predict-next`, also at earlier starts, in a private file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import History

from charlm.files import may_write_to

MAX_LINES = 1000
# A longer line is only remembered until the prompt ends.
MAX_BYTES_PER_LINE = 4096


class FileHistory(History):
    """Keeps the last lines in a file that only this user can read; a file that cannot be read or written is no error.

    Args:
        path: the file; each line of it is a string in JSON.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines, the newest first."""
        for line in reversed(self._lines()):
            with suppress(ValueError, RecursionError):
                text = json.loads(line)
                if isinstance(text, str):
                    yield text

    def store_string(self, string: str) -> None:
        """Add a line; of too many lines the oldest are dropped."""
        line = json.dumps(string).encode()
        if len(line) >= MAX_BYTES_PER_LINE:
            return
        # Another prompt may have added lines, so the file is read again.
        lines = [*self._lines(), line][-MAX_LINES:]
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not may_write_to(self._path):
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(self._path, flags, 0o600), "wb") as file:
                file.write(b"".join(line + b"\n" for line in lines))

    def _lines(self) -> list[bytes]:
        try:
            if not self._path.is_file():
                return []
            with self._path.open("rb") as file:
                return file.read(MAX_LINES * MAX_BYTES_PER_LINE).split(b"\n")[:-1]
        except OSError:
            return []
