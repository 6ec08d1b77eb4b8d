"""How the texts that people give are read: as an argument, from standard input, from a file or from a corpus."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.cli.progress import show_text_progress
from charlm.cli.render import say
from charlm.errors import UsageError, as_given, undecodable_byte
from charlm.run_folder import is_model

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.evaluation.scored_text import PartName, TextToScore
    from charlm.vocab import Vocabulary

BYTE_ORDER_MARK = "\ufeff"
LINE_END_AT_THE_END = re.compile(r"(\r\n|\r|\n)\Z")
LINE_END = re.compile(r"\r\n|\r|\n")


def given_text(argument: str) -> str:
    """Return the text that an argument stands for: - is standard input, less one line end at its end."""
    if argument and is_model(argument):
        say(f"note: `{argument}` is read as a text; `--model {shlex.quote(argument)}` names a model")
    return LINE_END_AT_THE_END.sub("", sys.stdin.read()) if argument == "-" else as_given(argument)


def note_on_file(text: str, reading: str) -> None:
    """Report that a text has the name of a file, and how the file would be read."""
    # A text may be too long for the name of a file: `Path` would raise an error.
    if os.path.isfile(text) and not is_model(text):  # noqa: PTH113
        say(f"note: `{text}` is read as a text; `{reading} {shlex.quote(text)}` reads the file")


def given_lines(source: str | Path) -> Iterator[str]:
    """Yield the lines of a file, or of standard input for -, without their line ends.

    Raises:
        UsageError: the file is not UTF-8.
    """
    with nullcontext(sys.stdin) if str(source) == "-" else Path(source).open(encoding="utf-8", newline="") as file:
        try:
            for number, line in enumerate(file):
                yield LINE_END_AT_THE_END.sub("", line if number else line.removeprefix(BYTE_ORDER_MARK))
        except UnicodeDecodeError as error:
            if str(source) == "-":
                raise
            raise _not_utf8(source, error) from None


def given_file(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UsageError: the file is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None


def _not_utf8(source: str | Path, error: UnicodeDecodeError) -> UsageError:
    return UsageError(f"`{source}` is not UTF-8: {undecodable_byte(error)}", hint_at_encoding(error))


def hint_at_encoding(error: UnicodeDecodeError) -> str:
    """Return a hint with the encoding that reads what could not be decoded; empty if none does."""
    from charlm.data.encodings import guess_encoding

    if (guess := guess_encoding(lambda: [error.object], "utf-8")) is None:
        return ""
    return f'in {guess.encoding} it is "{guess.excerpt}"; `iconv -f {guess.encoding} -t utf-8` converts it'


def as_read(vocabulary: Vocabulary, *parts: str) -> list[str]:
    """Change the parts of a text to what the model reads, and report what its filter changes.

    A byte order mark at the start is no part of a text, and line ends become those of the model.
    """
    from charlm.vocab import TextFilter

    parts = (parts[0].removeprefix(BYTE_ORDER_MARK), *parts[1:])
    known = [end for end in "\n\r" if end in vocabulary]
    # A vocabulary with both characters may have learned any line end.
    given = [LINE_END.sub(known[0], part) for part in parts] if len(known) == 1 else list(parts)
    found = [TextFilter(vocabulary.filter)(part) for part in given]
    if found != given:
        say(f"note: this model reads lower-case letters and one space in place of all else: {'_'.join(found)!r}")
    return found


def read_by_both(vocabulary: Vocabulary, other: Vocabulary, given: str) -> str:
    """Return the text as two models read it.

    Raises:
        UsageError: each of them changes what the other one reads.
    """
    (read,) = as_read(vocabulary, given)
    (read,) = as_read(other, read)
    if as_read(vocabulary, read) != [read]:
        raise UsageError("the two models read different line ends", "compare models that read the same characters")
    return read


def how_to_read(corpus: list[str] | None, encoding: str | None, skip_undecodable: bool) -> dict[str, Any]:
    """Return how the bytes of `--corpus` become characters.

    Raises:
        UsageError: there is no `--corpus`.
    """
    if not corpus and (encoding or skip_undecodable):
        option = "--encoding" if encoding else "--skip-undecodable"
        raise UsageError(f"`{option}` is for `--corpus`", "the run's own text is read as it was in training")
    return {"encoding": encoding, "skip_undecodable": skip_undecodable}


def load_text(
    file: ModelFile,
    part: PartName | None,
    corpus: list[str] | None,
    unknown: str,
    command: str,
    reading: dict[str, Any],
) -> TextToScore:
    """Read the text to score: another corpus, or a part of the model's own.

    Args:
        file: the model.
        part: the part of its own text; None for the validation part, or for all of another text.
        corpus: where the text is; None for where it was in training.
        unknown: what to do about characters that the model does not know.
        command: what scores the model, for hints.
        reading: as `how_to_read` returned it.
    """
    from charlm.evaluation.scored_text import load_other_text, load_own_text

    if part or not corpus:
        return load_own_text(file, part or "validation", corpus, command, show_text_progress, **reading)
    text = load_other_text(file, corpus, unknown, show_text_progress, **reading)
    for note in text.notes:
        say(f"note: {note}")
    return text
