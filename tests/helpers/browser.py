"""Waiting for a page in a browser."""

from __future__ import annotations

from typing import Any


def after_drawing(browser: Any) -> None:
    """Wait until a browser has laid out and drawn the page, so that what follows the size of a window is done."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")
