"""The command that lists the texts known by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from charlm.cli.options import (
    Json,
)
from charlm.cli.render import print_json, show_download
from charlm.errors import UsageError


def corpora(
    fetch: Annotated[list[str] | None, typer.Option(help="Download this corpus now; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """List the corpora that are known by name.

    charlm corpora

    charlm corpora --fetch enwik8
    """
    from charlm.data.catalog import catalog_entries
    from charlm.data.corpus import load_corpus

    for name in fetch or []:
        if name not in catalog_entries():
            raise UsageError(f"there is no corpus `{name}`", f"there are {', '.join(catalog_entries())}")
        catalog_entries()[name].sources(show_download)
    rows = []
    for name, entry in catalog_entries().items():
        row: dict[str, Any] = {"name": name, "language": entry.language, "licence": entry.licence, "about": entry.about}
        if entry.is_here:
            text = load_corpus([name])
            row |= {"bytes": text.num_bytes, "characters": len(text.ids), "vocabulary": len(text.vocabulary)}
        else:
            row |= {"bytes": entry.member_bytes or entry.bytes, "address": entry.address}
            row |= {"characters": entry.characters, "vocabulary": entry.vocabulary}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_corpora(rows)


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
