"""Draws cards for a page as SVG: a text on coloured backgrounds, and curves.

A card has its own background, so that it can be read on any page; its colours are those that the reader prefers.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import groupby
from math import ceil
from typing import NamedTuple

from film import MONOSPACE, SANS, WIDTH, number, svg

# A card on a page: its colours in the light and in the dark.
CARD = (
    ":root{--paper:#fff;--ink:#1f2328;--faint:#59636e;--rule:#d1d9e0;--high:#f0a050;--low:#79b0e3;"
    "--line:#0969da;--level:#bc5a00;--train:#9aa4af}"
    "@media (prefers-color-scheme:dark){:root{--paper:#151b23;--ink:#f0f6fc;--faint:#9198a1;--rule:#3d444d;"
    "--high:#b85c0a;--low:#2a66a8;--line:#58a6ff;--level:#f0a050;--train:#7d8590}}"
    f"text{{font:15px {SANS};fill:var(--ink)}}.f{{fill:var(--faint);font-size:14px}}"
)
PADDING = 22
STEPS = 10


def coloured_text(text: str, values: Sequence[float], lowest: int, title: str, about: str) -> str:
    """Draw a text on coloured backgrounds, one for each character.

    Args:
        text: paragraphs, which end in line ends.
        values: for each character, from `lowest` to 1.
        lowest: -1 or 0.
        title: what the colours are.
        about: what follows from them.
    """
    cell, line, top = 9, 25, 82
    body = [f'<text x="{PADDING}" y="34">{html.escape(title)}</text>']
    body.append(f'<text x="{PADDING}" y="58" class="f">{html.escape(about)}</text>')
    scale = [step / STEPS for step in range(lowest * STEPS, STEPS + 1)]
    left = WIDTH - PADDING - 9 * len(scale) - 16
    body.append(f'<text x="{left - 8}" y="34" class="f" text-anchor="end">{lowest}</text>')
    body += [_shade(left + 9 * index, 21, 9, 16, value) for index, value in enumerate(scale)]
    body.append(f'<text x="{WIDTH - PADDING}" y="34" class="f" text-anchor="end">1</text>')
    lines = _wrapped(text, (WIDTH - 2 * PADDING) // cell)
    for row, (start, end) in enumerate(lines):
        y = top + row * line
        steps = [(at, round(values[at] * STEPS)) for at in range(start, end)]
        for step, group in groupby(steps, lambda pair: pair[1]):
            members = [at for at, _ in group]
            body.append(_shade(PADDING + (members[0] - start) * cell, y, len(members) * cell, 21, step / STEPS))
        if end > start:
            place = f'x="{PADDING}" y="{y + 15}" textLength="{(end - start) * cell}"'
            body.append(f'<text {place} class="m">{html.escape(text[start:end], quote=False)}</text>')
    style = CARD + f".m{{font-family:{MONOSPACE}}}rect{{shape-rendering:crispEdges}}.h{{fill:var(--high)}}"
    return _card(top + len(lines) * line + 12, style + ".l{fill:var(--low)}", "".join(body))


def _shade(x: float, y: float, width: float, height: float, value: float) -> str:
    if not value:
        return ""
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    return f'<rect {place} class="{"h" if value > 0 else "l"}" opacity="{number(abs(value))}"/>'


def _wrapped(text: str, width: int) -> list[tuple[int, int]]:
    """Return where the lines of a text start and end: at most so wide, without empty ones."""
    lines, start = [], 0
    for paragraph in text.split("\n"):
        end = start + len(paragraph)
        while end - start > width:
            cut = text.rindex(" ", start, start + width + 1)
            lines.append((start, cut))
            start = cut + 1
        if end > start:
            lines.append((start, end))
        start = end + 1
    return lines


class Curve(NamedTuple):
    """A curve of a chart.

    Attributes:
        name: what stands beside its end.
        kind: its class.
        points: seconds, and the value then.
    """

    name: str
    kind: str
    points: list[tuple[float, float]]


def chart(title: str, curves: Sequence[Curve], line: tuple[str, float], last: tuple[str, float]) -> str:
    """Draw curves over seconds.

    Args:
        title: what they show.
        curves: the curves.
        line: a name and a value that does not change.
        last: a name and a value that is known at the end.
    """
    left, right, top, bottom, height = 62, WIDTH - 275, 56, 340, 380
    end = 10 * ceil(max(x for curve in curves for x, _ in curve.points) / 10)
    lowest = min([last[1], *(y for curve in curves for _, y in curve.points)])
    low, high = int(lowest * 10) / 10, line[1] + 0.8

    def across(seconds: float) -> float:
        return left + (right - left) * seconds / end

    def down(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    body = [f'<text x="{PADDING}" y="34">{html.escape(title)}</text>']
    for tick in range(int(low * 5 + 0.999), int(high * 5) + 1):
        level = number(down(tick / 5))
        body.append(f'<path d="M{left} {level}H{right}" class="g"/>')
        body.append(f'<text x="{left - 10}" y="{level}" dy="5" class="f" text-anchor="end">{tick / 5:.1f}</text>')
    for seconds in range(0, end + 1, 10):
        unit = " s" if seconds else ""
        place = number(across(seconds))
        body.append(f'<text x="{place}" y="{bottom + 24}" class="f" text-anchor="middle">{seconds}{unit}</text>')
    body.append(f'<path d="M{left} {number(down(line[1]))}H{right}" class="c base"/>')
    body.append(f'<clipPath id="plot"><path d="M{left} {top}H{WIDTH}V{bottom}H{left}z"/></clipPath>')
    for curve in curves:
        points = " ".join(f"{number(across(x))},{number(down(y))}" for x, y in curve.points)
        body.append(f'<polyline points="{points}" class="c {curve.kind}" clip-path="url(#plot)"/>')
    marked = [*curves[-1].points, (curves[-1].points[-1][0], last[1])]
    for x, value in marked:
        if value < high:
            whole = value is last[1]
            body.append(
                f'<circle cx="{number(across(x))}" cy="{number(down(value))}" r="{5 if whole else 3.5}" '
                f'class="{"whole" if whole else "dot"}"/>'
            )
    labels = [(down(curve.points[-1][1]), f"{curve.name}: {curve.points[-1][1]:.3f}", curve.kind) for curve in curves]
    labels += [(down(line[1]), line[0], "base"), (down(last[1]), last[0], "whole")]
    lowered = 0.0
    for y, name, kind in sorted(labels):
        lowered = max(y, lowered + 20)
        body.append(f'<text x="{right + 14}" y="{number(lowered + 5)}" class="{kind}-name">{html.escape(name)}</text>')
    style = CARD + (
        ".g{stroke:var(--rule);stroke-width:.7}.c{fill:none;stroke-width:2.4;stroke-linejoin:round}"
        ".train{stroke:var(--train);stroke-width:1.5}.valid{stroke:var(--line)}.dot,.valid-name{fill:var(--line)}"
        ".base{stroke:var(--level);stroke-dasharray:7 5}.base-name{fill:var(--level)}.whole{fill:var(--ink)}"
        ".train-name{fill:var(--faint)}.whole-name{font-weight:600}"
    )
    return _card(height, style, "".join(body))


def _card(height: float, style: str, body: str) -> str:
    frame = f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{number(height - 1)}" rx="9" '
    frame += 'style="fill:var(--paper);stroke:var(--rule);shape-rendering:auto"/>'
    return svg(WIDTH, height, style, frame + body)
