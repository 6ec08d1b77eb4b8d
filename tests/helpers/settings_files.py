"""Settings written into a file and read again, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from charlm.config import Config
from charlm.config_file import load_config
from charlm.errors import ConfigError
from charlm.files import bundled_folder

SHIPPED = sorted(bundled_folder("configs").glob("*.yaml"))


def loaded(text: str | bytes, *overrides: str, **flags: Any) -> Config:
    """Load settings from a file `s.yaml` of this content."""
    path = Path("s.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides, flags)


def refusal(text: str | bytes, *overrides: str, **flags: Any) -> str:
    """Load what must be refused, and return what is said: one line."""
    with pytest.raises(ConfigError) as raised:
        loaded(text, *overrides, **flags)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def durations(found: Config) -> tuple[int | None, float | None, float | None]:
    """Return the three ways of saying how long."""
    return found.train.steps, found.train.epochs, found.train.time
