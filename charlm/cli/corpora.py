"""`charlm corpora`: the corpora known by name, what is in a text, and the encoded texts on disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm.cli.layout import Column, screen_width, wrapped
from charlm.cli.options import Encoding, Json
from charlm.cli.progress import ProgressLine, show_text_progress
from charlm.cli.render import print_json, print_lines, print_table, say
from charlm.errors import UsageError, counted, one_line

if TYPE_CHECKING:
    from charlm.data.catalog import Entry
    from charlm.data.survey import Line, Survey, Symbol


def corpora(
    action: Annotated[
        Literal["show", "cache"] | None,
        typer.Argument(
            case_sensitive=False,
            help="show: says what is in a text; cache: lists the encoded texts on disk. Without it, the corpora known "
            "by name are listed.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Argument(help="Of show: a corpus by name, a file, a folder, a glob, or -.")
    ] = None,
    fetch: Annotated[list[str] | None, typer.Option(help="Download this corpus now; may be repeated.")] = None,
    encoding: Encoding = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Of cache: remove all encoded texts, or the oldest above the limit if CHARLM_CACHE_GB sets one. They "
            "are encoded again when needed.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the known corpora, or look at a text or the cache.

    charlm corpora

    charlm corpora --fetch enwik8

    charlm corpora show my-novel.txt

    charlm corpora cache --prune
    """
    _check(action, names, fetch, encoding, prune)
    if action == "show":
        show_text(names or [], encoding or "utf-8", as_json)
    elif action == "cache":
        show_cache(prune, as_json)
    else:
        list_corpora(fetch or [], as_json)


def _check(
    action: str | None, names: list[str] | None, fetch: list[str] | None, encoding: str | None, prune: bool
) -> None:
    """Refuse what belongs to another action.

    Raises:
        UsageError: it does.
    """
    if action == "show" and not names:
        raise UsageError("`charlm corpora show` needs the name of a text", "as in `charlm corpora show fables`")
    if action == "cache" and names:
        raise UsageError(f"`{names[0]}` is one argument too many", "`charlm corpora cache` is about all texts")
    wrong = {"--fetch": fetch and action, "--encoding": encoding and action != "show"}
    wrong |= {"--prune": prune and action != "cache"}
    for option, is_wrong in wrong.items():
        if is_wrong:
            right = {"--fetch": "", "--encoding": " show NAME", "--prune": " cache"}[option]
            raise UsageError(f"`{option}` does not belong here", f"as in `charlm corpora{right} {option}`")


def list_corpora(fetch: list[str], as_json: bool) -> None:
    """List the catalogue, after downloads."""
    from charlm.data.catalog import catalog_entries
    from charlm.data.corpus import DOWNLOADING

    for name in map(str.lower, fetch):
        if name not in catalog_entries():
            raise UsageError(f"there is no corpus `{name}`", f"there are {', '.join(catalog_entries())}")
        catalog_entries()[name].sources(partial(show_text_progress, DOWNLOADING))
    rows = [describe_corpus(entry) for entry in catalog_entries().values()]
    if as_json:
        print_json(rows)
    else:
        print_corpora(rows)


def show_text(names: list[str], encoding: str, as_json: bool) -> None:
    """Say what is in a text."""
    from charlm.data.corpus import load_corpus
    from charlm.data.holdout import hold_out
    from charlm.data.survey import survey
    from charlm.settings.config import DataConfig

    corpus = load_corpus(names, encoding=encoding, progress=show_text_progress, may_be_bytes=False)
    with ProgressLine() as line:
        found = survey(corpus, hold_out(corpus, DataConfig()), progress=line.about("of the text looked at"))
    facts = {"name": corpus.name, "bytes": corpus.num_bytes, "files": len(corpus.sources), "encoding": encoding}
    if as_json:
        print_json({**facts, "notes": list(corpus.notes), **found.to_json()})
        return
    width = screen_width(sys.stdout)
    lines = [
        f"{one_line(corpus.name)}: {counted(corpus.num_bytes, 'byte')} in {counted(len(corpus.sources), 'file')}, "
        f"{encoding}",
        f"{counted(found.characters, 'character')}, {found.vocabulary:,} different",
        *(f"note: {note}" for note in corpus.notes),
        *survey_lines(found),
    ]
    print_lines(part for line in lines for part in wrapped(line, width))


def survey_lines(found: Survey) -> Iterator[str]:
    """Describe what is in a text."""
    from charlm.data.survey import NUM_EXAMPLES

    ends = [f"{number:,} {name}" for name, number in found.line_ends.items() if number]
    yield f"line ends: {', '.join(ends) or 'none'}"
    yield f"control characters: {len(found.control) or 'none'}"
    yield from map(symbol_line, found.control[:NUM_EXAMPLES])
    yield f"rare characters, each less than a 100,000th of the text: {found.rare:,}"
    yield from map(symbol_line, found.rarest)
    of_some = ""
    if found.lines_compared < found.lines:
        of_some = f" of {found.lines_compared:,} that were compared with all others"
    yield f"lines of at least 20 characters: {found.lines:,}; {found.duplicate_lines:,}{of_some} repeat one before"
    yield from map(line_line, found.duplicates)
    yield (
        f"lines that stand in the held-out text and in the training text: {found.lines_in_both:,} of the "
        f"{found.held_out_lines:,} held out"
    )
    yield from map(line_line, found.in_both)


def symbol_line(symbol: Symbol) -> str:
    """Describe a character."""
    return f"  {symbol.name}: {symbol.count:,}, first at {symbol.place:,}: {one_line(symbol.context)}"


def line_line(line: Line) -> str:
    """Describe a line that stands more than once."""
    return f"  {line.count:,} times, first at {line.place:,}: {one_line(line.text)}"


def show_cache(is_pruned: bool, as_json: bool) -> None:
    """List the encoded texts, after removing all of them, or those above the limit that the user has set."""
    from charlm.data.cache import LIMIT, cache_limit, cached, cached_texts, prune

    limit = cache_limit()
    freed = prune(limit if os.environ.get(LIMIT) else 0) if is_pruned else None
    facts: dict[str, Any] = {"folder": str(cached_texts()), "limit": limit, "freed": freed}
    left = cached()
    if as_json:
        rows = [{"text": text.title, "characters": text.characters, "bytes": text.num_bytes} for text in left]
        times = [datetime.fromtimestamp(text.last_used).astimezone().isoformat("T", "seconds") for text in left]
        print_json({**facts, "texts": [{**row, "last_used": at} for row, at in zip(rows, times, strict=True)]})
        return
    if freed is not None:
        say(f"{freed / 1e6:,.1f} MB freed")
    columns = [Column("text"), Column("characters", True, 1), Column("MB", True), Column("last used", rank=2)]
    used = [datetime.fromtimestamp(text.last_used).strftime("%Y-%m-%d %H:%M") for text in left]
    rows_of_table = [
        [one_line(text.title) or "unknown", f"{text.characters:,}", f"{text.num_bytes / 1e6:,.1f}", at]
        for text, at in zip(left, used, strict=True)
    ]
    if left:
        print_table(columns, rows_of_table)
    total = sum(text.num_bytes for text in left) / 1e6
    say(f"{total:,.1f} of at most {limit / 1e6:,.0f} MB (`{LIMIT}`) in {one_line(str(cached_texts()))}")


def describe_corpus(entry: Entry) -> dict[str, Any]:
    """Return the facts about a corpus: measured if it is here, otherwise from the catalogue."""
    from charlm.data.corpus import load_corpus

    row: dict[str, Any] = {
        "name": entry.name,
        "language": entry.language,
        "licence": entry.licence,
        "about": entry.about,
    }
    if entry.is_here:
        text = load_corpus([entry.name])
        return {**row, "bytes": text.num_bytes, "characters": len(text.ids), "vocabulary": len(text.vocabulary)}
    row |= {"bytes": entry.member_bytes or entry.bytes, "address": entry.address}
    return row | {"characters": entry.characters, "vocabulary": entry.vocabulary}


def print_corpora(rows: list[dict[str, Any]]) -> None:
    """Print the catalogue as a table."""
    numbers = ("bytes", "characters", "vocabulary")
    # At 80 columns there is room for the description only without the bytes.
    ranks = (3, 1, 2)
    columns = [Column("name"), *(Column(name, True, rank) for name, rank in zip(numbers, ranks, strict=True))]
    lines = []
    for row in rows:
        where = ", downloaded on first use" if "address" in row else ""
        counts = [f"{row[name]:,}" if row[name] else "-" for name in numbers]
        lines.append([row["name"], *counts, f"{row['about']} ({row['licence']}{where})"])
    print_table([*columns, Column("about", least=34)], lines)
