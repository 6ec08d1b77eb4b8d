"""The command line: its commands by name. A command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer

from charlm import __version__
from charlm.cli.average import average
from charlm.cli.bench import bench
from charlm.cli.compare import compare
from charlm.cli.corpora import corpora
from charlm.cli.errors import Commands
from charlm.cli.evaluate import evaluate_model
from charlm.cli.explain import explain
from charlm.cli.export import export
from charlm.cli.fill import fill
from charlm.cli.import_model import import_model
from charlm.cli.inspect import inspect_units
from charlm.cli.options import Command, TextCommand
from charlm.cli.predict_next import predict_next
from charlm.cli.reach import reach
from charlm.cli.report import report
from charlm.cli.sample import sample
from charlm.cli.score import score
from charlm.cli.serve import serve
from charlm.cli.train import train

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, sample and probe character-level recurrent language models.",
)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Train, sample and probe character-level recurrent language models."""
    if version:
        print(f"charlm {__version__}")
        raise typer.Exit


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "sample": sample,
    "predict-next": predict_next,
    "eval": evaluate_model,
    "score": score,
    "fill": fill,
    "compare": compare,
    "average": average,
    "report": report,
    "explain": explain,
    "inspect": inspect_units,
    "reach": reach,
    "export": export,
    "import": import_model,
    "serve": serve,
    "corpora": corpora,
    "bench": bench,
}
# Their argument is a text, which may begin with a dash.
TAKE_A_TEXT = (sample, predict_next, fill, score, inspect_units)


def help_of(command: Callable[..., None]) -> str | None:
    """Return the help of a command: its docstring, which `python -OO` removes, but not from the source."""
    if command.__doc__ is None:
        with suppress(OSError):
            (function,) = ast.parse(inspect.getsource(command)).body
            return ast.get_docstring(function) if isinstance(function, ast.FunctionDef) else None
    return inspect.getdoc(command)


for name, command in COMMANDS.items():
    app.command(name, cls=TextCommand if command in TAKE_A_TEXT else Command, help=help_of(command))(command)
