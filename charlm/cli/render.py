"""What commands print: results on stdout, everything else on stderr. Light: imports nothing heavy."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import typer

from charlm.errors import one_line


def say(message: str) -> None:
    """Tell a person something that is not the result."""
    print("\n".join(map(one_line, message.split("\n"))), file=sys.stderr, flush=True)


def report_error(message: str, hint: str, exit_code: int) -> int:
    """Tell an error in one line, with what to do about it; return the exit code."""
    may_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    word = typer.style("error:", fg="red") if may_colour else "error:"
    with suppress(OSError):
        print(word, one_line(message), file=sys.stderr, flush=True)
        if hint:
            print("hint:", one_line(hint), file=sys.stderr, flush=True)
    return exit_code


def print_json(value: Any) -> None:
    """Print a result for programs, in one line."""
    print(json.dumps(value), flush=True)


# What a terminal would obey; the text goes unchanged into a pipe or a file.
ESCAPED = {code: ascii(chr(code))[1:-1] for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\r\t"}


def write_texts(pieces: Iterator[tuple[int, str]], shown: str, seeds: list[int]) -> None:
    """Write the first text as it grows and the others, which grow beside it, when it is done."""
    others: list[list[str]] = [[] for _ in seeds]
    is_terminal = sys.stdout.isatty()

    def write(index: int, texts: Iterable[str]) -> None:
        if len(seeds) > 1:
            say(f"--- seed {seeds[index]}")
        last = "\n"
        for text in itertools.chain([shown], texts):
            sys.stdout.write(text.translate(ESCAPED) if is_terminal else text)
            sys.stdout.flush()
            last = text[-1:] or last
        # A text goes into a pipe as it is; on a terminal and between texts it ends its line.
        if last != "\n" and (len(seeds) > 1 or is_terminal):
            print(flush=True)

    def first() -> Iterator[str]:
        for index, grown in pieces:
            if index == 0:
                yield grown
            else:
                others[index].append(grown)

    write(0, first())
    for index in range(1, len(seeds)):
        write(index, others[index])


def show_download(here: int, total: int | None) -> None:
    """Show a download on a terminal, in place."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:,.1f}" if total else ""
        print(f"\r{here / 1e6:,.1f}{share} MB", end="\n" if here == total else "", file=sys.stderr, flush=True)


def print_rehearsal(
    settings: str, values: dict[str, Any], runtime: str, reason: str, expected: dict[str, Any], as_json: bool
) -> None:
    """Print the settings of a run, as a settings file, and as remarks in it what the run will take."""
    if as_json:
        print_json({"settings": values, "runtime": runtime, "size": reason, **expected})
        return
    print(settings, end="")
    if reason:
        print(f"# {reason}")
    print(f"# {expected['parameters']:,} parameters, a model file of {expected['model_bytes'] / 1e6:,.1f} MB")
    print(f"# about {expected['memory_bytes'] / 1e6:,.0f} MB of memory on {runtime}")
    print(
        f"# about {expected['seconds']:,.0f} s: {expected['steps']:,} blocks, {expected['epochs']:,.2f} epochs "
        f"at {expected['characters_per_second']:,.0f} characters/s"
    )


def print_filling(filling: dict[str, Any]) -> None:
    """Print a text with its blanks filled, and a line for each blank."""
    print(filling["text"].translate(ESCAPED) if sys.stdout.isatty() else filling["text"])
    for blank in filling["blanks"]:
        candidates = "   ".join(f"{c['name']} {c['probability']:.1%}" for c in blank["candidates"])
        print(f"{blank['place']:>6}  {candidates}")


def print_explanation(description: dict[str, Any], step: dict[str, Any] | None) -> None:
    """Print a cell's equations, what a model of it is made of, and a step in numbers."""
    print(f"{description['cell']}: {description['text']}\n\n{description['notation']}\n")
    print("parameters, for one input more than there are symbols: the start of a text")
    for part, count in description["parameters"].items():
        print(f"{part:>20} {count:>14,}")
    if step:
        letters = {"hidden": "h", "cell": "c"}
        print(
            f"\none step of layer {step['layer']}, in its unit {step['unit']}, whose output is the largest, up or down:"
        )
        before = f"after {step['before']!r}" if step["before"] else "after the start of the text"
        print(f"{before} it reads {step['name']}")
        for title, values in (("old state", "old_state"), ("gates", "gates"), ("new state", "new_state")):
            called = letters if values != "gates" else description["letters"]
            parts = [f"{name} {called[name]} = {value:+.6f}" for name, value in step[values].items()]
            print(f"{title:>20}   {'   '.join(parts)}")


def print_corpora(rows: list[dict[str, Any]]) -> None:
    """Print the catalogue as a table."""
    print(f"{'name':<15} {'bytes':>11} {'characters':>11} {'different':>9}  about")
    for row in rows:
        bytes_, characters, different = (
            f"{row[key]:,}" if row.get(key) else "-" for key in ("bytes", "characters", "vocabulary")
        )
        where = ", to be downloaded when first used" if "address" in row else ""
        print(
            f"{row['name']:<15} {bytes_:>11} {characters:>11} {different:>9}  {row['about']} ({row['licence']}{where})"
        )


def print_bench(machine: dict[str, str | int], command: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print figures as they are measured, under what they depend on."""
    print(f"{command}: medians, the first run of each left out; a ratio above 1 is in charlm's favour")
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value != ""))
    part = None
    for row in rows:
        if row["part"] != part:
            part = row["part"]
            of_training = "   layers    GEMM" if part == "training" else ""
            print(f"\n{part:<30}{'charlm':>12}{'beside':>12}  {'':<13}{'ratio':>6}{of_training}")
        beside = "" if row["beside"] is None else _figure(row["beside"])
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        share = ""
        if row["gemm_share"] is not None:
            share = f"{row['layers_ratio']:9.2f}{row['gemm_share']:8.0%}  {row['arithmetic']}"
        line = f"{row['name']:<30}{_figure(row['charlm']):>12}{beside:>12}  {row['unit']:<13}{ratio:>6}{share}"
        print(line.rstrip(), flush=True)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
