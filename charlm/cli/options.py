"""Arguments that several commands take, and how they are read. Heavy modules are imported when they are used."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from charlm.cli.render import say
from charlm.cli.slips import is_option, meant_option, options_of
from charlm.errors import UsageError, as_given, did_you_mean, undecodable_byte
from charlm.run_folder import is_model

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.vocab import Vocabulary

# A little below 1: improbable characters are mostly mistakes of the model.
SAMPLE_TEMPERATURE = 0.7
BYTE_ORDER_MARK = "\ufeff"
LINE_END_AT_THE_END = re.compile(r"(\r\n|\r|\n)\Z")
LINE_END = re.compile(r"\r\n|\r|\n")


def given_text(argument: str) -> str:
    """Return the text that an argument stands for: - is standard input, less one line end at its end."""
    if is_model(argument):
        say(f"note: `{argument}` is read as a text; `--model {shlex.quote(argument)}` names a model")
    return LINE_END_AT_THE_END.sub("", sys.stdin.read()) if argument == "-" else as_given(argument)


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
            message = f"`{source}` is not UTF-8: {undecodable_byte(error)}"
            raise UsageError(message, hint_at_encoding(error)) from None


def hint_at_encoding(error: UnicodeDecodeError) -> str:
    """Return a hint with the encoding that reads what could not be decoded; empty if none does."""
    from charlm.data.encodings import guess_encoding

    if (guess := guess_encoding(lambda: [error.object], "utf-8")) is None:
        return ""
    return f'in {guess.encoding} it is "{guess.excerpt}"; `iconv -f {guess.encoding} -t utf-8` converts it'


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


class TextCommand(TyperCommand):
    """A command whose argument is a text, which may begin with a dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with all texts behind the options.

        Raises:
            UsageError: an argument that begins with a dash is neither an option nor plainly a text.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        return super().parse_args(ctx, self._texts_last(args, options_of(self)))

    def _texts_last(self, arguments: list[str], takes_value: dict[str, bool]) -> list[str]:
        """Put what is a text behind the options and `--`.

        Args:
            arguments: what follows the name of the command.
            takes_value: the options by name, and whether a value follows.
        """
        options: list[str] = []
        texts: list[str] = []
        rest = iter(arguments)
        for argument in rest:
            name, has_value, _ = argument.partition("=")
            if argument == "--":
                texts += rest
            elif argument == "-" or not argument.startswith("-"):
                texts.append(argument)
            elif name in takes_value:
                options += [argument, *islice(rest, 1 if takes_value[name] and not has_value else 0)]
            elif _is_short_option(argument, takes_value):
                options.append(argument)
            elif _is_plainly_a_text(argument, takes_value):
                texts.append(argument)
            elif is_option(argument) and meant_option(name, self) is not None:
                # Typer refuses it, and the hint is the command line that was meant.
                options.append(argument)
            else:
                others = [other for other in arguments if other is not argument]
                line = shlex.join(["charlm", self.name or "", *others, "--", argument])
                how = f"a text that begins with a dash comes last, after `--`: {line}"
                raise UsageError(f"there is no option `{argument}`", f"{did_you_mean(name, takes_value)} {how}".strip())
        return [*options, "--", *texts]


def _is_short_option(argument: str, takes_value: dict[str, bool]) -> bool:
    """Return whether an argument is a short option with its value, as in -n5 or -mRUN."""
    option, value = argument[:2], argument[2:]
    if option not in takes_value or not re.search(r"\s", value):
        return option in takes_value
    # A text may begin like this, too: "-my dear". A number or a file is meant as a value.
    return takes_value[option] and bool(re.fullmatch(r"\s*[\d.]+\s*", value) or os.path.exists(value))  # noqa: PTH110


def _is_plainly_a_text(argument: str, takes_value: dict[str, bool]) -> bool:
    """Return whether an argument that begins with a dash cannot be meant as an option."""
    first_word = argument.split()[0].partition("=")[0]
    if first_word in takes_value or takes_value.get(argument[:2]):
        return False
    return bool(re.search(r"\s", argument)) or not re.match(r"--?[A-Za-z0-9]", argument)


def model_file(path: Path | None) -> ModelFile:
    """Load the model that was named, or the newest one, whose name is then printed."""
    from charlm.checkpoint import load_checkpoint
    from charlm.run_folder import find_model

    found = find_model(path)
    if path is None:
        say(f"model {found}")
    return load_checkpoint(found)
