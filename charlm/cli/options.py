"""Options that several commands take. Heavy modules are imported when they are used."""

from __future__ import annotations

import os
import re
import shlex
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from charlm.cli.render import say
from charlm.cli.slips import is_option, meant_option, options_of
from charlm.errors import UsageError, as_given, did_you_mean

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile
    from charlm.inference.stepper import Predictor

# The parameters of commands that name a model.
NAME_A_MODEL = ("model", "compare", "diff", "base")
# A little below 1: improbable characters are mostly mistakes of the model.
SAMPLE_TEMPERATURE = 0.7

Model = Annotated[
    Path | None, typer.Option("--model", "-m", help="A model file or a run folder; by default the newest run in runs/.")
]
Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        "-m",
        help="A model file or a run folder; by default the newest run in runs/. May be repeated: then the mean of the "
        "models' probabilities counts.",
    ),
]
CorpusNames = Annotated[
    list[str] | None,
    typer.Option("--corpus", "-c", help="A corpus by name, a file, a folder, a glob, or - ; may be repeated."),
]
Part = Annotated[
    Literal["train", "validation", "test"] | None,
    typer.Option(
        case_sensitive=False, help="Which part of the text that was learned; `--corpus` says where it is now."
    ),
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


class Command(TyperCommand):
    """A command that takes one model for each option that names a model, unless the option may be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            UsageError: a model is given twice where there is room for one.
        """
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for parameter in given:
                if parameter.name in NAME_A_MODEL and not parameter.multiple and given.count(parameter) > 1:
                    option = max(parameter.opts, key=len)
                    raise UsageError(
                        f"`charlm {self.name}` takes one `{option}`, and there are several", "give it once"
                    )
        return super().parse_args(ctx, args)


class TextCommand(Command):
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
                values = list(islice(rest, 1 if takes_value[name] and not has_value else 0))
                options += [argument, *values]
                if takes_value[name] and not has_value and not values:
                    # Typer refuses it. The `--` before the texts would be taken for its value.
                    return options
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


def predictor(paths: list[Path] | None) -> Predictor:
    """Load the model that was named, or the newest one, or several, which then predict together."""
    from charlm.inference.ensemble import Ensemble
    from charlm.inference.ensemble_model import named_stepper
    from charlm.inference.stepper import Stepper

    if paths and len(paths) > 1:
        return Ensemble([named_stepper(path) for path in paths])
    return Stepper(model_file(paths[0] if paths else None))
