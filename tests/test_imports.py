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


@functools.cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file of the package."""
    return tuple(ast.walk(tree(file)))


def long_functions(file: Path) -> list[str]:
    """Return the names of a file's functions that have 60 lines or more."""
    functions = [node for node in nodes(file) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60]


def lacks_encoding(call: ast.Call) -> bool:
    """Return whether a call opens a file as text in the encoding of the platform."""
    if not isinstance(call.func, ast.Attribute | ast.Name):
        return False
    called = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
    keywords = {keyword.arg for keyword in call.keywords}
    if called in ("read_text", "write_text"):
        return "encoding" not in keywords
    if called != "open":
        return False
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    # Folders and archive members also have `open`, with other arguments.
    is_file = isinstance(call.func, ast.Name) or modes or not (call.args or keywords)
    is_ours = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("source", "os")
    return bool(is_file) and not is_ours and "encoding" not in keywords and not any("b" in mode for mode in modes)


def room(module: str) -> str:
    """Return the room of a module, named without `charlm.` in front."""
    first = module.partition(".")[0]
    return first if first in BELOW else "root"


def imported(file: Path) -> Iterator[str]:
    """Yield every module a file imports, anywhere in it."""
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(file: Path) -> set[str]:
    """Return the rooms a file imports from."""
    return {room(name.removeprefix("charlm.")) for name in imported(file) if name.startswith("charlm.")}


def test_imports_go_one_way() -> None:
    """A room imports only from rooms below it; `data`, `inference` and `nn` are apart, as are the next two."""
    for file in FILES:
        own = room(file.parts[0].removesuffix(".py"))
        assert rooms_imported(file) <= BELOW[own] | {own} | DOORS.get(str(file), set()), file


def test_only_nn_training_and_four_files_import_torch() -> None:
    """All other modules are the light half."""
    importing = [file for file in FILES if any(name.partition(".")[0] == "torch" for name in imported(file))]
    assert {file.as_posix() for file in importing if file.parts[0] not in ("nn", "training")} == MAY_IMPORT_TORCH


def test_only_the_command_line_prints() -> None:
    """No Typer, no Rich and no `print` outside `cli`: elsewhere, code returns values and raises errors."""
    for file in (file for file in FILES if file.parts[0] != "cli"):
        names = {name.partition(".")[0] for name in imported(file)}
        prints = {node.id for node in nodes(file) if isinstance(node, ast.Name)} & {"print"}
        assert not prints | (names & {"typer", "rich", "prompt_toolkit"}), file


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


def test_functions_have_at_most_60_lines() -> None:
    """A longer function does more than one thing."""
    assert {str(file): names for file in FILES if (names := long_functions(file))} == {}


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


def test_files_are_opened_with_an_encoding() -> None:
    """No text is read or written in the platform's default encoding."""
    calls = [(file, node) for file in FILES for node in nodes(file) if isinstance(node, ast.Call)]
    assert [f"{file}: {ast.unparse(call)}" for file, call in calls if lacks_encoding(call)] == []


def test_names_of_tests_have_at_most_60_characters() -> None:
    """A failure report shows the name of a test in one line."""
    for file in TESTS.rglob("test_*.py"):
        functions = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
        assert [node.name for node in functions if node.name.startswith("test_") and len(node.name) > 60] == [], file


@pytest.mark.parametrize("room", sorted(BELOW.keys() - {"root"}))
def test_every_room_has_a_sentence_and_a_folder_of_tests(room: str) -> None:
    """The docstring of a package is one sentence on one line, and its tests have a folder of the same name."""
    sentence = ast.get_docstring(tree(Path(room, "__init__.py"))) or ""
    assert re.fullmatch(r"[^\n.]+\.", sentence)
    assert list((TESTS / room).glob("test_*.py"))
