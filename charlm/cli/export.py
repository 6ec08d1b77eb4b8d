"""The command that exports a model to other programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli.options import Model, model_file
from charlm.cli.pages import begins_with, free_path
from charlm.cli.render import say
from charlm.errors import PackageError, UsageError, counted, one_line
from charlm.files import write_atomic

if TYPE_CHECKING:
    from charlm.checkpoint import ModelFile

Format = Literal["onnx", "html", "torch"]
# What the name of an exported file ends with.
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "html": ".html", "torch": ".safetensors"}


def export(
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            case_sensitive=False,
            help="The format: a graph for ONNX, a page, or a `state_dict` of torch.",
        ),
    ],
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; by default `model` with its ending.")
    ] = None,
    net_only: Annotated[bool, typer.Option("--net-only", help="Export the net without the n-grams beside it.")] = False,
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", "-c", help="The text on which a page is measured; by default that of the model."),
    ] = None,
) -> None:
    """Export a model to other programs.

    ONNX is a graph of one step, which is compared with charlm before it is written. A `state_dict` comes with the lines
    of torch that load it; it holds the net alone. A page runs the model in a browser, with weights of 8 bits, and says
    what these cost.

    charlm export --format onnx

    charlm export --format torch --net-only

    charlm export --format html

    charlm export --format onnx -m runs/fables-lstm-1 -o fables.onnx
    """
    suffix = SUFFIXES[format]
    given = out or Path(f"model{suffix}")
    if given.suffix.lower() != suffix:
        raise UsageError(f"`{given}` does not end with {suffix}", f"give a name such as `model{suffix}`")
    if format == "html":
        export_html(given, model, net_only, corpus)
        return
    if corpus:
        raise UsageError("`--corpus` is for pages, which say what their rounding costs", "omit it, or use `-f html`")
    EXPORTS[format](given, model, net_only)


def export_onnx(given: Path, model: Path | None, net_only: bool) -> None:
    """Write a graph of one step, after comparing it with charlm."""
    from charlm.export.net import net_of, of_one_direction

    require_packages("onnx", "onnx", "onnxruntime")
    from charlm.export.onnx_check import TOLERANCE, check_onnx
    from charlm.export.onnx_graph import OPSET, is_onnx, onnx_file

    path = free_path(given, "graph", "model.onnx", is_onnx)
    whole = of_one_direction(model_file(model), "a graph")
    exported = net_of(whole) if net_only else whole
    data = onnx_file(exported)
    found = check_onnx(data, exported)
    write_export(path, data, f"a graph of one step, ONNX opset {OPSET}")
    tell_what_is_lost(whole, net_only)
    say(
        f"compared with charlm over {found.predictions:,} predictions: no probability differs by more than "
        f"{found.difference:.1e} (at most {TOLERANCE:.0e} is accepted)"
    )


def export_html(given: Path, model: Path | None, net_only: bool, corpus: list[str] | None) -> None:
    """Write a page that runs the model."""
    from charlm.cli.export_page import page_of

    path, page, whole = page_of(given, model, net_only, corpus)
    write_export(path, page.encode(), "a page that runs the model")
    tell_what_is_lost(whole, net_only)
    say(f"run it: open {path} in a browser")


def export_torch(given: Path, model: Path | None, net_only: bool) -> None:
    """Write a `state_dict`, and the program that loads it."""
    from charlm.export.net import net_of, of_one_direction, refuse_ngrams
    from charlm.export.state_dict import is_state_dict, state_dict_file
    from charlm.export.torch_program import FIRST_WORDS, torch_program

    path = free_path(given, "`state_dict`", "model.safetensors", is_state_dict)
    program = free_path(given.with_suffix(".py"), "program", "model.py", lambda file: begins_with(file, FIRST_WORDS))
    whole = of_one_direction(model_file(model), "a `state_dict`")
    if not net_only:
        refuse_ngrams(whole, "a `state_dict`")
    net = net_of(whole)
    write_export(path, state_dict_file(net), f"a state_dict of {net.spec.num_parameters:,} weights")
    lines = torch_program(net.spec, net.vocabulary, path.name)
    write_export(program, lines.encode(), f"the {len(lines.splitlines())} lines of torch that load it")
    tell_what_is_lost(whole, net_only)
    say(f'run it: python {one_line(shlex.quote(str(program)))} "..."')


EXPORTS = {"onnx": export_onnx, "torch": export_torch}


def require_packages(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        PackageError: one is missing.
    """
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise PackageError(f"the package `{package}` is not installed", f'`pip install "charlm[{extra}]"` adds it')


def write_export(path: Path, data: bytes, what: str) -> None:
    """Write a file, and say where it is, how large and what."""
    write_atomic(path, data)
    size = f"{len(data) / 1e6:,.2f} MB" if len(data) > 1e4 else counted(len(data), "byte")
    say(f"{path} ({size}): {what}")


def tell_what_is_lost(whole: ModelFile, net_only: bool) -> None:
    """Say on stderr what a model predicts worse without its n-grams, if they were left out."""
    from charlm.export.net import has_ngrams, without_ngrams

    if net_only and has_ngrams(whole):
        say(f"note: this is the net without its n-grams{without_ngrams(whole)}")
