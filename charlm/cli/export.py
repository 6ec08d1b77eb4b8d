"""The command that exports a model to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from charlm.cli.options import Model, model_file
from charlm.cli.pages import begins_with, free_path
from charlm.cli.render import escaped
from charlm.errors import UsageError
from charlm.files import write_atomic

Format = Literal["onnx", "html", "torch"]
# What the name of an exported file ends with.
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "html": ".html", "torch": ".safetensors"}


def export(
    format: Annotated[
        Format,
        typer.Option(
            "--format", "-f", case_sensitive=False, help="The format: ONNX, a page, or a `state_dict` of torch."
        ),
    ],
    model: Model = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; by default `model` with its ending.")
    ] = None,
    net_only: Annotated[bool, typer.Option("--net-only", help="Leave out the n-grams beside the net.")] = False,
) -> None:
    """Export a model to other programs.

    A `state_dict` of torch comes with the lines of torch that load it.

    charlm export --format torch --net-only

    charlm export --format torch --net-only -m runs/fables-lstm-1 -o fables.safetensors
    """
    given = out or Path(f"model{SUFFIXES[format]}")
    if given.suffix.lower() != SUFFIXES[format]:
        raise UsageError(
            f"`{given}` does not end with {SUFFIXES[format]}", f"give `{given.with_suffix(SUFFIXES[format])}`"
        )
    EXPORTS[format](given, model, net_only)


def export_torch(given: Path, model: Path | None, net_only: bool) -> None:
    """Write a `state_dict`, and the program that loads it."""
    from charlm.export.net import net_of
    from charlm.export.state_dict import is_state_dict, state_dict_file
    from charlm.export.torch_program import FIRST_WORDS, torch_program

    path = free_path(given, "`state_dict`", "model.safetensors", is_state_dict)
    program = free_path(given.with_suffix(".py"), "program", "model.py", lambda file: begins_with(file, FIRST_WORDS))
    net = net_of(model_file(model), "a `state_dict`", net_only)
    write_export(path, state_dict_file(net), f"state_dict: {net.spec.num_parameters:,} weights")
    lines = torch_program(net.spec, net.vocabulary, path.name)
    write_export(program, lines.encode(), f"loads it: {len(lines.splitlines())} lines of torch")


def write_export(path: Path, data: bytes, what: str) -> None:
    """Write a file, and print its name, its size and what it is."""
    write_atomic(path, data)
    print(f"{escaped(str(path))}  {len(data) / 1e6:,.2f} MB  {what}")


def export_html(given: Path, model: Path | None, net_only: bool) -> None:
    """Write a page that runs the model."""
    raise UsageError("there are no pages yet")


def export_onnx(given: Path, model: Path | None, net_only: bool) -> None:
    """Write an ONNX graph of one step."""
    raise UsageError("there is no ONNX yet")


EXPORTS = {"onnx": export_onnx, "html": export_html, "torch": export_torch}
