"""The picture of the package: rooms over a shared root, imports one way, and a half that never loads torch."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import charlm

FOLDER = Path(charlm.__file__).parent
FILES = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*.py"))
TESTS = Path(__file__).parent
# The other rooms that each room may import from. The root is the modules directly in the package.
BELOW = {
    "root": set(),
    "settings": {"root"},
    "data": {"root", "settings"},
    "inference": {"root"},
    "nn": {"root", "settings"},
    "evaluation": {"root", "settings", "data", "inference", "nn"},
    "training": {"root", "settings", "data", "inference", "nn", "evaluation"},
    "export": {"root", "settings", "data", "inference", "nn", "evaluation"},
    "web": {"root", "settings", "data", "inference", "nn", "evaluation", "export", "training"},
    "cli": {"root", "settings", "data", "inference", "nn", "evaluation", "export", "training", "web"},
}
# These two modules load the rooms: one for programs, one for the terminal.
DOORS = {"__init__.py": {"inference", "training"}, "__main__.py": {"cli"}}
MAY_IMPORT_TORCH = {"evaluation/evaluate.py", "evaluation/dynamic.py", "evaluation/gradient.py", "evaluation/bench.py"}
LIGHT = ["cli.app", "cli.repl", "inference", "data", "export", "web"]
LIGHT += ["evaluation.compare", "evaluation.baselines", "evaluation.copies", "evaluation.scored_text"]


@functools.cache
def tree(file: Path) -> ast.Module:
    """Parse a file of the package."""
    return ast.parse((FOLDER / file).read_text(encoding="utf-8"))


def room(module: str) -> str:
    """Return the room of a module, named without `charlm.` in front."""
    first = module.partition(".")[0]
    return first if first in BELOW else "root"


def imported(file: Path) -> Iterator[str]:
    """Yield every module a file imports, anywhere in it."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(file: Path) -> set[str]:
    """Return the rooms a file imports from."""
    return {room(name.removeprefix("charlm.")) for name in imported(file) if name.startswith("charlm.")}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file: Path) -> None:
    """A room imports only from rooms below it; `data`, `inference` and `nn` are apart, and so are the next two."""
    own = room(file.parts[0].removesuffix(".py"))
    assert rooms_imported(file) <= BELOW[own] | {own} | DOORS.get(str(file), set())


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_nn_training_and_four_files_import_torch(file: Path) -> None:
    """All other modules are the light half."""
    imports_torch = any(name.partition(".")[0] == "torch" for name in imported(file))
    assert not imports_torch or file.parts[0] in ("nn", "training") or file.as_posix() in MAY_IMPORT_TORCH


@pytest.mark.parametrize("file", [file for file in FILES if file.parts[0] != "cli"], ids=str)
def test_only_the_command_line_prints(file: Path) -> None:
    """No Typer, no Rich and no `print` outside `cli`: elsewhere, code returns values and raises errors."""
    names = {name.partition(".")[0] for name in imported(file)}
    prints = {node.id for node in ast.walk(tree(file)) if isinstance(node, ast.Name)} & {"print"}
    assert not prints | (names & {"typer", "rich", "prompt_toolkit"})


def test_the_root_is_a_page() -> None:
    """At most twelve modules are shared by all rooms."""
    assert len([file for file in FILES if len(file.parts) == 1]) <= 12


def test_no_module_imports_itself_through_others() -> None:
    """There is no cycle among modules, inside a room either."""
    modules = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}
    edges = {
        module: {
            name
            for full in imported(file)
            if full.startswith("charlm.")
            for name in (full.removeprefix("charlm."), full.removeprefix("charlm.").rpartition(".")[0])
            if name in modules and name != module
        }
        for module, file in modules.items()
    }
    while leaves := {module for module, targets in edges.items() if not targets & set(edges)}:
        edges = {module: targets for module, targets in edges.items() if module not in leaves}
    assert edges == {}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_functions_have_at_most_60_lines(file: Path) -> None:
    """A longer function does more than one thing."""
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60] == []


@pytest.mark.parametrize("name", LIGHT)
def test_the_light_half_loads_without_torch(name: str) -> None:
    """Importing a module of the light half in a new interpreter does not load torch."""
    code = (
        f"import sys, pkgutil, importlib, charlm.{name} as room\n"
        "for found in pkgutil.iter_modules(getattr(room, '__path__', [])):\n"
        "    importlib.import_module(f'{room.__name__}.{found.name}')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_needs_neither_torch_nor_numpy() -> None:
    """The command line alone needs only Typer."""
    heavy = {"torch", "numpy", "yaml", "pydantic", "starlette", "uvicorn"}
    code = f"import sys, charlm.cli.app; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_are_opened_with_an_encoding(file: Path) -> None:
    """No text is read or written in the platform's default encoding."""
    for node in ast.walk(tree(file)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        keywords = {keyword.arg for keyword in node.keywords}
        if called in ("read_text", "write_text"):
            assert "encoding" in keywords, ast.unparse(node)
        if called == "open":
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            # Folders and archive members also have `open`, with other arguments.
            is_file = isinstance(node.func, ast.Name) or modes or not (node.args or keywords)
            is_ours = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("source", "os")
            assert not is_file or is_ours or "encoding" in keywords or any("b" in mode for mode in modes), ast.unparse(
                node
            )


@pytest.mark.parametrize("file", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_names_of_tests_have_at_most_60_characters(file: Path) -> None:
    """A failure report shows the name of a test in one line."""
    functions = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.name.startswith("test_") and len(node.name) > 60] == []


@pytest.mark.parametrize("room", sorted(BELOW.keys() - {"root"}))
def test_every_room_has_a_sentence_and_a_folder_of_tests(room: str) -> None:
    """The docstring of a package is one sentence on one line, and its tests have a folder of the same name."""
    sentence = ast.get_docstring(tree(Path(room, "__init__.py"))) or ""
    assert re.fullmatch(r"[^\n.]+\.", sentence)
    assert list((TESTS / room).glob("test_*.py"))
