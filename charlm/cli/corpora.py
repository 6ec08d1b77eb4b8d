"""The command that lists the corpora known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.layout import Column
from charlm.cli.options import Json
from charlm.cli.render import print_json, print_table, show_download
from charlm.errors import UsageError

if TYPE_CHECKING:
    from charlm.data.catalog import Entry


def corpora(
    fetch: Annotated[list[str] | None, typer.Option(help="Download this corpus now; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """List the corpora that are known by name.

    charlm corpora

    charlm corpora --fetch enwik8
    """
    from charlm.data.catalog import catalog_entries

    for name in map(str.lower, fetch or []):
        if name not in catalog_entries():
            raise UsageError(f"there is no corpus `{name}`", f"there are {', '.join(catalog_entries())}")
        catalog_entries()[name].sources(show_download)
    rows = [describe_corpus(entry) for entry in catalog_entries().values()]
    if as_json:
        print_json(rows)
    else:
        print_corpora(rows)


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
