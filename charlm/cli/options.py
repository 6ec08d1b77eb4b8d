"""Arguments that several commands take, and what they stand for. Light: what it needs is imported when it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.render import say

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.vocab import Vocabulary

# A little below 1: what is improbable is mostly a mistake of the model's.
SAMPLE_TEMPERATURE = 0.7


def as_given(text: str) -> str:
    """Undo a locale that could not read an argument: the bytes a shell passes are UTF-8 today."""
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
Encoding = Annotated[str | None, typer.Option(help="How the text's bytes spell characters; UTF-8 by default.")]
Unknown = Annotated[
    str,
    typer.Option(
        help="What to do about characters the model does not know: error, skip, or replace=C.", callback=as_given
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes it repeatable; drawn and told where absent.")]


def as_read(vocabulary: Vocabulary, *parts: str) -> list[str]:
    """Return parts of a text as a model with this vocabulary reads them, and say so where that is not as given."""
    from charlm.vocab import TextFilter

    found = [TextFilter(vocabulary.filter)(part) for part in parts]
    if found != list(parts):
        say(f"note: this model reads letters in lower case and one space for all else: {'_'.join(found)!r}")
    return found


def model_file(path: Path | None) -> ModelFile:
    """Load the model that is meant, and say which it is where nobody said."""
    from charlm.checkpoint import load_checkpoint
    from charlm.run_folder import find_model

    found = find_model(path)
    if path is None:
        say(f"model {found}")
    return load_checkpoint(found)
