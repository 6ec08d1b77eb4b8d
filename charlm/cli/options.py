"""Arguments that several commands take, and how they are read. Heavy modules are imported when they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.render import say

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.vocab import Vocabulary

# A little below 1: improbable characters are mostly mistakes of the model.
SAMPLE_TEMPERATURE = 0.7


def as_given(text: str) -> str:
    """Decode an argument that the locale could not read as UTF-8, which is what shells pass today."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="A model file or a run folder; by default the newest run in runs/.")
]
CorpusNames = Annotated[
    list[str] | None,
    typer.Option("--corpus", "-c", help="A corpus by name, a file, a folder, a glob, or - ; may be repeated."),
]
Encoding = Annotated[str | None, typer.Option(help="The encoding of the text; UTF-8 by default.")]
SkipUndecodable = Annotated[
    bool, typer.Option("--skip-undecodable", help="Leave out files that are no text in this encoding.")
]
Unknown = Annotated[
    str,
    typer.Option(
        help="What to do about characters the model does not know: error, skip, or replace=C.", callback=as_given
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Repeats a result; if omitted, a seed is drawn and printed.")]


def as_read(vocabulary: Vocabulary, *parts: str) -> list[str]:
    """Filter parts of a text as the model reads them, and say so if that changes them."""
    from charlm.vocab import TextFilter

    found = [TextFilter(vocabulary.filter)(part) for part in parts]
    if found != list(parts):
        say(f"note: this model reads lower-case letters and one space in place of all else: {'_'.join(found)!r}")
    return found


def model_file(path: Path | None) -> ModelFile:
    """Load the model that was named, or the newest one, whose name is then printed."""
    from charlm.checkpoint import load_checkpoint
    from charlm.run_folder import find_model

    found = find_model(path)
    if path is None:
        say(f"model {found}")
    return load_checkpoint(found)
