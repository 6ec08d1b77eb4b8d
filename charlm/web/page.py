"""Puts a page together: one HTML file from assets and data, which needs no network. Knows no models or runs.

The data of a page is a dictionary. It stands in the page as JSON, and scripts draw a section for each key that they
know. All text reaches the page as text, never as HTML, so that hostile names and texts do nothing.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, TypeVar

# What a file begins with that charlm made, and may therefore make again.
FIRST_LINE = "<!DOCTYPE html><!-- a page by charlm -->\n"
# No text of the data can end the script element that holds it. Lone surrogates are no UTF-8.
ESCAPED = re.compile("[<>&\u2028\u2029\ud800-\udfff]")

Item = TypeVar("Item")


def render_page(title: str, data: Mapping[str, Any], scripts: Sequence[str], runs_wasm: bool = False) -> str:
    """Return a page as the text of one HTML file.

    Args:
        title: its heading.
        data: what its sections show.
        scripts: names of the assets that draw the sections, in the order of the sections.
        runs_wasm: whether the scripts may compile WebAssembly.
    """
    style = asset("page.css")
    codes = [asset(name) for name in ("page.js", *scripts)]
    runs = [*map(_source, codes), *(["'wasm-unsafe-eval'"] if runs_wasm else [])]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src {_source(style)}; script-src {' '.join(runs)}"
    )
    name = html.escape(title.encode("utf-8", "replace").decode("utf-8"))
    return FIRST_LINE + "\n".join(
        [
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{name}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{name}</h1></header>",
            "<main><noscript>This page is drawn by its scripts, which this browser does not run.</noscript></main>",
            f'<script type="application/json" id="data">{embedded_json(data)}</script>',
            *(f"<script>{code}</script>" for code in codes),
            "</body>",
            "</html>",
            "",
        ]
    )


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many items, because a page has no room for more: evenly spaced, with the first and the last.

    Args:
        items: any number of them.
        most: at least 2.
    """
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def embedded_json(data: Any) -> str:
    """Return data as JSON that may stand inside a script element. Numbers that are not finite become null."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def asset(name: str) -> str:
    """Return the text of an asset."""
    return (files("charlm.web") / "assets" / name).read_text(encoding="utf-8")


def _source(code: str) -> str:
    """Return how a policy names an inline script or style: by its hash."""
    return f"'sha256-{b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
