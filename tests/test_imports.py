"""The picture of the package: imports point one way, and the light half never loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import charlm

# What a file may import from charlm: files of a lower number only.
LEVELS = {
    "__init__": 0,
    "errors": 0,
    "files": 0,
    "machine": 0,
    "output": 1,
    "signals": 0,
    "blocks": 1,
    "cell_arithmetic": 0,
    "cells": 1,
    "scan": 1,
    "strict_yaml": 1,
    "console": 2,
    "layers": 2,
    "settings": 2,
    "config": 3,
    "initialise": 3,
    "downloads": 1,
    "progress": 1,
    "trials": 3,
    "runtime": 4,
    "schedule": 3,
    "vocab": 1,
    "catalog": 2,
    "checkpoint": 2,
    "streams": 2,
    "corpus": 4,
    "sources": 3,
    "run_folder": 3,
    "model": 4,
    "stepper": 3,
    "baselines": 2,
    "evaluate": 5,
    "optimizer": 5,
    "sample": 4,
    "compare": 4,
    "explain": 4,
    "arguments": 4,
    "bench": 6,
    "sizing": 6,
    "ranking": 5,
    "fill": 6,
    "repl": 6,
    "learner": 6,
    "train": 7,
    "display": 8,
    "forecast": 8,
    "runs": 9,
    "reports": 10,
    "cli": 11,
    "__main__": 12,
}
FOLDER = Path(charlm.__file__).parent
LIGHT = ["cli", "repl", "sample", "stepper", "checkpoint", "corpus", "config", "fill", "compare", "explain", "reports"]


def imported(name: str) -> set[str]:
    """Return which files of charlm a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "charlm":
            found |= {alias.name if alias.name in LEVELS else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("charlm."):
            found.add(node.module.removeprefix("charlm."))
    return found


def test_every_file_has_its_place() -> None:
    """The table above lists the files there are."""
    assert {path.stem for path in FOLDER.glob("*.py")} == set(LEVELS)


@pytest.mark.parametrize("name", LEVELS)
def test_imports_point_to_lower_levels_only(name: str) -> None:
    """So there can be no cycle."""
    assert [other for other in imported(name) if LEVELS[other] >= LEVELS[name]] == []


@pytest.mark.parametrize("name", LIGHT)
def test_the_light_half_loads_without_torch(name: str) -> None:
    """In a fresh interpreter, importing it brings no torch with it."""
    code = f"import sys, charlm.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_neither_torch_nor_numpy() -> None:
    """The command line itself is a matter of Typer alone."""
    code = "import sys, charlm.cli; sys.exit(bool({'torch', 'numpy', 'yaml', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", LEVELS)
def test_no_file_is_longer_than_400_lines(name: str) -> None:
    """A file that grows longer holds two concepts."""
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("name", LEVELS)
def test_files_are_opened_with_an_encoding(name: str) -> None:
    """Text is never read or written in whatever encoding the platform prefers (bytes have none)."""
    for node in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        keywords = {keyword.arg for keyword in node.keywords}
        if called in ("read_text", "write_text"):
            assert "encoding" in keywords, ast.unparse(node)
        if called == "open":
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            # Besides files: folders and archive members, which have other arguments.
            is_file = isinstance(node.func, ast.Name) or modes or not (node.args or keywords)
            is_ours = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("source", "os")
            assert not is_file or is_ours or "encoding" in keywords or any("b" in mode for mode in modes), ast.unparse(
                node
            )
