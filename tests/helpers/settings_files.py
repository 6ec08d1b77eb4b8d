"""Helpers that write settings to a file and load them, or check that they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from charlm.errors import ConfigError
from charlm.files import bundled_folder
from charlm.settings.config import Config
from charlm.settings.config_file import load_config

# Strings for numbers in settings; the first ones make nothing large.
SMALL_NUMBERS = ["0", "1", "2", "-1", "1.5", "", "nan", "inf", "1e999", "-inf", "\u0663", "1_0", "0x1", " 1", "\udcff"]
NUMBERS = [*SMALL_NUMBERS, "5e-324", "9" * 30, "-" + "9" * 30, "9" * 5000]
SHIPPED = sorted(bundled_folder("configs").glob("*.yaml"))


def loaded(text: str | bytes, *overrides: str, **flags: Any) -> Config:
    """Load settings from a file `s.yaml` of this content."""
    path = Path("s.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides, flags)


def refusal(text: str | bytes, *overrides: str, **flags: Any) -> str:
    """Load settings that must be refused, and return the error, which is one line."""
    with pytest.raises(ConfigError) as raised:
        loaded(text, *overrides, **flags)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def durations(found: Config) -> tuple[int | None, float | None, float | None]:
    """Return the three settings of a run's duration: steps, epochs and seconds."""
    return found.train.steps, found.train.epochs, found.train.time
